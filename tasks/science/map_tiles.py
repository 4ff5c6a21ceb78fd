"""Where tiles of an image can reach on the output, so that what cannot touch a part of it is passed over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.products.windows import Window
from tasks.science.compiled import njit
from tasks.science.engine_options import ENTRY, PART
from tasks.science.map_rows import ORDER, TILE_COLUMNS, TILE_ROWS, MapArrays

Floats = NDArray[np.float64]

X_LOW, X_HIGH, Y_LOW, Y_HIGH = range(4)
"""What the last axis of the extents holds."""
SLOPE_MARGIN, MARGIN_PX = 1.05, 0.05
"""Allowance for slopes that differ between a tile and the pixels beside it."""


@njit(**PART)
def _patch_extent(
    patches: Floats, row: int, axis: int, column: int, height: float, width: float, half: float
) -> tuple[float, float]:
    """Return bounds of a bicubic over a patch, extended by what half a drop reaches: every power is bounded alone."""
    low = high = patches[row, axis, 0, 0, column]
    slopes = 0.0
    for a in range(ORDER):
        for b in range(ORDER):
            if a + b == 0:
                continue
            size = patches[row, axis, a, b, column] * height**a * width**b
            low += min(size, 0.0)
            high += max(size, 0.0)
            slopes += abs(size) * (a / height + b / width)
    reach = half * SLOPE_MARGIN * slopes
    return low - reach, high + reach


@njit(**PART)
def _extend_by_patches(m: MapArrays, top: int, left: int, bottom: int, right: int, half: float, extent: Floats) -> None:
    for row in range(m.y_patch[top - m.y_min], m.y_patch[bottom - 1 - m.y_min] + 1):
        y_end = m.y_starts[row + 1] if row + 1 < len(m.y_starts) else m.y_max - 1.0
        for column in range(m.x_patch[left - m.x_min], m.x_patch[right - 1 - m.x_min] + 1):
            x_end = m.x_starts[column + 1] if column + 1 < len(m.x_starts) else m.x_max - 1.0
            for axis in range(2):
                height, width = y_end - m.y_starts[row], x_end - m.x_starts[column]
                low, high = _patch_extent(m.patches, row, axis, column, height, width, half)
                extent[2 * axis] = min(extent[2 * axis], low)
                extent[2 * axis + 1] = max(extent[2 * axis + 1], high)


@njit(**PART)
def _extend_by_positions(
    m: MapArrays, top: int, left: int, bottom: int, right: int, half: float, extent: Floats
) -> None:
    for axis in range(2):
        low, high, slope = np.inf, -np.inf, 0.0
        # comparisons leave out what has no position, NaN or infinite
        for j in range(top - m.y_min, bottom - m.y_min):
            for i in range(left - m.x_min, right - m.x_min):
                value = m.positions[j, i, axis]
                low = value if -np.inf < value < low else low
                high = value if high < value < np.inf else high
                for step in (-1, 1):
                    if 0 <= i + step < m.x_max - m.x_min:
                        difference = abs(m.positions[j, i + step, axis] - value)
                        slope = difference if slope < difference < np.inf else slope
                    if 0 <= j + step < m.y_max - m.y_min:
                        difference = abs(m.positions[j + step, i, axis] - value)
                        slope = difference if slope < difference < np.inf else slope
        reach = 2.0 * half * slope
        extent[2 * axis] = min(extent[2 * axis], low - reach)
        extent[2 * axis + 1] = max(extent[2 * axis + 1], high + reach)


@njit(**ENTRY)
def _extents(
    m: MapArrays, left: int, top: int, right: int, bottom: int, half: float, reach: float, out: Floats
) -> None:
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            extent = out[row, column]
            extent[X_LOW] = extent[Y_LOW] = np.inf
            extent[X_HIGH] = extent[Y_HIGH] = -np.inf
            y, x = top + row * TILE_ROWS, left + column * TILE_COLUMNS
            y_end, x_end = min(y + TILE_ROWS, bottom), min(x + TILE_COLUMNS, right)
            if m.listed:
                _extend_by_positions(m, y, x, y_end, x_end, half, extent)
            else:
                _extend_by_patches(m, y, x, y_end, x_end, half, extent)
            for axis in range(2):
                extent[2 * axis] -= reach + MARGIN_PX
                extent[2 * axis + 1] += reach + MARGIN_PX


def tile_extents(arrays: MapArrays, window: Window, *, half: float, reach: float) -> Floats:
    """Return between which output coordinates the drops of each tile of an image lie.

    Parameters
    ----------
    arrays
        The pixel map.
    window
        The part of the image that is cut into tiles, from its lower left corner.
    half
        Half the size of a drop in input pixels.
    reach
        Half its size in output pixels; one of the two is 0.

    Returns
    -------
    Floats
        Lowest and highest x, lowest and highest y, shape (tile rows, tile columns, 4). The lowest is above the highest
        where no pixel of the tile has a position.
    """
    ny, nx = window.shape
    out = np.empty((-(-ny // TILE_ROWS), -(-nx // TILE_COLUMNS), 4))
    _extents(arrays, window.x_min, window.y_min, window.x_max, window.y_max, half, reach, out)
    return out
