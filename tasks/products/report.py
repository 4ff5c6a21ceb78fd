"""What a report says, before it is written as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from tasks.products.identity import SetAside, SummaryValue


class ReportTable(BaseModel):
    """One table of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    title: str
    """Heading above the table."""

    columns: tuple[str, ...]
    """Headings of the columns."""

    rows: tuple[tuple[SummaryValue, ...], ...]
    """Cells by row; numbers are aligned to the right."""

    note: str = ""
    """One sentence below the table."""


@dataclass(frozen=True)
class ReportFigure:
    """One figure of a report."""

    title: str
    """Heading above the figure, also what a screen reader says."""
    png: bytes
    """The figure."""
    note: str = ""
    """One sentence below the figure."""


@dataclass(frozen=True)
class ReportContent:
    """A whole report."""

    title: str
    """Heading of the page."""
    headline: tuple[tuple[str, str], ...] = ()
    """The few numbers that matter most: name and value."""
    notes: tuple[str, ...] = ()
    """Paragraphs below the headline."""
    tables: tuple[ReportTable, ...] = ()
    figures: tuple[ReportFigure, ...] = ()


def set_aside_table(set_aside: Sequence[SetAside]) -> ReportTable:
    """Return the table of what the run went on without, in the order of subjects and stages."""
    rows = sorted((item.subject, item.stage, item.reason) for item in set_aside)
    return ReportTable(
        title="Set aside",
        columns=("subject", "stage", "reason"),
        rows=tuple(rows),
        note="" if rows else "Nothing was set aside.",
    )
