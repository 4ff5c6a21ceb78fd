"""The desk of the arrival flow: what waits in the inbox, what runs, what is put off, and what is finished."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from blocks.store import DataStore
from flows.attempts import RETRY_S, Attempt, Attempts, Note
from flows.config import SurveyConfig
from flows.in_tray import InTray
from flows.launch import Launched, Launcher
from flows.put_off import Reason
from flows.readiness import Readiness, Ready
from flows.standing import Standings, is_worked_on
from flows.tile_queue import TileQueue
from tasks.archive.inbox import forget_arrival
from tasks.archive.raw_names import RawNames
from tasks.products.identity import ExposureId

POLL_S = 1.0

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
Count = Literal[
    "done", "reused", "set_aside", "failed", "interrupted", "unchanged", "foreign",
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


@dataclass
class Desk:
    """What the arrival flow knows; all of it can be found again in the store."""

    config: SurveyConfig
    store: DataStore
    raw: DataStore
    parallel: int
    log: Log
    tray: InTray = field(init=False)
    """Announced exposures that are not started."""
    tiles: TileQueue = field(default_factory=TileQueue, init=False)
    """Complete tiles that are not started."""
    attempts: Attempts = field(init=False)
    counts: Counter[Count] = field(default_factory=Counter, init=False)
    waits_s: list[float] = field(default_factory=list, init=False)
    """From announcement to start, of every started exposure."""
    _standings: Standings = field(init=False)
    _book: Readiness | None = field(default=None, init=False)
    _running: dict[Future[Launched], Attempt] = field(default_factory=dict, init=False)
    _ended: dict[ExposureId, None] = field(default_factory=dict, init=False)
    """Exposures that are dealt with, whose tiles are not asked for yet."""

    def __post_init__(self) -> None:
        self.tray = InTray(self.store, RawNames(self.config.exposure.instrument))
        self.attempts = Attempts(self.store)
        self._standings = Standings(self.config.exposure, self.store, self.raw)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing will be started; what waits for others does not count."""
        pending = self._running or self.tray.waiting or self.tiles or self._ended or self._book is None
        return not (pending or self.tray.put_off.will_be_tried())

    @property
    def running(self) -> int:
        """Number of exposures and tiles that run."""
        return len(self._running)

    def open_book(self, book: Readiness, complete: Iterable[Ready]) -> None:
        """Take in which tiles are complete; from now on every exposure that ends is asked for its tiles.

        Parameters
        ----------
        book
            Says which tiles become complete.
        complete
            The tiles that it has given out so far.
        """
        self._book = book
        self._queue(tuple(complete))

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
        for exposure in self.tray.look({item.subject for item in self._running.values()}):
            self.log.warning("The note of exposure %s could not be read and was written anew.", exposure)
        self._ask_for_tiles()
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
        """Forget what the inbox can tell again, and take back what ran: everything was stopped, so it was no try.

        Raises
        ------
        StoreError
            If the store cannot be used now; calling it again does the rest.
        """
        for future, attempt in list(self._running.items()):
            self.attempts.take_back(attempt)
            if isinstance(attempt.work, Ready):
                self.tiles.put_back(attempt.work)
            del self._running[future]
        self.tray.start_over()

    def _ask_for_tiles(self) -> None:
        """Ask which tiles have become complete, unless the survey is still being read."""
        until = time.monotonic() + POLL_S
        while self._ended and self._book is not None and time.monotonic() < until:
            exposure = next(iter(self._ended))
            self._queue(self._book.after(exposure))
            del self._ended[exposure]

    def _queue(self, ready: tuple[Ready, ...]) -> None:
        if self._book is not None and ready:
            self.tiles.add(ready, self._book.expected([item.tile for item in ready], self._announced()))

    def _announced(self) -> set[ExposureId]:
        """Return the exposures that run or wait to be started, without those that are put off."""
        running = {item.work.arrival.exposure for item in self._running.values() if isinstance(item.work, Note)}
        return running | self.tray.waiting.keys()

    def _start(self, launcher: Launcher) -> None:
        # one turn must not take long, as what ends meanwhile waits for its bookkeeping
        until, going_on = time.monotonic() + POLL_S, True
        while going_on and len(self._running) < self.parallel and time.monotonic() < until:
            if any(item.has_to_be_alone for item in self._running.values()):
                return
            ready = self._next_tile()
            if ready is not None:
                going_on = self._start_tile(launcher, ready)
            elif self.tray.waiting:
                going_on = self._start_exposure(launcher, next(iter(self.tray.waiting.values())))
            else:
                return

    def _next_tile(self) -> Ready | None:
        """Return the tile to start now, if there is room for one beside the exposures that wait."""
        running = {item.work.tile for item in self._running.values() if isinstance(item.work, Ready)}
        ready = self.tiles.next(self._announced(), running)
        return None if self.tray.waiting and len(running) >= max(1, self.parallel - 1) else ready

    def _start_tile(self, launcher: Launcher, given: Ready) -> bool:
        """Start a tile, or find that it need not be; tell whether to go on with the next."""
        ready = self._book.again(given) if self._book is not None else None
        attempt = None if ready is None else self.attempts.next(ready)
        if ready is not None and attempt is None:
            self.log.error("%s", self.attempts.given_up[ready.tile])
        if ready is not None and attempt is not None:
            if self._running and attempt.has_to_be_alone:
                return False
            self.attempts.begin(attempt)
            self._running[launcher.tile(ready.tile, ready.exposures)] = attempt
        self.tiles.take(given.tile)
        return True

    def _start_exposure(self, launcher: Launcher, note: Note) -> bool:
        """Start an exposure, or deal with its note; tell whether to go on with the next."""
        exposure = note.arrival.exposure
        if self._has_to_run(note):
            attempt = self.attempts.next(note)
            if attempt is None:
                self.tray.put_off.add(exposure, note.version, "failed", math.inf)
                self.log.error("%s", self.attempts.given_up[exposure])
            elif self._running and attempt.has_to_be_alone:
                return False
            else:
                self.attempts.begin(attempt)
                self._running[launcher.exposure(exposure)] = attempt
                self.waits_s.append((datetime.now(UTC) - note.arrival.announced_at).total_seconds())
        del self.tray.waiting[exposure]
        return True

    def _has_to_run(self, note: Note) -> bool:
        """Tell whether an announced exposure has to be processed now; if not, deal with its note."""
        exposure = note.arrival.exposure
        found = self._standings.of(exposure)
        if found == "incomplete":
            self.tray.put_off.add(exposure, note.version, "incomplete")
            return False
        if found == "foreign":
            self.log.warning("%s is no exposure of %s: its note is removed.", exposure, self.config.name)
            self._forget(note)
            self.counts["foreign"] += 1
            return False
        if found == "handled":
            # the run that handled it may have been killed before it could start the tiles
            self._ended[exposure] = None
            self._forget(note)
            self.counts["unchanged"] += 1
            return False
        # another run that does not end is waited for in the exposure's own flow
        if not self.tray.put_off.is_patient(exposure, "elsewhere") and is_worked_on(self.store, exposure):
            self.tray.put_off.add(exposure, note.version, "elsewhere")
            return False
        return True

    def _finish(self, attempt: Attempt, launched: Launched) -> None:
        if launched.outcome == "failed":
            self._try_again(attempt, launched)
        elif isinstance(attempt.work, Note):
            self._ended[attempt.work.arrival.exposure] = None
            self._forget(attempt.work)
        else:
            self.attempts.end(attempt.subject)
        if launched.interrupted:
            self.counts["interrupted"] += 1
        else:
            self.counts[launched.outcome if isinstance(attempt.work, Note) else TILE_COUNTS[launched.outcome]] += 1

    def _try_again(self, attempt: Attempt, launched: Launched) -> None:
        """Have something tried again after a while, unless it was tried often enough."""
        wait_s: float | None = RETRY_S
        if launched.interrupted:
            self.attempts.take_back(attempt)
        else:
            wait_s = self.attempts.fail(attempt, launched.reason)
            if wait_s is None:
                self.log.error("%s", self.attempts.given_up[attempt.subject])
        if isinstance(attempt.work, Note):
            why: Reason = "interrupted" if launched.interrupted else "failed"
            delay_s = math.inf if wait_s is None else wait_s
            self.tray.put_off.add(attempt.work.arrival.exposure, attempt.work.version, why, delay_s)
        elif wait_s is not None:
            self.tiles.put_back(attempt.work, wait_s)

    def _forget(self, note: Note) -> None:
        self.attempts.end(note.arrival.exposure)
        forget_arrival(self.store, note.arrival)
        self.tray.put_off.forget(note.arrival.exposure)
