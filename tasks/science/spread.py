"""Spread model: how much wider than the PSF a source is, to tell stars from galaxies."""

from __future__ import annotations

import functools

import galsim
import numpy as np
from numpy.typing import NDArray

from tasks.products.psf import SpreadFlag
from tasks.science.psf import shift_images

Floats = NDArray[np.float64]

FWHM_PER_SIGMA = 2.35482004503
DISK_SCALE = 1.0 / 16.0
"""Scale length of the disk in units of the FWHM of the PSF (Desai et al. 2012)."""
NODE_SPACING_PX = 0.05
"""Templates are drawn for these steps of sigma; between them cubics are right to 5e-5 of the peak."""
MIN_SIGMA_PX = 0.3


@functools.lru_cache(maxsize=512)
def _templates(node: int, size: int) -> Floats:
    """Return the star and the galaxy of one node of the bank, of flux 1, shape (2, size, size)."""
    sigma = node * NODE_SPACING_PX
    star = galsim.Gaussian(sigma=sigma)
    disk = galsim.Exponential(scale_radius=DISK_SCALE * FWHM_PER_SIGMA * sigma)
    profiles = (star, galsim.Convolve(disk, star))
    return np.array([p.drawImage(nx=size, ny=size, scale=1.0, dtype=np.float64).array for p in profiles])


def spread_templates(sigma: Floats, size: int) -> Floats:
    """Return the star and the galaxy for each PSF size.

    The star is a Gaussian, the galaxy an exponential disk of scale FWHM / 16 convolved with it; both have flux 1, are
    centred and integrated over the pixels. They come from a bank with fixed nodes, so that they do not depend on which
    other sources are asked for.

    Parameters
    ----------
    sigma
        Sizes of the PSF in pixels, shape (n,), finite and at least 0.3.
    size
        Side of the stamps in pixels.

    Returns
    -------
    ndarray
        Shape (n, 2, size, size).
    """
    place = np.asarray(sigma) / NODE_SPACING_PX
    lowest = np.floor(place).astype(np.int64) - 1
    t = place - lowest
    # Lagrange's cubic through nodes 0, 1, 2, 3, between the middle two
    weights = np.stack(
        [
            -(t - 1) * (t - 2) * (t - 3) / 6,
            t * (t - 2) * (t - 3) / 2,
            -t * (t - 1) * (t - 3) / 2,
            t * (t - 1) * (t - 2) / 6,
        ]
    )
    result = np.zeros((len(place), 2, size, size))
    for node in np.unique(lowest):
        chosen = np.flatnonzero(lowest == node)
        bank = np.array([_templates(int(node) + step, size) for step in range(4)])
        result[chosen] = np.einsum("bn,btij->ntij", weights[:, chosen], bank)
    return result


def measure_spread(
    stamps: NDArray[np.floating],
    weight: NDArray[np.floating],
    sigma_px: Floats,
    *,
    dx: Floats | None = None,
    dy: Floats | None = None,
) -> tuple[Floats, Floats, NDArray[np.int32]]:
    """Measure the spread model of sources.

    With the image I, the star P and the galaxy G of `spread_templates`, and sums over the good pixels, the spread model
    is ``G.I / P.I - G.P / P.P`` (Desai et al. 2012, as ShapePipe applies it: the noise enters the error only).

    Parameters
    ----------
    stamps
        Images without background, the source in the central pixel, shape (n, size, size).
    weight
        Inverse variance of the pixels, 0 where they are masked or belong to another source; same shape.
    sigma_px
        Size of the PSF by adaptive moments in pixels, shape (n,); not finite where there is none. It must be that size:
        the size from a FWHM shifts the stars of a Moffat PSF by 0.003.
    dx, dy
        Position of the source from the middle of its central pixel, shape (n,); without them it is in the middle.

    Returns
    -------
    tuple of ndarray
        Spread model and its standard error, NaN where they cannot be given, and `SpreadFlag` bits (int32); shape (n,).
    """
    model, error = np.full(len(stamps), np.nan), np.full(len(stamps), np.nan)
    flags = np.zeros(len(stamps), np.int32)
    known = np.isfinite(sigma_px) & (np.nan_to_num(sigma_px) >= MIN_SIGMA_PX)
    flags[~known] |= int(SpreadFlag.NO_PSF)
    good = (weight > 0) & np.isfinite(stamps) & np.isfinite(weight)
    flags[~good.any(axis=(1, 2))] |= int(SpreadFlag.NO_PIXELS)
    rows = np.flatnonzero(flags == 0)
    if rows.size == 0:
        return model, error, flags
    mask = good[rows]
    image = np.where(mask, stamps[rows], 0.0).astype(np.float64)
    variance = np.where(mask, 1.0 / np.where(mask, weight[rows], 1.0), 0.0).astype(np.float64)
    templates = spread_templates(np.asarray(sigma_px, np.float64)[rows], stamps.shape[-1])
    star, galaxy = templates[:, 0], templates[:, 1]
    if dx is not None and dy is not None:
        star, galaxy = shift_images(star, dx[rows], dy[rows]), shift_images(galaxy, dx[rows], dy[rows])
    star, galaxy = star * mask, galaxy * mask
    flux_star, flux_galaxy = _sum(star, image), _sum(galaxy, image)
    with np.errstate(divide="ignore", invalid="ignore"):
        model[rows] = flux_galaxy / flux_star - _sum(galaxy, star) / _sum(star, star)
        squared = (
            _sum(variance * galaxy, galaxy) * flux_star**2
            + _sum(variance * star, star) * flux_galaxy**2
            - 2.0 * _sum(variance * galaxy, star) * flux_galaxy * flux_star
        )
        # for a perfect star the three terms nearly cancel
        error[rows] = np.sqrt(np.maximum(squared, 0.0)) / flux_star**2
    dark = rows[~(flux_star > 0.0)]
    flags[dark] |= int(SpreadFlag.NO_FLUX)
    model[dark], error[dark] = np.nan, np.nan
    return model, error, flags


def _sum(first: Floats, second: Floats) -> Floats:
    return np.asarray(np.einsum("nij,nij->n", first, second))
