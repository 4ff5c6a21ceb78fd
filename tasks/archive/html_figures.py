"""Figures read back from the page of a report, for those who show them elsewhere."""

from __future__ import annotations

import base64
import binascii
from html.parser import HTMLParser

from blocks.store import DataStore
from tasks.errors import BadFileError
from tasks.products.identity import ProductRef
from tasks.products.report import ReportFigure

PNG_DATA = "data:image/png;base64,"


class _Figures(HTMLParser):
    """Collects the images of a page with what is written below each of them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.figures: list[ReportFigure] = []
        self._in_note = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        source = named.get("src") or ""
        if tag == "section":
            self._in_note = False
        elif tag == "img" and source.startswith(PNG_DATA):
            png = base64.b64decode(source.removeprefix(PNG_DATA), validate=True)
            self.figures.append(ReportFigure(named.get("alt") or "", png))
            self._in_note = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._in_note = False

    def handle_data(self, data: str) -> None:
        if self._in_note and data.strip():
            last = self.figures[-1]
            self.figures[-1] = ReportFigure(last.title, last.png, last.note + data)


def read_figures(store: DataStore, report: ProductRef) -> tuple[ReportFigure, ...]:
    """Return the figures of a stored report, in the order of the page.

    Raises
    ------
    BadFileError
        If the page is not one that ``write_report`` has written.
    StoreError
        If the page cannot be read.
    """
    parser = _Figures()
    try:
        parser.feed(store.read_bytes(report.key).decode("utf-8"))
    except (UnicodeDecodeError, binascii.Error) as error:
        raise BadFileError(f"{report.key} is not the page of a report: {error}.") from error
    return tuple(parser.figures)
