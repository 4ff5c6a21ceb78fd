"""Images in memory: a CCD of an exposure, and a coadded tile."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.products.identity import CcdId, TileId
from tasks.products.windows import Window

__all__ = ["ZERO_POINT", "CcdImage", "Coadd", "Photometry", "Window"]

ZERO_POINT = 30.0
"""Zero point of the fluxes on tiles, in stamps and in catalogues, in magnitudes."""


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
        return float(10.0 ** (0.4 * (ZERO_POINT - self.zero_point)))


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
class Coadd:
    """A drizzled tile: zero point 30, background-subtracted, TAN projection."""

    id: TileId
    sci: NDArray[np.float32]
    """Flux per output pixel at zero point 30, shape (ny, nx); 0 where nothing contributed."""
    weight: NDArray[np.float32]
    """Inverse variance, shape (ny, nx); 0 where nothing contributed."""
    context: NDArray[np.int32]
    """Bit i % 32 of plane i // 32 tells whether input i contributed, shape (nplanes, ny, nx)."""
    wcs: WCS
    inputs: tuple[CcdId, ...]
    """The CCDs in the order of the context bits."""
    saturation: float
    """Lowest saturation level of the inputs, in units of ``sci``."""
    gain: float
    """Mean electrons per unit of ``sci`` at zero point 30, weighted as the images are."""
