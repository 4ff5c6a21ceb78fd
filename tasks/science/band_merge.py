"""One image's sums of a band merged into the output, which holds means: it is complete after every image.

Plane by plane, so that the compiler works on several pixels at once; every pixel is computed, and kept as it was where
the image adds nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit
from tasks.science.drop_kernels import Band
from tasks.science.engine_options import ENTRY, MERGED, PART
from tasks.science.plane_merge import (
    add_row,
    empty,
    leave_out,
    mark_contributions,
    merge_averaged,
    merge_mean,
    merge_propagated,
    set_inverses,
    set_variance_weights,
    take_planes,
)

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Flags = NDArray[np.uint32]


PIECE = 256
"""Pixels of a row that are merged at a time, so that they stay in the cache; a multiple of LANES."""


class Output(NamedTuple):
    """The planes of the output, shape (ny, nx); (1, 1) where there is none. Stacks have the shape (n, ny, nx)."""

    data: Floats32
    weight: Floats32
    context: Flags
    error: Floats32
    averaged: Floats32
    averaged_totals: Floats32
    """Sum of the weights of the images in each averaged variance."""
    propagated: Floats32
    totals: Floats32
    """Sum of the weights behind each propagated variance and, last, the error; empty while all are those of
    ``weight``."""
    dq: Flags
    exposure_time: Floats32
    fill_value: np.float32


class Merge(NamedTuple):
    """How an image is merged. Places are planes of a band, -1 for what the image or the output does not have."""

    context_bit: np.uint32
    """0 if there is no context."""
    error_place: int
    averaged_places: NDArray[np.int64]
    propagated_places: NDArray[np.int64]
    weight_place: int
    """The averaged variance whose reciprocal is the image's weight in them; -1 if the weight is given."""
    variance_weight: float
    has_dq: bool
    has_marks: bool
    seconds: np.float32
    """0 if there is no plane of the time."""


class MergeSpace(NamedTuple):
    """Working space of a thread."""

    planes: Floats32
    """The sums of a piece, plane by plane: shape (planes of a band, PIECE)."""
    own_weight: Floats32
    rows: Floats
    """Shape (2, PIECE)."""


class Row(NamedTuple):
    """A piece of a row of a band."""

    first: int
    """Its first pixel in the band."""
    y: int
    x: int
    """Where that pixel is in the output."""
    n: int
    """Number of its pixels."""


@njit(**PART)
def _merge_variances(out: Output, how: Merge, planes: Floats32, row: Row, space: Floats) -> None:
    """Merge one piece of the averaged variances."""
    y, x, n = row.y, row.x, row.n
    weight, variance_weights, inverse_weight = planes[0, :n], space[0, :n], space[1, :n]
    set_inverses(weight, inverse_weight)
    for c in range(n):
        variance_weights[c] = how.variance_weight
    if how.weight_place >= 0:
        set_variance_weights(planes[how.weight_place, :n], inverse_weight, variance_weights)
    for k in range(len(how.averaged_places)):
        if how.averaged_places[k] >= 0:
            errors = planes[how.averaged_places[k], :n]
            variance, totals = out.averaged[k, y, x : x + n], out.averaged_totals[k, y, x : x + n]
            merge_averaged(variance, totals, errors, weight, inverse_weight, variance_weights)


@njit(**PART)
def _merge_exactly(out: Output, how: Merge, planes: Floats32, row: Row, own_weight: Floats32) -> None:
    """Merge one piece of the propagated variances and of the error."""
    y, x, n = row.y, row.x, row.n
    n_propagated = len(how.propagated_places)
    for k in range(n_propagated + 1):
        place = how.propagated_places[k] if k < n_propagated else how.error_place
        if place < 0:
            continue
        added = planes[place, :n]
        leave_out(planes[0, :n], added, own_weight)
        before = out.totals[k, y, x : x + n] if out.totals.shape[0] > 0 else out.weight[y, x : x + n]
        if k < n_propagated:
            merge_propagated(out.propagated[k, y, x : x + n], before, added, own_weight)
        else:
            merge_mean(out.error[y, x : x + n], before, added, own_weight, float(out.fill_value))
        if out.totals.shape[0] > 0:
            add_row(before, own_weight)


@njit(**MERGED)
def _merge_piece(
    out: Output, how: Merge, planes: Floats32, flags: Flags, marks: NDArray[np.uint8], row: Row, space: MergeSpace
) -> int:
    """Merge one piece of a row of a band; return to how many pixels the image contributed."""
    first, y, x, n = row.first, row.y, row.x, row.n
    weight, before = planes[0, :n], out.weight[y, x : x + n]
    merge_mean(out.data[y, x : x + n], before, planes[1, :n], weight, float(out.fill_value))
    if len(how.averaged_places) > 0:
        _merge_variances(out, how, planes, row, space.rows)
    if len(how.propagated_places) > 0 or how.error_place >= 0:
        _merge_exactly(out, how, planes, row, space.own_weight[:n])
    add_row(before, weight)
    if how.has_dq:
        for c in range(n):
            out.dq[y, x + c] |= flags[first + c]
    used_marks = marks[first : first + n] if how.has_marks else marks[:0]
    context = out.context[y, x : x + n] if how.context_bit != 0 else out.context[0, :0]
    time = out.exposure_time[y, x : x + n] if how.seconds > 0.0 else out.exposure_time[0, :0]
    count: int = mark_contributions(weight, used_marks, context, how.context_bit, time, how.seconds)
    return count


@njit(**ENTRY)
def merge_band(
    band: Band, sums: Floats32, flags: Flags, marks: NDArray[np.uint8], out: Output, how: Merge, space: MergeSpace
) -> int:
    """Merge a band into the output and make it empty.

    Parameters
    ----------
    band, sums, flags, marks
        The band, with the sums of one image, its flags and its marks.
    out, how
        The output, and how to merge.
    space
        Working space.

    Returns
    -------
    int
        Number of output pixels to which the image contributed.
    """
    n_planes, width, count = band.n_planes, band.x_max - band.x_min + 2, 0
    planes = space.planes
    for r in range(band.y_max - band.y_min + 2):
        if 0 < r <= band.y_max - band.y_min:
            for x in range(band.x_min, band.x_max, PIECE):
                first, n = r * width + x - band.x_min + 1, min(PIECE, band.x_max - x)
                # the frame of the band holds what is read behind a piece
                take_planes(sums, first, n_planes, planes, n)
                any_weight = False
                for c in range(n):
                    any_weight |= planes[0, c] != 0.0
                if any_weight:
                    row = Row(first, band.y_min + r - 1, x, n)
                    count += _merge_piece(out, how, planes, flags, marks, row, space)
        first = r * width
        empty(sums, first * n_planes, width * n_planes)
        if how.has_dq:
            empty(flags, first, width)
        if how.has_marks:
            empty(marks, first, width)
    return int(count)
