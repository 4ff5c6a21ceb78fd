"""Shapes of stars against those of the PSF model at their positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tasks.products.columns import PSF_RESIDUALS
from tasks.products.psf import PsfModel
from tasks.science.moments import Moments, MomentsFlag, adaptive_moments, to_sky
from tasks.science.psf import evaluate_psf, shift_images
from tasks.science.star_stamps import StarStamps

Floats = NDArray[np.float64]

CORE_SIGMAS = 2.5
"""Masked pixels nearer to a star than this, in units of its size, change its moments."""
APERTURE_SIGMAS = 5.0
COPIED = ("number", "x_win", "y_win", "ra_win", "dec_win", "mag_auto", "snr_win")


@dataclass(frozen=True)
class ResidualStatistics:
    """How well a PSF model agrees with stars that it has not seen; star minus model. NaN without any good star."""

    n_good: int
    """Stars whose shape was measured."""
    de1_mean: float
    de2_mean: float
    de_rms: float
    """Root mean square over stars and both components, with the noise of the stars in it."""
    dtt_mean: float
    """Mean of (T star - T model) / T star."""
    dtt_rms: float


def measure_residuals(
    stars: Table, stamps: StarStamps, model: PsfModel, jacobian: Floats, *, gain: float, accuracy: float
) -> Table:
    """Measure adaptive moments of stars and of the PSF model at their positions.

    Parameters
    ----------
    stars
        Columns of ``tasks.products.columns.STARS``; not changed.
    stamps
        The same stars.
    model
        PSF model of their CCD.
    jacobian
        ``[[dv/drow, dv/dcol], [du/drow, du/dcol]]`` at the stars, arcsec per pixel, shape (n, 2, 2).
    gain
        Electrons per unit of the stamps; 0 leaves the photon noise of the stars out of chi2.
    accuracy
        Relative error of the model that is added to the variance in chi2.

    Returns
    -------
    Table
        Columns of ``tasks.products.columns.PSF_RESIDUALS``, in the order of the stars.
    """
    psf = evaluate_psf(model, stamps.x, stamps.y, size=stamps.data.shape[-1]).astype(np.float64)
    of_psf = adaptive_moments(psf, guess_sigma=2.0)
    of_star = adaptive_moments(stamps.data, stamps.bad, guess_sigma=2.0)
    flags = of_star.flag.copy()
    flags[_masked_core(stamps, of_star)] |= int(MomentsFlag.MASKED)
    table = Table({name: np.asarray(stars[name]) for name in COPIED})
    for kind, moments, flag in (("star", of_star, flags), ("psf", of_psf, of_psf.flag)):
        good = np.where(flag == 0, 1.0, np.nan)
        g1, g2, size = to_sky(moments.g1, moments.g2, moments.sigma, jacobian)
        table[f"g1_{kind}"], table[f"g2_{kind}"], table[f"t_{kind}"] = g1 * good, g2 * good, size * good
        table[f"sigma_{kind}"] = moments.sigma * good
        table[f"flags_{kind}"] = flag
    table["chi2"] = _chi2(stamps, psf, of_star, of_psf, gain, accuracy)
    return table[list(PSF_RESIDUALS.names)]


def _distance(stamps: StarStamps, moments: Moments) -> Floats:
    index = np.arange(stamps.data.shape[-1], dtype=np.float64)
    dx, dy = index - moments.x[:, None], index - moments.y[:, None]
    return np.hypot(dx[:, None, :], dy[:, :, None]) / moments.sigma[:, None, None]


def _masked_core(stamps: StarStamps, moments: Moments) -> NDArray[np.bool_]:
    # what has no moments is near to nothing
    return np.asarray((stamps.bad & (_distance(stamps, moments) < CORE_SIGMAS)).any(axis=(1, 2)))


def _chi2(stamps: StarStamps, psf: Floats, of_star: Moments, of_psf: Moments, gain: float, accuracy: float) -> Floats:
    """Return the mean squared residual after a fit of the flux, NaN where the star or the model has no moments."""
    known = (of_star.flag == 0) & (of_psf.flag == 0)
    shifted = shift_images(psf, np.where(known, of_star.x - of_psf.x, 0.0), np.where(known, of_star.y - of_psf.y, 0.0))
    use = (_distance(stamps, of_star) < APERTURE_SIGMAS) & ~stamps.bad & known[:, None, None]
    expected = np.maximum(np.where(known, of_star.flux, 0.0)[:, None, None] * shifted, 0.0)
    photons = expected / gain if gain > 0.0 else 0.0
    weight = use / (stamps.variance[:, None, None] + photons + (accuracy * expected) ** 2)
    power = np.sum(weight * shifted**2, axis=(1, 2))
    flux = np.sum(weight * shifted * stamps.data, axis=(1, 2)) / np.where(power > 0.0, power, 1.0)
    squares = np.sum(weight * (stamps.data - flux[:, None, None] * shifted) ** 2, axis=(1, 2))
    n_pixels = np.count_nonzero(use, axis=(1, 2))
    return np.where(n_pixels > 1, squares / np.maximum(n_pixels - 1, 1), np.nan)


def summarise_residuals(table: Table) -> ResidualStatistics:
    """Return mean and scatter of the residuals of the stars without flags."""
    good = table[(np.asarray(table["flags_star"]) == 0) & (np.asarray(table["flags_psf"]) == 0)]
    if len(good) == 0:
        return ResidualStatistics(0, *([float("nan")] * 5))
    de1, de2 = (np.asarray(good[f"g{i}_star"]) - np.asarray(good[f"g{i}_psf"]) for i in (1, 2))
    dtt = 1.0 - np.asarray(good["t_psf"]) / np.asarray(good["t_star"])
    return ResidualStatistics(
        n_good=len(good),
        de1_mean=float(np.mean(de1)),
        de2_mean=float(np.mean(de2)),
        de_rms=float(np.sqrt(0.5 * np.mean(de1**2 + de2**2))),
        dtt_mean=float(np.mean(dtt)),
        dtt_rms=float(np.sqrt(np.mean(dtt**2))),
    )
