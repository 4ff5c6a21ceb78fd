"""What reports of exposures, tiles and surveys say: tables and figures from catalogues and residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tasks.products.footprint import TileFootprint
from tasks.products.identity import SummaryValue
from tasks.products.report import ReportFigure, ReportTable
from tasks.products.shear import ShearEstimate, SurveyShear
from tasks.science import figures
from tasks.science.matching import home_tile, match_sky


def summary_table(title: str, rows: Sequence[tuple[str, Mapping[str, SummaryValue]]], *, first: str) -> ReportTable:
    """Return the summaries of several products as one table, a column for every name that any of them has.

    Parameters
    ----------
    title
        Heading.
    rows
        Name of each row and its numbers.
    first
        Heading of the first column.
    """
    names = list(dict.fromkeys(name for _, summary in rows for name in summary))
    return ReportTable(
        title=title,
        columns=(first, *(name.replace("_", " ") for name in names)),
        rows=tuple((row, *(summary.get(name, "") for name in names)) for row, summary in rows),
    )


def good_residuals(residuals: Table) -> Table:
    """Return the reserved stars whose star and model both have a shape."""
    return residuals[(np.asarray(residuals["flags_star"]) == 0) & (np.asarray(residuals["flags_psf"]) == 0)]


def residual_numbers(residuals: Table) -> dict[str, SummaryValue]:
    """Return mean and scatter of star minus model over the reserved stars of a table."""
    good = good_residuals(residuals)
    numbers: dict[str, SummaryValue] = {"reserved stars": len(residuals), "measured": len(good)}
    if len(good):
        for name, values in _differences(good).items():
            numbers[f"mean {name}"] = float(values.mean())
            numbers[f"rms {name}"] = float(values.std())
    return numbers


def _differences(good: Table) -> dict[str, NDArray[np.float64]]:
    t_star = np.asarray(good["t_star"], np.float64)
    return {
        "dg1": np.asarray(good["g1_star"] - good["g1_psf"], np.float64),
        "dg2": np.asarray(good["g2_star"] - good["g2_psf"], np.float64),
        "dT/T": (t_star - np.asarray(good["t_psf"], np.float64)) / t_star,
    }


def psf_figures(residuals: Table) -> tuple[ReportFigure, ...]:
    """Return the histograms of PSF residuals and the whiskers of the PSF on the sky."""
    good = good_residuals(residuals)
    difference = _differences(good)
    return (
        ReportFigure(
            "PSF residuals at reserved stars",
            figures.plot_psf_residuals(difference["dg1"], difference["dg2"], difference["dT/T"]),
            f"Star minus model at the {len(good)} reserved stars that have a shape; the model has not seen them.",
        ),
        ReportFigure(
            "Shape of the PSF model",
            figures.plot_psf_whiskers(good["ra_win"], good["dec_win"], good["g1_psf"], good["g2_psf"]),
            "Whiskers lie along the long axis of the PSF model at the reserved stars; north is up, east to the left.",
        ),
    )


def shear_table(shear: SurveyShear) -> ReportTable:
    """Return the mean shear of the survey and its tiles, and of the simulation if there was one."""
    samples: list[tuple[str, ShearEstimate]] = [("all", shear.survey), *((tile.tile, tile) for tile in shear.tiles)]
    if shear.truth is not None:
        samples.append(("true galaxies, by pairs", shear.truth.recovered))
    rows: list[tuple[SummaryValue, ...]] = [
        (
            name,
            f"{found.g1:+.5f} ± {found.g1_error:.5f}",
            f"{found.g2:+.5f} ± {found.g2_error:.5f}",
            found.shear_response[0][0] + found.selection_response[0][0],
            found.shear_response[1][1] + found.selection_response[1][1],
            found.n_selected,
        )
        for name, found in samples
    ]
    if shear.truth is not None:
        rows.append(("input", f"{shear.truth.g1:+.5f}", f"{shear.truth.g2:+.5f}", "", "", ""))
    return ReportTable(
        title="Mean shear",
        columns=("sample", "g1", "g2", "R11", "R22", "objects"),
        rows=tuple(rows),
        note="Corrected by the response of shapes and selection; errors from a delete-one-group jackknife.",
    )


def shear_figure(shear: SurveyShear) -> ReportFigure:
    """Return the mean shear per tile."""
    samples: list[tuple[str, ShearEstimate]] = [*((tile.tile, tile) for tile in shear.tiles), ("all", shear.survey)]
    points = [figures.ShearPoint(name, one.g1, one.g1_error, one.g2, one.g2_error) for name, one in samples]
    truth = None if shear.truth is None else (shear.truth.g1, shear.truth.g2)
    return ReportFigure("Mean shear per tile", figures.plot_mean_shear(points, truth))


def magnitude_figure(catalog: Table) -> ReportFigure:
    """Return the magnitudes of all objects and of those with a shape."""
    magnitude = np.asarray(catalog["mag_auto"], np.float64)
    measured = np.asarray(catalog["shape_flags"]) == 0
    return ReportFigure("Magnitudes", figures.plot_magnitudes(magnitude, magnitude[measured]))


def completeness_figure(
    catalog: Table, truth: Table, footprints: list[TileFootprint], *, tolerance_arcsec: float
) -> ReportFigure:
    """Return the share of the true galaxies on the tiles that the catalogue has, against magnitude."""
    ra, dec = np.asarray(truth["ra"], np.float64), np.asarray(truth["dec"], np.float64)
    covered = home_tile(ra, dec, footprints) >= 0
    match = match_sky(catalog["ra_win"], catalog["dec_win"], ra, dec, tolerance_arcsec=tolerance_arcsec)
    found = np.zeros(len(truth), dtype=bool)
    found[match.second] = True
    return ReportFigure(
        "Completeness",
        figures.plot_completeness(np.asarray(truth["mag"], np.float64)[covered], found[covered]),
        f"Share of the {int(covered.sum())} true galaxies on the tiles with an object within {tolerance_arcsec:g} "
        "arcsec; masked areas count as lost.",
    )
