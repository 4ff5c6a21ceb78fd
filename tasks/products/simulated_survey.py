"""What defines a simulated survey: its field, sky, camera, pointings and defects.

Defaults are those of the demo: two adjacent tiles of 0.06 degrees, six exposures of a camera of 2 x 2 CCDs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from tasks.products.config import StageConfig
from tasks.products.images import Window

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Magnitude = Annotated[float, Field(ge=-5.0, le=40.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Shear = Annotated[float, Field(gt=-0.3, lt=0.3)]
Date = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$")]


class FieldParameters(StageConfig):
    """The box of sky that is filled with galaxies; its sides run along right ascension and declination."""

    center_ra_deg: Annotated[float, Field(ge=0.0, lt=360.0)] = 150.03024
    """Right ascension of the centre, degrees."""

    center_dec_deg: Annotated[float, Field(ge=-85.0, le=85.0)] = 30.0
    """Declination of the centre, degrees."""

    width_deg: Annotated[float, Field(gt=0.0, le=5.0)] = 0.13
    """Size along right ascension, degrees on the sky."""

    height_deg: Annotated[float, Field(gt=0.0, le=5.0)] = 0.07
    """Size along declination, degrees."""


class GalaxyParameters(StageConfig):
    """Numbers, magnitudes, sizes and shapes of the galaxies."""

    density_arcmin2: NotNegative = 45.0
    """Galaxies per square arcminute of the field."""

    bright_magnitude: Magnitude = 20.0
    """Brightest galaxy."""

    faint_magnitude: Magnitude = 24.5
    """Faintest galaxy."""

    count_slope: NotNegative = 0.3
    """Counts grow as 10**(count_slope * magnitude)."""

    size_at_22_arcsec: Positive = 0.5
    """Typical half-light radius at magnitude 22, arcsec."""

    size_slope: float = -0.08
    """Typical half-light radii change as 10**(size_slope * magnitude)."""

    size_scatter: NotNegative = 0.25
    """Scatter of the natural logarithm of the half-light radius."""

    sersic_indices: Annotated[tuple[Annotated[float, Field(ge=0.5, le=5.0)], ...], Field(min_length=1)] = (
        1.0,
        1.5,
        2.5,
        4.0,
    )
    """Sérsic indices that occur; 1 is an exponential disc and 4 a de Vaucouleurs bulge."""

    sersic_fractions: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.6, 0.2, 0.15, 0.05)
    """Relative number of galaxies of each Sérsic index."""

    ellipticity_rms: Annotated[float, Field(ge=0.0, le=0.4)] = 0.2
    """Intrinsic ellipticity (a-b)/(a+b), dispersion of one component; shapes above 0.6 do not occur."""

    min_separation_arcsec: NotNegative = 3.5
    """Smallest distance between any two objects, arcsec."""

    shear_g1: Shear = 0.02
    """Reduced shear, first component: positive stretches East-West."""

    shear_g2: Shear = -0.01
    """Reduced shear, second component: positive stretches from North-West to South-East."""


class StarParameters(StageConfig):
    """Numbers and magnitudes of the stars, which fill all sky that the exposures see."""

    density_arcmin2: NotNegative = 5.0
    """Stars per square arcminute, the bright ones not counted."""

    bright_magnitude: Magnitude = 17.0
    """Brightest of the common stars."""

    faint_magnitude: Magnitude = 22.0
    """Faintest star."""

    count_slope: NotNegative = 0.15
    """Counts grow as 10**(count_slope * magnitude)."""

    n_bright: Annotated[int, Field(ge=0)] = 4
    """Number of bright stars, which saturate."""

    brightest_magnitude: Magnitude = 15.0
    """Brightest of the bright stars; they reach to the common ones."""

    catalog_limit: Magnitude = 20.0
    """Faintest entry of the star catalogues."""


class CameraParameters(StageConfig):
    """Focal plane and electronics."""

    n_columns: Annotated[int, Field(ge=1, le=20)] = 2
    """CCDs along x."""

    n_rows: Annotated[int, Field(ge=1, le=20)] = 2
    """CCDs along y."""

    ccd_width_px: Annotated[int, Field(ge=64, le=8192)] = 1024
    """Pixels of a CCD along x."""

    ccd_height_px: Annotated[int, Field(ge=64, le=8192)] = 1024
    """Pixels of a CCD along y."""

    pixel_scale_arcsec: Annotated[float, Field(ge=0.02, le=2.0)] = 0.187
    """Size of a pixel at the centre of the focal plane, arcsec."""

    gap_arcsec: NotNegative = 9.0
    """Gap between CCDs, arcsec."""

    border_px: tuple[
        Annotated[int, Field(ge=0, le=30)],
        Annotated[int, Field(ge=0, le=30)],
        Annotated[int, Field(ge=0, le=30)],
        Annotated[int, Field(ge=0, le=30)],
    ] = (8, 8, 4, 4)
    """Pixels on the left, right, lower and upper side that see no light: outside DATASEC."""

    distortion_arcsec: Annotated[float, Field(ge=-30.0, le=30.0)] = 3.0
    """Radial displacement at the corner of the focal plane, arcsec."""

    distortion_convention: Literal["TPV", "TAN"] = "TPV"
    """CTYPE of the headers: TPV, or TAN with the same PV terms as CFHT and SCAMP write it."""

    ccd_rotation_deg: Annotated[float, Field(ge=0.0, le=5.0)] = 0.05
    """Largest rotation of a CCD against the camera, degrees."""

    gain: Positive = 1.6
    """Electrons per ADU."""

    read_noise: NotNegative = 5.0
    """Read noise, electrons."""

    saturation: Annotated[float, Field(gt=0.0, le=65535.0)] = 60000.0
    """Saturation level, ADU."""

    @property
    def n_ccds(self) -> int:
        """Number of CCDs."""
        return self.n_columns * self.n_rows

    @property
    def ccd_shape(self) -> tuple[int, int]:
        """Shape (ny, nx) of one CCD."""
        return self.ccd_height_px, self.ccd_width_px

    @property
    def data_section(self) -> Window:
        """The light-sensitive part of each CCD."""
        left, right, below, above = self.border_px
        return Window(left, below, self.ccd_width_px - right, self.ccd_height_px - above)


class PointingParameters(StageConfig):
    """Where and when the exposures are taken, and through which sky."""

    n_columns: Annotated[int, Field(ge=1, le=50)] = 1
    """Pointings along right ascension, spread evenly over the field."""

    n_rows: Annotated[int, Field(ge=1, le=50)] = 1
    """Pointings along declination, spread evenly over the field."""

    n_per_pointing: Annotated[int, Field(ge=1, le=100)] = 6
    """Dithered exposures of each pointing."""

    dither_ra_arcsec: NotNegative = 40.0
    """Typical dither along right ascension, arcsec; the exposures change sides."""

    dither_dec_arcsec: NotNegative = 25.0
    """Largest dither along declination, arcsec."""

    rotation_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 0.4
    """Largest rotation of an exposure about its centre, degrees."""

    first_number: Annotated[int, Field(ge=0, le=9_000_000)] = 2113700
    """Name of the first exposure, which has seven digits; the others follow."""

    first_mjd: Annotated[float, Field(ge=40000.0, le=80000.0)] = 57429.25
    """Start of the first exposure, modified Julian date."""

    interval_days: Positive = 30.0
    """Time from one exposure to the next, days."""

    exposure_time_s: Positive = 500.0
    """Exposure time, seconds."""

    band: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,20}$")] = "r.MP9601"
    """Name of the filter."""

    zero_point: Magnitude = 32.5
    """Typical magnitude of a source of 1 ADU."""

    zero_point_scatter: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Largest difference of an exposure's zero point from the typical one."""

    sky_magnitude_arcsec2: Magnitude = 21.5
    """Typical sky brightness, magnitudes per square arcsecond."""

    sky_scatter: Annotated[float, Field(ge=0.0, le=0.9)] = 0.15
    """Largest relative difference of an exposure's sky level from the typical one."""

    sky_gradient: Annotated[float, Field(ge=0.0, le=0.4)] = 0.04
    """Largest relative change of the sky level from the centre of the focal plane to its edges."""

    seeing_arcsec: Annotated[float, Field(ge=0.1, le=5.0)] = 0.70
    """Typical full width at half maximum of the PSF, arcsec."""

    seeing_scatter_arcsec: NotNegative = 0.03
    """Largest difference of an exposure's seeing from the typical one, arcsec."""

    seeing_variation: Annotated[float, Field(ge=0.0, le=0.3)] = 0.03
    """Relative change of the seeing over the focal plane."""

    psf_ellipticity: Annotated[float, Field(ge=0.0, le=0.2)] = 0.02
    """Largest mean ellipticity of the PSF; its variation over the focal plane is of the same size."""

    @property
    def n_exposures(self) -> int:
        """Number of exposures."""
        return self.n_columns * self.n_rows * self.n_per_pointing


class DefectParameters(StageConfig):
    """Bad pixels and cosmic rays; numbers are per 1024 x 1024 pixels of detector."""

    n_bad_columns: NotNegative = 2.0
    """Bad columns, from some row to the top."""

    n_dead: NotNegative = 80.0
    """Dead pixels."""

    n_hot: NotNegative = 80.0
    """Hot pixels, known only to the reference files."""

    n_warm: NotNegative = 150.0
    """Warm pixels, known only to the reference files."""

    new_fraction: Fraction = 0.3
    """Share of the bad pixels that appears between the first and the last reference date."""

    reference_dates: Annotated[tuple[Date, ...], Field(min_length=1)] = ("2015-01-01 00:00:00", "2016-05-01 00:00:00")
    """Dates in time order from which a new reference file holds."""

    ccds_without_reference: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """CCDs for which the rules say that no reference applies."""

    n_cosmic_rays: NotNegative = 25.0
    """Cosmic rays per exposure."""

    cosmic_ray_electrons: NotNegative = 1500.0
    """Typical charge that a cosmic ray leaves per pixel of its length, electrons."""

    cosmic_ray_length_px: NotNegative = 12.0
    """Mean length of the track of a cosmic ray, pixels."""


class SurveyParameters(StageConfig):
    """All that defines a simulated survey: two equal ones have equal bytes."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of all random numbers."""

    field: FieldParameters = FieldParameters()
    """The box of sky that is filled with galaxies."""

    galaxies: GalaxyParameters = GalaxyParameters()
    """The galaxies."""

    stars: StarParameters = StarParameters()
    """The stars."""

    camera: CameraParameters = CameraParameters()
    """Focal plane and electronics."""

    pointing: PointingParameters = PointingParameters()
    """Where and when the exposures are taken, and through which sky."""

    defects: DefectParameters = DefectParameters()
    """Bad pixels and cosmic rays."""
