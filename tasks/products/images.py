"""Images in memory: a CCD of an exposure, and a coadded tile."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.products.identity import CcdId, SummaryValue, TileId
from tasks.products.windows import Window

__all__ = [
    "ZERO_POINT",
    "CcdImage",
    "Coadd",
    "CoaddInput",
    "CoaddMetadata",
    "CoaddPlanes",
    "Photometry",
    "Window",
    "flux_scale",
]

DAY_S = 86400.0

ZERO_POINT = 30.0
"""Zero point of the fluxes on tiles, in stamps and in catalogues, in magnitudes."""


def flux_scale(zero_point: float) -> float:
    """Return the factor that brings a flux of some zero point, in magnitudes, to zero point 30."""
    return float(10.0 ** (0.4 * (ZERO_POINT - zero_point)))


@dataclass(frozen=True)
class Photometry:
    """How the pixel values of one CCD become photons and magnitudes."""

    gain: float
    """Electrons per ADU."""
    read_noise: float
    """Read noise in electrons."""
    saturation: float
    """Level in ADU at which pixels are saturated."""
    exposure_time_s: float
    """Exposure time in seconds."""
    zero_point: float
    """Magnitude of a source of 1 ADU."""
    mjd: float
    """Start of the exposure, modified Julian date."""
    band: str
    """Name of the filter."""

    @property
    def flux_scale(self) -> float:
        """Factor that brings a flux in ADU to zero point 30."""
        return flux_scale(self.zero_point)


@dataclass(frozen=True)
class CcdImage:
    """One CCD of one exposure: ADU, not background-subtracted."""

    id: CcdId
    sci: NDArray[np.float32]
    """Science values, shape (ny, nx), ADU."""
    weight: NDArray[np.float32]
    """Inverse variance up to a constant factor, shape (ny, nx); 0 where a pixel is bad."""
    dq: NDArray[np.uint32]
    """Standard data-quality flags, shape (ny, nx)."""
    wcs: WCS
    photometry: Photometry
    data_section: Window
    """The light-sensitive part of the image."""
    header_text: str = ""
    """The header of the raw CCD, as ``astropy.io.fits.Header.tostring`` writes it."""
    keywords: dict[str, str] = field(default_factory=dict)
    """Header values that select reference files, by keyword, with the primary header's where the CCD has none."""


@dataclass(frozen=True)
class CoaddInput:
    """One CCD in a coadd, and how much of the coadd it is."""

    ccd: CcdId
    photometry: Photometry
    n_pixels: int = 0
    """Pixels of the tile to which it contributed; 0 if that is not known, as of a stack made elsewhere."""
    weight: float = math.nan
    """Sum over the tile of the inverse variance that it brought; NaN if not known."""
    fwhm_arcsec: float = math.nan
    """Full width at half maximum of its PSF, in the middle of the CCD; NaN if not known."""
    n_outliers: int = 0
    """Pixels of the CCD that were left out because other exposures contradict them."""


@dataclass(frozen=True)
class CoaddMetadata:
    """What a coadd was made of and how; numbers that are not known are NaN, and words empty."""

    saturation: float
    """Lowest saturation level of the inputs, in units of the coadd."""
    gain: float
    """Electrons of all exposures per unit of the coadd, the mean over the covered pixels."""
    inputs: tuple[CoaddInput, ...] = ()
    """The CCDs in the order of the context bits."""
    kernel: str = ""
    """Shape of the drop that each pixel was."""
    pixfrac: float = math.nan
    """Size of the drop in pixels."""
    pixel_scale_arcsec: float = math.nan
    """Size of a pixel in the middle of the tile."""
    exposure_time_s: float = math.nan
    """Mean exposure time of the covered pixels in seconds."""
    noise_correlation: float = math.nan
    """Noise on scales of many pixels over that of single pixels: drizzle makes neighbours share noise."""

    @property
    def ccds(self) -> tuple[CcdId, ...]:
        """The CCDs in the order of the context bits."""
        return tuple(item.ccd for item in self.inputs)

    @property
    def n_exposures(self) -> int:
        """Number of exposures that the CCDs belong to."""
        return len({item.ccd.exposure for item in self.inputs})

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the filters, each once."""
        return tuple(sorted({item.photometry.band for item in self.inputs}))

    @property
    def total_exposure_time_s(self) -> float:
        """Sum of the exposure times of all exposures, wherever they lie on the tile; NaN without inputs."""
        times = {item.ccd.exposure: item.photometry.exposure_time_s for item in self.inputs}
        return math.fsum(times.values()) if times else math.nan

    @property
    def mjd_range(self) -> tuple[float, float]:
        """Start of the first and end of the last exposure, modified Julian dates; NaN without inputs."""
        begins = [item.photometry.mjd for item in self.inputs]
        ends = [item.photometry.mjd + item.photometry.exposure_time_s / DAY_S for item in self.inputs]
        return min(begins, default=math.nan), max(ends, default=math.nan)

    @property
    def mean_mjd(self) -> float:
        """Mean modified Julian date of the middles of the exposures, weighted as the images are."""
        lights = [item.photometry for item in self.inputs]
        return self._mean([light.mjd + 0.5 * light.exposure_time_s / DAY_S for light in lights])

    @property
    def fwhm_arcsec(self) -> float:
        """Mean width of the PSFs in arcsec, weighted as the images are; drizzle widens them by up to a pixel."""
        return self._mean([item.fwhm_arcsec for item in self.inputs])

    def summary(self, covered_fraction: float) -> dict[str, SummaryValue]:
        """Return the numbers of a coadd that tables and reports show, given the share of the tile that is covered."""
        numbers: dict[str, SummaryValue] = {
            "n_ccds": len(self.inputs),
            "n_exposures": self.n_exposures,
            "covered_fraction": round(covered_fraction, 4),
        }
        n_outliers, fwhm = sum(item.n_outliers for item in self.inputs), self.fwhm_arcsec
        numbers |= {"n_outliers": n_outliers} if n_outliers else {}
        return numbers | ({"fwhm_arcsec": round(fwhm, 4)} if math.isfinite(fwhm) else {})

    def _mean(self, values: list[float]) -> float:
        """Return the weighted mean of what is known; inputs of unknown weight count alike."""
        known = [
            (value, 1.0 if math.isnan(item.weight) else item.weight)
            for value, item in zip(values, self.inputs, strict=True)
            if math.isfinite(value)
        ]
        total = math.fsum(weight for _, weight in known)
        return math.fsum(value * weight for value, weight in known) / total if total > 0 else math.nan


@dataclass(frozen=True)
class CoaddPlanes:
    """The planes of a tile, or of some of its rows; those that are not there are None."""

    sci: NDArray[np.float32]
    """Flux per output pixel at zero point 30, shape (ny, nx); 0 where nothing contributed."""
    weight: NDArray[np.float32]
    """Inverse variance, shape (ny, nx); 0 where nothing contributed."""
    context: NDArray[np.int32] | None = None
    """Bit i % 32 of plane i // 32 tells whether input i contributed, shape (nplanes, ny, nx)."""
    variance: NDArray[np.float32] | None = None
    """Variance of each pixel of ``sci``, its correlation with its neighbours left out, shape (ny, nx)."""
    dq: NDArray[np.uint32] | None = None
    """Flags of the pixels that contributed, combined by OR; DO_NOT_USE where none did; shape (ny, nx)."""
    time: NDArray[np.float32] | None = None
    """Exposure times of the inputs that contributed, summed, in seconds, shape (ny, nx)."""


@dataclass(frozen=True)
class Coadd:
    """A coadded tile: zero point 30, background-subtracted, TAN projection."""

    id: TileId
    planes: CoaddPlanes
    wcs: WCS
    metadata: CoaddMetadata

    @property
    def sci(self) -> NDArray[np.float32]:
        """Flux per output pixel, shape (ny, nx)."""
        return self.planes.sci

    @property
    def weight(self) -> NDArray[np.float32]:
        """Inverse variance, shape (ny, nx)."""
        return self.planes.weight

    @property
    def saturation(self) -> float:
        """Lowest saturation level of the inputs, in units of ``sci``."""
        return self.metadata.saturation

    @property
    def gain(self) -> float:
        """Electrons of all exposures per unit of ``sci``."""
        return self.metadata.gain
