"""`shearline plan`, `shearline run night` and `shearline status`: what there is to do, doing it, and what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.shell import (
    Changes,
    Collection,
    Exit,
    RawRoot,
    RunnerKind,
    Scheduler,
    StoreRoot,
    Survey,
    Workers,
    fail,
    guarded,
    identity,
    make_runner,
    prepare,
    watched,
)

if TYPE_CHECKING:
    from rich.console import Console

    from flows.night_report import NightReport
    from flows.status import ItemStatus, StoreStatus

# what, its status, and why
Line = tuple[str, str, Sequence[str]]
MAX_ROWS = 40

Night = Annotated[
    str | None,
    typer.Option("--night", metavar="DATE", help="Only the exposures of one night, by the date of its evening."),
]
NightName = Annotated[str, typer.Argument(metavar="DATE", help="Date of the evening, such as 2026-11-20.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Parallel = Annotated[int, typer.Option("--parallel", min=1, help="Exposures or tiles that are worked on at a time.")]
All = Annotated[bool, typer.Option("--all", help="Every line, and also what is done.")]

status_app = typer.Typer(help="What there is, what is missing, and why.")


def plan(
    night: Night = None,
    as_json: AsJson = False,
    everything: All = False,
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
) -> None:
    """Say what a nightly run would do now, and why; nothing is written."""

    def work() -> None:
        config, data_store, raw_store = prepare(survey, changes, store, raw, collection, write=False)
        from rich.console import Console

        from flows.plan import make_plan

        found = make_plan(config, data_store, raw_store, night=_date(night))
        if as_json:
            typer.echo(found.model_dump_json(indent=1))
            return
        console = Console()
        for kind in ("exposure", "tile"):
            console.print(f"{kind}s: {_numbers(found.count(kind))}", highlight=False)
        rows: list[Line] = [(f"exposure {item.exposure}", item.status, item.reasons) for item in found.exposures]
        rows += [(f"tile {item.tile}", item.status, item.reasons) for item in found.tiles]
        _print_rows(console, "Plan", rows, everything)

    guarded(work)


def run_night(
    night: Night = None,
    parallel: Parallel = 2,
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
    runner: RunnerKind = "local",
    workers: Workers = 2,
    scheduler: Scheduler = None,
) -> None:
    """Process what is new or stale, and the tiles that this completes or affects; ends with a report of the night."""

    def work() -> None:
        where = make_runner(runner, workers, scheduler)
        config, data_store, raw_store = prepare(survey, changes, store, raw, collection)
        from rich.console import Console

        from flows import nightly
        from flows.night_report import read_night_report

        console, failed = Console(), ""
        report: NightReport | None
        with watched(where):
            try:
                report = nightly.run_night(config, data_store, raw_store, where, _date(night), parallel)
            except nightly.NightFailedError as error:
                failed = str(error)
                report = read_night_report(data_store, _date(night) or nightly.tonight(config))
        if report is not None:
            console.print(report.headline(), highlight=False, soft_wrap=True)
            rows: list[Line] = [
                (f"{item.kind} {item.subject}", item.outcome, (item.reason,)) for item in report.launched
            ]
            rows += [(f"{item.kind} {item.subject}", item.status, item.reasons) for item in report.not_launched]
            _print_rows(console, "Not done", [row for row in rows if row[1] not in {"done", "reused"}], True)
            if report.catalog_note:
                console.print(f"survey catalogue: {report.catalog_note}", highlight=False, soft_wrap=True)
        if failed:
            fail(Exit.BUG, failed)

    guarded(work)


@status_app.callback(invoke_without_command=True)
def status(
    context: typer.Context,
    as_json: AsJson = False,
    everything: All = False,
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
) -> None:
    """Say what there is of the whole survey, what is missing and why, and who works on what; nothing is written."""
    if context.invoked_subcommand is not None:
        return

    def work() -> None:
        config, data_store, raw_store = prepare(survey, changes, store, raw, collection, write=False)
        from flows.status import store_status

        _print_store(store_status(config, data_store, raw_store), as_json, everything)

    guarded(work)


@status_app.command("night")
def status_night(
    night: NightName,
    as_json: AsJson = False,
    everything: All = False,
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
) -> None:
    """Say what there is of one observing night, and what its nightly run did."""

    def work() -> None:
        config, data_store, raw_store = prepare(survey, changes, store, raw, collection, write=False)
        from flows.status import store_status

        _print_store(store_status(config, data_store, raw_store, _date(night)), as_json, everything)

    guarded(work)


@status_app.command("exposure")
def status_exposure(
    exposure: Annotated[str, typer.Argument(help="Name of the exposure, such as 2113737.")],
    as_json: AsJson = False,
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
) -> None:
    """Say what there is of one exposure, and what is missing and why."""

    def work() -> None:
        config, data_store, raw_store = prepare(survey, changes, store, raw, collection, write=False)
        from flows.status import exposure_status
        from tasks.products.identity import ExposureId

        _print_item(exposure_status(config, data_store, raw_store, identity(ExposureId, exposure)), as_json)

    guarded(work)


@status_app.command("tile")
def status_tile(
    tile: Annotated[str, typer.Argument(help="Name of the tile, such as 210.296.")],
    as_json: AsJson = False,
    survey: Survey = "cfis",
    changes: Changes = None,
    store: StoreRoot = "store",
    raw: RawRoot = None,
    collection: Collection = "main",
) -> None:
    """Say what there is of one tile, and what is missing and why."""

    def work() -> None:
        config, data_store, raw_store = prepare(survey, changes, store, raw, collection, write=False)
        from flows.status import tile_status
        from tasks.products.identity import TileId

        _print_item(tile_status(config, data_store, raw_store, identity(TileId, tile)), as_json)

    guarded(work)


def _date(text: str | None) -> date | None:
    from tasks.errors import ConfigError

    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text[:40]!r} is not a date; write it as 2026-11-20.") from error


def _numbers(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items()) or "none"


def _print_rows(console: Console, title: str, rows: Sequence[Line], everything: bool) -> None:
    """Print what is not done, and why; with ``everything`` also what is."""
    from rich.table import Table
    from rich.text import Text

    chosen = list(rows) if everything else [row for row in rows if row[1] != "done"]
    if not chosen:
        return
    table = Table(title=title, title_justify="left")
    for name in ("what", "status", "why"):
        table.add_column(name, overflow="fold")
    shown = chosen if everything else chosen[:MAX_ROWS]
    for what, status_word, reasons in shown:
        # as text: sentences may hold brackets, which rich takes for markup
        table.add_row(Text(what), status_word.replace("_", " "), Text("\n".join(reasons)))
    console.print(table)
    if len(shown) < len(chosen):
        console.print(f"and {len(chosen) - len(shown)} more; --all prints them", highlight=False)


def _print_store(found: StoreStatus, as_json: bool, everything: bool) -> None:
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    from rich.console import Console

    console = Console()
    of = f"night {found.night} of {found.survey}" if found.night else found.survey
    for line in (
        f"{of} in {found.store}, raw files in {found.raw}",
        f"exposures: {_numbers(found.exposures)}",
        f"tiles: {_numbers(found.tiles)}",
        *(f"working: {sentence}" for sentence in found.working),
        *([f"reports of {len(found.nights)} nights, the last of {found.nights[-1]}"] if found.nights else []),
        *([found.report.headline()] if found.report else []),
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    rows = [(f"{item.kind} {item.subject}", item.status, item.reasons) for item in found.open]
    _print_rows(console, "Not done", rows, everything)


def _print_item(found: ItemStatus, as_json: bool) -> None:
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    other = "tiles" if found.kind == "exposure" else "exposures"
    for line in (
        f"{found.kind} {found.subject}: {found.status.replace('_', ' ')}",
        *(f"  {sentence}" for sentence in found.reasons),
        *(f"working: {sentence}" for sentence in found.working),
        *([f"{other}: {', '.join(found.belongs_to)}"] if found.belongs_to else []),
        *([f"begun: {found.objects} files, but no list of products"] if found.objects and not found.products else []),
        *(f"without {item.subject} ({item.stage}): {item.reason}" for item in found.set_aside),
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if not found.products:
        return
    table = Table(title="Products", title_justify="left")
    for name in ("stage", "of", "file", "bytes", "numbers"):
        table.add_column(name, justify="right" if name == "bytes" else "left", overflow="fold")
    for item in found.products:
        numbers = ", ".join(f"{name} {value}" for name, value in item.summary.items())
        size = f"{item.size}" if item.is_there else "gone"
        table.add_row(item.stage, item.subject, Text(item.key), size, Text(numbers))
    console.print(table)
