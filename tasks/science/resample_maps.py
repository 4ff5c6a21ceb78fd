"""Where the pixels of a model fall on the output, and which of them are used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import RectBivariateSpline

from tasks.products.windows import Window
from tasks.science.pixel_map import PixelMap, ToOutput, make_pixel_map
from tasks.science.resample_wcs import Bounds, Floats, PixelFrame, map_between

CUBIC = 3
"""Order of the splines of a pixel map."""
MIN_NODES = 10
"""Nodes along each side of an image, whatever step a caller asks for."""
PROBE_POINTS = 20
"""Positions along each side at which an image without overlap is asked whether it has positions at all."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a model falls on the output."""

    to_output: ToOutput
    """From pixels of the model to those of the output."""
    shape: tuple[int, int]
    """Shape (ny, nx) of the model."""
    window: Window
    """The part of it that has coordinates."""
    pixel_map: PixelMap | None
    """None if the model does not reach the output."""
    limits: tuple[int, int, int, int]
    """First and last column and row that are used: x_min, x_max, y_min, y_max."""

    def dense(self) -> Floats:
        """Return the output x and y of every pixel, shape (ny, nx, 2); NaN outside the window."""
        rest = np.zeros(self.shape, np.bool_)
        rest[self.window.slices] = True
        if self.pixel_map is None:
            positions = np.full((*self.shape, 2), np.nan)
        else:
            positions = self.pixel_map.dense()
            # the map knows only what can reach the output
            rest[self.pixel_map.window.slices] = False
        y, x = np.nonzero(rest)
        positions[y, x] = np.stack(self.to_output(x.astype(np.float64), y.astype(np.float64)), axis=-1)
        return positions


def place_model(
    frame: PixelFrame,
    shape: tuple[int, int],
    output: PixelFrame,
    output_shape: tuple[int, int],
    name: str,
    *,
    step: int,
    order: int,
) -> Placement:
    """Find where a model falls on the output.

    Parameters
    ----------
    frame, shape
        Coordinates and shape (ny, nx) of the model.
    output, output_shape
        Those of the output.
    name
        What errors call the model.
    step, order
        Distance of the nodes and order of the splines that were asked for. With a step of 1 the map chooses its nodes
        itself, so that its error stays below 1e-6 pixels.

    Raises
    ------
    ValueError
        If no pixel has a position on the output's plane.
    UnsupportedWCSError
        If coordinates of the two are of different kinds.
    """
    to_output = map_between(frame, output, name)
    window = valid_window(shape, frame.bounds)
    pixel_map = None if window is None else _pixel_map(to_output, shape, output_shape, window, step=step, order=order)
    if window is None or (pixel_map is None and not _has_positions(to_output, window)):
        raise ValueError(f"No pixel of {name} has a position on the output: check the WCS of both.")
    return Placement(to_output, shape, window, pixel_map, used_range(shape, frame.bounds))


def used_range(shape: tuple[int, int], bounds: Bounds | None) -> tuple[int, int, int, int]:
    """Return the first and last column and row inside a bounding box, its edges rounded: x_min, x_max, y_min, y_max."""
    ny, nx = shape
    (x_low, x_high), (y_low, y_high) = bounds or ((0, nx - 1), (0, ny - 1))
    x_min, y_min = max(0, int(x_low + 0.5)), max(0, int(y_low + 0.5))
    return x_min, max(x_min, min(nx - 1, int(x_high + 0.5))), y_min, max(y_min, min(ny - 1, int(y_high + 0.5)))


def valid_window(shape: tuple[int, int], bounds: Bounds | None) -> Window | None:
    """Return the pixels whose centres are inside a bounding box; None if there are none."""
    ny, nx = shape
    (x_low, x_high), (y_low, y_high) = bounds or ((0, nx - 1), (0, ny - 1))
    x_min, y_min = max(0, math.ceil(x_low)), max(0, math.ceil(y_low))
    x_max, y_max = min(nx - 1, math.floor(x_high)), min(ny - 1, math.floor(y_high))
    return Window(x_min, y_min, x_max + 1, y_max + 1) if x_min <= x_max and y_min <= y_max else None


def _pixel_map(
    to_output: ToOutput, shape: tuple[int, int], output_shape: tuple[int, int], window: Window, *, step: int, order: int
) -> PixelMap | None:
    side = min(window.shape)
    if step == 1 or side == 1:
        return make_pixel_map(to_output, shape, output_shape, bounds=window)
    if order == CUBIC:
        step = max(1, min(step, side // MIN_NODES))
        return make_pixel_map(to_output, shape, output_shape, bounds=window, step=step, tolerance_px=np.inf)
    positions = np.full((*shape, 2), np.nan)
    positions[window.slices] = _bilinear(to_output, window, step)
    return PixelMap.from_positions(positions, bounds=window)


def _has_positions(to_output: ToOutput, window: Window) -> bool:
    x = np.unique(np.linspace(window.x_min, window.x_max - 1, PROBE_POINTS).round())
    y = np.unique(np.linspace(window.y_min, window.y_max - 1, PROBE_POINTS).round())
    return bool(np.isfinite(_on_grid(to_output, x, y)).any())


def _bilinear(to_output: ToOutput, window: Window, step: int) -> Floats:
    columns, rows = _whole_pixels(window)
    x, y = (np.linspace(axis[0], axis[-1], _n_nodes(axis.size, step)) for axis in (columns, rows))
    nodes = _on_grid(to_output, x, y)
    if not np.isfinite(nodes).all():
        return _on_grid(to_output, columns, rows)
    splines = (RectBivariateSpline(y, x, nodes[..., axis], kx=1, ky=1, s=0) for axis in (0, 1))
    return np.stack([spline(rows, columns) for spline in splines], axis=-1)


def _n_nodes(size: int, step: int) -> int:
    return max(math.ceil(size / step), min(MIN_NODES, size))


def _whole_pixels(window: Window) -> tuple[Floats, Floats]:
    return np.arange(float(window.x_min), window.x_max), np.arange(float(window.y_min), window.y_max)


def _on_grid(to_output: ToOutput, x: Floats, y: Floats) -> Floats:
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    on_x, on_y = to_output(grid_x.ravel(), grid_y.ravel())
    return np.stack([on_x, on_y], axis=-1).reshape(*grid_x.shape, 2)
