"""Tables of exposures and tiles with their status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

# what, its status, and why
Line = tuple[str, str, Sequence[str]]
MAX_ROWS = 40

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
All = Annotated[bool, typer.Option("--all", help="Every line, and also what is done.")]


def numbers(counts: Mapping[str, int]) -> str:
    """Return how many there are of each status, as one line."""
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items()) or "none"


def print_rows(console: Console, title: str, rows: Sequence[Line], everything: bool) -> None:
    """Print what is not done, and why; with ``everything`` every line, and also what is done."""
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
