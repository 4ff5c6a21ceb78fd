"""`shearline plan` and `shearline run night`: what there is to do, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import Machines, Place, grouped
from flows.cli.shell import Exit, evening, fail, guarded, watched
from flows.cli.tables import All, AsJson, Line, numbers, print_rows

if TYPE_CHECKING:
    from flows.night_report import NightReport

Night = Annotated[
    str | None,
    typer.Option("--night", metavar="DATE", help="Only the exposures of one night, by the date of its evening."),
]
Parallel = Annotated[int, typer.Option("--parallel", min=1, help="Exposures or tiles that are worked on at a time.")]


@grouped
def plan(
    night: Night = None,
    as_json: AsJson = False,
    everything: All = False,
    *,
    place: Place,
) -> None:
    """Say what a nightly run would do now, and why; nothing is written."""

    def work() -> None:
        when = evening(night)
        config, data_store, raw_store = place.open(write=False)
        from rich.console import Console

        from flows.plan import make_plan

        found = make_plan(config, data_store, raw_store, night=when)
        if as_json:
            typer.echo(found.model_dump_json(indent=1))
            return
        console = Console()
        for kind in ("exposure", "tile"):
            console.print(f"{kind}s: {numbers(found.count(kind))}", highlight=False)
        rows: list[Line] = [(f"exposure {item.exposure}", item.status, item.reasons) for item in found.exposures]
        rows += [(f"tile {item.tile}", item.status, item.reasons) for item in found.tiles]
        print_rows(console, "Plan", rows, everything)

    guarded(work)


@grouped
def run_night(
    night: Night = None,
    parallel: Parallel = 4,
    *,
    place: Place,
    machines: Machines,
) -> None:
    """Process what is new or stale, and the tiles that this completes or affects; ends with a report of the night."""

    def work() -> None:
        when, where = evening(night), machines.choose()
        config, data_store, raw_store = place.open()
        from rich.console import Console

        from flows import nightly

        console, failed = Console(), ""
        report: NightReport | None
        with watched(where):
            try:
                report = nightly.run_night(config, data_store, raw_store, where, when, parallel)
            except nightly.NightFailedError as error:
                failed, report = str(error), error.report
        if report is not None:
            console.print(report.headline(), highlight=False, soft_wrap=True)
            rows: list[Line] = [
                (f"{item.kind} {item.subject}", item.outcome, (item.reason,)) for item in report.launched
            ]
            rows += [(f"{item.kind} {item.subject}", item.status, item.reasons) for item in report.not_launched]
            print_rows(console, "Not done", [row for row in rows if row[1] not in {"done", "reused"}], True)
            if report.catalog_note:
                console.print(f"survey catalogue: {report.catalog_note}", highlight=False, soft_wrap=True)
        if failed:
            fail(Exit.BUG, failed)

    guarded(work)
