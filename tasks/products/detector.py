"""What data-quality initialisation works on: an image or ramp of a detector, and the reference of its static flags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.errors import BadFileError, ShapeMismatchError
from tasks.products.dq import MAX_FLAGS
from tasks.products.windows import Window

IMAGE_DIMENSIONS = 2
RAMP_DIMENSIONS = 4


@dataclass(frozen=True)
class StripeReadout:
    """How a detector is read in stripes: not as one rectangle, but as sets of lines across the slow axis.

    A frame begins with reference lines at the edge of the window, skips some, reads a stripe, and repeats that in one
    of three ways until it has all its lines. A superstripe exposure takes frame after frame with the stripe moved on,
    until all of the detector is seen; such frames follow each other along the integrations of the ramp.
    """

    reference_lines: int
    """Lines that are read first, keyword MSTR_RD1; may be 0."""
    first_skip: int
    """Lines that are skipped after them, MSTR_SK1."""
    stripe_lines: int
    """Lines of a stripe, MSTR_RD2; 0 for as many as the stripe moves on."""
    next_skip: int
    """Lines that are skipped between stripes, MSTR_SK2."""
    repeats: bool
    """Whether every stripe begins at the first line again, MSTR_RPT."""
    interleaves: bool
    """Whether the stripe moves on with every repetition inside a frame, MSTR_ILV."""
    n_superstripes: int
    """Number of frames that together see the detector, SSTR_NST; 0 if every frame reads the same lines."""
    superstripe_step: int
    """Lines that the stripe moves on from frame to frame, SSTR_STP."""
    fast_axis: int
    """Direction of the fast axis in the image: 1 or -1 for x, 2 or -2 for y, FASTAXIS."""
    slow_axis: int
    """Direction of the slow axis, SLOWAXIS."""
    starts_at_edge: bool = False
    """Whether the lines count from the first one of the detector whatever the window says, as in DHS subarrays."""


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
    """Flags of the pixels, uint32, shape (ny, nx), of superstripes (nstripes, ny, nx); none if it came without."""

    groupdq: NDArray[np.uint8] | None = None
    """Flags of every group of a ramp, shape (nints, ngroups, ny, nx), uint8; none for images, guiders and raw ramps."""

    window: Window | None = None
    """The part of the detector that was read out, 0-based; none if the file does not say, which means all of it."""

    subject: str = "The image"
    """How messages call the image, such as ``CCD 2113737-10``."""

    warnings: tuple[str, ...] = ()
    """What people should know of the flags: one sentence each."""

    guider: bool = False
    """Whether this is an exposure of the fine guidance sensor for guiding, which has flags of its pixels only."""

    stripes: StripeReadout | None = None
    """How the lines were read; none if the window was read as a whole."""

    def __post_init__(self) -> None:
        """Refuse flags and windows that do not fit the data."""
        if self.data.ndim not in (IMAGE_DIMENSIONS, RAMP_DIMENSIONS):
            raise BadFileError(
                f"{self.subject} has {self.data.ndim} dimensions; images have 2 (y, x) and ramps have 4 "
                "(integration, group, y, x)."
            )
        if self.pixeldq is not None:
            self._check_plane("pixel flags", self.pixeldq, self.flags_shape, np.dtype(np.uint32))
        if self.groupdq is not None:
            if not self.has_group_flags:
                kind = "exposure of a guider" if self.guider else "image"
                raise ShapeMismatchError(
                    f"{self.subject} is an {kind} of shape {self.shape} but has group flags of shape "
                    f"{self.groupdq.shape}; only ramps have flags of their groups."
                )
            self._check_plane("group flags", self.groupdq, self.data.shape, np.dtype(np.uint8))
        if self.window is not None and self.window.shape != self.shape:
            raise ShapeMismatchError(
                f"{self.subject} has shape {self.shape}, but its keywords describe a window of {self.window.shape}."
            )
        if self.n_superstripes:
            self._check_superstripes()

    def _check_superstripes(self) -> None:
        if not self.has_group_flags or self.data.shape[0] % self.n_superstripes:
            raise ShapeMismatchError(
                f"{self.subject} has shape {self.data.shape}, which is no whole number of sets of "
                f"{self.n_superstripes} superstripes along the integrations."
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
    def n_superstripes(self) -> int:
        """Number of frames that together see the detector; 0 if every frame reads the same pixels."""
        return self.stripes.n_superstripes if self.stripes is not None else 0

    @property
    def flags_shape(self) -> tuple[int, ...]:
        """Shape of the flags of the pixels: (ny, nx), of superstripes (nstripes, ny, nx)."""
        return (self.n_superstripes, *self.shape) if self.n_superstripes else self.shape

    @property
    def flags(self) -> NDArray[np.uint32]:
        """Flags of the pixels, of the shape `flags_shape`; zeros if the image came without."""
        return np.zeros(self.flags_shape, np.uint32) if self.pixeldq is None else self.pixeldq

    @property
    def has_group_flags(self) -> bool:
        """Whether this is a ramp whose groups have flags of their own."""
        return self.data.ndim == RAMP_DIMENSIONS and not self.guider


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
