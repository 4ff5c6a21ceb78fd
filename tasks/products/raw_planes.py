"""One CCD of a raw exposure as its files hold it, before anything is made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.products.identity import CcdId
from tasks.products.images import Photometry, Window


@dataclass(frozen=True)
class RawPlanes:
    """Image, weight and flag of one CCD, and what their headers say."""

    id: CcdId
    image: NDArray[np.generic]
    """Pixel values in ADU, shape (ny, nx), in the type of the file."""
    weight: NDArray[np.generic] | None
    """Weights in the type of the file, or none if the camera delivers none."""
    flag: NDArray[np.generic] | None
    """Bits or codes of the camera, or none if it delivers none."""
    wcs: WCS
    photometry: Photometry
    data_section: Window | None
    """The light-sensitive part, or none if the header does not say."""
    header_text: str
    """The header of the image, as ``astropy.io.fits.Header.tostring`` writes it."""
    keywords: dict[str, str]
    """Header values that select reference files, by keyword."""
