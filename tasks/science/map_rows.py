"""Positions of the pixels of one row of an image, from the splines of a pixel map or from its list of positions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit
from tasks.science.engine_options import INLINE, MERGED, PART
from tasks.science.overlap import STRIDE

Floats = NDArray[np.float64]

ORDER = 4
"""Number of coefficients of a cubic."""
N_SLOTS = 4
_TWO, _THREE, _FOUR, _STRIDE = np.uint64(2), np.uint64(3), np.uint64(4), np.uint64(STRIDE)
TILE_ROWS, TILE_COLUMNS = 16, 32
"""Shape of the tiles of the input whose extent on the output is known before they are drizzled. Where an image is
turned, short ones leave out more of what is beside a band; neighbours that touch it are drizzled together."""


class MapArrays(NamedTuple):
    """A pixel map as compiled code reads it.

    Either patches, or positions; what is not used has the shape (1, ...).
    """

    x_min: int
    """First column of the domain, in which every pixel centre has a position; it holds the window and its
    neighbours."""
    y_min: int
    x_max: int
    """One more than the last column of the domain."""
    y_max: int
    patches: Floats
    """Bicubic polynomials, shape (rows of patches, 2, 4, 4, columns): output x and y; powers of y; powers of x."""
    x_starts: Floats
    """Input x at which each column of patches begins; polynomials count from there."""
    y_starts: Floats
    x_stops: NDArray[np.int64]
    """First column of the image behind each column of patches."""
    x_patch: NDArray[np.int64]
    """Column of patches of each column of the domain."""
    y_patch: NDArray[np.int64]
    positions: Floats
    """Output x and y of every pixel of the domain, shape (rows, columns, 2)."""
    listed: bool
    """Whether the map holds positions."""


@njit(**PART)
def _contract(
    patches: Floats, row: int, s: float, keep: float, factor: float, first: int, last: int, cubics: Floats, slot: int
) -> None:
    """Add to ``keep`` times two slots the factor times the cubics in x of a row of patches at one height."""
    n_columns = patches.shape[4]
    for axis in range(2):
        for power in range(ORDER):
            to = np.uint64(((slot + axis) * ORDER + power) * n_columns + first)
            start = np.uint64(first)
            for k in range(np.uint64(last - first)):
                c = start + k
                value = patches[row, axis, 3, power, c] * s + patches[row, axis, 2, power, c]
                value = (value * s + patches[row, axis, 1, power, c]) * s + patches[row, axis, 0, power, c]
                cubics[to + k] = keep * cubics[to + k] + factor * value


@njit(**MERGED)
def _neighbours(m: MapArrays, j: int, half: float) -> tuple[int, int, float, float]:
    """Return the rows between which positions above and below a row lie, and their weights.

    Where there is no row above, positions are extrapolated from the one below: its weight is then negative.
    """
    above = j + 1 if j + 1 < m.y_max else j - 1
    below = j - 1 if j > m.y_min else j + 1
    return above, below, half if above > j else -half, half if below < j else -half


@njit(**MERGED)
def _row_height(m: MapArrays, j: int) -> tuple[int, float]:
    """Return the row of patches of a row of the image, and the height in it."""
    row = m.y_patch[j - m.y_min]
    return row, j - m.y_starts[row]


@njit(**INLINE)
def _n_set(half: float) -> int:
    """Return how many slots are set: a drop of no size has all of its corners in one place."""
    return N_SLOTS if half != 0.0 else N_SLOTS // 2


@njit(**PART)
def set_row(m: MapArrays, j: int, start: int, stop: int, half: float, cubics: Floats) -> None:
    """Set the cubics of the positions half a drop above and below the centres of one row, for a range of its columns.

    Positions are interpolated between the centres of the row and of its neighbours, and extrapolated where there is
    none.

    Parameters
    ----------
    m
        The map.
    j, start, stop
        Row and columns of the input, within the domain; the columns beside them are also set.
    half
        Half the size of a drop in input pixels. With 0, the cubics above are those of the centres, and those below are
        left as they are.
    cubics
        Cubics in x above (x, y) and below (x, y): shape (4 x 4 x columns of patches,), finite before. Not used for
        listed positions.
    """
    if m.listed:
        return
    first = m.x_patch[max(start - 1, m.x_min) - m.x_min]
    last = m.x_patch[min(stop, m.x_max - 1) - m.x_min] + 1
    above, below, up, down = _neighbours(m, j, half)
    for slot in range(0, _n_set(half), 2):
        other, weight = (above, up) if slot == 0 else (below, down)
        row, s = _row_height(m, j)
        _contract(m.patches, row, s, 0.0, 1.0 - weight, first, last, cubics, slot)
        if half != 0.0:
            row, s = _row_height(m, other)
            _contract(m.patches, row, s, 1.0, weight, first, last, cubics, slot)


@njit(**PART)
def _fill_piece(
    cubics: Floats, slot: int, column: int, n_columns: int, offset: float, count: int, work: Floats, to: int
) -> None:
    """Set a piece of two slots, x and y, to the values of the cubics of one column of patches."""
    n = np.uint64(n_columns)
    c = np.uint64(slot * ORDER) * n + np.uint64(column)
    a0, b0, c0, d0 = cubics[c], cubics[c + n], cubics[c + _TWO * n], cubics[c + _THREE * n]
    c += _FOUR * n
    a1, b1, c1, d1 = cubics[c], cubics[c + n], cubics[c + _TWO * n], cubics[c + _THREE * n]
    at = np.uint64(slot) * _STRIDE + np.uint64(to)
    for k in range(np.uint64(count)):
        t = offset + k
        work[at + k] = ((d0 * t + c0) * t + b0) * t + a0
        work[at + k + _STRIDE] = ((d1 * t + c1) * t + b1) * t + a1


@njit(**PART)
def _fill_listed(
    positions: Floats, row: int, other: int, weight: float, first: int, count: int, work: Floats, slot: int, at: int
) -> None:
    """Set x and y between the listed positions of two rows; ``weight`` is that of the other one."""
    for k in range(count):
        for axis in range(2):
            value = positions[row, first + k, axis]
            if weight != 0.0:
                value = (1.0 - weight) * value + weight * positions[other, first + k, axis]
            work[(slot + axis) * STRIDE + at + k] = value


@njit(**PART)
def fill_run(m: MapArrays, j: int, start: int, stop: int, half: float, cubics: Floats, work: Floats) -> None:
    """Set the positions half a drop above and below the centres of a run of pixels.

    Parameters
    ----------
    m
        The map.
    j, start, stop
        Row and columns of the input, within the domain, at most RUN.
    half
        Half the size of a drop in input pixels. With 0, the slots above are set to the positions of the centres, and
        those below are left as they are.
    cubics
        What `set_row` has set for this row.
    work
        Four slots of length STRIDE: x and y above, x and y below. The first element of a slot belongs to the left
        neighbour of the run, and the one behind the run to its right neighbour.
    """
    # a domain is at least two pixels wide, so that a pixel at its edge has a neighbour to extrapolate from
    first, last = max(start - 1, m.x_min), min(stop + 1, m.x_max)
    at, n_slots = first - (start - 1), _n_set(half)
    if m.listed:
        above, below, up, down = _neighbours(m, j, half)
        row, column = j - m.y_min, first - m.x_min
        for slot in range(0, n_slots, 2):
            other, weight = (above, up) if slot == 0 else (below, down)
            _fill_listed(m.positions, row, other - m.y_min, weight, column, last - first, work, slot, at)
    else:
        i = first
        while i < last:
            column = m.x_patch[i - m.x_min]
            end = min(last, m.x_stops[column])
            for slot in range(0, n_slots, 2):
                offset = i - m.x_starts[column]
                _fill_piece(cubics, slot, column, len(m.x_starts), offset, end - i, work, at + i - first)
            i = end
    if start - 1 < m.x_min:
        for slot in range(n_slots):
            work[slot * STRIDE] = 2.0 * work[slot * STRIDE + 1] - work[slot * STRIDE + 2]
    if stop >= m.x_max:
        for slot in range(n_slots):
            end = slot * STRIDE + stop - start + 1
            work[end] = 2.0 * work[end - 1] - work[end - 2]
