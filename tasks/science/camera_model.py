"""The camera of a simulated survey: focal plane, pointings, distorted coordinate systems and the PSF.

Each CCD has a gnomonic projection around the pointing with the polynomial distortion called TPV, which CFHT and SCAMP
write into their headers. The PSF is a Moffat profile whose width and ellipticity are quadratic polynomials of the
position in the focal plane, with other coefficients in every exposure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.products.simulated_survey import CameraParameters, PointingParameters

PSF_BETA: Final = 3.5
"""Exponent of the Moffat profile: atmospheric, and with a closed Fourier transform."""

GOLDEN_FRACTION: Final = 0.6180339887498949
"""Multiples of it fill the unit interval evenly: dithers and rotations never repeat."""


def half_size_px(camera: CameraParameters) -> tuple[float, float]:
    """Return half width and half height of the whole focal plane in pixels."""
    gap = camera.gap_arcsec / camera.pixel_scale_arcsec
    return (
        0.5 * (camera.n_columns * camera.ccd_width_px + (camera.n_columns - 1) * gap),
        0.5 * (camera.n_rows * camera.ccd_height_px + (camera.n_rows - 1) * gap),
    )


def ccd_center_px(camera: CameraParameters, ccd: int) -> tuple[float, float]:
    """Return the centre of a CCD in the focal plane; columns vary fastest, from the lower left."""
    gap = camera.gap_arcsec / camera.pixel_scale_arcsec
    row, column = divmod(ccd, camera.n_columns)
    return (
        (column - 0.5 * (camera.n_columns - 1)) * (camera.ccd_width_px + gap),
        (row - 0.5 * (camera.n_rows - 1)) * (camera.ccd_height_px + gap),
    )


def focal_plane_position(
    camera: CameraParameters, ccd: int, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn 0-based pixels of a CCD into focal-plane positions between -1 and 1."""
    center_x, center_y = ccd_center_px(camera, ccd)
    half_x, half_y = half_size_px(camera)
    return (
        (x - 0.5 * (camera.ccd_width_px - 1) + center_x) / half_x,
        (y - 0.5 * (camera.ccd_height_px - 1) + center_y) / half_y,
    )


@dataclass(frozen=True)
class PsfField:
    """The PSF of one exposure before pixels: polynomials of the focal-plane position (X, Y).

    Coefficients belong to the terms 1, X, Y, X², XY, Y², with X and Y between -1 and 1.
    """

    fwhm_arcsec: tuple[float, ...]
    """Coefficients of the full width at half maximum of the round Moffat profile."""
    g1: tuple[float, ...]
    """Coefficients of the first shear component: u towards West, v towards North."""
    g2: tuple[float, ...]
    """Coefficients of the second shear component."""

    def at(
        self, focal_x: NDArray[np.float64], focal_y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return width in arcsec and both shears at focal-plane positions between -1 and 1."""
        terms = np.stack([np.ones_like(focal_x), focal_x, focal_y, focal_x**2, focal_x * focal_y, focal_y**2], axis=-1)
        return terms @ np.array(self.fwhm_arcsec), terms @ np.array(self.g1), terms @ np.array(self.g2)


@dataclass(frozen=True)
class Pointing:
    """The truth of one exposure."""

    exposure: str
    """Name of the exposure: seven digits."""
    ra: float
    """Pointing in degrees."""
    dec: float
    """Pointing in degrees."""
    rotation_deg: float
    mjd: float
    zero_point: float
    sky_level: float
    """Sky at the centre of the focal plane in ADU per pixel."""
    sky_slope: tuple[float, float]
    """Relative change of the sky from the centre to the right and upper edge of the focal plane."""
    distortion: tuple[float, float, float]
    """Cubic coefficient in deg**-2, and the centre of the distortion in degrees."""
    psf: PsfField

    def sky(self, focal_x: NDArray[np.float64], focal_y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sky in ADU per pixel at focal-plane positions between -1 and 1."""
        slope_x, slope_y = self.sky_slope
        return self.sky_level * (1.0 + slope_x * focal_x + slope_y * focal_y - 0.01 * (focal_x**2 + focal_y**2))


def dither_offsets_arcsec(pointing: PointingParameters) -> NDArray[np.float64]:
    """Return the offsets of the exposures of one pointing towards East and North.

    Offsets in right ascension change sides, so that both sides of a field wider than the camera are seen equally often,
    and differ in size, so that the gaps between CCDs never fall on the same place twice.

    Returns
    -------
    ndarray, shape (n_per_pointing, 2), float64
        Offsets in arcsec.
    """
    k = np.arange(pointing.n_per_pointing)
    side = np.where(k % 2 == 0, -1.0, 1.0)
    east = side * pointing.dither_ra_arcsec * (0.75 + 0.5 * np.mod((k // 2 + 0.5) * GOLDEN_FRACTION, 1.0))
    north = pointing.dither_dec_arcsec * (2.0 * np.mod((k + 0.5) * GOLDEN_FRACTION, 1.0) - 1.0)
    return np.stack([east, north], axis=1)


def draw_psf_field(pointing: PointingParameters, rng: np.random.Generator) -> PsfField:
    """Draw the PSF of one exposure: each order of the polynomials is half as strong as the one before."""
    order_weight = np.array([1.0, 0.5, 0.5, 0.25, 0.25, 0.25])
    seeing = pointing.seeing_arcsec + pointing.seeing_scatter_arcsec * float(rng.uniform(-1.0, 1.0))
    fwhm = seeing * pointing.seeing_variation * order_weight * rng.uniform(-1.0, 1.0, 6)
    fwhm[0] = seeing
    g1, g2 = pointing.psf_ellipticity * order_weight * rng.uniform(-1.0, 1.0, (2, 6))
    return PsfField(tuple(fwhm.tolist()), tuple(g1.tolist()), tuple(g2.tolist()))


def draw_distortion(camera: CameraParameters, rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw the distortion of one exposure: 1 % around the camera's, its centre within 5 % of the half diagonal."""
    radius_deg = float(np.hypot(*half_size_px(camera))) * camera.pixel_scale_arcsec / 3600.0
    cubic = camera.distortion_arcsec / 3600.0 / radius_deg**3 * (1.0 + 0.01 * float(rng.uniform(-1.0, 1.0)))
    center = 0.05 * radius_deg * rng.uniform(-1.0, 1.0, 2)
    return cubic, float(center[0]), float(center[1])


def build_ccd_wcs(camera: CameraParameters, pointing: Pointing, ccd: int, ccd_rotation_deg: float) -> WCS:
    """Build the coordinate system of one CCD: TPV around the pointing, East to the left, pixels 0-based in Python.

    The distortion is cubic and radial around a centre c, ``r + k |r - c|² (r - c)``, of which the terms of second and
    third order are kept.

    Parameters
    ----------
    camera, pointing
        Geometry and truth of the exposure.
    ccd
        Number of the CCD.
    ccd_rotation_deg
        Rotation of the CCD against the camera.

    Returns
    -------
    astropy.wcs.WCS
        Coordinate system with CTYPE ``RA---TPV`` and ``DEC--TPV``.
    """
    cubic, center_x, center_y = pointing.distortion
    scale = camera.pixel_scale_arcsec / 3600.0
    offset_x, offset_y = ccd_center_px(camera, ccd)
    camera_angle, ccd_angle = np.radians(pointing.rotation_deg), np.radians(ccd_rotation_deg)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TPV", "DEC--TPV"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [pointing.ra, pointing.dec]
    # the CCD turns about its own centre: the pointing seen from it turns the other way
    turned_x = np.cos(ccd_angle) * offset_x - np.sin(ccd_angle) * offset_y
    turned_y = np.sin(ccd_angle) * offset_x + np.cos(ccd_angle) * offset_y
    wcs.wcs.crpix = [0.5 * (camera.ccd_width_px + 1) - turned_x, 0.5 * (camera.ccd_height_px + 1) - turned_y]
    angle = camera_angle + ccd_angle
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), -np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    wcs.wcs.set_pv(
        [
            *((1, j, v) for j, v in _distortion_terms(cubic, center_x, center_y)),
            *((2, j, v) for j, v in _distortion_terms(cubic, center_y, center_x)),
        ]
    )
    wcs.wcs.radesys = "ICRS"
    wcs.array_shape = camera.ccd_shape
    wcs.wcs.set()
    return wcs


def _distortion_terms(cubic: float, along: float, across: float) -> list[tuple[int, float]]:
    # the terms of the second axis are those of the first with the axes exchanged
    return [
        (0, 0.0),
        (1, 1.0),
        (2, 0.0),
        (4, -3.0 * cubic * along),
        (5, -2.0 * cubic * across),
        (6, -cubic * along),
        (7, cubic),
        (8, 0.0),
        (9, cubic),
        (10, 0.0),
    ]


def local_jacobians(wcs: WCS, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the derivatives of local sky coordinates with respect to pixels.

    Parameters
    ----------
    wcs
        Coordinate system.
    x, y
        0-based pixel positions, shape (n,).

    Returns
    -------
    ndarray, shape (n, 2, 2), float64
        ``[[du/dx, du/dy], [dv/dx, dv/dy]]`` in arcsec per pixel, u towards West and v towards North.
    """
    right, left = wcs.all_pix2world(x + 0.5, y, 0), wcs.all_pix2world(x - 0.5, y, 0)
    above, below = wcs.all_pix2world(x, y + 0.5, 0), wcs.all_pix2world(x, y - 0.5, 0)
    cos_dec = np.cos(np.radians(0.5 * (right[1] + left[1])))
    jacobians = np.empty((len(x), 2, 2))
    for column, (ahead, behind) in enumerate(((right, left), (above, below))):
        ra_step = np.mod(ahead[0] - behind[0] + 180.0, 360.0) - 180.0
        jacobians[:, 0, column] = -3600.0 * ra_step * cos_dec
        jacobians[:, 1, column] = 3600.0 * (ahead[1] - behind[1])
    return jacobians
