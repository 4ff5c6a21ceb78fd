"""Reports: one self-contained page per exposure, tile and survey."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from astropy.table import Table, vstack
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.catalogs import read_catalog
from tasks.archive.documents import read_document
from tasks.archive.html import write_report
from tasks.archive.tables import read_table
from tasks.products.columns import PSF_RESIDUALS, SURVEY_CATALOG, TRUTH_GALAXIES
from tasks.products.config import StageConfig
from tasks.products.footprint import TileFootprint
from tasks.products.identity import ExposureProducts, ProductRef, SetAside, TileProducts
from tasks.products.report import ReportContent, set_aside_table
from tasks.products.shear import SurveyShear
from tasks.science import report_content as content
from tasks.stage import stage


class ReportConfig(StageConfig):
    """Settings of reports."""

    completeness_arcsec: Annotated[float, Field(gt=0, le=10)] = 1.0
    """True galaxies with an object nearer than this count as found."""


def make_survey_report(
    title: str,
    catalog: Table,
    shear: SurveyShear,
    residuals: Mapping[str, Table],
    tiles: Sequence[TileProducts],
    set_aside: Sequence[SetAside],
    truth: tuple[Table, list[TileFootprint]] | None,
    config: ReportConfig,
) -> ReportContent:
    """Compose the report of a survey.

    Parameters
    ----------
    title
        Heading of the page.
    catalog
        Columns of ``SURVEY_CATALOG``.
    shear
        Mean shear of the survey and its tiles.
    residuals
        Columns of ``PSF_RESIDUALS`` by exposure; at least one exposure.
    tiles
        Products of the tiles.
    set_aside
        What the survey went on without.
    truth
        True galaxies of a simulation and the footprints of the tiles.
    config
        Settings.

    Returns
    -------
    ReportContent
        The same for the same arguments.
    """
    found, stars = shear.survey, vstack(list(residuals.values()), metadata_conflicts="silent")
    figures = [*content.psf_figures(stars), content.shear_figure(shear), content.magnitude_figure(catalog)]
    if truth is not None:
        galaxies, footprints = truth
        tolerance = config.completeness_arcsec
        figures.append(content.completeness_figure(catalog, galaxies, footprints, tolerance_arcsec=tolerance))
    psf_rows = [(name, content.residual_numbers(table)) for name, table in residuals.items()]
    return ReportContent(
        title=title,
        headline=(
            ("exposures", str(len(residuals))),
            ("tiles", str(len(tiles))),
            ("objects", str(len(catalog))),
            ("with a shape", str(int((catalog["shape_flags"] == 0).sum()))),
            ("mean g1", f"{found.g1:+.4f} ± {found.g1_error:.4f}"),
            ("mean g2", f"{found.g2:+.4f} ± {found.g2_error:.4f}"),
        ),
        tables=(
            content.shear_table(shear),
            content.summary_table("Objects that pass each cut", [("objects", shear.selected_by_cut)], first=""),
            content.summary_table("Tiles", [(str(tile.tile), tile.catalog.summary) for tile in tiles], first="tile"),
            content.summary_table("PSF by exposure", psf_rows, first="exposure"),
            set_aside_table(set_aside),
        ),
        figures=tuple(figures),
    )


def read_residuals(exposure: ExposureProducts, store: DataStore) -> Table:
    """Return the PSF residuals of all CCDs of an exposure in one table."""
    tables = [read_table(store, ccd.residuals, PSF_RESIDUALS) for ccd in exposure.ccds]
    return vstack(tables, metadata_conflicts="silent")


@stage(name="report", subject=lambda _: "survey")
def write_report_task(
    title: str,
    exposures: Sequence[ExposureProducts],
    tiles: Sequence[TileProducts],
    catalog: ProductRef,
    shear: ProductRef,
    set_aside: Sequence[SetAside],
    truth: ProductRef | None,
    config: ReportConfig,
    store: DataStore,
    raw: DataStore,
) -> ProductRef:
    """Read what a survey left behind, compose its report, store the page."""
    table, estimate = read_table(store, catalog, SURVEY_CATALOG), read_document(store, shear, SurveyShear)
    residuals = {str(exposure.exposure): read_residuals(exposure, store) for exposure in exposures}
    footprints = [read_catalog(store, tile.catalog)[1] for tile in tiles]
    known = None if truth is None else (read_table(raw, truth, TRUTH_GALAXIES), footprints)
    report = make_survey_report(title, table, estimate, residuals, tiles, set_aside, known, config)
    return write_report(store, keys.SURVEY_REPORT, report, subject="survey")


@stage(name="exposure_report", subject=lambda arguments: arguments["exposure"].exposure)
def write_exposure_report_task(exposure: ExposureProducts, config: ReportConfig, store: DataStore) -> ProductRef:
    """Write the report of one exposure: its CCDs, its PSF and what was set aside."""
    rows = [(str(ccd.ccd), ccd.sources.summary | ccd.stars.summary | ccd.psf.summary) for ccd in exposure.ccds]
    report = ReportContent(
        title=f"Exposure {exposure.exposure}",
        tables=(content.summary_table("CCDs", rows, first="CCD"), set_aside_table(exposure.set_aside)),
        figures=content.psf_figures(read_residuals(exposure, store)),
    )
    return write_report(store, keys.exposure(exposure.exposure, "report.html"), report, subject=exposure.exposure)


@stage(name="tile_report", subject=lambda arguments: arguments["tile"].tile)
def write_tile_report_task(tile: TileProducts, config: ReportConfig, store: DataStore) -> ProductRef:
    """Write the report of one tile: what each stage found, and what was set aside."""
    rows = [(stage_name, ref.summary) for stage_name, ref in (*tile.products.items(), ("catalog", tile.catalog))]
    stages = [content.summary_table(stage_name, [(stage_name, numbers)], first="") for stage_name, numbers in rows]
    report = ReportContent(
        title=f"Tile {tile.tile}",
        tables=(*stages, set_aside_table(tile.set_aside)),
        figures=(content.magnitude_figure(read_catalog(store, tile.catalog)[0]),),
    )
    return write_report(store, keys.tile(tile.tile, "report.html"), report, subject=tile.tile)
