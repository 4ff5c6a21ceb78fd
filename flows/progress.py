"""What a person at a shell sees: stages as they finish, then tables of what there is and what was set aside."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.demo import DemoSummary
from flows.survey import SurveyProducts
from tasks.products.identity import ExposureProducts, SetAside, TileProducts
from tasks.runner import Runner
from tasks.session import Outcome, Session, StageEvent, session

OUTCOMES = (Outcome.RUN, Outcome.REUSED, Outcome.SET_ASIDE, Outcome.FAILED)
REFRESH_PER_S = 4


class StageBoard:
    """A live table with one line per stage, counting its outcomes."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[Outcome]] = {}
        self._latest = ""
        self._started = time.monotonic()

    def add(self, event: StageEvent) -> None:
        """Count one finished stage."""
        self._counts.setdefault(event.stage, Counter())[event.outcome] += 1
        self._latest = f"{event.stage} {event.subject}: {event.outcome}"

    def __rich__(self) -> Group:
        """Draw the table; rich calls this."""
        table = Table(box=None, pad_edge=False)
        table.add_column("stage")
        for outcome in OUTCOMES:
            table.add_column(str(outcome), justify="right")
        for stage, counts in self._counts.items():
            table.add_row(stage, *(str(counts[outcome] or "") for outcome in OUTCOMES))
        elapsed = time.monotonic() - self._started
        return Group(table, Text(f"{elapsed:5.0f} s  {self._latest}", style="dim"))


@contextmanager
def watched_session(runner: Runner, *, live: bool) -> Iterator[Session]:
    """Open a stage session with a progress display on standard error.

    Parameters
    ----------
    runner
        Where the stages run.
    live
        Whether to redraw a table in place; otherwise each finished stage is a line.
    """
    console = Console(stderr=True)
    if not live:
        with session(runner, lambda event: console.print(_line(event), highlight=False, soft_wrap=True)) as current:
            yield current
        return
    board = StageBoard()
    with Live(board, console=console, refresh_per_second=REFRESH_PER_S), session(runner, board.add) as current:
        yield current


def _line(event: StageEvent) -> str:
    text = f"{event.stage} {event.subject}: {event.outcome} ({event.seconds:.1f} s)"
    return f"{text}: {event.reason}" if event.reason else text


def print_exposures(exposures: Sequence[ExposureProducts]) -> None:
    """Print one line per exposure: CCDs, sources, stars, PSF residuals."""
    console = Console()
    table = Table(title="Exposures", title_justify="left")
    for name in ("exposure", "CCDs", "sources", "stars", "reserved", "rms δe", "mean δT/T"):
        table.add_column(name, justify="left" if name == "exposure" else "right")
    for exposure in exposures:
        table.add_row(*exposure_row(exposure))
    console.print(table)


def exposure_row(exposure: ExposureProducts) -> list[str]:
    """Return the cells of one exposure's line."""
    ccds = exposure.ccds

    def total(product: str, name: str) -> str:
        return str(sum(int(getattr(ccd, product).summary.get(name, 0)) for ccd in ccds))

    def mean(name: str) -> str:
        values = [float(ccd.residuals.summary[name]) for ccd in ccds if name in ccd.residuals.summary]
        return f"{sum(values) / len(values):.4f}" if values else "-"

    return [
        str(exposure.exposure),
        str(len(ccds)),
        total("sources", "n_sources"),
        total("stars", "n_stars"),
        total("residuals", "n_stars"),
        mean("de_rms"),
        mean("dtt_mean"),
    ]


def print_tiles(tiles: Sequence[TileProducts]) -> None:
    """Print one line per tile: CCDs, sources, measured objects."""
    console = Console()
    table = Table(title="Tiles", title_justify="left")
    for name in ("tile", "CCDs", "sources", "epochs/source", "measured", "unmeasured"):
        table.add_column(name, justify="left" if name == "tile" else "right")
    for tile in tiles:
        table.add_row(*tile_row(tile))
    console.print(table)


def tile_row(tile: TileProducts) -> list[str]:
    """Return the cells of one tile's line."""
    catalog, products = tile.catalog.summary, tile.products
    n_objects = int(catalog["n_sources"])
    n_measured = int(catalog["n_measured"])
    n_epochs = float(products["epochs"].summary["n_epochs"]) / max(1, n_objects)
    return [
        str(tile.tile),
        str(products["coadd"].summary["n_ccds"]),
        str(n_objects),
        f"{n_epochs:.2f}",
        str(n_measured),
        str(n_objects - n_measured),
    ]


def print_set_aside(items: Sequence[SetAside]) -> None:
    """Print what the run went on without, and why."""
    console = Console()
    if not items:
        console.print("Nothing was set aside.")
        return
    table = Table(title="Set aside", title_justify="left")
    for name in ("what", "stage", "why"):
        table.add_column(name, overflow="fold")
    for item in items:
        table.add_row(item.subject, item.stage, item.reason)
    console.print(table)


def print_survey(products: SurveyProducts, current: Session) -> None:
    """Print exposures, tiles, what was set aside, and what was run and reused."""
    print_exposures(products.exposures)
    print_tiles(products.tiles)
    print_set_aside(products.set_aside)
    print_counts(current)


def print_demo(products: SurveyProducts, summary: DemoSummary, current: Session) -> None:
    """Print exposures, tiles, the recovered shear against the input, and where to look."""
    print_survey(products, current)
    console = Console()
    table = Table(title="Recovered shear", title_justify="left")
    for name in ("", "true", "recovered", "error", "difference"):
        table.add_column(name, justify="right" if name else "left")
    for name, found in (("g1", summary.shear.g1), ("g2", summary.shear.g2)):
        table.add_row(
            name, f"{found.true:+.4f}", f"{found.recovered:+.4f}", f"{found.error:.4f}", f"{found.sigmas:+.1f} sigma"
        )
    console.print(table)
    console.print(f"catalogue  {summary.catalog}", soft_wrap=True, highlight=False)
    console.print(f"report     {summary.report}", soft_wrap=True, highlight=False)
    console.print(f"{summary.wall_s:.0f} s", highlight=False)


def print_counts(current: Session) -> None:
    """Print how many stages ran and how many products were reused."""
    run, reused = current.count(Outcome.RUN), current.count(Outcome.REUSED)
    console = Console()
    if run == 0 and reused:
        console.print(f"Nothing was recomputed: all {reused} products were in the store and are up to date.")
    else:
        console.print(f"{run} stages run, {reused} products reused.")
