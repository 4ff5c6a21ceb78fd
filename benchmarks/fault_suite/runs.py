"""Runs of the `shearline` command that can be killed at a chosen moment, and what they said until then."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import psutil

from fault_suite.services import SHEARLINE, family, is_alive, pool_workers, signal_group

STAGE_LINE = re.compile(r"^(?P<stage>\w+) (?P<subject>[\w.+-]+): (?P<outcome>run|reused|set aside|failed)\b")
RUN_LIMIT_S = 300.0
# processes that were left behind must have ended by then
ORPHANS_GONE_S = 10.0

Kind = Literal["exposure", "tile"]
Mode = Literal["group", "flow", "pool worker"]
MODES: tuple[Mode, ...] = ("group", "flow", "pool worker")


class Target(NamedTuple):
    """What a run works on."""

    kind: Kind
    name: str


@dataclass(frozen=True)
class Place:
    """Where runs read and write, as options of the command."""

    survey_file: str
    store: str
    raw: str
    collection: str
    env: Mapping[str, str]

    def command(self, target: Target) -> list[str]:
        """Return the command that processes something here."""
        options = {"survey": self.survey_file, "store": self.store, "raw": self.raw, "collection": self.collection}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return [*SHEARLINE, "run", target.kind, target.name, *words]


class Run:
    """One process group that runs the command; every finished stage is a line of its standard error."""

    def __init__(self, place: Place, target: Target) -> None:
        self.target = target
        self.started = time.monotonic()
        self.first_stage: float | None = None
        self.last_stage: float | None = None
        self.outcomes: list[tuple[str, str, str]] = []
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            place.command(target),
            env=dict(place.env),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._at_work = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the flow."""
        return self._process.pid

    @property
    def work_s(self) -> float:
        """Seconds from its first to its last stage; 0 if it finished none."""
        return (self.last_stage or 0.0) - (self.first_stage or 0.0)

    def _read(self) -> None:
        for line in self._process.stderr or ():
            self.lines.append(line.rstrip())
            match = STAGE_LINE.match(line)
            if match:
                self.last_stage = time.monotonic()
                self.first_stage = self.first_stage or self.last_stage
                self.outcomes.append((match["stage"], match["subject"], match["outcome"]))
                self._at_work.set()
        self._at_work.set()

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        try:
            return self._process.wait(RUN_LIMIT_S)
        except subprocess.TimeoutExpired:
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
            return -1
        finally:
            self._reader.join(5)

    def sleep_until(self, after_first_stage_s: float) -> bool:
        """Wait until so long after its first stage; tell whether it still runs."""
        self._at_work.wait(RUN_LIMIT_S)
        moment = (self.first_stage or time.monotonic()) + after_first_stage_s
        try:
            self._process.wait(max(0.0, moment - time.monotonic()))
        except subprocess.TimeoutExpired:
            return True
        return False

    def kill(self, mode: Mode, rng: random.Random) -> bool:
        """Kill it, or a part of it, without warning; tell whether there was something to kill."""
        if self._process.poll() is not None:
            return False
        if mode == "pool worker":
            workers = pool_workers(self._process.pid)
            return bool(workers) and _kill(rng.choice(workers))
        if mode == "group":
            signal_group(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        return True

    def orphans_after(self, relatives: Sequence[psutil.Process]) -> list[psutil.Process]:
        """Return the worker processes that are still there some time after their flow process was killed."""
        deadline = time.monotonic() + ORPHANS_GONE_S
        left = [process for process in relatives if is_alive(process)]
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = [process for process in left if is_alive(process)]
        return left

    def relatives(self) -> list[psutil.Process]:
        """Return its processes."""
        return family(self._process.pid)


def _kill(process: psutil.Process) -> bool:
    try:
        process.kill()
    except psutil.Error:
        return False
    return True
