"""The `shearline` command: ad-hoc runs from a shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from blocks.store import DataStore
    from flows.config import SurveyConfig
    from tasks.session import Session

Name = TypeVar("Name")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From telescope exposures to a weak-lensing shape catalogue.",
)
run_app = typer.Typer(no_args_is_help=True, help="Process one exposure, one tile or a whole survey.")
config_app = typer.Typer(no_args_is_help=True, help="Show and check settings.")
app.add_typer(run_app, name="run")
app.add_typer(config_app, name="config")


class Exit(IntEnum):
    """What the exit code of the command means."""

    OK = 0
    """Everything that was asked for is done; single CCDs may have been set aside."""
    DATA = 1
    """An exposure or tile could not be processed with the data there are; of a survey, the others are."""
    CONFIG = 2
    """The command line or the settings are wrong; nothing was started."""
    STORE = 3
    """The store cannot be used or failed for good, or worker processes died again and again."""
    BUG = 4
    """An unexpected error."""


Survey = Annotated[str, typer.Option("--survey", "-s", help="Survey file, or the name of one that comes along.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Change one setting; repeatable.")
]
StoreRoot = Annotated[str, typer.Option("--store", help="Folder or s3:// URL of the products.")]
RawRoot = Annotated[
    str | None, typer.Option("--raw", help="Folder or s3:// URL of the raw files; by default `raw` in the store.")
]
Collection = Annotated[str, typer.Option("--collection", help="Processing version: a folder of the store.")]
Workers = Annotated[int, typer.Option("--workers", "-w", min=1, help="Number of worker processes.")]


@app.command()
def demo(
    root: Annotated[Path, typer.Option("--root", help="Folder of the demo; everything stays in it.")] = Path("demo"),
    changes: Changes = None,
    collection: Collection = "demo",
    workers: Workers = 2,
) -> None:
    """Simulate a small survey, process it all the way and compare the recovered shear with the input."""

    def work() -> None:
        from flows.config import load_survey
        from flows.demo import run_demo
        from flows.progress import print_demo

        config = load_survey("demo", changes or ())
        store, raw = _stores(str(root / "store"), None, collection)
        with _watched(workers) as current:
            products, summary = run_demo(config, store, raw, root, workers, current)
        print_demo(products, summary, current)

    _guarded(work, prefect_home=root / ".prefect")


@run_app.command("exposure")
def run_exposure(
    exposure: Annotated[str, typer.Argument(help="Name of the exposure, such as 2113737.")],
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
    workers: Workers = 2,
) -> None:
    """Take one raw exposure to masks, source tables and PSF models."""

    def work() -> None:
        config, data_store, raw_store = _prepare(survey, changes, store, raw, collection)
        from flows.exposure import process_exposure
        from flows.progress import print_exposures, print_set_aside
        from tasks.products.identity import ExposureId

        with _watched(workers):
            products = process_exposure(
                _identity(ExposureId, exposure), config.exposure, data_store, raw_store, workers
            )
        print_exposures([products])
        print_set_aside(products.set_aside)

    _guarded(work)


@run_app.command("tile")
def run_tile(
    tile: Annotated[str, typer.Argument(help="Name of the tile, such as 210.296.")],
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
    workers: Workers = 2,
) -> None:
    """Take the processed exposures of one tile to its shape catalogue."""

    def work() -> None:
        config, data_store, raw_store = _prepare(survey, changes, store, raw, collection)
        from flows.progress import print_set_aside, print_tiles
        from flows.tile import process_tile
        from tasks.archive.manifests import list_processed_exposures, read_exposure_products
        from tasks.products.identity import TileId

        name = _identity(TileId, tile)
        processed = config.exposures or list_processed_exposures(data_store)
        exposures = [read_exposure_products(data_store, exposure) for exposure in processed]
        with _watched(workers):
            products = process_tile(name, exposures, config.tile, data_store, raw_store, workers)
        print_tiles([products])
        print_set_aside(products.set_aside)

    _guarded(work)


@run_app.command("survey")
def run_survey(
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
    workers: Workers = 2,
) -> None:
    """Process every exposure and tile of a survey and merge the catalogues."""

    def work() -> None:
        config, data_store, raw_store = _prepare(survey, changes, store, raw, collection)
        from flows.progress import print_survey
        from flows.survey import process_survey
        from tasks.errors import DataError

        with _watched(workers) as current:
            products = process_survey(config, data_store, raw_store, workers)
        print_survey(products, current)
        lost = [item.subject for item in products.set_aside if item.stage in {"exposure", "tile"}]
        if lost:
            raise DataError(f"Without these, which could not be processed: {', '.join(lost)}.")

    _guarded(work)


@config_app.command("show")
def config_show(
    survey: Annotated[str, typer.Argument(help="Survey file, or the name of one that comes along.")],
    changes: Changes = None,
) -> None:
    """Print the resolved settings as YAML, every default written out."""

    def work() -> None:
        from flows.config import dump_survey, load_survey

        typer.echo(dump_survey(load_survey(survey, changes or ())), nl=False)

    _guarded(work)


@config_app.command("check")
def config_check(
    survey: Annotated[str, typer.Argument(help="Survey file, or the name of one that comes along.")],
    changes: Changes = None,
) -> None:
    """Check a survey file: unknown keys, wrong types, values out of bounds."""

    def work() -> None:
        from flows.config import load_survey

        config = load_survey(survey, changes or ())
        typer.echo(f"{survey}: the settings of {config.name} are valid (fingerprint {config.fingerprint()}).")

    _guarded(work)


def main() -> None:
    """Run the command line."""
    app()


def _guarded(work: Callable[[], None], prefect_home: Path | None = None) -> None:
    """Turn errors into one sentence and an exit code that says what to do next."""
    # before Prefect is imported for the first time, which is when it looks at its settings
    _set_up_prefect(prefect_home)
    from blocks.store import StoreError, StoreUnusableError
    from tasks.errors import ConfigError, ShearlineError
    from tasks.session import WorkerDiedError

    try:
        work()
    except ConfigError as error:
        _fail(Exit.CONFIG, str(error))
    except (StoreUnusableError, StoreError, WorkerDiedError) as error:
        _fail(Exit.STORE, str(error))
    except ShearlineError as error:
        _fail(Exit.DATA, str(error))
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if os.environ.get("SHEARLINE_TRACEBACK"):
            raise
        _fail(Exit.BUG, f"Unexpected {type(error).__name__}: {error}. Set SHEARLINE_TRACEBACK=1 to see where.")


def _fail(code: Exit, sentence: str) -> None:
    typer.echo(f"shearline: {sentence}", err=True)
    raise typer.Exit(code)


def _set_up_prefect(home: Path | None) -> None:
    """Choose a quiet, private Prefect, unless the user's environment says otherwise."""
    # what a stage refuses is shown by the progress display and the tables; the server gets every log line
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    if home is not None and not os.environ.get("PREFECT_API_URL"):
        os.environ["PREFECT_HOME"] = str(home.resolve())


def _prepare(
    survey: str, changes: Sequence[str] | None, store: str, raw: str | None, collection: str
) -> tuple[SurveyConfig, DataStore, DataStore]:
    from flows.config import load_survey

    config = load_survey(survey, changes or ())
    return config, *_stores(store, raw, collection)


def _stores(store: str, raw: str | None, collection: str) -> tuple[DataStore, DataStore]:
    from pydantic import ValidationError

    from blocks.store import DataStore
    from tasks.errors import ConfigError

    try:
        products = DataStore(root=store, collection=collection)
        raw_store = DataStore(root=raw) if raw else DataStore(root=store, collection="raw")
    except ValidationError as error:
        raise ConfigError(error.errors()[0]["msg"]) from error
    if products.url == raw_store.url:
        raise ConfigError(
            f"Products cannot go to {products.url}, where the raw files are; choose another --collection."
        )
    products.probe()
    return products, raw_store


def _identity(kind: Callable[[str], Name], text: str) -> Name:
    from pydantic import ValidationError

    from tasks.errors import ConfigError

    try:
        return kind(text)
    except ValidationError as error:
        raise ConfigError(f"{text[:80]!r} cannot be the name of an exposure or tile.") from error


def _watched(workers: int) -> AbstractContextManager[Session]:
    from flows.progress import watched_session

    return watched_session(workers, live=sys.stderr.isatty())


if __name__ == "__main__":
    main()
