"""The PSF model of one CCD: an image per term of a polynomial in the position."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ShapeMismatchError


@dataclass(frozen=True)
class PsfModel:
    """How the PSF of a CCD follows from the position, with the pixel response in it.

    The PSF at (x, y) is the sum of ``coefficients[k]`` times term k of the polynomial in ``(x - x0) / x_scale`` and
    ``(y - y0) / y_scale``; the terms are 1, x, x2, y, xy, y2 and so on, as PSFEx orders them.
    """

    subject: str
    """Name of the CCD."""
    coefficients: NDArray[np.float32]
    """Shape (n_terms, ny, nx); the centre is pixel (ny // 2, nx // 2)."""
    degree: int
    """Degree of the polynomial; 0 is a PSF that does not vary."""
    x0: float
    """Origin of the polynomial along x, pixels from 0."""
    x_scale: float
    """Unit of the polynomial along x, pixels."""
    y0: float
    """Origin of the polynomial along y, pixels from 0."""
    y_scale: float
    """Unit of the polynomial along y, pixels."""
    n_loaded: int
    """Stars offered to the fit."""
    n_accepted: int
    """Stars that the fit used."""
    chi2: float
    """Mean squared residual of the used stars over its variance, per degree of freedom."""
    fwhm: float
    """Full width at half maximum in the middle of the CCD, pixels of the CCD."""
    sampling: float = 1.0
    """Size of a pixel of the model in pixels of the CCD."""

    def __post_init__(self) -> None:
        """Refuse a number of images that is not the number of terms."""
        if self.coefficients.ndim != 3 or len(self.coefficients) != n_terms(self.degree):
            raise ShapeMismatchError(
                f"The PSF model of {self.subject} has coefficients of shape {self.coefficients.shape}; a polynomial of "
                f"degree {self.degree} needs {n_terms(self.degree)} images."
            )


def n_terms(degree: int) -> int:
    """Return the number of terms of a polynomial of two variables."""
    return (degree + 1) * (degree + 2) // 2


class PsfFlag(IntFlag):
    """Why an epoch of a source has no PSF."""

    GOOD = 0
    TOO_FEW_STARS = 1 << 0
    BAD_CHI2 = 1 << 1
    NO_MODEL = 1 << 2
    NO_SHAPE = 1 << 3


PSF_MEANINGS = MappingProxyType(
    {
        PsfFlag.TOO_FEW_STARS: "The model of the CCD was made from too few stars",
        PsfFlag.BAD_CHI2: "The model of the CCD does not fit its stars",
        PsfFlag.NO_MODEL: "The CCD has no PSF model",
        PsfFlag.NO_SHAPE: "The model has no adaptive moments at this position",
    }
)
"""What each bit means, in the order of the bits."""


class SpreadFlag(IntFlag):
    """Why a source has no spread model."""

    GOOD = 0
    NO_PSF = 1 << 0
    NO_PIXELS = 1 << 1
    NO_FLUX = 1 << 2


SPREAD_MEANINGS = MappingProxyType(
    {
        SpreadFlag.NO_PSF: "No epoch has a good PSF",
        SpreadFlag.NO_PIXELS: "The stamp has no usable pixel",
        SpreadFlag.NO_FLUX: "The flux in the PSF is not positive",
    }
)
"""What each bit means, in the order of the bits."""
