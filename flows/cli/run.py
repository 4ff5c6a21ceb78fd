"""`shearline demo` and `shearline run`: processing from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.shell import (
    Changes,
    Collection,
    RawRoot,
    RunnerKind,
    Scheduler,
    StoreRoot,
    Survey,
    Workers,
    guarded,
    identity,
    make_runner,
    prepare,
    stores,
    watched,
)

run_app = typer.Typer(no_args_is_help=True, help="Process one exposure, one tile or a whole survey.")


def demo(
    root: Annotated[Path, typer.Option("--root", help="Folder of the demo; everything stays in it.")] = Path("demo"),
    changes: Changes = None,
    collection: Collection = "demo",
    runner: RunnerKind = "local",
    workers: Workers = 2,
    scheduler: Scheduler = None,
) -> None:
    """Simulate a small survey, process it all the way and compare the recovered shear with the input."""

    def work() -> None:
        from flows.config import load_survey
        from flows.demo import run_demo
        from flows.progress import print_demo

        config = load_survey("demo", changes or ())
        store, raw = stores(str(root / "store"), None, collection)
        where = make_runner(runner, workers, scheduler)
        with watched(where) as current:
            products, summary = run_demo(config, store, raw, root, where, current)
        print_demo(products, summary, current)

    guarded(work, prefect_home=root / ".prefect")


@run_app.command("exposure")
def run_exposure(
    exposure: Annotated[str, typer.Argument(help="Name of the exposure, such as 2113737.")],
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
    runner: RunnerKind = "local",
    workers: Workers = 2,
    scheduler: Scheduler = None,
) -> None:
    """Take one raw exposure to masks, source tables and PSF models."""

    def work() -> None:
        where = make_runner(runner, workers, scheduler)
        config, data_store, raw_store = prepare(survey, changes, store, raw, collection)
        from flows.exposure import process_exposure
        from flows.progress import print_exposures, print_set_aside
        from tasks.products.identity import ExposureId

        with watched(where):
            products = process_exposure(identity(ExposureId, exposure), config.exposure, data_store, raw_store, where)
        print_exposures([products])
        print_set_aside(products.set_aside)

    guarded(work)


@run_app.command("tile")
def run_tile(
    tile: Annotated[str, typer.Argument(help="Name of the tile, such as 210.296.")],
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
    runner: RunnerKind = "local",
    workers: Workers = 2,
    scheduler: Scheduler = None,
) -> None:
    """Take the processed exposures of one tile to its shape catalogue."""

    def work() -> None:
        where = make_runner(runner, workers, scheduler)
        config, data_store, raw_store = prepare(survey, changes, store, raw, collection)
        from flows.progress import print_set_aside, print_tiles
        from flows.tile import process_tile
        from tasks.products.identity import TileId

        name = identity(TileId, tile)
        with watched(where):
            products = process_tile(name, config.tile, data_store, raw_store, where, config.exposures)
        print_tiles([products])
        print_set_aside(products.set_aside)

    guarded(work)


@run_app.command("survey")
def run_survey(
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
    runner: RunnerKind = "local",
    workers: Workers = 2,
    scheduler: Scheduler = None,
) -> None:
    """Process every exposure and tile of a survey and merge the catalogues."""

    def work() -> None:
        where = make_runner(runner, workers, scheduler)
        config, data_store, raw_store = prepare(survey, changes, store, raw, collection)
        from flows.progress import print_survey
        from flows.survey import process_survey
        from tasks.errors import DataError

        with watched(where) as current:
            products = process_survey(config, data_store, raw_store, where)
        print_survey(products, current)
        lost = [item.subject for item in products.set_aside if item.stage in {"exposure", "tile"}]
        if lost:
            raise DataError(f"Without these, which could not be processed: {', '.join(lost)}.")

    guarded(work)
