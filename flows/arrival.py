"""Exposures that arrive: processed as they come, and their tiles as these become complete.

The inbox in the store says what is waiting; events only wake this flow up. It looks into the inbox every second, so
an exposure that is announced while the flow runs starts without a new flow run, and a note is removed only when its
exposure is processed, refused or found unchanged. Whatever kills the flow, the next one finds the notes.

Order: exposures go in the order in which they were announced. A complete tile goes behind the exposures that were
announced before and may belong to it, so that it is not made anew with every one of a burst, but before all others,
because it ends in something that people wait for, and because otherwise a steady stream of exposures would keep tiles
waiting for ever; but tiles leave one place to exposures, as one tile takes as long as many of them.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.runtime import flow_run as this_run
from pydantic import BaseModel, ConfigDict, Field

from blocks.lease import LeaseHeldError
from blocks.store import DataStore, StoreError, StoreUnusableError
from flows.announce import announce_missed, emit_arrivals, exposure_of
from flows.artifacts import show_text
from flows.claim import claim
from flows.config import SurveyConfig
from flows.desk import Desk, LaunchStoppedError, Log
from flows.launch import Dispatch, Launcher
from flows.markdown import plain
from flows.notifications import TELL
from flows.outcome import TASK_RUNNER
from flows.readiness import Readiness, Ready
from flows.standing import Standings
from tasks.archive.inbox import Arrival, announce, read_arrival
from tasks.errors import ConfigError
from tasks.runner import LOCAL, Runner

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
OUTAGE = (StoreError, StoreUnusableError)

Result = TypeVar("Result")


class ArrivalReport(BaseModel):
    """What one run of the arrival flow did."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    done: int = 0
    """Exposures that were processed."""

    reused: int = 0
    """Exposures whose products were all up to date."""

    set_aside: int = 0
    """Exposures that could not be processed with the data there are."""

    failed: int = 0
    """Tries that ended with an unexpected error."""

    interrupted: int = 0
    """Tries of exposures or tiles that ended because Prefect could not be reached; they are made again."""

    unchanged: int = 0
    """Notes of exposures that had been handled with the same files: duplicates."""

    foreign: int = 0
    """Notes that named no exposure of the survey's camera."""

    tiles_done: int = 0
    """Tiles that were processed."""

    tiles_reused: int = 0
    """Tiles whose products were all up to date."""

    tiles_set_aside: int = 0
    """Tiles that could not be processed with the data there are."""

    tiles_failed: int = 0
    """Tries of tiles that ended with an unexpected error."""

    found: int = 0
    """Exposures that nobody had announced and the sweep found."""

    incomplete: int = 0
    """Exposures in the inbox without one of their files."""

    elsewhere: int = 0
    """Exposures in the inbox that another run works on."""

    given_up: tuple[str, ...] = ()
    """Exposures and tiles that met unexpected errors, or ended their process, so often that they are left alone: a
    sentence of each."""

    waiting: int = 0
    """Notes that this run left to the next, because its time was up."""

    median_wait_s: float | None = None
    """Median time from announcement to start, in seconds; none if nothing was started."""

    seconds: float
    """Wall time of the run."""


@dataclass(frozen=True)
class Succession:
    """What the end of a run must know to call the next one."""

    desk: Desk
    survey: str

    def needed_by(self) -> Arrival | None:
        """Return a note that waits and was not put off, the first by name."""
        left = self.desk.tray.left()
        return read_arrival(self.desk.store, left[0]) if left else None


# Prefect gives hooks nothing of ours; keyed by the run, because tests and notebooks run several in a process
_successions: dict[UUID, Succession] = {}


def call_successor(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Announce a waiting exposure again when a run has ended, so that the next run starts now.

    An event that comes while a run is ending may start a run that finds this one alive, and ends at once.
    """
    succession = _successions.pop(flow_run.id, None)
    note = succession.needed_by() if succession else None
    if succession and note:
        emit_arrivals([note], succession.survey, again=True)


@flow(name="arrival", task_runner=TASK_RUNNER, on_completion=[call_successor], **TELL)
def process_arrivals(
    config: SurveyConfig,
    store: DataStore,
    raw: DataStore,
    runner: Runner = LOCAL,
    parallel: Annotated[int, Field(ge=1, le=256)] = 4,
    dispatch: Dispatch = "here",
    exposure: str | None = None,
    linger_s: Annotated[float, Field(ge=0, le=86400)] = 60.0,
    max_minutes: Annotated[float, Field(gt=0)] = 240.0,
    sweep: bool = True,
) -> ArrivalReport:
    """Process the exposures in the inbox, and those that come while this runs, and their tiles.

    Parameters
    ----------
    config
        Settings of every flow.
    store
        Where the inbox is and the products go.
    raw
        Where the raw files are; never written.
    runner
        Where the stages run.
    parallel
        How many exposures and tiles are worked on at a time. One alone does not keep the workers busy, as it waits for
        its slowest CCD and for Prefect between stages.
    dispatch
        `here` works in this run; `pool` starts runs of their own in the work pool.
    exposure
        An exposure that has arrived, as an event says; empty for none.
    linger_s
        How long the run stays when there is nothing to do, in seconds. Longer than the time that the automation
        waits between two runs, so that no event starts a run while this one ends.
    max_minutes
        After this many minutes nothing new is started; what waits is left to the next run, which is called.
    sweep
        Whether to look through the raw store for exposures that nobody announced.

    Returns
    -------
    ArrivalReport
        What was done, in numbers.

    Raises
    ------
    ConfigError
        If the settings cannot work.
    StoreError
        If a store cannot be used until the time is up.
    """
    log, started = get_run_logger(), time.monotonic()
    patience = Patience(started + 60 * max_minutes, log)
    try:
        with claim(store, "arrival", yields=True):
            return _work(config, store, raw, runner, parallel, dispatch, exposure, linger_s, sweep, patience)
    except LeaseHeldError as held:
        # what has arrived lies in the inbox, where that run looks every second
        log.info("Another run takes what arrives: %s", held)
        return ArrivalReport(seconds=time.monotonic() - started)


def _work(
    config: SurveyConfig,
    store: DataStore,
    raw: DataStore,
    runner: Runner,
    parallel: int,
    dispatch: Dispatch,
    exposure: str | None,
    linger_s: float,
    sweep: bool,
    patience: Patience,
) -> ArrivalReport:
    """Process what arrives, as the only run that does."""
    log, started = patience.log, time.monotonic()
    desk = Desk(config, store, raw, parallel, log)
    run = _Run(config, desk, patience, linger_s)
    if this_run.id:
        _successions[UUID(this_run.id)] = Succession(desk, config.name)
    if exposure:
        patience.with_stores(lambda: run.heed(exposure))
    run.work(lambda: Launcher(config, store, raw, runner, parallel=parallel, dispatch=dispatch), sweep=sweep)
    report = patience.with_stores(lambda: run.report(time.monotonic() - started))
    log.info("%s", report.model_dump_json(exclude_defaults=True))
    show_arrivals(report)
    return report


@dataclass(frozen=True)
class Patience:
    """Waits for stores that cannot be used, until the time of a run is up."""

    deadline: float
    """By the monotonic clock, in seconds."""
    log: Log

    def with_stores(self, do: Callable[[], Result]) -> Result:
        """Do something again and again until the stores let it be done.

        Raises
        ------
        StoreError
            If a store still cannot be used when the time is up.
        """
        wait_s = FIRST_WAIT_S
        while True:
            try:
                return do()
            except OUTAGE as error:
                if time.monotonic() + wait_s > self.deadline:
                    raise
                self.log.warning("%s; trying again in %.0f s", error, wait_s)
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)


@dataclass
class _Run:
    """One run of the arrival flow: turns at the desk until there is nothing to do or the time is up."""

    config: SurveyConfig
    desk: Desk
    patience: Patience
    linger_s: float
    found: int = 0
    reading: Future[tuple[Readiness, tuple[Ready, ...]]] | None = None
    sweeping: Future[None] | None = None

    def heed(self, hint: str) -> None:
        """Take in the exposure that an event named, if its note was lost."""
        try:
            exposure = exposure_of(hint, self.config.exposure.instrument)
        except ConfigError as error:
            self.patience.log.warning("An event named an exposure that there cannot be: %s", error)
            return
        store = self.desk.store
        lost = read_arrival(store, exposure) is None
        if lost and Standings(self.config.exposure, store, self.desk.raw).of(exposure) == "new":
            announce(store, exposure, "named by an event")

    def sweep(self) -> None:
        """Put exposures into the inbox that nobody announced."""
        missed = announce_missed(self.desk.store, self.desk.raw, self.config.exposure.instrument)
        self.found += len(missed)

    def read_survey(self) -> tuple[Readiness, tuple[Ready, ...]]:
        """Return the book of what is complete, and the tiles that are complete already."""
        book = Readiness(self.config, self.desk.store, self.desk.raw)
        return book, book.complete()

    def work(self, open_launcher: Callable[[], Launcher], *, sweep: bool) -> None:
        """Take turns; after an outage of the stores with new worker processes."""
        # beside the turns: what was announced does not wait until a large survey is read and a large raw store listed
        with ThreadPoolExecutor(1) as threads:
            self.reading = threads.submit(self.patience.with_stores, self.read_survey)
            self.sweeping = threads.submit(self.patience.with_stores, self.sweep) if sweep else None
            try:
                self._work(open_launcher)
            except BaseException:
                # what ran is stopped by no fault of its own; if that cannot be written, it counts as a try
                with contextlib.suppress(*OUTAGE):
                    self.desk.start_over()
                raise

    def _work(self, open_launcher: Callable[[], Launcher]) -> None:
        ended, wait_s = 0, FIRST_WAIT_S
        while True:
            try:
                with open_launcher() as launcher:
                    return self._turns(launcher)
            except LaunchStoppedError as stopped:
                cause = stopped.__cause__
                if not isinstance(cause, OUTAGE):
                    raise cause or stopped from None
                self.patience.log.warning("What ran was stopped: %s", cause)
            self.patience.with_stores(self._find_stores)
            self.patience.with_stores(self.desk.start_over)
            # stores that answer and are lost again at once need more time
            wait_s = FIRST_WAIT_S if self.desk.counts.total() > ended else min(2 * wait_s, LONGEST_WAIT_S)
            ended = self.desk.counts.total()
            time.sleep(max(0.0, min(wait_s, self.patience.deadline - time.monotonic())))

    def _find_stores(self) -> None:
        """Make sure that the stores can be used; raw files are never written, and often must not be."""
        self.desk.store.probe()
        self.desk.raw.list_folders()

    def _turns(self, launcher: Launcher) -> None:
        idle_since = time.monotonic()
        while True:
            in_time = time.monotonic() < self.patience.deadline
            if self.reading is not None and self.reading.done():
                self.desk.open_book(*self.reading.result())
                self.reading = None
            # before the turn, so that it looks into the inbox after the sweep
            swept = self.sweeping is None or self.sweeping.done()
            self.patience.with_stores(partial(self.desk.turn, launcher, start=in_time))
            if self.sweeping is not None and swept:
                self.sweeping.result()
            if not in_time and not self.desk.running:
                return
            now = time.monotonic()
            if not (self.desk.idle and swept):
                idle_since = now
            elif now - idle_since >= self.linger_s:
                return

    def report(self, seconds: float) -> ArrivalReport:
        """Return what was done, in numbers."""
        desk = self.desk
        return ArrivalReport(
            **{str(name): number for name, number in desk.counts.items()},
            found=self.found,
            incomplete=desk.tray.put_off.count("incomplete"),
            elsewhere=desk.tray.put_off.count("elsewhere"),
            given_up=tuple(desk.attempts.given_up.values()),
            waiting=len(desk.tray.left()),
            median_wait_s=round(statistics.median(desk.waits_s), 2) if desk.waits_s else None,
            seconds=round(seconds, 2),
        )


def show_arrivals(report: ArrivalReport) -> None:
    """Leave the numbers of a run as an artifact, unless there was nothing to do."""
    numbers = report.model_dump(exclude_defaults=True, exclude={"seconds"})
    if numbers:
        sentences = [("given up", sentence) for sentence in numbers.pop("given_up", ())]
        items = [*((name.replace("_", " "), item) for name, item in numbers.items()), *sentences]
        rows = "\n".join(f"| {name} | {plain(str(item))} |" for name, item in items)
        show_text(("arrival",), f"| | |\n|---|---:|\n{rows}", "What arrived")
