"""What data-quality initialisation works on: an image or ramp of a detector, and the reference of its static flags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.errors import BadFileError, ShapeMismatchError
from tasks.products.dq import MAX_FLAGS
from tasks.products.images import Window

IMAGE_DIMENSIONS = 2
RAMP_DIMENSIONS = 4


@dataclass(frozen=True)
class DetectorImage:
    """An image (ny, nx) or a ramp (nints, ngroups, ny, nx) of one detector, with its flags as far as they exist.

    Raises
    ------
    ShapeMismatchError
        If the flags or the window do not have the shape of the data.
    BadFileError
        If the data are neither an image nor a ramp, or the flags are not of their type.
    """

    data: NDArray[np.generic]
    """Science values, shape (ny, nx) or (nints, ngroups, ny, nx)."""

    pixeldq: NDArray[np.uint32] | None = None
    """Flags of the pixels, shape (ny, nx), uint32; none if the image came without."""

    groupdq: NDArray[np.uint8] | None = None
    """Flags of every group of a ramp, shape (nints, ngroups, ny, nx), uint8; none for images and for raw ramps."""

    window: Window | None = None
    """The part of the detector that was read out, 0-based; none if the file does not say, which means all of it."""

    subject: str = "The image"
    """How messages call the image, such as ``CCD 2113737-10``."""

    warnings: tuple[str, ...] = ()
    """What people should know of the flags: one sentence each."""

    def __post_init__(self) -> None:
        """Refuse flags and windows that do not fit the data."""
        if self.data.ndim not in (IMAGE_DIMENSIONS, RAMP_DIMENSIONS):
            raise BadFileError(
                f"{self.subject} has {self.data.ndim} dimensions; images have 2 (y, x) and ramps have 4 "
                "(integration, group, y, x)."
            )
        if self.pixeldq is not None:
            self._check_plane("pixel flags", self.pixeldq, self.shape, np.dtype(np.uint32))
        if self.groupdq is not None:
            if not self.is_ramp:
                raise ShapeMismatchError(
                    f"{self.subject} is an image of shape {self.shape} but has group flags of shape "
                    f"{self.groupdq.shape}; only ramps have groups."
                )
            self._check_plane("group flags", self.groupdq, self.data.shape, np.dtype(np.uint8))
        if self.window is not None and self.window.shape != self.shape:
            raise ShapeMismatchError(
                f"{self.subject} has shape {self.shape}, but its keywords describe a window of {self.window.shape}."
            )

    def _check_plane(
        self, what: str, plane: NDArray[np.generic], shape: tuple[int, ...], dtype: np.dtype[np.generic]
    ) -> None:
        if plane.shape != shape:
            raise ShapeMismatchError(
                f"{self.subject} has {what} of shape {plane.shape} where its data ask for {shape}; "
                "remove the flags or give them the shape of the data."
            )
        if plane.dtype != dtype:
            raise BadFileError(f"{self.subject} has {what} of type {plane.dtype}; they must be {dtype}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx) of one frame."""
        return self.data.shape[-2], self.data.shape[-1]

    @property
    def flags(self) -> NDArray[np.uint32]:
        """Flags of the pixels, shape (ny, nx); zeros if the image came without."""
        return np.zeros(self.shape, np.uint32) if self.pixeldq is None else self.pixeldq

    @property
    def is_ramp(self) -> bool:
        """Whether the data are a ramp of groups."""
        return self.data.ndim == RAMP_DIMENSIONS


@dataclass(frozen=True)
class FlagDefinition:
    """One row of the DQ_DEF table of a reference: what a bit of this file means."""

    value: int
    """Value of the bit in this file."""

    name: str
    """Name of the flag in the standard table."""


@dataclass(frozen=True)
class DQReference:
    """Static flags of a detector, with the bits of the file that they were read from."""

    dq: NDArray[np.uint32]
    """Flags as the file numbers them, shape (ny, nx), uint32."""

    definitions: tuple[FlagDefinition, ...] | None = None
    """Meaning of the bits; none if the file has no DQ_DEF, which means that they are the standard ones."""

    window: Window | None = None
    """The part of the detector that the flags cover, 0-based; none if the file does not say, which means all of it."""

    name: str = "the reference"
    """Name of the reference file."""

    def __post_init__(self) -> None:
        """Refuse a plane of another kind and a window of another shape."""
        if self.dq.ndim != IMAGE_DIMENSIONS or self.dq.dtype != np.uint32:
            raise BadFileError(
                f"Reference {self.name} has flags of type {self.dq.dtype} and shape {self.dq.shape}; "
                "they must be uint32 and of two dimensions."
            )
        if self.window is not None and self.window.shape != self.dq.shape:
            raise ShapeMismatchError(
                f"Reference {self.name} has flags of shape {self.dq.shape}, but its keywords describe a window of "
                f"{self.window.shape}."
            )


def as_flag_plane(values: ArrayLike, subject: str) -> NDArray[np.uint32]:
    """Return values of any numeric type as a new uint32 plane, refusing what no flag can be.

    Parameters
    ----------
    values
        Whole numbers from 0 to 2**32 - 1 in any numeric type.
    subject
        How the message calls them.

    Raises
    ------
    BadFileError
        If a value is negative, fractional, not finite, or needs more than 32 bits.
    """
    plane = np.asarray(values)
    if plane.dtype.kind not in "biuf":
        raise BadFileError(f"{subject} has flags of type {plane.dtype}; they must be whole numbers.")
    if plane.dtype.kind in "if" and plane.size:
        valid = (plane >= 0) & (plane <= MAX_FLAGS)
        if plane.dtype.kind == "f":
            valid &= plane == np.floor(plane)
        if not valid.all():
            raise BadFileError(
                f"{subject} has {int(np.count_nonzero(~valid))} pixels whose value is not a set of flags, such as "
                f"{plane[~valid].flat[0]}; flags are whole numbers from 0 to {MAX_FLAGS}."
            )
    if plane.dtype == np.uint64 and plane.size and int(plane.max()) > MAX_FLAGS:
        raise BadFileError(f"{subject} has the flag value {int(plane.max())}, which needs more than 32 bits.")
    return plane.astype(np.uint32)
