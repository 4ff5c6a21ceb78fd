"""An image that is drizzled: what it holds, and how compiled code reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.science.band_sums import MAX_PLANES, NOTHING, ONE, VALUE, Source
from tasks.science.lanes import LANES
from tasks.science.pixel_map import PixelMap

Plane = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DrizzleImage:
    """One image that is added to an output. Arrays have the shape (ny, nx) of the pixel map and are not changed.

    Arrays that are read-only, or not C-contiguous in native byte order and of the stated type, are copied. What a
    masked array masks is as if it were NaN.
    """

    data: Plane
    """Values; pixels that are not finite are not used."""
    weight: Plane
    """Weight of each pixel; those that are not positive and finite are not used, whatever they hold."""
    pixel_map: PixelMap
    """Where the pixels fall on the output."""
    variances: tuple[Plane | None, ...] = ()
    """Variances of the values, as many as the drizzler has planes; None where this image has none. Where a contributing
    pixel's is negative or not finite, this image adds nothing to that plane, whatever else it adds."""
    error: Plane | None = None
    """Standard deviation of the values, averaged like the values themselves. None or not finite as in ``variances``."""
    dq: NDArray[np.uint32] | None = None
    """Flags; those of contributing pixels are combined by OR. None if there are none."""
    level: float = 0.0
    """Subtracted from the values first (rounded to float32)."""
    scale: float = 1.0
    """Factor of values minus level, of their errors and, squared, of their variances."""
    scale_ratio: float | None = None
    """Size of an output pixel in input pixels, for the kernels turbo, gaussian and lanczos; by default that of the
    map."""
    variance_weight: float | None = None
    """Weight of this image in the averaged variances, the same everywhere; None takes the reciprocal of its own
    resampled variance of the drizzler's ``weight_plane`` (0 where that is not positive and finite, or if the image has
    none)."""
    exposure_time: float = 0.0
    """Added to the time plane where the image contributes, in seconds."""
    holds_flux: bool = False
    """Pixels hold flux rather than surface brightness. Each value is divided by its pixel's area in output pixels
    (errors alike, variances by its square), and its weight, an inverse variance of the flux, is multiplied by the
    square. Flux is then conserved where distortion changes the size of pixels, and the weight of the output is an
    inverse variance too."""


@dataclass(frozen=True, eq=False)
class BandLayout:
    """Which planes a band has for an image. Places are planes of a band, -1 for those that the image does not have."""

    sources: NDArray[np.int64]
    """What each plane takes."""
    n_linear: int
    """So many planes are sums of values times coefficients; the rest are sums of their squares."""
    error_place: int
    averaged_places: NDArray[np.int64]
    propagated_places: NDArray[np.int64]


def band_layout(image: DrizzleImage, *, averaged: bool, propagated: bool, error: bool) -> BandLayout:
    """Return which planes a band needs to sum an image."""
    linear = [ONE, VALUE]
    squared: list[int] = []
    n_variances = len(image.variances)
    error_place = -1
    if error and image.error is not None:
        error_place = len(linear)
        linear.append(n_variances)
    present = [plane is not None for plane in image.variances]
    averaged_places = _placed(linear, present) if averaged else []
    linear += [NOTHING] * (-len(linear) % LANES)
    n_linear = len(linear)
    places = _placed(squared, present) if propagated else []
    propagated_places = [place + n_linear if place >= 0 else -1 for place in places]
    squared += [NOTHING] * (-len(squared) % LANES)
    return BandLayout(
        np.array(linear + squared, np.int64),
        n_linear,
        error_place,
        np.array(averaged_places, np.int64),
        np.array(propagated_places, np.int64),
    )


def _placed(planes: list[int], present: Iterable[bool]) -> list[int]:
    """Append the variances that are present to the planes; return the place of each, -1 for the others."""
    places = []
    for number, is_present in enumerate(present):
        if is_present:
            planes.append(number)
        places.append(len(planes) - 1 if is_present else -1)
    return places


def readable(image: DrizzleImage, layout: BandLayout, *, with_dq: bool) -> Source:
    """Return an image as compiled code reads it.

    Raises
    ------
    ValueError
        If an array has another shape than the pixel map, the scale is not positive and finite, or the level not finite.
    TypeError
        If the flags are not integers of at most 32 bits.
    """
    if not 0 < image.scale < np.inf:
        raise ValueError(f"The scale of an image must be positive and finite, not {image.scale}.")
    if not np.isfinite(image.level):
        raise ValueError(f"The level of an image must be finite, not {image.level}.")
    shape = image.pixel_map.shape
    planes = [_checked(f"variance {number}", plane, shape) for number, plane in enumerate(image.variances)]
    planes.append(_checked("error", image.error, shape))
    planes += [np.zeros((1, 1), np.float32)] * (MAX_PLANES - len(planes))
    dq = _unsigned(image.dq) if with_dq and image.dq is not None else None
    window = image.pixel_map.window
    return Source(
        window.x_min,
        window.y_min,
        window.x_max,
        window.y_max,
        _checked("data", image.data, shape),
        _checked("weight", image.weight, shape),
        tuple(planes),
        _checked("flag plane", dq, shape, np.uint32),
        layout.sources,
        len(image.variances),
        np.float32(image.level),
        np.float32(image.scale),
        dq is not None,
        image.holds_flux,
    )


def _unsigned(dq: NDArray[Any]) -> NDArray[Any]:
    """Return flags without a sign: its bit is a flag like the others."""
    if dq.dtype.kind not in "iu" or dq.dtype.itemsize > 4:
        raise TypeError(f"Flags must be integers of at most 32 bits, not {dq.dtype}.")
    return np.asarray(dq).astype(f"u{dq.dtype.itemsize}", copy=False)


def _checked(
    name: str, plane: NDArray[Any] | None, shape: tuple[int, int], dtype: type[np.generic] = np.float32
) -> NDArray[Any]:
    if plane is None:
        return np.zeros((1, 1), dtype)
    if plane.shape != shape:
        raise ValueError(f"The {name} of an image has the shape {plane.shape}, its pixel map {shape}; they must agree.")
    if isinstance(plane, np.ma.MaskedArray):
        plane = np.ma.filled(plane.astype(dtype), np.nan)
    # arrays that differ in any of this are other types to compiled code
    return np.require(plane, dtype, ["C", "ALIGNED", "WRITEABLE", "ENSUREARRAY"])


def is_complete(image: DrizzleImage, source: Source, *, variances: bool, error: bool) -> bool:
    """Tell whether an image has its variances, its error, or both, at all pixels that can contribute."""
    given = (*image.variances, image.error)
    asked = range(0 if variances else source.n_variances, source.n_variances + error)
    if any(given[k] is None for k in asked):
        return False
    used = (source.weight > 0) & np.isfinite(source.data)
    return all(_is_known(source.planes[k], used) for k in asked)


def _is_known(plane: Plane, used: NDArray[np.bool_]) -> bool:
    known = np.isfinite(plane)
    known &= plane >= 0
    known |= ~used
    return bool(known.all())
