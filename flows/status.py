"""What there is of a night or of the whole store; what is missing, and why. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.item_status import kind_and_list, working, written
from flows.night_report import NightReport, NotDone, read_night_report
from flows.plan import Plan, make_plan
from tasks.archive.manifests import LOOKUPS
from tasks.products.identity import ExposureId, TileId

NIGHTS = "nights"


class Done(BaseModel):
    """One exposure or tile that is done."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    subject: str
    """Name of the exposure or tile."""

    kind: Literal["exposure", "tile"]
    """Whether it is an exposure or a tile."""

    written: datetime | None
    """When the list of its products was written, in UTC."""


class StoreStatus(BaseModel):
    """What there is of a survey, or of one night."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    survey: str
    """Name of the survey."""

    store: str
    """Where the products are."""

    raw: str
    """Where the raw files are."""

    night: date | None = None
    """The night; none for everything."""

    exposures: dict[str, int]
    """Number of exposures by status."""

    tiles: dict[str, int]
    """Number of tiles by status."""

    open: tuple[NotDone, ...]
    """Every exposure and tile that is not done, and why."""

    done: tuple[Done, ...]
    """Every exposure and tile that is done, and since when."""

    working: tuple[str, ...]
    """Who works on what now."""

    nights: tuple[date, ...] = ()
    """Nights of which there is a report."""

    report: NightReport | None = None
    """Report of the night, if a nightly run was made for it."""


def store_status(config: SurveyConfig, store: DataStore, raw: DataStore, night: date | None = None) -> StoreStatus:
    """Return what there is of a survey, or of one night of it.

    Raises
    ------
    StoreError
        If a store cannot be read.
    """
    plan = make_plan(config, store, raw, night=night)
    return StoreStatus(
        survey=config.name,
        store=store.url,
        raw=raw.url,
        night=night,
        exposures=plan.count("exposure"),
        tiles=plan.count("tile"),
        open=tuple(_open(plan)),
        done=_done(store, plan),
        working=working(store),
        nights=tuple(_nights(store)),
        report=None if night is None else read_night_report(store, night),
    )


def _open(plan: Plan) -> Iterator[NotDone]:
    for item in plan.exposures:
        if item.status != "done":
            yield NotDone(subject=str(item.exposure), kind="exposure", status=item.status, reasons=item.reasons)
    for tile in plan.tiles:
        if tile.status != "done":
            yield NotDone(subject=str(tile.tile), kind="tile", status=tile.status, reasons=tile.reasons)


def _done(store: DataStore, plan: Plan) -> tuple[Done, ...]:
    names: list[ExposureId | TileId] = [item.exposure for item in plan.exposures if item.status == "done"]
    names += [item.tile for item in plan.tiles if item.status == "done"]
    with ThreadPoolExecutor(LOOKUPS) as threads:
        times = list(threads.map(lambda name: written(store, name), names))
    return tuple(
        Done(subject=str(name), kind=kind_and_list(name)[0], written=time)
        for name, time in zip(names, times, strict=True)
    )


def _nights(store: DataStore) -> Iterator[date]:
    for name in sorted(store.list_folders(NIGHTS)):
        try:
            yield date.fromisoformat(name)
        except ValueError:
            # not a folder of ours
            continue
