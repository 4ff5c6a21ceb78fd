"""Sky background and its noise on a mesh of boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from tasks.errors import NoGoodPixelsError
from tasks.science.compiled import njit
from tasks.science.robust import CLIPPED_SIGMA_3, clip_sorted

MIN_GOOD_FRACTION = 0.1
"""A box with a smaller fraction of good pixels takes its values from the boxes around it."""
CROWDED = 0.3
"""Skewness (mean - median) / sigma from which the median is taken for the mode."""


@dataclass(frozen=True)
class BackgroundMesh:
    """Background and noise in the boxes of a mesh."""

    level: NDArray[np.float64]
    """Background, shape (ny_boxes, nx_boxes), in units of the image."""
    rms: NDArray[np.float64]
    """Standard deviation of the background, same shape and unit."""
    box_px: int
    """Nominal size of a box in pixels."""


def mesh_edges(n_pixels: int, box_px: int) -> NDArray[np.int64]:
    """Return where boxes begin and end along an axis.

    The axis is divided into equal boxes, as near to the nominal size as their number allows: a narrow remainder would
    be a noisy box at the edge.

    Returns
    -------
    ndarray of int64
        Edges 0 ... n_pixels, one more than there are boxes.
    """
    n_boxes = max(1, round(n_pixels / box_px))
    return np.rint(np.linspace(0, n_pixels, n_boxes + 1)).astype(np.int64)


def measure_background(
    image: NDArray[np.float32], bad: NDArray[np.bool_], *, box_px: int = 64, filter_boxes: int = 3
) -> BackgroundMesh:
    """Measure background and noise in the boxes of a mesh.

    In each box the values are clipped at 3 sigma around their median; the background is the mode
    2.5 median - 1.5 mean, or the median where the values are skewed, and the noise is the clipped standard deviation,
    corrected for the clipped tails. The mesh is then smoothed by a median filter (Bertin & Arnouts 1996, sect. 3).

    Parameters
    ----------
    image
        Shape (ny, nx), any unit; values of bad pixels are not read.
    bad
        True for pixels without a value, shape (ny, nx).
    box_px
        Nominal size of a box.
    filter_boxes
        Size of the median filter in boxes, odd; 1 switches it off.

    Returns
    -------
    BackgroundMesh
        In units of the image.

    Raises
    ------
    NoGoodPixelsError
        If all pixels are bad.
    """
    if bool(bad.all()):
        raise NoGoodPixelsError(f"All {bad.size} pixels are bad or have no value: there is no background to measure.")
    rows, columns = mesh_edges(image.shape[0], box_px), mesh_edges(image.shape[1], box_px)
    level = np.full((rows.size - 1, columns.size - 1), np.nan)
    rms = np.full_like(level, np.nan)
    fraction = min(MIN_GOOD_FRACTION, 1.0 - float(bad.mean()))
    for j in range(rows.size - 1):
        for i in range(columns.size - 1):
            box = np.s_[rows[j] : rows[j + 1], columns[i] : columns[i + 1]]
            good = np.sort(image[box][~bad[box]])
            if good.size >= fraction * bad[box].size:
                level[j, i], rms[j, i] = _sky_of_sorted(good)
    return BackgroundMesh(_smooth(_fill(level), filter_boxes), _smooth(_fill(rms), filter_boxes), box_px)


def expand_mesh(
    mesh: NDArray[np.float64], shape: tuple[int, int], box_px: int, rows: slice = slice(None)
) -> NDArray[np.float32]:
    """Return the map of a mesh: a natural bicubic spline through the box centres, continued linearly to the edges.

    Parameters
    ----------
    mesh
        Values in the boxes, as `measure_background` gives them.
    shape
        Shape (ny, nx) of the image.
    box_px
        Nominal size of a box in pixels.
    rows
        Which rows of the map to return; all by default.

    Returns
    -------
    ndarray of float32
        Shape (ny, nx), or that of the rows; the same bits for the same arguments, and for some rows as for all.

    Raises
    ------
    ValueError
        If the mesh does not belong to this shape and box.
    """
    along_y, along_x = mesh_edges(shape[0], box_px), mesh_edges(shape[1], box_px)
    if mesh.shape != (along_y.size - 1, along_x.size - 1):
        raise ValueError(f"a mesh of {mesh.shape} boxes of {box_px} px does not belong to an image of shape {shape}")
    values = np.ascontiguousarray(mesh, dtype=np.float64)
    row_weights = np.ascontiguousarray(_spline_weights(along_y)[:, rows])
    return np.asarray(_outer_spline(row_weights, values, _spline_weights(along_x)))


def measure_variance_scale(mesh: BackgroundMesh, weight: NDArray[np.float32], bad: NDArray[np.bool_]) -> float:
    """Return the factor between weights and noise, ``variance = factor / weight``.

    It is the median over the boxes of rms^2 times the median weight, what SExtractor calls RESCALE_WEIGHTS.

    Raises
    ------
    NoGoodPixelsError
        If all pixels are bad or the noise is zero, as in an image without noise.
    """
    rows, columns = mesh_edges(weight.shape[0], mesh.box_px), mesh_edges(weight.shape[1], mesh.box_px)
    factors = []
    for j in range(rows.size - 1):
        for i in range(columns.size - 1):
            box = np.s_[rows[j] : rows[j + 1], columns[i] : columns[i + 1]]
            good = weight[box][~bad[box]]
            if good.size >= MIN_GOOD_FRACTION * bad[box].size:
                factors.append(float(mesh.rms[j, i]) ** 2 * float(np.median(good)))
    if not factors:
        good = weight[~bad]
        factors = [float(np.median(mesh.rms)) ** 2 * float(np.median(good))] if good.size else []
    scale = float(np.median(factors)) if factors else 0.0
    if not scale > 0.0:
        raise NoGoodPixelsError("The background has no noise: the image is constant or wholly masked.")
    return scale


def _sky_of_sorted(values: NDArray[np.float32]) -> tuple[float, float]:
    mean, median, sigma = clip_sorted(values, 3.0, 20)
    crowded = abs(mean - median) > CROWDED * sigma
    return (median if crowded else 2.5 * median - 1.5 * mean), sigma / CLIPPED_SIGMA_3


def _fill(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give boxes without a value the mean of the others, weighted by the inverse squared distance."""
    known = np.isfinite(mesh)
    if bool(known.all()):
        return mesh
    filled = mesh.copy()
    y, x = np.nonzero(known)
    for j, i in zip(*np.nonzero(~known), strict=True):
        weight = 1.0 / ((y - j) ** 2 + (x - i) ** 2)
        filled[j, i] = np.sum(weight * mesh[known]) / np.sum(weight)
    return filled


def _smooth(mesh: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Median filter; beyond its edges the mesh is continued by its point reflection, which keeps a gradient."""
    if size <= 1:
        return mesh
    padded = np.pad(mesh, size // 2, mode="reflect", reflect_type="odd")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    return np.asarray(np.median(windows, axis=(2, 3)))


def _spline_weights(edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weight of every box for every pixel of an axis, shape (n_boxes, n_pixels)."""
    centres = 0.5 * (edges[:-1] + edges[1:] - 1)
    pixels = np.arange(edges[-1], dtype=np.float64)
    n_boxes = centres.size
    if n_boxes == 1:
        return np.ones((1, pixels.size))
    spline = CubicSpline(centres, np.eye(n_boxes), bc_type="natural")
    inside = np.clip(pixels, centres[0], centres[-1])
    weights = spline(inside) + spline(inside, 1) * (pixels - inside)[:, None]
    return np.ascontiguousarray(weights.T)


@njit(cache=True, nogil=True)
def _outer_spline(row_weights, mesh, column_weights):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    # own loops: the order of sums in BLAS depends on its number of threads
    n_rows, n_columns = row_weights.shape[1], column_weights.shape[1]
    result = np.empty((n_rows, n_columns), dtype=np.float32)
    line = np.empty(n_columns)
    for y in range(n_rows):
        line[:] = 0.0
        for i in range(mesh.shape[1]):
            factor = 0.0
            for j in range(mesh.shape[0]):
                factor += row_weights[j, y] * mesh[j, i]
            for x in range(n_columns):
                line[x] += factor * column_weights[i, x]
        for x in range(n_columns):
            result[y, x] = line[x]
    return result
