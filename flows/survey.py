"""A whole survey: every exposure, every tile, one catalogue, its mean shear and a report."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple, TypeVar

from prefect import flow, get_run_logger
from pydantic import BaseModel, ConfigDict

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.exposure import process_exposure
from flows.launch import without_heartbeat
from flows.notifications import TELL
from flows.outcome import TASK_RUNNER
from flows.tile import process_tile
from tasks.archive.raw import list_exposures, raw_file
from tasks.errors import ConfigError, DataError, RunStoppedError
from tasks.mean_shear import measure_mean_shear_task
from tasks.merge import export_parquet_task, merge_catalogs_task
from tasks.products.identity import ExposureProducts, Identity, ProductRef, SetAside, TileProducts
from tasks.report import write_report_task
from tasks.runner import LOCAL, Runner
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


@flow(name="survey", task_runner=TASK_RUNNER, **TELL)
def process_survey(config: SurveyConfig, store: DataStore, raw: DataStore, runner: Runner = LOCAL) -> SurveyProducts:
    """Process the exposures and tiles of a survey and merge their catalogues.

    Parameters
    ----------
    config
        Settings of every flow; it names the tiles, and the exposures unless all of the raw store are meant.
    store
        Where the products go.
    raw
        Where the raw files are; never written.
    runner
        Where the stages run.

    Raises
    ------
    ConfigError
        If the settings name no tiles.
    DataError
        If no exposure or no tile could be processed.
    """
    if not config.tiles:
        raise ConfigError(f"Survey {config.name} names no tiles; list them under `tiles:`.")
    with session(runner):
        for key in {config.exposure.star_catalog, config.tile.star_catalog, config.truth} - {None}:
            raw_file(raw, str(key), config.name)
        names = config.exposures or tuple(list_exposures(raw, config.exposure.instrument))
        exposures, lost_exposures = _each(
            names, lambda name: process_exposure(name, config.exposure, store, raw, runner), "exposure"
        )
        processed = tuple(exposure.exposure for exposure in exposures)
        tiles, lost_tiles = _each(
            config.tiles, lambda name: process_tile(name, config.tile, store, raw, runner, processed), "tile"
        )
        set_aside = (*_inside(exposures), *lost_exposures, *_inside(tiles), *lost_tiles)
        catalog, parquet, shear, truth = merge_tiles(tiles, config, store, raw)
        return SurveyProducts(
            exposures=tuple(exposures),
            tiles=tuple(tiles),
            catalog=catalog,
            catalog_parquet=parquet,
            shear=shear,
            report=write_report_task(
                config.name, exposures, tiles, catalog, shear, set_aside, truth, config.report, store, raw
            ),
            set_aside=set_aside,
        )


class MergedTiles(NamedTuple):
    """What the tiles of a survey are together."""

    catalog: ProductRef
    parquet: ProductRef
    shear: ProductRef
    truth: ProductRef | None
    """Catalogue of the true galaxies, of a simulated survey."""


def merge_tiles(tiles: Sequence[TileProducts], config: SurveyConfig, store: DataStore, raw: DataStore) -> MergedTiles:
    """Merge the catalogues of tiles and measure the mean shear; within a flow run.

    Raises
    ------
    ConfigError
        If the settings name a catalogue of true galaxies that is not in the raw store.
    """
    truth = raw_file(raw, config.truth, config.name) if config.truth else None
    catalog = merge_catalogs_task([tile.catalog for tile in tiles], config.merge, store)
    shear = measure_mean_shear_task(catalog, truth, config.mean_shear, store, raw)
    return MergedTiles(catalog, export_parquet_task(catalog, config.merge, store), shear, truth)


def _inside(items: Iterable[ExposureProducts | TileProducts]) -> list[SetAside]:
    return [lost for item in items for lost in item.set_aside]


def _each(
    names: Sequence[Name], process: Callable[[Name], Products], what: str
) -> tuple[list[Products], list[SetAside]]:
    """Run one flow per name, a few at a time; what fails on its data is set aside."""
    done: list[Products] = []
    lost: list[SetAside] = []
    current, threads = current_session(), ThreadPoolExecutor(PARALLEL_FLOWS)

    def run(name: Name) -> Products:
        try:
            return process(name)
        except DataError:
            raise
        except BaseException as error:
            # a bug, a lost store: what runs now refuses its next stage, and nothing else is started
            current.stop_by(error)
            threads.shutdown(wait=False, cancel_futures=True)
            raise

    try:
        with without_heartbeat():
            # each thread sees this flow run as the parent of its own
            runs = [threads.submit(contextvars.copy_context().run, run, name) for name in names]
        for name, error in zip(names, _errors(runs), strict=True):
            if error is not None:
                get_run_logger().warning("%s %s is set aside: %s", what, name, error)
                lost.append(SetAside(subject=str(name), stage=what, reason=str(error)))
        done += [item.result() for item in runs if item.exception() is None]
    except BaseException as error:
        current.stop_by(error)
        raise
    finally:
        threads.shutdown(cancel_futures=True)
    if not done:
        reasons = "; ".join(item.reason for item in lost[:3]) or "there is none"
        raise DataError(f"No {what} of {len(names)} could be processed: {reasons}")
    return done, lost


def _errors(runs: Sequence[Future[Products]]) -> list[DataError | None]:
    """Wait for all runs and return what each met in its data; raise what is not about data, the cause first."""
    wait(runs)
    errors = [None if run.cancelled() else run.exception() for run in runs]
    others = [error for error in errors if error is not None and not isinstance(error, DataError)]
    for error in sorted(others, key=lambda error: isinstance(error, RunStoppedError)):
        raise error
    return [error for error in errors if error is None or isinstance(error, DataError)]
