"""CCDs that are read some rows at a time, as a tile needs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.products.sources import MeasuredSky


@dataclass(frozen=True)
class CcdRows:
    """Some rows of a CCD and of the planes that belong to it, shape (n, nx) each."""

    sci: NDArray[np.float32]
    """Science values in ADU, not background-subtracted."""
    weight: NDArray[np.float32]
    """Inverse variance up to a constant factor; 0 where a pixel is bad."""
    dq: NDArray[np.uint32]
    """Standard data-quality flags."""
    mask: NDArray[np.uint32]
    """Lensing mask."""


@dataclass(frozen=True)
class CcdSource:
    """What a tile needs of a CCD; its pixels are read when they are wanted."""

    read: Callable[[slice], CcdRows]
    """Returns the rows from ``start`` to before ``stop`` of a slice; may be called by another thread."""
    wcs: WCS
    """Its coordinate system."""
    sky: MeasuredSky
    """Its background and noise."""
    fwhm_px: float
    """Full width at half maximum of its PSF, in the middle of the CCD, in pixels; NaN if not known."""
