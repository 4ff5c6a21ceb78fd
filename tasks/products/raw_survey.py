"""Raw exposures as a camera delivers them, the static masks of its detectors, and the list of a survey's raw files."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tasks.products.dq import DQFlag
from tasks.products.identity import ProductRef
from tasks.products.images import Photometry, Window

RAW_FLAG_BAD = 1
RAW_FLAG_COSMIC = 2
RAW_FLAG_SATURATED = 4

RAW_FLAG_MEANINGS = MappingProxyType(
    {
        RAW_FLAG_BAD: "bad column or dead pixel",
        RAW_FLAG_COSMIC: "cosmic ray",
        RAW_FLAG_SATURATED: "saturated",
    }
)
"""Bits of the flag images of simulated exposures."""


@dataclass(frozen=True)
class RawCcd:
    """One CCD of one exposure, as the camera delivers it."""

    ccd: int
    """Number of the CCD, from 0."""
    adu: NDArray[np.uint16]
    """Pixel values, shape (ny, nx), not sky-subtracted; 0 outside the data section."""
    weight: NDArray[np.float32]
    """Inverse variance of the sky in ADU**-2, shape (ny, nx); 0 where a pixel is known to be bad or hit."""
    flag: NDArray[np.int16]
    """Sum of the values of `RAW_FLAG_MEANINGS` that hold, shape (ny, nx)."""
    wcs: WCS
    """Coordinate system, TPV."""
    photometry: Photometry
    data_section: Window


@dataclass(frozen=True)
class StaticMask:
    """Static flags of one detector from one date on."""

    ccd: int
    use_after: str
    """First date that it holds for, ``YYYY-MM-DD HH:MM:SS``."""
    dq: NDArray[np.uint32]
    """Standard data-quality flags, shape (ny, nx)."""


STATIC_FLAGS = (DQFlag.DO_NOT_USE, DQFlag.DEAD, DQFlag.HOT, DQFlag.WARM, DQFlag.NON_SCIENCE)
"""Flags of static masks; a reference file numbers them from bit 0 in this order."""


class RawManifest(BaseModel):
    """Every raw file of a survey, or of one exposure, with its checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    files: tuple[ProductRef, ...]
    """The files by key."""
