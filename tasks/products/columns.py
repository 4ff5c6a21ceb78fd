"""Every column of every table: name, dtype, unit and meaning.

In Python a column has its lower-case ``name`` and pixel positions count from 0; in FITS files it has its ``fits_name``,
the one that SExtractor users know, and pixel positions (``origin_one``) count from 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    dtype: str
    """numpy dtype, such as ``f8``, ``i4``, ``bool`` or ``U16``."""
    unit: str
    """Unit in FITS notation; empty for pure numbers."""
    meaning: str
    fits_name: str = ""
    """TTYPE in FITS files; the upper-case name if empty."""
    shape: tuple[int, ...] = ()
    """Shape of one cell; 0 stands for a size that the table decides."""
    origin_one: bool = False
    """Whether this is a pixel position, which counts from 1 in FITS files."""

    @property
    def ttype(self) -> str:
        """Name in FITS files."""
        return self.fits_name or self.name.upper()


@dataclass(frozen=True)
class TableSchema:
    """The columns of one kind of table."""

    name: str
    """EXTNAME in FITS files."""
    meaning: str
    columns: tuple[Column, ...]
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the columns and refuse duplicates."""
        by_name = {column.name: column for column in self.columns}
        if len(by_name) != len(self.columns):
            raise ValueError(f"schema {self.name} has two columns of the same name")
        object.__setattr__(self, "_by_name", by_name)

    def __getitem__(self, name: str) -> Column:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)


# --- SOURCES ----------------------------------------------------------------------------------------------------------
SOURCES = TableSchema(
    "SOURCES",
    "Detected sources of one CCD or tile; fluxes in units of the image, NaN where a value cannot be given.",
    (
        Column("number", "i4", "", "Number of the source, from 1; its value in the segmentation map"),
        Column("x", "f8", "pix", "Isophotal centroid along x", "X_IMAGE", origin_one=True),
        Column("y", "f8", "pix", "Isophotal centroid along y", "Y_IMAGE", origin_one=True),
        Column("x_win", "f8", "pix", "Windowed centroid along x", "XWIN_IMAGE", origin_one=True),
        Column("y_win", "f8", "pix", "Windowed centroid along y", "YWIN_IMAGE", origin_one=True),
        Column("ra", "f8", "deg", "Right ascension of the isophotal centroid, ICRS", "X_WORLD"),
        Column("dec", "f8", "deg", "Declination of the isophotal centroid, ICRS", "Y_WORLD"),
        Column("ra_win", "f8", "deg", "Right ascension of the windowed centroid, ICRS", "XWIN_WORLD"),
        Column("dec_win", "f8", "deg", "Declination of the windowed centroid, ICRS", "YWIN_WORLD"),
        Column("flux_auto", "f8", "", "Flux in a Kron-like ellipse"),
        Column("fluxerr_auto", "f8", "", "Standard error of flux_auto, with the photon noise of the source"),
        Column("mag_auto", "f8", "mag", "Magnitude of flux_auto; NaN if it is not positive"),
        Column("magerr_auto", "f8", "mag", "Standard error of mag_auto"),
        Column("kron_radius", "f4", "", "Scale of the Kron ellipse in units of a and b"),
        Column("flux_aper", "f8", "", "Fluxes in circular apertures", shape=(0,)),
        Column("fluxerr_aper", "f8", "", "Standard errors of flux_aper", shape=(0,)),
        Column("mag_aper", "f8", "mag", "Magnitudes of flux_aper", shape=(0,)),
        Column("magerr_aper", "f8", "mag", "Standard errors of mag_aper", shape=(0,)),
        Column("flux_radius", "f4", "pix", "Radius of the circle that holds half of flux_auto"),
        Column("fwhm", "f4", "pix", "Full width at half maximum of a Gaussian fitted to the core", "FWHM_IMAGE"),
        Column("fwhm_world", "f4", "deg", "fwhm on the sky", "FWHM_WORLD"),
        Column("snr_win", "f8", "", "Signal-to-noise ratio in the Gaussian window", "SNR_WIN"),
        Column("x2", "f8", "pix2", "Isophotal variance along x", "X2_IMAGE"),
        Column("y2", "f8", "pix2", "Isophotal variance along y", "Y2_IMAGE"),
        Column("xy", "f8", "pix2", "Isophotal covariance of x and y", "XY_IMAGE"),
        Column("a", "f8", "pix", "Isophotal rms along the major axis", "A_IMAGE"),
        Column("b", "f8", "pix", "Isophotal rms along the minor axis", "B_IMAGE"),
        Column("theta", "f8", "deg", "Angle of the major axis from x towards y", "THETA_IMAGE"),
        Column("elongation", "f4", "", "a / b"),
        Column("ellipticity", "f4", "", "1 - b / a"),
        Column("x2_win", "f8", "pix2", "Windowed variance along x", "X2WIN_IMAGE"),
        Column("y2_win", "f8", "pix2", "Windowed variance along y", "Y2WIN_IMAGE"),
        Column("xy_win", "f8", "pix2", "Windowed covariance of x and y", "XYWIN_IMAGE"),
        Column("errx2_win", "f8", "pix2", "Variance of x_win", "ERRX2WIN_IMAGE"),
        Column("erry2_win", "f8", "pix2", "Variance of y_win", "ERRY2WIN_IMAGE"),
        Column("errxy_win", "f8", "pix2", "Covariance of x_win and y_win", "ERRXYWIN_IMAGE"),
        Column("background", "f4", "", "Background at the centroid"),
        Column("threshold", "f4", "", "Detection threshold above the background at the centroid"),
        Column("mu_max", "f4", "mag arcsec-2", "Peak surface brightness above the background"),
        Column("isoarea", "i4", "pix2", "Number of pixels above the threshold", "ISOAREA_IMAGE"),
        Column(
            "flags",
            "i2",
            "",
            "1 neighbours or bad pixels disturb flux_auto, 2 deblended, 4 saturated, 8 cut by the image edge, "
            "16 Kron ellipse reaches outside the image",
        ),
        Column("flags_win", "i2", "", "1 no windowed centroid, the isophotal one is given; 2 variances not positive"),
        Column(
            "imaflags",
            "i4",
            "",
            "Bitwise OR of the lensing mask in the isophote and at bad pixels that touch it",
            "IMAFLAGS_ISO",
        ),
    ),
)

# --- STARS, PSF_RESIDUALS, EPOCH_PSF, SPREAD --------------------------------------------------------------------------
STARS = TableSchema(
    "STARS",
    "Stars selected for the PSF model; rows in the order of the source table.",
    (
        Column("number", "i4", "", "Number of the star in the source table and segmentation map of its CCD"),
        Column("x_win", "f8", "pix", "Windowed centroid along x", "XWIN_IMAGE", origin_one=True),
        Column("y_win", "f8", "pix", "Windowed centroid along y", "YWIN_IMAGE", origin_one=True),
        Column("ra_win", "f8", "deg", "Right ascension of the windowed centroid, ICRS", "XWIN_WORLD"),
        Column("dec_win", "f8", "deg", "Declination of the windowed centroid, ICRS", "YWIN_WORLD"),
        Column("flux_auto", "f8", "", "Flux in a Kron-like ellipse, in units of the image"),
        Column("mag_auto", "f8", "mag", "Magnitude of flux_auto"),
        Column("fwhm", "f4", "pix", "Full width at half maximum of a Gaussian fitted to the core", "FWHM_IMAGE"),
        Column("snr_win", "f8", "", "Signal-to-noise ratio in the Gaussian window", "SNR_WIN"),
        Column("reserved", "bool", "", "Kept out of the PSF model, to test it"),
    ),
)
PSF_RESIDUALS = TableSchema(
    "PSF_RESIDUALS",
    "Adaptive moments of reserved stars and of the PSF model at their positions, in the sky frame; NaN where flagged.",
    (
        Column("number", "i4", "", "Number of the star in the source table of its CCD"),
        Column("x_win", "f8", "pix", "Windowed centroid along x", "XWIN_IMAGE", origin_one=True),
        Column("y_win", "f8", "pix", "Windowed centroid along y", "YWIN_IMAGE", origin_one=True),
        Column("ra_win", "f8", "deg", "Right ascension of the windowed centroid, ICRS", "XWIN_WORLD"),
        Column("dec_win", "f8", "deg", "Declination of the windowed centroid, ICRS", "YWIN_WORLD"),
        Column("mag_auto", "f8", "mag", "Magnitude of the star"),
        Column("snr_win", "f8", "", "Signal-to-noise ratio of the star", "SNR_WIN"),
        Column("g1_star", "f8", "", "Shape g1 of the star; positive is east-west"),
        Column("g2_star", "f8", "", "Shape g2 of the star; positive is along north-west"),
        Column("t_star", "f8", "arcsec2", "Size T of the star"),
        Column("sigma_star", "f8", "pix", "Size of the star: fourth root of the determinant of its moments"),
        Column("g1_psf", "f8", "", "Shape g1 of the PSF model"),
        Column("g2_psf", "f8", "", "Shape g2 of the PSF model"),
        Column("t_psf", "f8", "arcsec2", "Size T of the PSF model"),
        Column("sigma_psf", "f8", "pix", "Size of the PSF model, as sigma_star"),
        Column("chi2", "f8", "", "Mean squared residual of star minus model over its variance"),
        Column("flags_star", "i4", "", "MomentsFlag bits of the star; 0 is good"),
        Column("flags_psf", "i4", "", "MomentsFlag bits of the model; 0 is good"),
    ),
)
EPOCH_PSF = TableSchema(
    "EPOCH_PSF",
    "The PSF of every source on every CCD that saw it, one row for every row of EPOCHS and in its order.",
    (
        Column("number", "i4", "", "Number of the source in the tile"),
        Column("exposure", "U64", "", "Name of the exposure"),
        Column("ccd", "i4", "", "Number of the CCD, from 0"),
        Column("psf", "f4", "", "PSF in pixels of the CCD, centred, of sum 1; all zero where flagged", shape=(0, 0)),
        Column("g1", "f8", "", "Shape g1 of the PSF in the sky frame; positive is east-west; NaN where flagged"),
        Column("g2", "f8", "", "Shape g2 of the PSF in the sky frame; positive is along north-west; NaN where flagged"),
        Column("t", "f8", "arcsec2", "Size T of the PSF; NaN where flagged"),
        Column("sigma_px", "f8", "pix", "Fourth root of the determinant of the PSF's moments; NaN where flagged"),
        Column("flags", "i4", "", "PsfFlag bits: why the epoch has no PSF; 0 is good"),
    ),
)
SPREAD = TableSchema(
    "SPREAD",
    "Spread model of every source of a tile, one row per source; NaN where flagged.",
    (
        Column("number", "i4", "", "Number of the source in the tile"),
        Column("spread_model", "f8", "", "0 for a star, positive for an extended source"),
        Column("spreaderr_model", "f8", "", "Standard error of spread_model"),
        Column("sigma_psf", "f8", "pix", "Mean size of the PSF over the good epochs"),
        Column("n_epoch_psf", "i4", "", "Epochs with a good PSF"),
        Column("flags", "i4", "", "SpreadFlag bits; 0 is good"),
    ),
)

# --- INPUTS -----------------------------------------------------------------------------------------------------------
COADD_INPUTS = TableSchema(
    "INPUTS",
    "The CCDs that a coadd was made of, one row each in the order of the context bits; NaN where a value is not known.",
    (
        Column("exposure", "U64", "", "Name of the exposure"),
        Column("ccd", "i4", "", "Number of the CCD, from 0"),
        Column("band", "U32", "", "Name of the filter"),
        Column("mjd", "f8", "d", "Start of the exposure, modified Julian date", "MJD-OBS"),
        Column("exposure_time", "f8", "s", "Exposure time", "EXPTIME"),
        Column("zero_point", "f8", "mag", "Zero point of the CCD", "PHOTZP"),
        Column("gain", "f8", "electron/adu", "Gain of the CCD"),
        Column("read_noise", "f8", "electron", "Read noise of the CCD", "RDNOISE"),
        Column("saturation", "f8", "adu", "Saturation level of the CCD", "SATURATE"),
        Column("n_pixels", "i8", "", "Pixels of the coadd to which the CCD contributed; 0 if not known"),
        Column("weight", "f8", "", "Sum over the coadd of the inverse variance that the CCD brought"),
        Column("fwhm", "f8", "arcsec", "Full width at half maximum of the PSF in the middle of the CCD"),
        Column("n_outliers", "i8", "", "Pixels of the CCD that were left out as outliers"),
    ),
)

# --- EPOCHS -----------------------------------------------------------------------------------------------------------
EPOCHS = TableSchema(
    "EPOCHS",
    "Which CCD saw which source of a tile, and where: one row per source and CCD, by source, exposure and CCD.",
    (
        Column("number", "i4", "", "Number of the source in the tile"),
        Column("exposure", "U64", "", "Name of the exposure"),
        Column("ccd", "i4", "", "Number of the CCD, from 0"),
        Column("x", "f8", "pix", "Position of the windowed centroid on the CCD along x", "X_IMAGE", origin_one=True),
        Column("y", "f8", "pix", "Position of the windowed centroid on the CCD along y", "Y_IMAGE", origin_one=True),
        Column("edge_distance", "f4", "pix", "Distance to the nearest edge of the light-sensitive part of the CCD"),
        Column("dudx", "f8", "arcsec", "Change of u, to the west, per pixel along x", "DUDX"),
        Column("dudy", "f8", "arcsec", "Change of u, to the west, per pixel along y", "DUDY"),
        Column("dvdx", "f8", "arcsec", "Change of v, to the north, per pixel along x", "DVDX"),
        Column("dvdy", "f8", "arcsec", "Change of v, to the north, per pixel along y", "DVDY"),
    ),
)

# --- SHAPES -----------------------------------------------------------------------------------------------------------
_METACAL_TYPES = {
    "noshear": "the galaxy as it is",
    "1p": "the galaxy sheared by +step in g1",
    "1m": "the galaxy sheared by -step in g1",
    "2p": "the galaxy sheared by +step in g2",
    "2m": "the galaxy sheared by -step in g2",
}


def _metacal_columns(kind: str, what: str) -> tuple[Column, ...]:
    return (
        Column(f"g1_{kind}", "f8", "", f"Reduced shape g1 before the PSF of {what}; positive is east-west"),
        Column(f"g2_{kind}", "f8", "", f"Reduced shape g2 before the PSF of {what}; positive is along north-west"),
        Column(f"g1_err_{kind}", "f8", "", f"Standard error of g1_{kind} for white noise"),
        Column(f"g2_err_{kind}", "f8", "", f"Standard error of g2_{kind} for white noise"),
        Column(f"t_{kind}", "f8", "arcsec2", f"Size T = 2 sigma^2 before the PSF of {what}"),
        Column(f"t_err_{kind}", "f8", "arcsec2", f"Standard error of t_{kind}"),
        Column(f"flux_{kind}", "f8", "", f"Flux of the Gaussian at zero point 30 of {what}"),
        Column(f"flux_err_{kind}", "f8", "", f"Standard error of flux_{kind}"),
        Column(f"s2n_{kind}", "f8", "", f"Signal to noise of the Gaussian of {what}; the noise field counts as noise"),
        Column(f"flags_{kind}", "i4", "", f"ShapeFlag bits of the fit to {what}; 0 is good"),
    )


SHAPES = TableSchema(
    "SHAPES",
    "Metacalibration shapes of every source of a tile, one row per source; NaN and a flag where nothing was measured.",
    (
        Column("number", "i8", "", "Number of the source in the tile"),
        Column("flags", "i4", "", "ShapeFlag bits of any of the five fits; 0 is good"),
        Column("n_epoch_stamps", "i4", "", "Epochs with a stamp"),
        Column("n_epoch_used", "i4", "", "Epochs that the shape was measured on"),
        Column("n_epoch_masked_core", "i4", "", "Epochs dropped for masked pixels near the source"),
        Column("n_epoch_masked_fraction", "i4", "", "Epochs dropped for too many masked pixels"),
        Column("n_epoch_bad", "i4", "", "Epochs dropped for pixels, PSF or noise that are no finite numbers"),
        Column("masked_fraction", "f8", "", "Mean fraction of masked pixels of the stamps, neighbours included"),
        Column("metacal_step", "f8", "", "Shear of the sheared types"),
        Column("g1_psf", "f8", "", "Shape g1 of the original PSF, mean over epochs"),
        Column("g2_psf", "f8", "", "Shape g2 of the original PSF, mean over epochs"),
        Column("t_psf", "f8", "arcsec2", "Size T of the original PSF, mean over epochs"),
        Column("t_psf_target", "f8", "arcsec2", "Size T of the round target that replaces the PSF, mean over epochs"),
        *(column for kind, what in _METACAL_TYPES.items() for column in _metacal_columns(kind, what)),
    ),
)

# --- CATALOG, SURVEY_CATALOG ------------------------------------------------------------------------------------------
SPREAD_CLASS = Column("spread_class", "i2", "", "0 star, 1 galaxy, 2 other, by spread model and its error")


def catalog_name(schema: TableSchema, name: str) -> str:
    """Return the name of a column of SPREAD or SHAPES in the catalogue: with a prefix if the plain one is taken."""
    taken = {"mask", "n_epoch", SPREAD_CLASS.name, *SOURCES.names}
    if schema.name == SPREAD.name:
        return f"spread_{name}" if name in taken | {*SHAPES.names} else name
    return f"shape_{name}" if name in taken else name


def _in_catalog(schema: TableSchema) -> tuple[Column, ...]:
    return tuple(
        replace(column, name=catalog_name(schema, column.name), fits_name=catalog_name(schema, column.name).upper())
        for column in schema.columns
        if column.name != "number"
    )


CATALOG = TableSchema(
    "CATALOG",
    "Final catalogue of a tile: one row per detected source. Fluxes at zero point 30.",
    (
        Column("tile_id", "U16", "", "Name of the tile"),
        *SOURCES.columns,
        Column("mask", "i4", "", "Lensing-mask bits of the tile at the windowed centroid", "MASK_TILE"),
        Column("n_epoch", "i4", "", "Number of CCDs that saw the source, usable or not"),
        *_in_catalog(SPREAD),
        SPREAD_CLASS,
        *_in_catalog(SHAPES),
    ),
)
SURVEY_CATALOG = TableSchema(
    "SURVEY_CATALOG",
    "Final catalogue of the survey: tiles merged, duplicates resolved.",
    (
        Column("object_id", "U32", "", "Name of the object in the whole survey: tile and number"),
        *CATALOG.columns,
        Column("unique_area", "bool", "", "Whether the object lies in the unique area of its tile"),
    ),
)

# --- TRUTH_GALAXIES, TRUTH_STARS --------------------------------------------------------------------------------------
TRUTH_GALAXIES = TableSchema(
    "TRUTH_GALAXIES",
    "Galaxies of the simulated survey.",
    (
        Column("id", "i4", "", "Number of the galaxy, from 1"),
        Column("pair_id", "i4", "", "Number of its pair: equal profiles and magnitudes, shapes rotated by 90 degrees"),
        Column("ra", "f8", "deg", "Right ascension, ICRS"),
        Column("dec", "f8", "deg", "Declination, ICRS"),
        Column("mag", "f8", "mag", "Magnitude of the total flux"),
        Column("half_light_radius", "f8", "arcsec", "Half-light radius before shear and PSF: geometric mean of axes"),
        Column("sersic_index", "f8", "", "Sersic index: 1 exponential, 4 de Vaucouleurs"),
        Column("e1", "f8", "", "Intrinsic ellipticity (a-b)/(a+b), positive if elongated East-West"),
        Column("e2", "f8", "", "Intrinsic ellipticity (a-b)/(a+b), positive if elongated North-West to South-East"),
        Column("g1", "f8", "", "Applied reduced shear, first component, in the frame of e1"),
        Column("g2", "f8", "", "Applied reduced shear, second component, in the frame of e2"),
    ),
)
TRUTH_STARS = TableSchema(
    "TRUTH_STARS",
    "Stars of the simulated survey.",
    (
        Column("id", "i4", "", "Number of the star, from 1"),
        Column("ra", "f8", "deg", "Right ascension, ICRS"),
        Column("dec", "f8", "deg", "Declination, ICRS"),
        Column("mag", "f8", "mag", "Magnitude"),
    ),
)
STAR_CATALOG = TableSchema(
    "STAR_CATALOG",
    "Stars of a survey that are bright enough to need a mask.",
    (
        Column("ra", "f8", "deg", "Right ascension, ICRS"),
        Column("dec", "f8", "deg", "Declination, ICRS"),
        Column("mag", "f8", "mag", "Magnitude"),
    ),
)

SCHEMAS = MappingProxyType(
    {
        schema.name: schema
        for schema in (
            SOURCES,
            STARS,
            PSF_RESIDUALS,
            COADD_INPUTS,
            EPOCHS,
            EPOCH_PSF,
            SPREAD,
            SHAPES,
            CATALOG,
            SURVEY_CATALOG,
            TRUTH_GALAXIES,
            TRUTH_STARS,
            STAR_CATALOG,
        )
    }
)
"""Every schema by name."""
