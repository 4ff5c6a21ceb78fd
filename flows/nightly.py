"""The night: what is new or stale, the tiles that this completes or affects, and a report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.runtime import flow_run as this_run
from pydantic import Field

from blocks.store import DataStore
from flows.artifacts import progress
from flows.config import SurveyConfig
from flows.exposure_plan import night_of
from flows.launch import Dispatch, Launched, Launcher
from flows.night_report import NightReport, not_launched, show_night, show_plan, write_night_report
from flows.notifications import TELL
from flows.outcome import TASK_RUNNER
from flows.plan import Plan, make_plan
from flows.pool_wait import WORKER_PATIENCE_S
from flows.survey import merge_tiles
from flows.tile_plan import names_of
from tasks.archive.manifests import read_tile_products
from tasks.errors import DataError, MissingProductError
from tasks.products.identity import ProductRef, TileId, TileProducts
from tasks.runner import LOCAL, Runner
from tasks.session import Outcome, Session, session


class NightFailedError(RuntimeError):
    """A night in which unexpected errors stopped exposures or tiles; everything else is done."""

    report: NightReport | None = None
    """Report of the night."""


def _run_name() -> str:
    night = this_run.parameters.get("night")
    return f"night {night}" if night else "all nights"


@flow(name="nightly", flow_run_name=_run_name, task_runner=TASK_RUNNER, **TELL)
def run_night(
    config: SurveyConfig,
    store: DataStore,
    raw: DataStore,
    runner: Runner = LOCAL,
    night: date | None = None,
    parallel: Annotated[int, Field(ge=1, le=1000)] = 4,
    dispatch: Dispatch = "here",
    worker_patience_s: Annotated[float, Field(gt=0)] = WORKER_PATIENCE_S,
) -> NightReport:
    """Process what is new or stale, and the tiles that this completes or affects; ends with a report of the night.

    Parameters
    ----------
    config
        Settings of every flow.
    store
        Where the products are and go.
    raw
        Where the raw files are; never written.
    runner
        Where the stages run.
    night
        Night of the observations, by the date of its evening: only its exposures, and the tiles that they touch. None
        takes everything that there is to do.
    parallel
        How many exposures or tiles are worked on at a time. One alone does not keep the workers busy, as it waits for
        its slowest CCD and for Prefect between stages.
    dispatch
        Where they run: ``here``, in the process of this run, or as runs of their own in the work ``pool``.
    worker_patience_s
        With ``pool``: after how many seconds in which no run of the work pool could start the night ends with an error.

    Returns
    -------
    NightReport
        What was done, and what not and why; also published as ``nights/<date>/report.json``, by the date of the start.

    Raises
    ------
    NightFailedError
        If an unexpected error stopped an exposure or tile. The others are done.
    ConfigError
        If the settings cannot work.
    StoreUnusableError, StoreError
        If the store cannot be used, or failed for good.
    PoolStalledError
        If no worker takes the runs in the work pool.
    """
    store.probe()
    work = _Night(config, store, raw, night)
    tags = (f"night:{work.date}",)
    try:
        with session(runner) as work.session:
            with Launcher(
                config,
                store,
                raw,
                runner,
                parallel=parallel,
                dispatch=dispatch,
                tags=tags,
                worker_patience_s=worker_patience_s,
            ) as launcher:
                work.process(launcher)
            work.merge()
    except BaseException as error:
        work.stopped_by = f"{type(error).__name__}: {error}"
        # the error says more than that its report cannot be written
        with contextlib.suppress(Exception):
            work.finish()
        raise
    report = work.finish()
    failed = report.failed()
    if failed:
        failure = NightFailedError(
            f"{len(failed)} of {len(report.launched)} exposures and tiles failed, the others are done. "
            f"The first, {failed[0].kind} {failed[0].subject}: {failed[0].reason}"
        )
        failure.report = report
        raise failure
    return report


@dataclass
class _Night:
    """One nightly run."""

    config: SurveyConfig
    store: DataStore
    raw: DataStore
    night: date | None
    session: Session = field(default_factory=Session)
    stopped_by: str = ""
    plan: Plan | None = None
    up_to_date: dict[str, int] = field(default_factory=dict)
    launched: list[Launched] = field(default_factory=list)
    catalog: ProductRef | None = None
    catalog_note: str = ""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.monotonic)

    @property
    def date(self) -> date:
        """The night of the report: that of the start, also of a run that goes on after noon."""
        return self.night or night_of(self.started, self.config.timezone)

    def process(self, launcher: Launcher) -> None:
        """Process exposures, then the tiles that are complete by then."""
        plan = self._make_plan()
        self.up_to_date["exposure"] = plan.count("exposure").get("done", 0)
        show_plan(plan)
        self._wait("exposures", [launcher.exposure(item.exposure) for item in plan.exposures_to_do()])
        if self.launched:
            plan = self._make_plan()
        self.up_to_date["tile"] = plan.count("tile").get("done", 0)
        self._wait("tiles", [launcher.tile(item.tile, item.exposures) for item in plan.tiles_to_do()])

    def _make_plan(self) -> Plan:
        self.plan = make_plan(self.config, self.store, self.raw, night=self.night)
        for kind in ("exposure", "tile"):
            counts = self.plan.count(kind)
            get_run_logger().info("%ss: %s", kind, ", ".join(f"{number} {name}" for name, number in counts.items()))
        return self.plan

    def _wait(self, what: str, futures: Sequence[Future[Launched]]) -> None:
        if not futures:
            return
        with progress(what) as board:
            for number, future in enumerate(as_completed(futures), 1):
                self.launched.append(future.result())
                board.update(number, len(futures))

    def merge(self) -> None:
        """Merge the catalogues of the survey's tiles, if every one of them is done or set aside."""
        outcomes = {item.subject: item.outcome for item in self.launched if item.kind == "tile"}
        status = {str(item.tile): item.status for item in self.plan.tiles} if self.plan else {}
        refused, open_tiles, products = [], [], []
        for tile in self.config.tiles:
            if "set_aside" in {outcomes.get(str(tile)), status.get(str(tile))}:
                refused.append(tile)
                continue
            found = self._products_of(tile)
            if found is None or status.get(str(tile)) == "waiting" or outcomes.get(str(tile)) == "failed":
                open_tiles.append(tile)
            else:
                products.append(found)
        if open_tiles or not products:
            of = f"{len(open_tiles)} of {len(self.config.tiles)} tiles are not done: {names_of(open_tiles)}"
            self.catalog_note = of if open_tiles else "the settings name no tiles that could be processed"
            return
        self.catalog_note = f"without the tiles that are set aside: {names_of(refused)}" if refused else ""
        try:
            self.catalog = merge_tiles(products, self.config, self.store, self.raw).catalog
        except DataError as error:
            self.catalog_note = str(error)

    def _products_of(self, tile: TileId) -> TileProducts | None:
        try:
            return read_tile_products(self.store, tile)
        except (MissingProductError, DataError):
            return None

    def finish(self) -> NightReport:
        """Publish and show the report of the night."""
        names = {(item.kind, item.subject) for item in self.launched}
        undone = not_launched(self.plan) if self.plan else ()
        report = NightReport(
            survey=self.config.name,
            night=self.date,
            restricted=self.night is not None,
            started=self.started,
            wall_s=round(time.monotonic() - self.clock, 2),
            launched=tuple(self.launched),
            not_launched=tuple(item for item in undone if (item.kind, item.subject) not in names),
            up_to_date=self.up_to_date,
            catalog=self.catalog,
            catalog_note=self.catalog_note,
            stages_run=self.session.count(Outcome.RUN),
            stages_reused=self.session.count(Outcome.REUSED),
            stopped_by=self.stopped_by,
        )
        write_night_report(self.store, report)
        show_night(report)
        get_run_logger().info("%s", report.headline())
        return report
