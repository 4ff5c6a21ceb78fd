"""Positions at any point of an image from a pixel map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.products.windows import Window
from tasks.science.compiled import njit
from tasks.science.engine_options import ENTRY, PART
from tasks.science.map_rows import N_SLOTS, ORDER, MapArrays, fill_run, set_row
from tasks.science.overlap import RUN, STRIDE

Floats = NDArray[np.float64]


@njit(**PART)
def _on_patches(m: MapArrays, x: float, y: float, out: Floats) -> None:
    # the patch of the pixel centre below holds the point, or the next one does
    column = m.x_patch[min(max(int(np.floor(x)), m.x_min), m.x_max - 1) - m.x_min]
    row = m.y_patch[min(max(int(np.floor(y)), m.y_min), m.y_max - 1) - m.y_min]
    while column + 1 < len(m.x_starts) and m.x_starts[column + 1] <= x:
        column += 1
    while row + 1 < len(m.y_starts) and m.y_starts[row + 1] <= y:
        row += 1
    t, s = x - m.x_starts[column], y - m.y_starts[row]
    for axis in range(2):
        value = 0.0
        for a in range(ORDER - 1, -1, -1):
            cubic = 0.0
            for b in range(ORDER - 1, -1, -1):
                cubic = cubic * t + m.patches[row, axis, a, b, column]
            value = value * s + cubic
        out[axis] = value


@njit(**PART)
def _on_list(m: MapArrays, x: float, y: float, out: Floats) -> None:
    i = min(max(int(np.floor(x)) - m.x_min, 0), m.x_max - m.x_min - 2)
    j = min(max(int(np.floor(y)) - m.y_min, 0), m.y_max - m.y_min - 2)
    t, s = x - m.x_min - i, y - m.y_min - j
    for axis in range(2):
        value = 0.0
        for b, weight_b in ((0, 1.0 - s), (1, s)):
            for a, weight_a in ((0, 1.0 - t), (1, t)):
                # beside a position that is not there, the others count only where it has no weight
                if weight_a * weight_b != 0.0:
                    value += weight_a * weight_b * m.positions[j + b, i + a, axis]
        out[axis] = value


@njit(**ENTRY)
def map_points(m: MapArrays, x: Floats, y: Floats, margin: float, out: Floats) -> None:
    """Set the output positions of points of an image.

    Parameters
    ----------
    m
        The map.
    x, y
        Input positions, shape (n,).
    margin
        Pixels by which points may lie outside the outermost pixel centres of the domain.
    out
        Set to output x and y, shape (n, 2): interpolated between the pixels if the map lists them; NaN further outside.
    """
    for k in range(len(x)):
        inside = (
            m.x_min - margin <= x[k] <= m.x_max - 1.0 + margin and m.y_min - margin <= y[k] <= m.y_max - 1.0 + margin
        )
        if not inside:
            out[k, 0] = out[k, 1] = np.nan
        elif m.listed:
            _on_list(m, x[k], y[k], out[k])
        else:
            _on_patches(m, x[k], y[k], out[k])


@njit(**ENTRY)
def _fill_window(m: MapArrays, left: int, top: int, right: int, bottom: int, out: Floats) -> None:
    work, cubics = np.zeros(N_SLOTS * STRIDE), np.zeros(N_SLOTS * ORDER * len(m.x_starts))
    for j in range(top, bottom):
        set_row(m, j, left, right, 0.0, cubics)
        for start in range(left, right, RUN):
            stop = min(start + RUN, right)
            fill_run(m, j, start, stop, 0.0, cubics, work)
            for k in range(stop - start):
                out[j, start + k, 0] = work[k + 1]
                out[j, start + k, 1] = work[STRIDE + k + 1]


def map_window(m: MapArrays, window: Window, shape: tuple[int, int]) -> Floats:
    """Return the positions of all pixels of a window, and NaN elsewhere, shape (ny, nx, 2)."""
    out = np.full((*shape, 2), np.nan)
    _fill_window(m, window.x_min, window.y_min, window.x_max, window.y_max, out)
    return out
