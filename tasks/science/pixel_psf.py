"""The fit of a PSF model: linear least squares of recentred stars, masked pixels filled from the model itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, TooFewStarsError
from tasks.products.identity import CcdId
from tasks.products.psf import PsfModel, n_terms
from tasks.science.psf import full_width, normalise, polynomial_terms, shift_images
from tasks.science.psf_wings import WingSmoother
from tasks.science.robust import sigma_mad
from tasks.science.star_stamps import StarStamps

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

EDGE = 6
"""Pixels around the model that stars are cut with: shifting them by fractions of a pixel spoils the edge."""
MAX_STEP_PX = 0.3
CORE_FWHM = 1.0
APERTURE_FWHM = 3.0
MAX_BAD_CORE = 0.25
MAX_BAD_APERTURE = 0.5
PIXEL_CLIP_FROM = 2
RIDGE = 1e-6


@dataclass(frozen=True)
class PsfFitSettings:
    """How a PSF model is fitted."""

    size: int = 51
    """Side of the model in pixels, odd."""
    degree: int = 2
    """Degree of the polynomial in the position."""
    min_stars: int = 20
    """Fewest stars with which the model stands."""
    iterations: int = 6
    """Rounds of fluxes, centres and clipping."""
    clip_sigma: float = 5.0
    """Stars with a chi2 further above the median than this, in robust standard deviations, are left out."""
    pixel_clip_sigma: float = 7.0
    """Pixels further from the model than this, in standard deviations, are masked."""
    accuracy: float = 0.01
    """Relative error of the model that limits the weight of bright stars."""
    wing_start_fwhm: float = 2.0
    """Radius in units of the FWHM beyond which the model is smoothed."""
    min_fwhm_px: float = 2.0
    """Narrower PSFs are undersampled."""


@dataclass
class _Stars:
    """The state of the fit."""

    data: Floats
    bad: Mask
    variance: Floats
    terms: Floats
    dx: Floats
    dy: Floats
    flux: Floats
    good: Mask
    chi2: Floats
    gain: float


def fit_psf(
    stamps: StarStamps, *, ccd: CcdId, shape: tuple[int, int], gain: float, fwhm_px: float, settings: PsfFitSettings
) -> PsfModel:
    """Fit a PSF model to stars.

    Each star is recentred by a Fourier shift, so that every pixel of the model is one linear least-squares problem in
    the coefficients of its polynomial, with the same normal matrix (the pixel basis of PSFEx, Bertin 2011). Masked
    pixels are filled with the model at that star and filled anew as it improves, which converges to the least squares
    without them (Dempster, Laird & Rubin 1977). Fluxes and centres are refitted to the unmasked pixels in every round;
    stars that do not fit are left out.

    Parameters
    ----------
    stamps
        Stars, cut ``2 * EDGE`` pixels larger than the model; not changed.
    ccd
        The CCD, for the model and the errors.
    shape
        Shape (ny, nx) of the CCD.
    gain
        Electrons per unit of the stamps; 0 leaves the photon noise of the stars out.
    fwhm_px
        Typical full width at half maximum of the stars.
    settings
        Settings.

    Returns
    -------
    PsfModel
        Not normalised, as the sum may vary over the CCD; `tasks.science.psf.evaluate_psf` normalises.

    Raises
    ------
    TooFewStarsError
        If too few stars are usable before or after the fit.
    DataError
        If the stars are undersampled.
    """
    name = f"CCD {ccd.ccd} of exposure {ccd.exposure}"
    needed = max(settings.min_stars, n_terms(settings.degree))
    if stamps.data.shape[1:] != (settings.size + 2 * EDGE,) * 2:
        raise ValueError(f"the stamps have shape {stamps.data.shape[1:]}, not {settings.size + 2 * EDGE} pixels a side")
    if len(stamps) and fwhm_px < settings.min_fwhm_px:
        raise DataError(
            f"The stars of {name} have a FWHM of {fwhm_px:.2f} pixels; a PSF model on pixels needs at least "
            f"{settings.min_fwhm_px:g}."
        )
    usable = usable_stars(stamps, fwhm_px) if len(stamps) else np.zeros(0, np.bool_)
    _require(int(usable.sum()), needed, name)
    ny, nx = shape
    x0, y0 = 0.5 * (nx - 1), 0.5 * (ny - 1)
    stars = _start(stamps.keep(usable), (x0, y0), shape, fwhm_px, gain, settings)
    coefficients = _iterate(stars, fwhm_px, settings)
    n_accepted = int(stars.good.sum())
    _require(n_accepted, needed, name)
    model = coefficients[:, EDGE:-EDGE, EDGE:-EDGE]
    return PsfModel(
        subject=str(ccd),
        coefficients=model.astype(np.float32),
        degree=settings.degree,
        x0=x0,
        x_scale=0.5 * nx,
        y0=y0,
        y_scale=0.5 * ny,
        n_loaded=len(stamps),
        n_accepted=n_accepted,
        # every pixel of the model costs as many stars as the polynomial has terms
        chi2=float(np.mean(stars.chi2[stars.good])) * n_accepted / max(n_accepted - n_terms(settings.degree), 1),
        fwhm=full_width(normalise(model[:1])[0]),
    )


def _require(n_stars: int, needed: int, name: str) -> None:
    if n_stars < needed:
        raise TooFewStarsError(f"{name} has {n_stars} usable stars; the PSF model needs {needed}.")


def usable_stars(stamps: StarStamps, fwhm_px: float) -> Mask:
    """Tell which stars have enough unmasked pixels in their core and aperture, and flux in them."""
    radius = _radius(stamps.data.shape[-1])
    core, aperture = radius < CORE_FWHM * fwhm_px, radius < APERTURE_FWHM * fwhm_px
    in_core, in_aperture = stamps.bad[:, core].mean(axis=1), stamps.bad[:, aperture].mean(axis=1)
    flux = stamps.data[:, core].sum(axis=1)
    center = stamps.bad.shape[-1] // 2
    # without the peak the flux of a star is a guess
    peak = stamps.bad[:, center - 1 : center + 2, center - 1 : center + 2].any(axis=(1, 2))
    return np.asarray((in_core <= MAX_BAD_CORE) & (in_aperture <= MAX_BAD_APERTURE) & (flux > 0.0) & ~peak)


def _radius(size: int) -> Floats:
    offset = np.arange(size) - size // 2
    return np.hypot(offset[:, None], offset[None, :])


def _start(
    stamps: StarStamps,
    origin: tuple[float, float],
    shape: tuple[int, int],
    fwhm_px: float,
    gain: float,
    settings: PsfFitSettings,
) -> _Stars:
    """Estimate fluxes and fill masked pixels from the median star."""
    ny, nx = shape
    aperture = _radius(stamps.data.shape[-1]) < APERTURE_FWHM * fwhm_px
    masked = np.ma.MaskedArray(stamps.data, mask=stamps.bad)
    flux = stamps.data[:, aperture].sum(axis=1)
    for _ in range(2):
        template = np.ma.median(masked / flux[:, None, None], axis=0).filled(0.0)  # type: ignore[no-untyped-call]
        seen = np.where(stamps.bad, 0.0, template)[:, aperture].sum(axis=1) / template[aperture].sum()
        flux = stamps.data[:, aperture].sum(axis=1) / np.maximum(seen, MAX_BAD_APERTURE)
    filled = np.where(stamps.bad, flux[:, None, None] * template, stamps.data)
    xs, ys = (stamps.x - origin[0]) / (0.5 * nx), (stamps.y - origin[1]) / (0.5 * ny)
    return _Stars(
        data=filled,
        bad=stamps.bad.copy(),
        variance=stamps.variance,
        terms=polynomial_terms(xs, ys, settings.degree),
        dx=stamps.x - np.floor(stamps.x + 0.5),
        dy=stamps.y - np.floor(stamps.y + 0.5),
        flux=flux,
        good=np.ones(len(stamps), np.bool_),
        chi2=np.ones(len(stamps)),
        gain=gain,
    )


def _iterate(stars: _Stars, fwhm_px: float, settings: PsfFitSettings) -> Floats:
    size = stars.data.shape[-1]
    smoother = WingSmoother(size, settings.wing_start_fwhm * fwhm_px)
    aperture = _radius(size) < APERTURE_FWHM * fwhm_px
    sharpness = 1.0 / (np.pi * fwhm_px**2)
    coefficients = smoother.smooth(_solve(stars, sharpness, settings.accuracy))
    for iteration in range(settings.iterations):
        at_stars = np.einsum("nk,kij->nij", stars.terms, coefficients)
        total = at_stars.sum(axis=(1, 2), keepdims=True)
        at_stars = shift_images(at_stars / np.where(total > 0.0, total, 1.0), stars.dx, stars.dy)
        variance = _refine(stars, at_stars, aperture, settings.accuracy)
        predicted = stars.flux[:, None, None] * at_stars
        if iteration >= PIXEL_CLIP_FROM:
            stars.bad |= (stars.data - predicted) ** 2 > settings.pixel_clip_sigma**2 * variance
        if iteration > 0:
            stars.good &= (stars.flux > 0.0) & (stars.chi2 < _limit(stars.chi2[stars.good], settings.clip_sigma))
        stars.data[stars.bad] = predicted[stars.bad]
        coefficients = smoother.smooth(_solve(stars, sharpness, settings.accuracy))
    return coefficients


def _limit(chi2: Floats, clip_sigma: float) -> float:
    return float(np.median(chi2) + clip_sigma * sigma_mad(chi2) + 0.1) if chi2.size else 0.0


def _solve(stars: _Stars, sharpness: float, accuracy: float) -> Floats:
    """Solve for the coefficients of every pixel at once: all have the same normal matrix."""
    flux = np.where(stars.flux > 0.0, stars.flux, 1.0)
    centred = shift_images(stars.data, -stars.dx, -stars.dy) / flux[:, None, None]
    photons = sharpness / (stars.gain * flux) if stars.gain > 0.0 else np.zeros_like(flux)
    weight = stars.good / (stars.variance / flux**2 + photons + (accuracy * sharpness) ** 2)
    weight /= max(float(weight.sum()), 1e-300)
    normal = np.einsum("n,nk,nl->kl", weight, stars.terms, stars.terms)
    # stars on a line do not tell how the PSF varies across it; then it does not
    normal[np.diag_indices_from(normal)] += RIDGE
    projection = np.einsum("kl,nl,n->nk", np.linalg.inv(normal), stars.terms, weight)
    return np.asarray(np.einsum("nk,nij->kij", projection, centred))


def _refine(stars: _Stars, model: Floats, aperture: Mask, accuracy: float) -> Floats:
    """Refit flux and centre of every star to its unmasked pixels, all linear; return the variance of the pixels."""
    expected = np.maximum(stars.flux[:, None, None] * model, 0.0)
    photons = expected / stars.gain if stars.gain > 0.0 else 0.0
    variance = stars.variance[:, None, None] + photons + (accuracy * expected) ** 2
    weight = (aperture & ~stars.bad) / variance
    slope_y, slope_x = np.gradient(model, axis=(1, 2))
    design = np.stack([model, slope_x, slope_y], axis=-1)
    normal = np.einsum("nij,nija,nijb->nab", weight, design, design)
    right = np.einsum("nij,nija,nij->na", weight, design, stars.data)
    normal[:, np.arange(3), np.arange(3)] *= 1.0 + 1e-12
    solved = np.linalg.solve(normal, right[..., None])[..., 0]
    fitted = np.where(solved[:, :1] > 0.0, solved, 0.0)
    residual = stars.data - np.einsum("nija,na->nij", design, fitted)
    stars.chi2 = np.sum(weight * residual**2, axis=(1, 2)) / np.maximum(np.count_nonzero(weight, axis=(1, 2)), 1)
    stars.flux = fitted[:, 0]
    flux = np.where(stars.flux > 0.0, stars.flux, 1.0)
    stars.dx = stars.dx - np.clip(fitted[:, 1] / flux, -MAX_STEP_PX, MAX_STEP_PX)
    stars.dy = stars.dy - np.clip(fitted[:, 2] / flux, -MAX_STEP_PX, MAX_STEP_PX)
    return np.asarray(variance)
