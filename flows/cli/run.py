"""`shearline demo` and `shearline run`: processing from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Machines, Place, grouped
from flows.cli.shell import Changes, Collection, guarded, identity, stores, watched

run_app = typer.Typer(no_args_is_help=True, help="Process one exposure, one tile or a whole survey.")


@grouped
def demo(
    root: Annotated[Path, typer.Option("--root", help="Folder of the demo; everything stays in it.")] = Path("demo"),
    changes: Changes = None,
    collection: Collection = "demo",
    *,
    machines: Machines,
) -> None:
    """Simulate a small survey, process it all the way and compare the recovered shear with the input."""

    def work() -> None:
        from flows.config import load_survey
        from flows.demo import run_demo
        from flows.progress import print_demo

        config = load_survey("demo", changes or ())
        store, raw = stores(str(root / "store"), None, collection)
        where = machines.choose()
        with watched(where) as current:
            products, summary = run_demo(config, store, raw, root, where, current)
        print_demo(products, summary, current)

    guarded(work, prefect_home=root / ".prefect")


@run_app.command("exposure")
@grouped
def run_exposure(
    exposure: Annotated[str, typer.Argument(help="Name of the exposure, such as 2113737.")],
    *,
    place: Place,
    machines: Machines,
) -> None:
    """Take one raw exposure to masks, source tables and PSF models."""

    def work() -> None:
        from tasks.products.identity import ExposureId

        name, where = identity(ExposureId, exposure), machines.choose()
        config, data_store, raw_store = place.open()
        from flows.exposure import process_exposure
        from flows.progress import print_exposures, print_set_aside

        with watched(where):
            products = process_exposure(name, config.exposure, data_store, raw_store, where)
        print_exposures([products])
        print_set_aside(products.set_aside)

    guarded(work)


@run_app.command("tile")
@grouped
def run_tile(
    tile: Annotated[str, typer.Argument(help="Name of the tile, such as 210.296.")],
    *,
    place: Place,
    machines: Machines,
) -> None:
    """Take the processed exposures of one tile to its shape catalogue."""

    def work() -> None:
        from tasks.products.identity import TileId

        name, where = identity(TileId, tile), machines.choose()
        config, data_store, raw_store = place.open()
        from flows.progress import print_set_aside, print_tiles
        from flows.tile import process_tile

        with watched(where):
            products = process_tile(name, config.tile, data_store, raw_store, where, config.exposures)
        print_tiles([products])
        print_set_aside(products.set_aside)

    guarded(work)


@run_app.command("survey")
@grouped
def run_survey(
    *,
    place: Place,
    machines: Machines,
) -> None:
    """Process every exposure and tile of a survey and merge the catalogues."""

    def work() -> None:
        where = machines.choose()
        config, data_store, raw_store = place.open()
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
