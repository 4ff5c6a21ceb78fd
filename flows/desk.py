"""The desk of the arrival flow: what waits in the inbox, what runs, what is put off, and what is finished."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.launch import Launched, Launcher
from flows.readiness import Ready
from flows.standing import Standings, is_worked_on
from tasks.archive.inbox import (
    Arrival,
    failure_of,
    forget_arrival,
    list_arrivals,
    read_arrivals,
    record_failure,
)
from tasks.products.identity import ExposureId, TileId

POLL_S = 1.0
MAX_ATTEMPTS = 3
RETRY_S = 30.0
"""Wait before an exposure that met an unexpected error is tried again; longer every time."""
INCOMPLETE_S = 5.0
LONGEST_INCOMPLETE_S = 60.0
ELSEWHERE_S = 2.0
LONGEST_ELSEWHERE_S = 32.0

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
Reason = Literal["incomplete", "failed", "elsewhere"]
Count = Literal[
    "done", "reused", "set_aside", "failed", "unchanged", "foreign",
    "tiles_done", "tiles_reused", "tiles_set_aside", "tiles_failed",
]  # fmt: skip
TILE_COUNTS: Mapping[str, Count] = {
    "done": "tiles_done",
    "reused": "tiles_reused",
    "set_aside": "tiles_set_aside",
    "failed": "tiles_failed",
}


class LaunchStoppedError(Exception):
    """What was launched met an error that everything else would meet, which is its cause: nothing runs any more."""


class Note(NamedTuple):
    """A note as it was read."""

    arrival: Arrival
    version: str
    """Changes when the exposure is announced again."""


@dataclass
class PutOff:
    """A note that is not looked at for a while."""

    version: str
    """Version of the note: if the exposure is announced again, it is looked at at once."""
    until: float
    delay_s: float
    why: Reason


@dataclass
class Desk:
    """What the arrival flow knows; all of it can be found again in the store."""

    config: SurveyConfig
    store: DataStore
    raw: DataStore
    parallel: int
    tiles_after: Callable[[ExposureId], Iterable[Ready]]
    """Returns the tiles that have become complete by an exposure, each with its exposures."""
    log: Log
    tiles: dict[TileId, tuple[ExposureId, ...]] = field(default_factory=dict)
    """Complete tiles that are not started, each with its exposures."""
    counts: Counter[Count] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)
    """From announcement to start, of every started exposure."""
    put_off: dict[ExposureId, PutOff] = field(default_factory=dict)
    _standings: Standings = field(init=False)
    _waiting: dict[ExposureId, Note] = field(default_factory=dict, init=False)
    _running: dict[Future[Launched], Note | Ready] = field(default_factory=dict, init=False)
    _looked: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        self._standings = Standings(self.config.exposure, self.store, self.raw)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing will be started; what waits for others does not count."""
        again = any(item.why == "failed" and item.until < math.inf for item in self.put_off.values())
        return not (self._running or self._waiting or self.tiles or again)

    def count_put_off(self, why: Reason) -> int:
        """Return how many exposures are put off for a reason; of those that failed, the ones that are given up."""
        return sum(item.why == why and (why != "failed" or item.until == math.inf) for item in self.put_off.values())

    @property
    def running(self) -> int:
        """Number of exposures and tiles that run."""
        return len(self._running)

    def turn(self, launcher: Launcher, *, start: bool = True) -> None:
        """Look into the inbox, start what there is room for, and wait at most a second for something to end.

        Parameters
        ----------
        launcher
            Runs exposures and tiles.
        start
            Whether to start anything.

        Raises
        ------
        StoreError
            If the store cannot be used now; the next turn goes on where this one was.
        LaunchStoppedError
            If something that ran met an error that stopped the launcher.
        """
        self._look()
        if start:
            self._start(launcher)
        if not self._running:
            time.sleep(POLL_S)
            return
        done, _ = wait(self._running, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            try:
                launched = future.result()
            except Exception as error:
                raise LaunchStoppedError(str(error)) from error
            self._finish(self._running[future], launched)
            # after the bookkeeping: if the store is lost in between, the next turn does it
            del self._running[future]

    def start_over(self) -> None:
        """Forget what the inbox can tell again, and take back the tiles that ran: everything was stopped."""
        for item in self._running.values():
            if not isinstance(item, Note):
                self.tiles.setdefault(*item)
        self._running.clear()
        self._waiting.clear()
        self._looked = -math.inf

    def left(self) -> list[ExposureId]:
        """Return the exposures whose notes wait and are not put off."""
        versions = list_arrivals(self.store)
        return [name for name, version in versions.items() if not self._is_put_off(name, version)]

    def _look(self) -> None:
        if time.monotonic() - self._looked < POLL_S:
            return
        now = list_arrivals(self.store)
        self._looked = time.monotonic()
        for gone in self._waiting.keys() - now.keys():
            del self._waiting[gone]
        for gone in self.put_off.keys() - now.keys():
            del self.put_off[gone]
        running = {item.arrival.exposure for item in self._running.values() if isinstance(item, Note)}
        new = [
            name
            for name, version in now.items()
            if name not in running
            and (name not in self._waiting or self._waiting[name].version != version)
            and not self._is_put_off(name, version)
        ]
        for arrival in read_arrivals(self.store, new):
            self._waiting[arrival.exposure] = Note(arrival, now[arrival.exposure])

    def _is_put_off(self, exposure: ExposureId, version: str) -> bool:
        item = self.put_off.get(exposure)
        return item is not None and item.version == version and time.monotonic() < item.until

    def _start(self, launcher: Launcher) -> None:
        # one turn must not take long, as what ends meanwhile waits for its bookkeeping
        until = time.monotonic() + POLL_S
        while len(self._running) < self.parallel and time.monotonic() < until:
            tile = self._next_tile()
            if tile is not None:
                exposures = self.tiles.pop(tile)
                self._running[launcher.tile(tile, exposures)] = tile, exposures
            elif self._waiting:
                note = next(iter(self._waiting.values()))
                exposure = note.arrival.exposure
                if self._has_to_run(note):
                    self._running[launcher.exposure(exposure)] = note
                    self.waits_s.append((datetime.now(UTC) - note.arrival.announced_at).total_seconds())
                del self._waiting[exposure]
            else:
                return

    def _next_tile(self) -> TileId | None:
        """Return the tile to start now, if there is room for one beside the exposures that wait."""
        running = {item[0] for item in self._running.values() if not isinstance(item, Note)}
        if self._waiting and len(running) >= max(1, self.parallel - 1):
            return None
        # a tile that runs is started again when it has ended, with the exposures that have come since
        return next((tile for tile in self.tiles if tile not in running), None)

    def _has_to_run(self, note: Note) -> bool:
        """Tell whether an announced exposure has to be processed now; if not, deal with its note."""
        exposure = note.arrival.exposure
        found = self._standings.of(exposure)
        if found == "incomplete":
            self._put_off(note, "incomplete", INCOMPLETE_S, LONGEST_INCOMPLETE_S)
            return False
        if found != "new":
            forget_arrival(self.store, note.arrival)
            self.counts["unchanged" if found == "handled" else "foreign"] += 1
            if found == "foreign":
                self.log.warning("%s is no exposure of %s: its note is removed.", exposure, self.config.name)
            return False
        failure = failure_of(self.store, note.arrival)
        if failure is not None and failure.attempts >= MAX_ATTEMPTS:
            self._put_off(note, "failed", math.inf, math.inf)
            sentence = "Exposure %s was tried %d times and is left alone until it is announced again: %s"
            self.log.error(sentence, exposure, failure.attempts, failure.reason)
            return False
        return not self._is_elsewhere(note)

    def _is_elsewhere(self, note: Note) -> bool:
        """Tell whether another run works on an exposure; one that does not end is waited for in the exposure's flow."""
        before = self.put_off.get(note.arrival.exposure)
        if before is not None and before.why == "elsewhere" and before.delay_s >= LONGEST_ELSEWHERE_S:
            return False
        if not is_worked_on(self.store, note.arrival.exposure):
            return False
        self._put_off(note, "elsewhere", ELSEWHERE_S, LONGEST_ELSEWHERE_S)
        return True

    def _put_off(self, note: Note, why: Reason, first_s: float, longest_s: float) -> None:
        before = self.put_off.get(note.arrival.exposure)
        # what is waited for is asked for ever more rarely; how often a failure is met again, the caller knows
        again = before is not None and before.version == note.version and before.why == why != "failed"
        delay_s = min(2 * before.delay_s, longest_s) if before is not None and again else first_s
        self.put_off[note.arrival.exposure] = PutOff(note.version, time.monotonic() + delay_s, delay_s, why)

    def _finish(self, item: Note | Ready, launched: Launched) -> None:
        if not isinstance(item, Note):
            self.counts[TILE_COUNTS[launched.outcome]] += 1
            return
        if launched.outcome == "failed":
            failure = record_failure(self.store, item.arrival, launched.reason)
            delay_s = RETRY_S * failure.attempts if failure.attempts < MAX_ATTEMPTS else math.inf
            self._put_off(item, "failed", delay_s, delay_s)
        else:
            exposure = item.arrival.exposure
            self.tiles.update(self.tiles_after(exposure))
            forget_arrival(self.store, item.arrival)
            self.put_off.pop(exposure, None)
        self.counts[launched.outcome] += 1
