"""Measure the sources of a segmentation map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tasks.products.columns import SOURCES
from tasks.science.apertures import circle_photometry, half_light_radii, kron_photometry
from tasks.science.window import ISOPHOTE_SUMS, WINDOW_COLUMNS, core_fwhm, isophote_sums, window_moments

Floats = NDArray[np.float64]
Image = NDArray[np.float32]

DISTURBED, DEBLENDED, SATURATED, TRUNCATED, INCOMPLETE = 1, 2, 4, 8, 16
"""Bits of the column ``flags``, with SExtractor's meaning."""
DISTURBED_FRACTION = 0.1
SINGULAR_DETERMINANT = 1.0 / 144.0
PIXEL_VARIANCE = 1.0 / 12.0
MAG_PER_LOG_E = 2.5 / np.log(10.0)
ARCSEC_PER_DEGREE = 3600.0
WINDOW_ITERATIONS = 50


@dataclass(frozen=True)
class SourceMaps:
    """The planes that sources are measured on, all of shape (ny, nx)."""

    data: Image
    """Background-subtracted image, 0 where bad."""
    filtered: Image
    """The image that was thresholded."""
    variance: Image
    """Variance of the background of every pixel, 0 where bad."""
    bad: NDArray[np.bool_]
    segments: NDArray[np.int32]
    """Source numbers 1 ... n, 0 elsewhere."""
    mask: NDArray[np.int64]
    saturated: NDArray[np.bool_]
    background: Image
    threshold: Image


def make_source_table(
    maps: SourceMaps,
    deblended: NDArray[np.bool_],
    *,
    gain: float,
    zero_point: float,
    pixel_scale_arcsec: float,
    aperture_diameters_px: tuple[float, ...] = (5.0,),
    kron_factor: float = 2.5,
    kron_min_radius: float = 3.5,
) -> Table:
    """Measure every source of a segmentation map.

    Parameters
    ----------
    maps
        Image, segmentation and what belongs to them; not changed.
    deblended
        Whether each source was deblended from others, shape (n,).
    gain
        Electrons per unit of the image; 0 leaves the photon noise of the sources out.
    zero_point
        Magnitude of a source of flux 1.
    pixel_scale_arcsec
        Size of a pixel.
    aperture_diameters_px
        Diameters of the circular apertures.
    kron_factor, kron_min_radius
        Scale of the Kron ellipse in units of the first radial moment, and its least scale in units of a and b.

    Returns
    -------
    Table
        Columns of ``tasks.products.columns.SOURCES``, NaN for ``ra``, ``dec``, ``ra_win`` and ``dec_win``.
    """
    n_sources = deblended.size
    sums, counts = isophote_sums(
        maps.filtered, maps.data, maps.bad, maps.segments, maps.mask, maps.saturated, n_sources
    )
    columns: dict[str, NDArray[Any]] = {name: np.full(n_sources, np.nan) for name in SOURCES.names}
    columns |= {name: sums[:, k] for k, name in enumerate(ISOPHOTE_SUMS) if name in SOURCES}
    columns |= {"number": np.arange(1, n_sources + 1), "isoarea": counts[:, 0], "imaflags": counts[:, 3]}
    columns |= _ellipses(sums[:, 3], sums[:, 4], sums[:, 5])
    columns |= _photometry(maps, columns, gain, zero_point, aperture_diameters_px, kron_factor, kron_min_radius)
    columns |= _windowed(maps, columns, gain)
    columns["fwhm_world"] = columns["fwhm"] * np.float64(pixel_scale_arcsec / ARCSEC_PER_DEGREE)
    columns["mu_max"] = _magnitudes(sums[:, 6] / pixel_scale_arcsec**2, sums[:, 6], zero_point)[0]
    ny, nx = maps.data.shape
    i, j = (np.clip(np.rint(columns[name]), 0, size - 1).astype(np.int64) for name, size in (("x", nx), ("y", ny)))
    columns |= {"background": maps.background[j, i], "threshold": maps.threshold[j, i]}
    columns["flags"] = (
        DISTURBED * (columns.pop("disturbed") > DISTURBED_FRACTION)
        + DEBLENDED * deblended
        + SATURATED * (counts[:, 1] > 0)
        + TRUNCATED * (counts[:, 2] > 0)
        + INCOMPLETE * (columns.pop("outside") > 0.0)
    )
    return Table({column.name: np.asarray(columns[column.name]).astype(column.dtype) for column in SOURCES.columns})


def _ellipses(x2: Floats, y2: Floats, xy: Floats) -> dict[str, NDArray[Any]]:
    """Return the ellipses of isophotal variances; those of lines of pixels get the variance of a pixel added."""
    thin = np.where(x2 * y2 - xy * xy < SINGULAR_DETERMINANT, PIXEL_VARIANCE, 0.0)
    x2, y2 = x2 + thin, y2 + thin
    mean, split = 0.5 * (x2 + y2), np.hypot(0.5 * (x2 - y2), xy)
    a, b = np.sqrt(mean + split), np.sqrt(np.maximum(mean - split, 1e-12))
    return {
        "x2": x2,
        "y2": y2,
        "xy": xy,
        "a": a,
        "b": b,
        "theta": np.degrees(0.5 * np.arctan2(2.0 * xy, x2 - y2)),
        "elongation": a / b,
        "ellipticity": 1.0 - b / a,
    }


def _photometry(
    maps: SourceMaps,
    columns: dict[str, NDArray[Any]],
    gain: float,
    zero_point: float,
    diameters: tuple[float, ...],
    kron_factor: float,
    kron_min_radius: float,
) -> dict[str, NDArray[Any]]:
    planes = maps.data, maps.variance, maps.bad, maps.segments
    x, y, x2, y2, xy = (np.asarray(columns[name], np.float64) for name in ("x", "y", "x2", "y2", "xy"))
    kron = kron_photometry(*planes, x, y, x2, y2, xy, gain, kron_factor, kron_min_radius)
    flux, error, radius = kron[:, 0], np.sqrt(kron[:, 1]), kron[:, 2]
    aper, aper_variance = circle_photometry(*planes, x, y, 0.5 * np.array(diameters), gain)
    mag, mag_error = _magnitudes(flux, error, zero_point)
    aper_mag, aper_mag_error = _magnitudes(aper, np.sqrt(aper_variance), zero_point)
    reach = np.maximum(radius * np.asarray(columns["a"], np.float64), 1.0)
    return {
        "flux_auto": flux,
        "fluxerr_auto": error,
        "mag_auto": mag,
        "magerr_auto": mag_error,
        "kron_radius": radius,
        "flux_aper": aper,
        "fluxerr_aper": np.sqrt(aper_variance),
        "mag_aper": aper_mag,
        "magerr_aper": aper_mag_error,
        "flux_radius": half_light_radii(*planes, x, y, flux, reach),
        "disturbed": kron[:, 3],
        # the grid of parts leaves 1e-3 of an ellipse uncertain
        "outside": np.where(kron[:, 4] > 5e-3, kron[:, 4], 0.0),
    }


def _windowed(maps: SourceMaps, columns: dict[str, NDArray[Any]], gain: float) -> dict[str, NDArray[Any]]:
    planes = maps.data, maps.variance, maps.bad, maps.segments
    x, y, radius = (np.asarray(columns[name], np.float64) for name in ("x", "y", "flux_radius"))
    # without a half-light radius the circle of the isophotal area gives the window
    radius = np.where(np.isfinite(radius), radius, np.sqrt(np.asarray(columns["isoarea"], np.float64) / np.pi))
    window = window_moments(*planes, x, y, radius, gain, WINDOW_ITERATIONS)
    result: dict[str, NDArray[Any]] = {f"{name}_win": window[:, k] for k, name in enumerate(WINDOW_COLUMNS)}
    result["fwhm"] = core_fwhm(*planes, window[:, 0], window[:, 1], radius)
    return result


def _magnitudes(flux: Floats, error: Floats, zero_point: float) -> tuple[Floats, Floats]:
    """Return magnitudes and their errors, NaN for fluxes that are not positive."""
    positive = np.where(flux > 0.0, flux, np.nan)
    return zero_point - 2.5 * np.log10(positive), MAG_PER_LOG_E * error / positive
