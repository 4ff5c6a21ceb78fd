"""Options that several commands share, in groups: a parameter that is a group becomes the options of its fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, get_type_hints

import typer

from flows.cli.shell import Changes, Collection, RunnerKind, Scheduler, Survey, Workers, make_runner, stores

if TYPE_CHECKING:
    from blocks.store import DataStore
    from flows.config import SurveyConfig
    from tasks.runner import Runner

StoreRoot = Annotated[str, typer.Option("--store", help="Folder or s3:// URL of the products.")]
RawRoot = Annotated[
    str | None, typer.Option("--raw", help="Folder or s3:// URL of the raw files; by default `raw` in the store.")
]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Which survey, and where its products are."""

    survey: Survey = "cfis"
    changes: Changes = None
    store: StoreRoot = "store"
    collection: Collection = "main"

    def open(self, raw: str | None = None, *, write: bool = True) -> tuple[SurveyConfig, DataStore, DataStore]:
        """Return the settings, the store, which is known to work if it is to be written, and the raw store."""
        from flows.config import load_survey

        config = load_survey(self.survey, self.changes or ())
        return config, *stores(self.store, raw, self.collection, write=write)


@dataclass(frozen=True, kw_only=True)
class Place(Archive):
    """Which survey, and where its products and raw files are."""

    raw: RawRoot = None

    def open(self, raw: str | None = None, *, write: bool = True) -> tuple[SurveyConfig, DataStore, DataStore]:
        """Return the settings, the store, which is known to work if it is to be written, and the raw store."""
        return super().open(raw or self.raw, write=write)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Where stages run."""

    runner: RunnerKind = "local"
    workers: Workers = 2
    scheduler: Scheduler = None

    def choose(self) -> Runner:
        """Return where stages run."""
        return make_runner(self.runner, self.workers, self.scheduler)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options; Typer sees the options of which they are made."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name in groups:
            options += _options_of(groups[parameter.name])
        else:
            options.append(parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def with_groups(**given: object) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    with_groups.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    with_groups.__annotations__ = {option.name: option.annotation for option in options}
    return with_groups


def _options_of(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(group)
    ]
