"""Profiles of simulated stars and galaxies, drawn by GalSim (Rowe et al. 2015, Astronomy and Computing 10, 121)."""

from __future__ import annotations

from typing import Final

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma

from tasks.science.camera_model import PSF_BETA
from tasks.science.sky_catalog import GalaxyTruth

GS_PARAMS: Final = galsim.GSParams(folding_threshold=1e-3)


def psf_profile(fwhm_arcsec: float, g1: float, g2: float) -> galsim.GSObject:
    """Return the PSF before pixels: a sheared Moffat profile of unit flux in local sky coordinates."""
    return galsim.Moffat(beta=PSF_BETA, fwhm=fwhm_arcsec, gsparams=GS_PARAMS).shear(g1=g1, g2=g2)


def galaxy_profile(galaxies: GalaxyTruth, index: int) -> galsim.GSObject:
    """Return one galaxy of unit flux as the lens shows it, before the PSF."""
    n, radius = float(galaxies.sersic_index[index]), float(galaxies.half_light_radius[index])
    if n == 1.0:
        round_profile = galsim.Exponential(half_light_radius=radius, gsparams=GS_PARAMS)
    else:
        round_profile = galsim.Sersic(n, half_light_radius=radius, gsparams=GS_PARAMS)
    unlensed = round_profile.shear(g1=float(galaxies.e1[index]), g2=float(galaxies.e2[index]))
    return unlensed.shear(g1=float(galaxies.g1[index]), g2=float(galaxies.g2[index]))


def draw_profile(
    profile: galsim.GSObject, jacobian: NDArray[np.float64], offset: tuple[float, float], half_size: int
) -> NDArray[np.float64]:
    """Draw a profile, convolved with the pixel, on a square stamp.

    Parameters
    ----------
    profile
        Profile in local sky coordinates, arcsec.
    jacobian
        ``[[du/dx, du/dy], [dv/dx, dv/dy]]`` in arcsec per pixel, u towards West and v towards North.
    offset
        Position (x, y) of the profile against the central pixel, in pixels.
    half_size
        The stamp has ``2 * half_size + 1`` pixels on a side.

    Returns
    -------
    ndarray, shape (2 * half_size + 1, 2 * half_size + 1), float64
        Flux per pixel.
    """
    image = galsim.ImageD(2 * half_size + 1, 2 * half_size + 1)
    wcs = galsim.JacobianWCS(*(float(value) for value in jacobian.ravel()))
    profile.drawImage(image, wcs=wcs, offset=galsim.PositionD(*offset))
    return np.asarray(image.array)


def star_radius_arcsec(
    flux: NDArray[np.float64], fwhm_arcsec: NDArray[np.float64], edge_per_arcsec2: float
) -> NDArray[np.float64]:
    """Return where the Moffat profile of a star falls to a surface brightness; 0 if it is fainter everywhere."""
    scale = 0.5 * fwhm_arcsec / np.sqrt(2.0 ** (1.0 / PSF_BETA) - 1.0)
    peak = flux * (PSF_BETA - 1.0) / (np.pi * scale**2)
    radius: NDArray[np.float64] = scale * np.sqrt(np.maximum(peak / edge_per_arcsec2, 1.0) ** (1.0 / PSF_BETA) - 1.0)
    return radius


def galaxy_radius_arcsec(
    flux: NDArray[np.float64], galaxies: GalaxyTruth, edge_per_arcsec2: float
) -> NDArray[np.float64]:
    """Return where the Sérsic profiles fall to a surface brightness (Ciotti & Bertin 1999, A&A 352, 447)."""
    n, radius = galaxies.sersic_index, galaxies.half_light_radius
    b = 2.0 * n - 1.0 / 3.0 + 4.0 / (405.0 * n)
    peak = flux * b ** (2.0 * n) / (2.0 * np.pi * n * gamma(2.0 * n) * radius**2)
    edge: NDArray[np.float64] = radius * (np.log(np.maximum(peak / edge_per_arcsec2, 1.0)) / b) ** n
    return edge


def add_stamp(
    canvas: NDArray[np.float64],
    profile: galsim.GSObject,
    jacobian: NDArray[np.float64],
    x: float,
    y: float,
    half: int,
) -> None:
    """Draw a profile at a 0-based pixel position and add what lies on the canvas to it, in place.

    Parameters
    ----------
    canvas
        Image of shape (ny, nx); changed.
    profile
        Profile in local sky coordinates, arcsec.
    jacobian
        As in `draw_profile`.
    x, y
        Position of the profile; it may lie outside the canvas.
    half
        Half size of the stamp in pixels.
    """
    column, row = round(x), round(y)
    stamp = draw_profile(profile, jacobian, (x - column, y - row), half)
    ny, nx = canvas.shape
    x_min, x_max = max(column - half, 0), min(column + half + 1, nx)
    y_min, y_max = max(row - half, 0), min(row + half + 1, ny)
    if x_min < x_max and y_min < y_max:
        left, below = column - half, row - half
        canvas[y_min:y_max, x_min:x_max] += stamp[y_min - below : y_max - below, x_min - left : x_max - left]
