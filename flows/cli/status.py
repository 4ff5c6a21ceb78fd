"""`shearline status`: what there is, what is missing, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Place, grouped
from flows.cli.shell import evening, guarded, identity
from flows.cli.tables import All, AsJson, Line, numbers, print_rows

if TYPE_CHECKING:
    from datetime import datetime

    from flows.item_status import ItemStatus
    from flows.status import StoreStatus

NightName = Annotated[str, typer.Argument(metavar="DATE", help="Date of the evening, such as 2026-11-20.")]

status_app = typer.Typer(help="What there is, what is missing, and why.")


@status_app.callback(invoke_without_command=True)
@grouped
def status(
    context: typer.Context,
    as_json: AsJson = False,
    everything: All = False,
    *,
    place: Place,
) -> None:
    """Say what there is of the whole survey, what is missing and why, and who works on what; nothing is written."""
    if context.invoked_subcommand is not None:
        return

    def work() -> None:
        config, data_store, raw_store = place.open(write=False)
        from flows.status import store_status

        _print_store(store_status(config, data_store, raw_store), as_json, everything)

    guarded(work)


@status_app.command("night")
@grouped
def status_night(
    night: NightName,
    as_json: AsJson = False,
    everything: All = False,
    *,
    place: Place,
) -> None:
    """Say what there is of one observing night, and what its nightly run did."""

    def work() -> None:
        when = evening(night)
        config, data_store, raw_store = place.open(write=False)
        from flows.status import store_status

        _print_store(store_status(config, data_store, raw_store, when), as_json, everything)

    guarded(work)


@status_app.command("exposure")
@grouped
def status_exposure(
    exposure: Annotated[str, typer.Argument(help="Name of the exposure, such as 2113737.")],
    as_json: AsJson = False,
    *,
    place: Place,
) -> None:
    """Say what there is of one exposure, and what is missing and why."""

    def work() -> None:
        from tasks.products.identity import ExposureId

        name = identity(ExposureId, exposure)
        config, data_store, raw_store = place.open(write=False)
        from flows.item_status import exposure_status

        _print_item(exposure_status(config, data_store, raw_store, name), as_json)

    guarded(work)


@status_app.command("tile")
@grouped
def status_tile(
    tile: Annotated[str, typer.Argument(help="Name of the tile, such as 210.296.")],
    as_json: AsJson = False,
    *,
    place: Place,
) -> None:
    """Say what there is of one tile, and what is missing and why."""

    def work() -> None:
        from tasks.products.identity import TileId

        name = identity(TileId, tile)
        config, data_store, raw_store = place.open(write=False)
        from flows.item_status import tile_status

        _print_item(tile_status(config, data_store, raw_store, name), as_json)

    guarded(work)


def _print_store(found: StoreStatus, as_json: bool, everything: bool) -> None:
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    from rich.console import Console

    console = Console()
    of = f"night {found.night} of {found.survey}" if found.night else found.survey
    for line in (
        f"{of} in {found.store}, raw files in {found.raw}",
        f"exposures: {numbers(found.exposures)}",
        f"tiles: {numbers(found.tiles)}",
        *(f"working: {sentence}" for sentence in found.working),
        *([f"reports of {len(found.nights)} nights, the last of {found.nights[-1]}"] if found.nights else []),
        *([found.report.headline()] if found.report else []),
    ):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    rows: list[Line] = [(f"{item.kind} {item.subject}", item.status, item.reasons) for item in found.open]
    if everything:
        rows += [(f"{item.kind} {item.subject}", "done", (_written(item.written),)) for item in found.done]
    print_rows(console, "Everything" if everything else "Not done", rows, everything)


def _written(when: datetime | None) -> str:
    return f"products listed {when:%Y-%m-%d %H:%M:%S} UTC" if when else ""


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
        *([_written(found.written)] if found.written else []),
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
