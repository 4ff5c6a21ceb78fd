"""What all commands share: options, exit codes, and errors as one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from blocks.store import DataStore
    from tasks.runner import Runner
    from tasks.session import Session

Name = TypeVar("Name")


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
Collection = Annotated[str, typer.Option("--collection", help="Processing version: a folder of the store.")]
Workers = Annotated[int, typer.Option("--workers", "-w", min=1, help="Number of worker processes.")]
RunnerKind = Annotated[str, typer.Option("--runner", help="Where stages run: `local` processes, or a `dask` cluster.")]
Scheduler = Annotated[
    str | None, typer.Option("--scheduler", help="Address of a running Dask scheduler; none starts a cluster here.")
]


def guarded(work: Callable[[], None], prefect_home: Path | None = None) -> None:
    """Turn errors into one sentence and an exit code that says what to do next."""
    # before Prefect is imported for the first time, which is when it looks at its settings
    set_up_prefect(prefect_home)
    from blocks.store import StoreError, StoreUnusableError
    from tasks.errors import ConfigError, ShearlineError
    from tasks.session import WorkerDiedError

    try:
        work()
    except ConfigError as error:
        fail(Exit.CONFIG, str(error))
    except (StoreUnusableError, StoreError, WorkerDiedError) as error:
        fail(Exit.STORE, str(error))
    except ShearlineError as error:
        fail(Exit.DATA, str(error))
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if os.environ.get("SHEARLINE_TRACEBACK"):
            raise
        fail(Exit.BUG, f"Unexpected {type(error).__name__}: {error}. Set SHEARLINE_TRACEBACK=1 to see where.")


def fail(code: Exit, sentence: str) -> None:
    """Print one sentence to standard error and exit."""
    typer.echo(f"shearline: {sentence}", err=True)
    raise typer.Exit(code)


def set_up_prefect(home: Path | None) -> None:
    """Choose a quiet, private Prefect, unless the user's environment says otherwise."""
    # what a stage refuses is shown by the progress display and the tables; the server gets every log line
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    # as often as runs of the deployments: with Prefect's own 180 s a server learns late that a run has died
    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    if home is not None and not os.environ.get("PREFECT_API_URL"):
        os.environ["PREFECT_HOME"] = str(home.resolve())


def stores(store: str, raw: str | None, collection: str, *, write: bool = True) -> tuple[DataStore, DataStore]:
    """Return the store of products, which is known to work if it is to be written, and that of raw files."""
    from pydantic import ValidationError

    from blocks.store import DataStore
    from tasks.errors import ConfigError

    try:
        products = DataStore(root=store, collection=collection)
        raw_store = DataStore(root=raw) if raw else DataStore(root=store, collection="raw")
    except ValidationError as error:
        raise ConfigError(f"{error.errors()[0]['msg'].removeprefix('Value error, ')}.") from error
    if products.url == raw_store.url:
        raise ConfigError(
            f"Products cannot go to {products.url}, where the raw files are; choose another --collection."
        )
    if write:
        products.probe()
    elif not is_there(products) and not is_there(raw_store):
        raise ConfigError(f"There is neither a folder {products.url} nor {raw_store.url}; check --store and --raw.")
    return products, raw_store


def is_there(store: DataStore) -> bool:
    """Tell whether the folder of a store exists; of a bucket that is not known before it is asked."""
    return not store.is_local or Path(store.url.removeprefix("file://")).is_dir()


def identity(kind: Callable[[str], Name], text: str) -> Name:
    """Return the name of an exposure or tile that the command line gave."""
    from pydantic import ValidationError

    from tasks.errors import ConfigError

    try:
        return kind(text)
    except ValidationError as error:
        raise ConfigError(f"{text[:80]!r} cannot be the name of an exposure or tile.") from error


def evening(text: str | None) -> date | None:
    """Return the date by which the command line named a night."""
    from tasks.errors import ConfigError

    if text is None:
        return None
    try:
        night = date.fromisoformat(text)
    except ValueError:
        night = date.min
    # a night on the first or last day of the calendar is not within the calendar in every time zone
    if not date.min < night < date.max:
        raise ConfigError(f"{text[:40]!r} is not a date; write it as 2026-11-20.")
    return night


def watched(runner: Runner) -> AbstractContextManager[Session]:
    """Return a session whose stages appear on standard error as they finish."""
    from flows.progress import watched_session

    return watched_session(runner, live=sys.stderr.isatty())


def make_runner(kind: str, workers: int, scheduler: str | None) -> Runner:
    """Return where stages run, as the command line says."""
    from pydantic import ValidationError

    from tasks.errors import ConfigError
    from tasks.runner import Runner

    try:
        return Runner.model_validate({"kind": kind, "workers": workers, "scheduler": scheduler})
    except ValidationError as error:
        fault = error.errors()[0]
        option = "".join(f"--{name.replace('kind', 'runner')}: " for name in map(str, fault["loc"]))
        raise ConfigError(f"{option}{fault['msg'].removeprefix('Value error, ')}") from error
