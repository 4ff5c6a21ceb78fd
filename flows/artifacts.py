"""What the Prefect UI shows of a run beside its graph and its log: progress, tables and figures.

Artifacts are for people and never decide anything: one that cannot be written is a line in the log, and a function that
is called without a flow run writes none.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from blocks.store import DataStore
from flows.markdown import artifact_key, plain
from flows.prefect_settings import changed_settings
from tasks.archive.html_figures import read_figures
from tasks.products.identity import CcdProducts, ExposureProducts, ProductRef, SetAside, SummaryValue, TileProducts

UPDATE_EVERY_S = 1.0
"""Shortest time between two updates of a progress bar; each is a call of Prefect's API."""

MAX_FIGURE_BYTES = 150_000
"""Larger figures stay in the report: Prefect keeps what it shows in its database."""

Row = dict[str, SummaryValue]


class Progress:
    """A progress bar in the UI; one without a title shows nothing.

    Parameters
    ----------
    title
        What is in progress, such as ``exposure 2113737``.
    """

    def __init__(self, title: str = "") -> None:
        self._title = title
        self._artifact: UUID | None = None
        self._shown_at = 0.0
        self._latest = self._shown = (0, 0)

    def start(self) -> None:
        """Show the bar, still empty."""

        def create() -> None:
            key, text = artifact_key(self._title, "progress"), f"{plain(self._title)}: starting"
            self._artifact = cast("UUID", create_progress_artifact(0.0, key=key, description=text))

        if self._title and _show(f"the progress of {self._title}", create):
            self._shown_at = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Show how many of how many parts are done; not more often than once a second, but always the last one."""
        self._latest = (done, total)
        if done >= total or time.monotonic() - self._shown_at >= UPDATE_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Show what was told last."""
        artifact, (done, total) = self._artifact, self._latest
        if artifact is None or self._shown == self._latest or total <= 0:
            return

        def show() -> None:
            text = f"{plain(self._title)}: {done} of {total} done"
            update_progress_artifact(artifact, 100.0 * done / total, description=text)

        if _show(f"the progress of {self._title}", show):
            self._shown, self._shown_at = self._latest, time.monotonic()
        else:
            # no further waiting for a server that does not answer
            self._artifact = None


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Show a progress bar while a part of a flow runs."""
    board = Progress(title)
    board.start()
    try:
        yield board
    finally:
        board.flush()


def show_exposure(products: ExposureProducts, report: ProductRef | None = None, store: DataStore | None = None) -> None:
    """Show the CCDs of an exposure, what was set aside, and the figures of its report.

    Parameters
    ----------
    products
        What the exposure flow leaves.
    report
        The page that has the figures; without one, or without the store, none are shown.
    store
        Where the page is.
    """
    name = f"exposure {products.exposure}"
    said = f"good CCDs: {len(products.ccds)}, set aside: {len(products.set_aside)}."
    where = f" Products are in {plain(f'{store.url}/exposures/{products.exposure}')}." if store else ""
    show_table((name, "ccds"), [_ccd_row(ccd) for ccd in products.ccds], f"{plain(name)}: {said}{where}")
    show_set_aside(name, products.set_aside)
    show_figures(name, report, store)


def show_tile(products: TileProducts, report: ProductRef | None = None, store: DataStore | None = None) -> None:
    """Show the numbers of a tile, stage by stage, what was set aside, and the figures of its report.

    Parameters
    ----------
    products
        What the tile flow leaves.
    report
        The page that has the figures; without one, or without the store, none are shown.
    store
        Where the page is.
    """
    name = f"tile {products.tile}"
    rows = [_product_row(stage, ref) for stage, ref in (*products.products.items(), ("catalog", products.catalog))]
    where = f" Products are in {plain(store.url)}." if store else ""
    show_table((name, "products"), rows, f"{plain(name)}: what each stage found.{where}")
    show_set_aside(name, products.set_aside)
    show_figures(name, report, store)


def show_set_aside(name: str, items: Sequence[SetAside]) -> None:
    """Show what a run went on without, and why; nothing if there is nothing."""
    if items:
        rows: list[Row] = [
            {"what": plain(item.subject), "stage": plain(item.stage), "why": plain(item.reason)} for item in items
        ]
        show_table((name, "set aside"), rows, f"{plain(name)}: went on without these.")


def show_table(title: Sequence[str], rows: Sequence[Row], description: str) -> None:
    """Show a table.

    Parameters
    ----------
    title
        What the table is about, then which table it is; together they make the artifact's key.
    rows
        Cells by heading; texts are Markdown, so that names and sentences must be escaped by ``plain``.
    description
        A sentence above the table, Markdown too.
    """
    _show(
        f"the table of {' '.join(title)}",
        lambda: create_table_artifact([dict(row) for row in rows], key=artifact_key(*title), description=description),
    )


def show_text(title: Sequence[str], markdown: str, description: str) -> None:
    """Show Markdown, in which names and sentences must be escaped by ``plain``."""
    _show(
        f"the text of {' '.join(title)}",
        lambda: create_markdown_artifact(markdown, key=artifact_key(*title), description=description),
    )


def show_figures(name: str, report: ProductRef | None, store: DataStore | None) -> None:
    """Show the figures of a stored report, and where its page is."""
    if report is None or store is None:
        return

    def create() -> None:
        figures = read_figures(store, report)
        parts = [_figure(figure.title, figure.png, figure.note) for figure in figures]
        page = plain(f"{store.url}/{report.key}")
        create_markdown_artifact(
            "\n\n".join(parts),
            key=artifact_key(name, "figures"),
            description=f"{plain(name)}: figures of the report {page}",
        )

    _show(f"the figures of {name}", create)


def _figure(title: str, png: bytes, note: str) -> str:
    if len(png) > MAX_FIGURE_BYTES:
        picture = f"This figure has {len(png) / 1000:.0f} kB; it is in the report."
    else:
        # inside the text: the browser of an operator does not reach the store
        picture = f"![{plain(title)}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"
    return f"### {plain(title)}\n\n{picture}\n\n{plain(note)}"


def _show(what: str, create: Callable[[], object]) -> bool:
    """Write an artifact, if there is a flow run to write it for; say whether it was written."""
    if FlowRunContext.get() is None:
        return False
    try:
        # an artifact is not worth the minute that Prefect's client spends on a server that does not answer
        with changed_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            create()
    except Exception as error:  # noqa: BLE001 (whatever it is: the run has done its work)
        get_run_logger().warning("The Prefect UI does not show %s: %s: %s", what, type(error).__name__, error)
        return False
    return True


def _ccd_row(ccd: CcdProducts) -> Row:
    sources, stars, psf, residuals = (ref.summary for ref in (ccd.sources, ccd.stars, ccd.psf, ccd.residuals))
    return {
        "CCD": plain(str(ccd.ccd)),
        "sources": sources.get("n_sources", ""),
        "stars": stars.get("n_stars", ""),
        "reserved": stars.get("n_reserved", ""),
        "FWHM [px]": psf.get("fwhm_px", ""),
        "rms δe": residuals.get("de_rms", ""),
        "mean δT/T": residuals.get("dtt_mean", ""),
        "masked": ccd.mask.summary.get("masked", ""),
        "products": plain(ccd.image.key.rpartition("/")[0]),
    }


def _product_row(stage: str, ref: ProductRef) -> Row:
    return {"stage": plain(stage), "numbers": plain(_numbers(ref.summary)), "product": plain(ref.key)}


def _numbers(summary: Mapping[str, SummaryValue]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary.items())
