"""Interpolation between the pixels of an image by polynomials, compiled."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

Interpolation = Literal["nearest", "linear", "poly3", "poly5"]
"""How values between pixel centres are found: polynomials through 1, 2, 4 and 6 pixels along each axis."""

POINTS = MappingProxyType({"nearest": 1, "linear": 2, "poly3": 4, "poly5": 6})
"""Pixels along each axis that an interpolation reads."""
MAX_POINTS = 6
DENOMINATORS = np.array(
    [
        [
            1 / math.prod(point - other for other in range(n) if other != point) if point < n else 0
            for point in range(MAX_POINTS)
        ]
        for n in range(MAX_POINTS + 1)
    ]
)
"""Constant factors of the weights of polynomials through n pixels, shape (n, pixel)."""
LEAST_KNOWN = 0.5
"""Share of the weight that known pixels must have where a neighbour is missing."""


def as_plane(values: NDArray[np.floating | np.integer]) -> Plane:
    """Return an image as compiled code reads it: C-contiguous float32, NaN where a masked array has no value."""
    with np.errstate(over="ignore"):
        filled = np.ma.asarray(values, np.float32).filled(np.nan)
    # an array that differs in any of this is another type, for which all would be compiled again
    return np.require(filled, np.float32, ["C", "ALIGNED", "WRITEABLE", "ENSUREARRAY"])


@njit(cache=True, nogil=True)
def _polynomial_weights(fraction: float, n_points: int, weights: Floats) -> None:
    """Fill the weights of the pixels of a Lagrange polynomial, the first at 1 - (n_points + 1) // 2."""
    from_first = fraction - 1 + (n_points + 1) // 2
    for point in range(n_points):
        weight = DENOMINATORS[n_points, point]
        for other in range(n_points):
            if other != point:
                weight *= from_first - other
        weights[point] = weight


@njit(cache=True, nogil=True)
def _value_at(image: Plane, x: float, y: float, n_points: int, wx: Floats, wy: Floats) -> float:
    """Return the interpolated value, NaN if it is not known well enough; wx and wy are room for weights."""
    ny, nx = image.shape
    if n_points == 1:
        x, y = np.floor(x + 0.5), np.floor(y + 0.5)
    left, low = int(np.floor(x)) + 1 - (n_points + 1) // 2, int(np.floor(y)) + 1 - (n_points + 1) // 2
    _polynomial_weights(x - np.floor(x), n_points, wx)
    _polynomial_weights(y - np.floor(y), n_points, wy)
    if 0 <= left <= nx - n_points and 0 <= low <= ny - n_points:
        value = 0.0
        for j in range(n_points):
            along_x = 0.0
            for i in range(n_points):
                along_x += wx[i] * image[low + j, left + i]
            value += wy[j] * along_x
        if np.isfinite(value):
            return value
    # a polynomial with a hole is none: its weights alternate in sign
    return np.nan if n_points > 2 else _value_of_known(image, left, low, n_points, wx, wy)


@njit(cache=True, nogil=True)
def _value_of_known(image: Plane, left: int, low: int, n_points: int, wx: Floats, wy: Floats) -> float:
    """Return the mean of the known pixels among those that a linear interpolation takes, NaN if too little is known."""
    ny, nx = image.shape
    total, known = 0.0, 0.0
    for j in range(n_points):
        for i in range(n_points):
            row, column = low + j, left + i
            if 0 <= row < ny and 0 <= column < nx and np.isfinite(image[row, column]):
                total += wy[j] * wx[i] * image[row, column]
                known += wy[j] * wx[i]
    return total / known if known >= LEAST_KNOWN else np.nan


@njit(cache=True, nogil=True)
def interpolate(image: Plane, positions: Floats, factor: Floats, n_points: int, values: Plane) -> None:
    """Interpolate an image at many positions.

    Where a pixel around a position is missing, that is not finite or outside the image, the interpolation is linear,
    with the pixels that are known, if these have at least half of the weight.

    Parameters
    ----------
    image
        Shape (ny, nx), C-contiguous.
    positions
        x and y, pixel centres being integers from 0, shape (rows, columns, 2), C-contiguous.
    factor
        What each value is multiplied with, shape (rows, columns), C-contiguous.
    n_points
        Pixels along each axis that the polynomial goes through: 1, 2, 4 or 6.
    values
        Filled, shape (rows, columns): NaN where nothing is known.
    """
    ny, nx = image.shape
    wx, wy = np.empty(MAX_POINTS), np.empty(MAX_POINTS)
    for row in range(positions.shape[0]):
        for column in range(positions.shape[1]):
            x, y = positions[row, column, 0], positions[row, column, 1]
            value = np.nan
            # positions that are NaN fail this, too
            if -0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5:
                value = _value_at(image, x, y, n_points, wx, wy)
                if np.isnan(value) and n_points > 2:
                    value = _value_at(image, x, y, 2, wx, wy)
            values[row, column] = value * factor[row, column]
