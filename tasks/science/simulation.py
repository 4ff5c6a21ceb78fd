"""A simulated survey: the truth, and the exposures that a camera takes of it.

Every random number comes from a generator that is seeded by what it is for (survey, exposure, CCD), so an exposure is
the same whichever process draws it, in whatever order. Profiles are drawn through the local
Jacobian of the distorted coordinate system, convolved with PSF and pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import galsim
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.time import Time
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.errors import ConfigError, UnknownExposureError
from tasks.products.dq import DQFlag
from tasks.products.images import Photometry
from tasks.products.raw_survey import RAW_FLAG_BAD, RAW_FLAG_COSMIC, RAW_FLAG_SATURATED, RawCcd
from tasks.products.simulated_survey import SurveyParameters
from tasks.science import detector_effects
from tasks.science.camera_model import (
    Pointing,
    build_ccd_wcs,
    dither_offsets_arcsec,
    draw_distortion,
    draw_psf_field,
    focal_plane_position,
    half_size_px,
    local_jacobians,
)
from tasks.science.detector_effects import StaticDefects
from tasks.science.profiles import (
    GS_PARAMS,
    add_stamp,
    draw_profile,
    galaxy_profile,
    galaxy_radius_arcsec,
    psf_profile,
    star_radius_arcsec,
)
from tasks.science.sky_catalog import (
    GalaxyTruth,
    SparsePlane,
    StarTruth,
    deproject_tangent_plane,
    make_galaxies,
    make_stars,
)

MIN_HALF_STAMP_PX: Final = 16
MAX_HALF_STAMP_PX: Final = 400
STAMP_EDGE_ADU: Final = 0.3
"""Stamps reach to this surface brightness, a hundredth of the sky noise with the default settings."""

# the first number after the survey's seed says what random numbers are for
SKY, POINTING, CAMERA, DETECTOR, NOISE = range(5)


@dataclass(frozen=True)
class SurveyTruth:
    """What is on the sky and where the exposures look."""

    parameters: SurveyParameters
    galaxies: GalaxyTruth
    stars: StarTruth
    pointings: tuple[Pointing, ...]

    @property
    def exposures(self) -> tuple[str, ...]:
        """Names of the exposures."""
        return tuple(pointing.exposure for pointing in self.pointings)

    def pointing(self, exposure: str) -> Pointing:
        """Return the truth of one exposure.

        Raises
        ------
        UnknownExposureError
            If the survey has no such exposure.
        """
        for pointing in self.pointings:
            if pointing.exposure == exposure:
                return pointing
        raise UnknownExposureError(
            f"The simulated survey has no exposure {exposure}: it has {self.exposures[0]} to {self.exposures[-1]}."
        )


def _generator(seed: int, purpose: int, *identity: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, *identity])


def build_survey(parameters: SurveyParameters) -> SurveyTruth:
    """Draw the truth of a survey.

    Parameters
    ----------
    parameters
        What to draw; two equal surveys have equal truths.

    Returns
    -------
    SurveyTruth
        Galaxies, stars and pointings.

    Raises
    ------
    ConfigError
        If the field is too full, or an exposure is taken before the first reference date.
    """
    sky = parameters.field
    pointings = _draw_pointings(parameters)
    # stars everywhere the camera looks: a PSF model needs them all over each CCD
    half_camera = np.array(half_size_px(parameters.camera)) * parameters.camera.pixel_scale_arcsec
    reach = np.abs(_pointing_offsets_arcsec(parameters)).max(axis=0) + 1.05 * half_camera
    half_box = float(reach[0]), float(reach[1])
    rng = _generator(parameters.seed, SKY)
    plane = SparsePlane(parameters.galaxies.min_separation_arcsec)
    galaxies = make_galaxies(plane, sky, parameters.galaxies, rng)
    stars = make_stars(plane, sky, parameters.stars, half_box, rng)
    return SurveyTruth(parameters, galaxies, stars, pointings)


def _pointing_offsets_arcsec(parameters: SurveyParameters) -> NDArray[np.float64]:
    pointing, sky = parameters.pointing, parameters.field
    east = 3600.0 * sky.width_deg * ((np.arange(pointing.n_columns) + 0.5) / pointing.n_columns - 0.5)
    north = 3600.0 * sky.height_deg * ((np.arange(pointing.n_rows) + 0.5) / pointing.n_rows - 0.5)
    nodes = np.stack([grid.ravel() for grid in np.meshgrid(east, north)], axis=1)
    offsets = nodes[:, None, :] + dither_offsets_arcsec(pointing)[None, :, :]
    return offsets.reshape(-1, 2)


def _draw_pointings(parameters: SurveyParameters) -> tuple[Pointing, ...]:
    settings, camera = parameters.pointing, parameters.camera
    offsets = _pointing_offsets_arcsec(parameters) / 3600.0
    ra, dec = deproject_tangent_plane(
        offsets[:, 0], offsets[:, 1], parameters.field.center_ra_deg, parameters.field.center_dec_deg
    )
    pointings = []
    for k in range(settings.n_exposures):
        rng = _generator(parameters.seed, POINTING, k)
        zero_point = settings.zero_point + settings.zero_point_scatter * float(rng.uniform(-1.0, 1.0))
        dark_sky = 10.0 ** (0.4 * (zero_point - settings.sky_magnitude_arcsec2)) * camera.pixel_scale_arcsec**2
        slope = settings.sky_gradient * rng.uniform(-1.0, 1.0, 2)
        pointings.append(
            Pointing(
                exposure=f"{settings.first_number + k:07d}",
                ra=float(ra[k]),
                dec=float(dec[k]),
                rotation_deg=settings.rotation_deg * float(rng.uniform(-1.0, 1.0)),
                mjd=settings.first_mjd + settings.interval_days * k,
                zero_point=zero_point,
                sky_level=dark_sky * (1.0 + settings.sky_scatter * float(rng.uniform(-1.0, 1.0))),
                sky_slope=(float(slope[0]), float(slope[1])),
                distortion=draw_distortion(camera, rng),
                psf=draw_psf_field(settings, rng),
            )
        )
    earliest = _reference_mjds(parameters)[0]
    if pointings[0].mjd < earliest:
        raise ConfigError(
            f"Exposure {pointings[0].exposure} is taken at MJD {pointings[0].mjd:.4f}, before the first reference date "
            f"{parameters.defects.reference_dates[0]} (MJD {earliest:.4f}): give an earlier reference date."
        )
    return tuple(pointings)


def _reference_mjds(parameters: SurveyParameters) -> NDArray[np.float64]:
    dates: NDArray[np.float64] = np.asarray(Time(list(parameters.defects.reference_dates), scale="utc").mjd)
    if np.any(np.diff(dates) <= 0):
        raise ConfigError(f"The reference dates {', '.join(parameters.defects.reference_dates)} are not in time order.")
    return dates


def static_defects(parameters: SurveyParameters, ccd: int, period: int) -> StaticDefects:
    """Return the bad pixels of a detector that hold from one reference date on.

    Parameters
    ----------
    parameters
        The survey.
    ccd
        Number of the CCD, which is one detector.
    period
        Number of the reference date, from 0.

    Returns
    -------
    StaticDefects
        The truth behind the reference file of that detector and date.
    """
    n_dates = len(parameters.defects.reference_dates)
    return detector_effects.draw_static_defects(
        parameters.camera.ccd_shape,
        parameters.camera.data_section,
        parameters.defects,
        period / (n_dates - 1) if n_dates > 1 else 1.0,
        _generator(parameters.seed, DETECTOR, ccd),
    )


def ccd_wcs(survey: SurveyTruth, exposure: str, ccd: int) -> WCS:
    """Return the true coordinate system of one CCD (TPV)."""
    camera = survey.parameters.camera
    tilt = camera.ccd_rotation_deg * float(_generator(survey.parameters.seed, CAMERA, ccd).uniform(-1.0, 1.0))
    return build_ccd_wcs(camera, survey.pointing(exposure), ccd, tilt)


def ccd_photometry(survey: SurveyTruth, exposure: str) -> Photometry:
    """Return how the pixel values of one exposure become photons and magnitudes."""
    camera, pointing = survey.parameters.camera, survey.pointing(exposure)
    return Photometry(
        gain=camera.gain,
        read_noise=camera.read_noise,
        saturation=camera.saturation,
        exposure_time_s=survey.parameters.pointing.exposure_time_s,
        zero_point=pointing.zero_point,
        mjd=pointing.mjd,
        band=survey.parameters.pointing.band,
    )


def true_psf_stamp(
    survey: SurveyTruth, exposure: str, ccd: int, x: float, y: float, *, size: int = 51
) -> NDArray[np.float64]:
    """Return the true effective PSF at one place: centred, pixel-convolved, of unit sum.

    Parameters
    ----------
    survey, exposure, ccd
        Which CCD.
    x, y
        0-based pixel position on it.
    size
        Odd number of pixels on a side.

    Returns
    -------
    ndarray, shape (size, size), float64
        The PSF.
    """
    at_x, at_y = np.array([x]), np.array([y])
    focal = focal_plane_position(survey.parameters.camera, ccd, at_x, at_y)
    fwhm, g1, g2 = survey.pointing(exposure).psf.at(*focal)
    jacobian = local_jacobians(ccd_wcs(survey, exposure, ccd), at_x, at_y)[0]
    stamp = draw_profile(psf_profile(float(fwhm[0]), float(g1[0]), float(g2[0])), jacobian, (0.0, 0.0), size // 2)
    unit: NDArray[np.float64] = stamp / stamp.sum()
    return unit


def draw_objects(survey: SurveyTruth, exposure: str, ccd: int) -> NDArray[np.float64]:
    """Draw all stars and galaxies of one CCD without noise.

    Parameters
    ----------
    survey, exposure, ccd
        Which CCD.

    Returns
    -------
    ndarray, shape (ny, nx), float64
        Expected ADU per pixel, without sky.
    """
    camera, pointing, wcs = survey.parameters.camera, survey.pointing(exposure), ccd_wcs(survey, exposure, ccd)
    edge = STAMP_EDGE_ADU / camera.pixel_scale_arcsec**2
    canvas = np.zeros(camera.ccd_shape)
    for truth in (survey.stars, survey.galaxies):
        x, y = wcs.all_world2pix(truth.ra, truth.dec, 0)
        flux = 10.0 ** (0.4 * (pointing.zero_point - truth.mag))
        fwhm, g1, g2 = pointing.psf.at(*focal_plane_position(camera, ccd, x, y))
        radius = star_radius_arcsec(flux, fwhm, edge)
        if isinstance(truth, GalaxyTruth):
            radius = np.maximum(radius, galaxy_radius_arcsec(flux, truth, edge) + fwhm)
        half = np.clip(np.ceil(radius / camera.pixel_scale_arcsec), MIN_HALF_STAMP_PX, MAX_HALF_STAMP_PX).astype(int)
        ny, nx = canvas.shape
        touching = np.flatnonzero((x > -half) & (x < nx + half) & (y > -half) & (y < ny + half))
        jacobians = local_jacobians(wcs, x[touching], y[touching])
        for i, jacobian in zip(touching, jacobians, strict=True):
            profile = psf_profile(float(fwhm[i]), float(g1[i]), float(g2[i]))
            if isinstance(truth, GalaxyTruth):
                profile = galsim.Convolve(profile, galaxy_profile(truth, int(i)), gsparams=GS_PARAMS)
            add_stamp(canvas, profile.withFlux(float(flux[i])), jacobian, float(x[i]), float(y[i]), int(half[i]))
    return canvas


def circle_around_ccd(survey: SurveyTruth, exposure: str, ccd: int) -> tuple[float, float, float]:
    """Return the circle around a CCD: right ascension and declination in degrees, half diagonal in arcmin."""
    ny, nx = survey.parameters.camera.ccd_shape
    ra, dec = ccd_wcs(survey, exposure, ccd).all_pix2world([0.5 * nx, 0.0], [0.5 * ny, 0.0], 0)
    center, corner = SkyCoord(ra, dec, unit="deg")
    return float(ra[0]), float(dec[0]), float(center.separation(corner).arcmin)


def stars_in_circle(survey: SurveyTruth, circle: tuple[float, float, float]) -> NDArray[np.intp]:
    """Return the stars of the star catalogue inside a circle, as a catalogue server is asked for them.

    Parameters
    ----------
    survey
        The truth.
    circle
        Right ascension and declination in degrees and radius in arcmin.

    Returns
    -------
    ndarray, shape (n,), intp
        Positions in the truth of the stars that are bright enough for the catalogue.
    """
    ra, dec, radius = circle
    stars = SkyCoord(survey.stars.ra, survey.stars.dec, unit="deg")
    inside = stars.separation(SkyCoord(ra, dec, unit="deg")).arcmin <= radius
    found: NDArray[np.intp] = np.flatnonzero(inside & (survey.stars.mag <= survey.parameters.stars.catalog_limit))
    return found


def simulate_ccd(survey: SurveyTruth, exposure: str, ccd: int) -> RawCcd:
    """Take one CCD of one exposure.

    The camera's own flags and weights know bad columns, dead pixels, cosmic rays and saturation; hot and warm pixels
    are known only to the reference file of the detector.

    Parameters
    ----------
    survey
        The truth.
    exposure, ccd
        Which CCD.

    Returns
    -------
    RawCcd
        Pixels, weights, flags and what a header says of them.

    Raises
    ------
    UnknownExposureError
        If the survey has no such exposure.
    """
    parameters, pointing = survey.parameters, survey.pointing(exposure)
    camera, section, photometry = parameters.camera, parameters.camera.data_section, ccd_photometry(survey, exposure)
    period = int(np.searchsorted(_reference_mjds(parameters), pointing.mjd, side="right")) - 1
    defects = static_defects(parameters, ccd, period)
    y, x = np.indices(camera.ccd_shape, dtype=np.float64)
    sky = pointing.sky(*focal_plane_position(camera, ccd, x, y))
    rng = _generator(parameters.seed, NOISE, int(exposure), ccd)
    light = draw_objects(survey, exposure, ccd) + sky
    electrons = detector_effects.collect_electrons(light, defects, photometry.gain, section, rng)
    cosmic = detector_effects.add_cosmic_rays(electrons, section, parameters.defects, rng)
    result = detector_effects.read_out(electrons, photometry, section, rng)

    bad = defects.columns | (defects.dq & np.uint32(DQFlag.DEAD)).astype(np.bool_)
    flag = np.zeros(camera.ccd_shape, np.int16)
    flag[bad] |= RAW_FLAG_BAD
    flag[cosmic] |= RAW_FLAG_COSMIC
    flag[result.saturated] |= RAW_FLAG_SATURATED
    variance = sky / photometry.gain + (photometry.read_noise / photometry.gain) ** 2
    weight = np.zeros(camera.ccd_shape, np.float32)
    weight[section.slices] = (1.0 / variance[section.slices]).astype(np.float32)
    weight[bad | cosmic] = 0.0
    return RawCcd(ccd, result.adu, weight, flag, ccd_wcs(survey, exposure, ccd), photometry, section)


def simulate_exposure(survey: SurveyTruth, exposure: str) -> list[RawCcd]:
    """Take all CCDs of one exposure, in order."""
    return [simulate_ccd(survey, exposure, ccd) for ccd in range(survey.parameters.camera.n_ccds)]
