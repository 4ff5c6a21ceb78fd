"""One image's sums of a band merged into the output, which holds means: it is complete after every image.

Plane by plane and row by row, so that the compiler works on several pixels at once; every pixel is computed, and kept
as it was where the image adds nothing.
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
    copy_row,
    empty,
    leave_out,
    mark_contributions,
    merge_averaged,
    merge_mean,
    merge_propagated,
    set_inverses,
    set_variance_weights,
    take_plane,
)

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Flags = NDArray[np.uint32]


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


class Row(NamedTuple):
    """One row of a band."""

    first: int
    """Its first pixel in the band."""
    y: int
    x: int
    """Where that pixel is in the output."""
    n: int
    """Number of its pixels."""


@njit(**PART)
def _merge_variances(out: Output, how: Merge, sums: Floats32, n_planes: int, row: Row, space: Floats) -> None:
    """Merge one row of the averaged variances."""
    first, y, x, n = row.first, row.y, row.x, row.n
    weight, errors, variance_weights, inverse_weight = space[0, :n], space[3, :n], space[4, :n], space[5, :n]
    set_inverses(weight, inverse_weight)
    for c in range(n):
        variance_weights[c] = how.variance_weight
    if how.weight_place >= 0:
        take_plane(sums, first, how.weight_place, n_planes, errors)
        set_variance_weights(errors, inverse_weight, variance_weights)
    for k in range(len(how.averaged_places)):
        if how.averaged_places[k] >= 0:
            take_plane(sums, first, how.averaged_places[k], n_planes, errors)
            variance, totals = out.averaged[k, y, x : x + n], out.averaged_totals[k, y, x : x + n]
            merge_averaged(variance, totals, errors, weight, inverse_weight, variance_weights)


@njit(**PART)
def _merge_exactly(out: Output, how: Merge, sums: Floats32, n_planes: int, row: Row, space: Floats) -> None:
    """Merge one row of the propagated variances and of the error."""
    first, y, x, n = row.first, row.y, row.x, row.n
    weight, added = space[0, :n], space[3, :n]
    own_weight, own_before = space[4, :n], space[5, :n]
    n_propagated = len(how.propagated_places)
    for k in range(n_propagated + 1):
        place = how.propagated_places[k] if k < n_propagated else how.error_place
        if place < 0:
            continue
        take_plane(sums, first, place, n_planes, added)
        leave_out(weight, added, own_weight)
        own_totals = out.totals[k, y, x : x + n] if out.totals.shape[0] > 0 else out.weight[y, x : x + n]
        copy_row(own_totals, own_before)
        if k < n_propagated:
            merge_propagated(out.propagated[k, y, x : x + n], own_before, added, own_weight)
        else:
            merge_mean(out.error[y, x : x + n], own_before, added, own_weight, float(out.fill_value))
        if out.totals.shape[0] > 0:
            add_row(own_totals, own_weight)


@njit(**MERGED)
def _merge_row(
    out: Output,
    how: Merge,
    sums: Floats32,
    flags: Flags,
    marks: NDArray[np.uint8],
    n_planes: int,
    row: Row,
    space: Floats,
) -> int:
    """Merge one row of a band; return to how many pixels the image contributed."""
    first, y, x, n = row.first, row.y, row.x, row.n
    weight, before, added = space[0, :n], space[1, :n], space[2, :n]
    copy_row(out.weight[y, x : x + n], before)
    take_plane(sums, first, 1, n_planes, added)
    merge_mean(out.data[y, x : x + n], before, added, weight, float(out.fill_value))
    if len(how.averaged_places) > 0:
        _merge_variances(out, how, sums, n_planes, row, space)
    if len(how.propagated_places) > 0 or how.error_place >= 0:
        _merge_exactly(out, how, sums, n_planes, row, space)
    add_row(out.weight[y, x : x + n], weight)
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
    band: Band, sums: Floats32, flags: Flags, marks: NDArray[np.uint8], out: Output, how: Merge, space: Floats
) -> int:
    """Merge a band into the output and make it empty.

    Parameters
    ----------
    band, sums, flags, marks
        The band, with the sums of one image, its flags and its marks.
    out, how
        The output, and how to merge.
    space
        Working space, shape (6, at least the columns of the band).

    Returns
    -------
    int
        Number of output pixels to which the image contributed.
    """
    n_planes, width, count = band.n_planes, band.x_max - band.x_min + 2, 0
    for r in range(band.y_max - band.y_min + 2):
        first = r * width
        if 0 < r <= band.y_max - band.y_min:
            take_plane(sums, first + 1, 0, n_planes, space[0, : width - 2])
            any_weight = False
            for c in range(width - 2):
                any_weight |= space[0, c] != 0.0
            if any_weight:
                row = Row(first + 1, band.y_min + r - 1, band.x_min, width - 2)
                count += _merge_row(out, how, sums, flags, marks, n_planes, row, space)
        empty(sums, first * n_planes, width * n_planes)
        if how.has_dq:
            empty(flags, first, width)
        if how.has_marks:
            empty(marks, first, width)
    return int(count)
