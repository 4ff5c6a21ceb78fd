"""A whole survey: every exposure, every tile, one catalogue, its mean shear and a report."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from prefect import flow, get_run_logger
from pydantic import BaseModel, ConfigDict

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.exposure import process_exposure
from flows.outcome import TASK_RUNNER
from flows.tile import process_tile
from tasks.archive.raw import list_exposures, raw_file
from tasks.errors import ConfigError, DataError
from tasks.mean_shear import measure_mean_shear_task
from tasks.merge import export_parquet_task, merge_catalogs_task
from tasks.products.identity import ExposureProducts, Identity, ProductRef, SetAside, TileProducts
from tasks.report import write_report_task
from tasks.session import current_session, session

Name = TypeVar("Name", bound=Identity)
Products = TypeVar("Products")

# flow runs that wait at the same time; their work shares the session's worker processes
PARALLEL_FLOWS = 2


class SurveyProducts(BaseModel):
    """What the survey flow leaves."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exposures: tuple[ExposureProducts, ...]
    """Processed exposures."""

    tiles: tuple[TileProducts, ...]
    """Processed tiles."""

    catalog: ProductRef
    """Merged catalogue, FITS."""

    catalog_parquet: ProductRef
    """Merged catalogue, Parquet."""

    shear: ProductRef
    """Response-corrected mean shear."""

    report: ProductRef
    """Report, one HTML page."""

    set_aside: tuple[SetAside, ...]
    """CCDs, exposures and tiles that are missing here, and why."""


@flow(name="survey", task_runner=TASK_RUNNER)
def process_survey(config: SurveyConfig, store: DataStore, raw: DataStore, workers: int = 2) -> SurveyProducts:
    """Process the exposures and tiles of a survey and merge their catalogues.

    Parameters
    ----------
    config
        Settings of every flow; it names the tiles, and the exposures unless all of the raw store are meant.
    store
        Where the products go.
    raw
        Where the raw files are; never written.
    workers
        Number of worker processes.

    Raises
    ------
    ConfigError
        If the settings name no tiles.
    DataError
        If no exposure or no tile could be processed.
    """
    if not config.tiles:
        raise ConfigError(f"Survey {config.name} names no tiles; list them under `tiles:`.")
    with session(workers):
        for key in {config.exposure.star_catalog, config.tile.star_catalog, config.truth} - {None}:
            raw_file(raw, str(key), config.name)
        names = config.exposures or tuple(list_exposures(raw, config.exposure.instrument))
        exposures, lost_exposures = _each(
            names, lambda name: process_exposure(name, config.exposure, store, raw, workers), "exposure"
        )
        tiles, lost_tiles = _each(
            config.tiles, lambda name: process_tile(name, exposures, config.tile, store, raw, workers), "tile"
        )
        set_aside = (*_inside(exposures), *lost_exposures, *_inside(tiles), *lost_tiles)
        truth = raw_file(raw, config.truth, config.name) if config.truth else None
        catalog = merge_catalogs_task([tile.catalog for tile in tiles], config.merge, store)
        shear = measure_mean_shear_task(catalog, truth, config.mean_shear, store, raw)
        return SurveyProducts(
            exposures=tuple(exposures),
            tiles=tuple(tiles),
            catalog=catalog,
            catalog_parquet=export_parquet_task(catalog, config.merge, store),
            shear=shear,
            report=write_report_task(
                config.name, exposures, tiles, catalog, shear, set_aside, truth, config.report, store, raw
            ),
            set_aside=set_aside,
        )


def _inside(items: Iterable[ExposureProducts | TileProducts]) -> list[SetAside]:
    return [lost for item in items for lost in item.set_aside]


def _each(
    names: Sequence[Name], process: Callable[[Name], Products], what: str
) -> tuple[list[Products], list[SetAside]]:
    """Run one flow per name, a few at a time; what fails on its data is set aside."""
    done: list[Products] = []
    lost: list[SetAside] = []
    threads = ThreadPoolExecutor(PARALLEL_FLOWS)
    try:
        # each thread sees this flow run as the parent of its own
        runs = [threads.submit(contextvars.copy_context().run, process, name) for name in names]
        for name, run in zip(names, runs, strict=True):
            try:
                done.append(run.result())
            except DataError as error:
                get_run_logger().warning("%s %s is set aside: %s", what, name, error)
                lost.append(SetAside(subject=str(name), stage=what, reason=str(error)))
    except BaseException as error:
        # a bug, a lost store, an interruption: what runs now refuses its next stage, and nothing else is started
        current_session().stop(f"{type(error).__name__}: {error}")
        raise
    finally:
        threads.shutdown(cancel_futures=True)
    if not done:
        reasons = "; ".join(item.reason for item in lost[:3]) or "there is none"
        raise DataError(f"No {what} of {len(names)} could be processed: {reasons}")
    return done, lost
