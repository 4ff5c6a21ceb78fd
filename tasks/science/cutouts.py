"""Cutting many small images from a large one.

A stamp that hangs over the edge is filled, never wrapped; the position of the source in its stamp is kept exactly, as
a float, so that rounding the centre to a pixel loses nothing.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def nearest_pixel(position: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the pixel that contains each position.

    Pixel centres are at integers; a position on the border of two pixels belongs to the upper one (half up), so that
    moving all positions by whole pixels moves all stamps by whole pixels. Rounding half to even, as ``numpy.round``
    does, would not.

    Parameters
    ----------
    position
        0-based positions along one axis, any shape, finite.

    Returns
    -------
    NDArray[np.int64]
        Pixel indices of the same shape.
    """
    return np.floor(np.asarray(position) + 0.5).astype(np.int64)


def stamp_start(position: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """Return the first pixel of stamps of odd ``size`` pixels whose central pixel contains the positions.

    Parameters
    ----------
    position
        0-based positions along one axis.
    size
        Side of the stamps in pixels, odd.

    Returns
    -------
    NDArray[np.int64]
        Index of the first pixel, negative where a stamp hangs over the edge.

    Raises
    ------
    ValueError
        If the size is even or not positive.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a stamp needs a central pixel, so its size must be odd and positive, not {size}")
    return nearest_pixel(position) - size // 2


def cut(
    image: NDArray[Scalar], start_row: NDArray[np.int64], start_col: NDArray[np.int64], size: int, *, fill: float = 0
) -> NDArray[Scalar]:
    """Cut square stamps from an image.

    Parameters
    ----------
    image
        Array of shape (ny, nx); not changed.
    start_row, start_col
        First pixel of each stamp, shape (n,); may lie outside the image.
    size
        Side of the stamps in pixels.
    fill
        Value of the pixels that lie outside the image.

    Returns
    -------
    NDArray
        Copies of shape (n, size, size), of the dtype of the image.
    """
    ny, nx = image.shape
    rows, cols = np.asarray(start_row), np.asarray(start_col)
    stamps = np.full((len(rows), size, size), fill, dtype=image.dtype)
    inside = (rows >= 0) & (cols >= 0) & (rows + size <= ny) & (cols + size <= nx)
    if inside.any():
        stamps[inside] = sliding_window_view(image, (size, size))[rows[inside], cols[inside]]
    for k in np.flatnonzero(~inside):
        row, col = int(rows[k]), int(cols[k])
        top, bottom = max(row, 0), min(row + size, ny)
        left, right = max(col, 0), min(col + size, nx)
        if top < bottom and left < right:
            stamps[k, top - row : bottom - row, left - col : right - col] = image[top:bottom, left:right]
    return stamps


def sample_nearest(
    plane: NDArray[Scalar], rows: NDArray[np.float64], cols: NDArray[np.float64], *, fill: float = 0
) -> NDArray[Scalar]:
    """Return the value of the pixel that contains each position.

    Parameters
    ----------
    plane
        Array of shape (ny, nx); not changed.
    rows, cols
        0-based positions, of any one shape.
    fill
        Value of positions outside the plane.

    Returns
    -------
    NDArray
        Values of the shape of ``rows`` and the dtype of the plane.
    """
    ny, nx = plane.shape
    inside = (rows >= -0.5) & (rows < ny - 0.5) & (cols >= -0.5) & (cols < nx - 0.5)
    row = nearest_pixel(np.where(inside, rows, 0.0))
    col = nearest_pixel(np.where(inside, cols, 0.0))
    return np.where(inside, plane[row, col], np.asarray(fill, dtype=plane.dtype))


def positions_in_other_frame(
    size: int,
    cutout_row: NDArray[np.float64],
    cutout_col: NDArray[np.float64],
    jacobian: NDArray[np.float64],
    other_row: NDArray[np.float64],
    other_col: NDArray[np.float64],
    other_jacobian: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Map every pixel of stamps to the pixels of another image of the same sky, with local Jacobians.

    Both Jacobians are taken at the source, so the map is exact there; over the half of a stamp (25 pixels) the
    distortion of a wide-field camera moves it by far less than half a pixel, which is what a nearest-pixel look-up
    needs.

    Parameters
    ----------
    size
        Side of the stamps in pixels.
    cutout_row, cutout_col
        Position of the sources in their stamps, shape (n,).
    jacobian
        Jacobians of the stamps, shape (n, 2, 2), arcsec per pixel.
    other_row, other_col
        Position of the sources in the other image, shape (n,).
    other_jacobian
        Jacobians of the other image, shape (n, 2, 2); must not be singular.

    Returns
    -------
    tuple of NDArray[np.float64]
        Rows and columns in the other image, each of shape (n, size, size).
    """
    transform = np.linalg.solve(other_jacobian, jacobian)
    index = np.arange(size, dtype=np.float64)
    d_row = index[None, :] - np.asarray(cutout_row)[:, None]
    d_col = index[None, :] - np.asarray(cutout_col)[:, None]
    rows = (
        np.asarray(other_row)[:, None, None]
        + transform[:, 0, 0, None, None] * d_row[:, :, None]
        + transform[:, 0, 1, None, None] * d_col[:, None, :]
    )
    cols = (
        np.asarray(other_col)[:, None, None]
        + transform[:, 1, 0, None, None] * d_row[:, :, None]
        + transform[:, 1, 1, None, None] * d_col[:, None, :]
    )
    return rows, cols
