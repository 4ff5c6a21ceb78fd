"""Lines of a body reach the flow in their order, whole and once, and as many of them as there are."""

import time
from pathlib import Path

import pytest

from tasks.workers.bodies import LogLine
from tasks.workers.live_log import Follower, LogFile

ONE, TWO = LogLine(20, "rows up to 64"), LogLine(30, "rows up to 128 \u2013 a warning\nof two lines")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "body.log"


def wait_for(told: list[LogLine], n: int) -> None:
    deadline = time.monotonic() + 30
    while len(told) < n and time.monotonic() < deadline:
        time.sleep(0.02)


def test_lines_are_told_when_they_are_whole(path: Path) -> None:
    path.touch()
    LogFile(str(path)).append(TWO)
    second, told = path.read_bytes(), list[LogLine]()
    path.write_bytes(b"")
    follower = Follower(path, told.append)
    follower.file.append(ONE)
    with path.open("ab", buffering=0) as file:
        file.write(second[:9])
        wait_for(told, 1)
        early = list(told)
        file.write(second[9:])
        wait_for(told, 2)

    assert (early, told, follower.stop()) == ([ONE], [ONE, TWO], 2)


def test_after_a_line_that_could_not_be_added_there_are_none(path: Path) -> None:
    file = LogFile(str(path))
    file.append(ONE)
    path.touch()
    file.append(TWO)

    assert path.read_bytes() == b""
