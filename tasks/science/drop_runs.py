"""Runs of input pixels added to a band: which of them matter, and the drop of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit
from tasks.science.drop_kernels import (
    POINT,
    SQUARE,
    TURBO,
    Band,
    Drop,
    add_large_drop,
    add_product,
    add_values,
    pixel_of,
)
from tasks.science.engine_options import PART
from tasks.science.overlap import (
    AREA,
    COLUMN,
    LEFT_LOWER,
    LEFT_UPPER,
    LOWER_X,
    LOWER_Y,
    RIGHT_LOWER,
    RIGHT_UPPER,
    ROW,
    RUN,
    STRIDE,
    UPPER_X,
    UPPER_Y,
    WIDE,
)
from tasks.science.wide_overlap import share_boxes, share_column

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Flags = NDArray[np.uint32]
Marks = NDArray[np.uint8]
Indices = NDArray[np.int64]


@njit(**PART)
def _beside(band: Band, drop: Drop, positions: Floats, k: int) -> bool:
    """Tell whether a pixel's drop is certainly above or below a band."""
    if drop.kind != SQUARE:
        y = positions[UPPER_Y + k + 1]
        return (y + drop.reach < band.y_min - 0.5) | (y - drop.reach > band.y_max - 0.5)  # type: ignore[no-any-return]
    # the corners lie between the positions around the pixel
    below = above = True
    for slot in (UPPER_Y, LOWER_Y):
        for neighbour in range(3):
            y = positions[slot + k + neighbour]
            below &= y < band.y_min - 0.5
            above &= y > band.y_max - 0.5
    return below or above


@njit(**PART)
def used_range(band: Band, drop: Drop, positions: Floats, weights: Floats, n: int) -> tuple[int, int]:
    """Return a run without the pixels at its ends that cannot add to the band."""
    first, last = 0, n
    while first < last and (weights[first] == 0.0 or _beside(band, drop, positions, first)):
        first += 1
    while last > first and (weights[last - 1] == 0.0 or _beside(band, drop, positions, last - 1)):
        last -= 1
    return first, last


@njit(**PART)
def _spread(values: Floats32, k: int, n_planes: int, area: float) -> None:
    """Make surface brightness of flux."""
    for plane in range(1, n_planes):
        values[k * n_planes + plane] = np.float32(values[k * n_planes + plane] / area)


@njit(**PART)
def _add_four(
    band: Band, sums: Floats32, flags: Flags, pixel: int, shares: Floats, k: int, weight: float, values: Floats32,
    dq: np.uint32,
) -> None:  # fmt: skip
    """Add a drop that needs care: to no pixel that it does not meet."""
    for side in range(4):
        share = shares[LEFT_LOWER + side * STRIDE + k]
        if share > 0.0:
            to = pixel + (side & 1) + (side >> 1) * (band.x_max - band.x_min + 2)
            add_values(band, sums, to, np.float32(share * weight), values, k)
            if dq != 0:
                flags[to] |= dq


@njit(**PART)
def _gather_corners(positions: Floats, shares: Floats, half: float, wide: Indices, n: int, corners: Floats) -> None:
    """Set the corners of some drops, counted from the lowest column and row that each meets."""
    rest = 1.0 - half
    for i in range(n):
        k = wide[i]
        column, row = shares[COLUMN + k], shares[ROW + k]
        for corner in range(4):
            slot_x, slot_y = (UPPER_X, UPPER_Y) if corner < 2 else (LOWER_X, LOWER_Y)
            side = k + 2 if corner in (1, 2) else k
            corners[corner * RUN + i] = rest * positions[slot_x + k + 1] + half * positions[slot_x + side] - column
            corners[(4 + corner) * RUN + i] = rest * positions[slot_y + k + 1] + half * positions[slot_y + side] - row


@njit(**PART)
def _add_nine(
    band: Band, sums: Floats32, flags: Flags, column: int, row: int, nine: Floats, i: int, weight: float,
    values: Floats32, k: int, dq: np.uint32,
) -> None:  # fmt: skip
    """Add drop ``i`` of those whose shares in three columns and rows are known."""
    for c in range(max(0, band.x_min - column), min(3, band.x_max - column)):
        for r in range(max(0, band.y_min - row), min(3, band.y_max - row)):
            share = nine[np.uint64((3 * c + r) * RUN + i)]
            if share > 0.0:
                pixel = pixel_of(band, column + c, row + r)
                add_values(band, sums, pixel, np.float32(share * weight), values, k)
                if dq != 0:
                    flags[pixel] |= dq


@njit(**PART)
def _add_wide(
    band: Band, sums: Floats32, flags: Flags, positions: Floats, shares: Floats, weights: Floats, values: Floats32,
    dq: Flags, half: float, wide: Indices, n: int, corners: Floats, nine: Floats, areas: Floats,
) -> None:  # fmt: skip
    """Add the drops of a run that meet more than two columns or rows."""
    _gather_corners(positions, shares, half, wide, n, corners)
    for column in range(3):
        share_column(corners, n, column, nine)
    for i in range(n):
        k = wide[i]
        flag = dq[k] if len(dq) > 0 else np.uint32(0)
        column, row = shares[COLUMN + k], shares[ROW + k]
        if shares[WIDE + k] > 1.0:
            add_large_drop(band, sums, flags, corners, i, column, row, weights[k], values, k, flag, areas)
        elif band.x_min - 3 <= column < band.x_max and band.y_min - 3 <= row < band.y_max:
            _add_nine(band, sums, flags, int(column), int(row), nine, i, weights[k], values, k, flag)


@njit(**PART)
def add_drops(
    band: Band, sums: Floats32, flags: Flags, marks: Marks, drop: Drop, table: Floats, positions: Floats,
    shares: Floats, weights: Floats, values: Floats32, dq: Flags, first: int, last: int, holds_flux: bool, finite: bool,
    wide: Indices, corners: Floats, nine: Floats, areas: Floats, along_x: Floats, along_y: Floats,
) -> None:  # fmt: skip
    """Add the drops of a run, whose positions, shares, weights and values are set."""
    width, n_wide = band.x_max - band.x_min + 2, 0
    for k in range(first, last):
        at = np.uint64(k)
        weight, area = weights[at], shares[np.uint64(AREA) + at]
        # NaN is no area, nor has a drop a finite one whose corner is not
        if weight == 0.0 or not 0.0 < area < np.inf:
            continue
        if holds_flux:
            weight *= area * area
            weights[at] = weight
            _spread(values, k, band.n_planes, area)
        flag = dq[k] if len(dq) > 0 else np.uint32(0)
        if shares[np.uint64(WIDE) + at] != 0.0:
            if drop.kind == SQUARE:
                wide[n_wide] = k
                n_wide += 1
            else:
                x, y = positions[UPPER_X + k + 1], positions[UPPER_Y + k + 1]
                add_product(band, sums, flags, marks, drop, table, x, y, weight, values, k, flag, along_x, along_y)
            continue
        column, row = shares[np.uint64(COLUMN) + at], shares[np.uint64(ROW) + at]
        if not (band.x_min - 1 <= column < band.x_max and band.y_min - 1 <= row < band.y_max):
            continue
        pixel = pixel_of(band, int(column), int(row))
        if not finite or flag != 0:
            _add_four(band, sums, flags, pixel, shares, k, weight, values, flag)
            continue
        add_values(band, sums, pixel, np.float32(shares[np.uint64(LEFT_LOWER) + at] * weight), values, k)
        if drop.kind != POINT:
            above = pixel + width
            add_values(band, sums, pixel + 1, np.float32(shares[np.uint64(RIGHT_LOWER) + at] * weight), values, k)
            add_values(band, sums, above, np.float32(shares[np.uint64(LEFT_UPPER) + at] * weight), values, k)
            add_values(band, sums, above + 1, np.float32(shares[np.uint64(RIGHT_UPPER) + at] * weight), values, k)
    if n_wide > 0:
        _add_wide(
            band, sums, flags, positions, shares, weights, values, dq, drop.half, wide, n_wide, corners, nine, areas
        )


@njit(**PART)
def share_products(drop: Drop, positions: Floats, n: int, holds_flux: bool, shares: Floats) -> None:
    """Set the shares of a run for kernels that are products, or leave them to `add_product` where they are wide.

    Areas are those of the pixels, set before, if the image holds flux.
    """
    if drop.kind == POINT or drop.kind == TURBO:
        share_boxes(positions, n, drop.reach, drop.norm, shares)
    else:
        for k in range(n):
            shares[WIDE + k] = 1.0
    if not holds_flux:
        for k in range(n):
            shares[AREA + k] = 1.0


@njit(**PART)
def fill_areas(positions: Floats, n: int, shares: Floats) -> None:
    """Set the areas of whole pixels from positions half a pixel above and below."""
    p = positions
    for k in range(n):
        across_x = 0.5 * (p[UPPER_X + k + 2] + p[LOWER_X + k + 2] - p[UPPER_X + k] - p[LOWER_X + k])
        across_y = 0.5 * (p[UPPER_Y + k + 2] + p[LOWER_Y + k + 2] - p[UPPER_Y + k] - p[LOWER_Y + k])
        up_x, up_y = p[UPPER_X + k + 1] - p[LOWER_X + k + 1], p[UPPER_Y + k + 1] - p[LOWER_Y + k + 1]
        shares[AREA + k] = abs(0.5 * (across_x * up_y - across_y * up_x))
