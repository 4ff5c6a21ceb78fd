"""What a body logs in another process reaches the log of its run while it still works.

The body appends its lines to a file, which a thread of the flow reads on; nothing is locked, so a body that is killed
leaves nobody waiting. On other machines there is no such file: lines from there come with the result of the body.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.workers.bodies import LogLine

INTERVAL_S = 0.5


@dataclass
class LogFile:
    """Where a body leaves its lines for the flow."""

    path: str
    broken: bool = False
    """Whether a line could not be added; then none is any more, so that the file always holds how the log begins."""

    def append(self, line: LogLine) -> None:
        """Add a line; it is no matter if that fails, as the lines also come back with the result."""
        if self.broken:
            return
        self.broken, data = True, json.dumps([line.level, line.text]).encode() + b"\n"
        with suppress(OSError):
            # never made here: on another machine it does not exist
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                self.broken = os.write(descriptor, data) < len(data)
            finally:
                os.close(descriptor)


class Follower:
    """Reads on in the file of a body and tells its lines, until it is stopped.

    Parameters
    ----------
    path
        The file; it exists.
    tell
        Is given every line, by another thread.
    """

    def __init__(self, path: Path, tell: Callable[[LogLine], None]) -> None:
        self.file = LogFile(str(path))
        self._tell = tell
        self._told = self._position = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-log", daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Tell no more; return how many lines were told."""
        self._ended.set()
        self._thread.join()
        return self._told

    def _follow(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            with Path(self.file.path).open("rb") as file:
                file.seek(self._position)
                found = file.read()
            # of a line that is just being written the rest comes later
            for line in found[: found.rfind(b"\n") + 1].splitlines(keepends=True):
                self._position += len(line)
                self._told += 1
                self._tell(LogLine(*json.loads(line)))


@contextmanager
def followed(tell: Callable[[LogLine], None], *, elsewhere: bool) -> Iterator[Follower | None]:
    """Follow the lines of a body that runs in the block, if it runs in another process."""
    if not elsewhere:
        yield None
        return
    with tempfile.NamedTemporaryFile(prefix="shearline-", suffix=".log") as file:
        follower = Follower(Path(file.name), tell)
        try:
            yield follower
        finally:
            follower.stop()
