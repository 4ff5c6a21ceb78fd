"""Where the pixels of an image fall on another grid, as cubic splines between coarse nodes with a measured error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.products.windows import Window
from tasks.science.map_points import map_points, map_window
from tasks.science.map_rows import MapArrays
from tasks.science.map_search import map_domain, reaching_window, within_reach
from tasks.science.map_splines import ToOutput, error_bound, fit_splines, list_positions, listed_arrays

__all__ = ["PixelMap", "ToOutput", "make_pixel_map"]

Floats = NDArray[np.float64]

NODE_STEP = 16
"""Pixels between the nodes at first: with the distortion of a camera the error is then some 1e-8 pixels."""
TOLERANCE_PX = 1e-6
"""Largest error that a pixel map may have, in output pixels."""
LEAST_STEP = 4
"""Below this distance of nodes all pixels are listed: that takes no more memory."""
AREA_POINTS = 32
"""Points along each axis at which the area of pixels is averaged."""
HALF = 0.5


@dataclass(frozen=True, eq=False)
class PixelMap:
    """Where the pixels of an image fall on an output grid.

    Made by `make_pixel_map`, or by `PixelMap.from_positions`.
    """

    shape: tuple[int, int]
    """Shape (ny, nx) of the input image."""
    bounds: Window
    """The part of the input for which the map was asked; pixels outside are never used."""
    window: Window
    """The part of ``bounds`` that can reach the output; the map knows nothing of the rest."""
    error_px: float
    """Bound of the error in output pixels, from points between the nodes; 0 if the map lists every pixel."""
    mean_area: float
    """Mean area of an input pixel of the window in output pixels; NaN if too few of them are defined."""
    arrays: MapArrays = field(repr=False)
    """The map as compiled code reads it."""

    @property
    def scale_ratio(self) -> float:
        """Size of an output pixel in input pixels: ``mean_area ** -0.5``; NaN if that is not known."""
        return float(self.mean_area**-0.5) if self.mean_area > 0 else math.nan

    @classmethod
    def from_positions(cls, positions: Floats, *, bounds: Window | None = None) -> PixelMap:
        """Return a map that lists the position of every pixel, as the `drizzle` package takes it.

        Parameters
        ----------
        positions
            Output x and y of the centre of each input pixel, shape (ny, nx, 2); NaN where there are none.
        bounds
            The part of the input that is used; all of it by default.

        Raises
        ------
        ValueError
            If the array has another shape, or fewer than two rows or columns are used: their distance would be unknown.
        """
        if positions.ndim != 3 or positions.shape[2] != 2:
            raise ValueError(f"A list of positions has the shape (ny, nx, 2), not {positions.shape}.")
        shape = (positions.shape[0], positions.shape[1])
        bounds = _checked_bounds(bounds, shape)
        if min(bounds.shape) < 2:
            raise ValueError(f"A list of positions needs at least 2 rows and 2 columns, not {bounds.shape}.")
        listed = np.require(positions[bounds.slices], np.float64, ["C", "ALIGNED", "WRITEABLE", "ENSUREARRAY"])
        return _finished(shape, bounds, bounds, 0.0, listed_arrays(bounds, listed))

    def __call__(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the output x and y of input positions of any one shape.

        NaN more than half a pixel outside what the map knows: the window, and the pixels beside it within the bounds.
        """
        positions = self._evaluate(x, y, HALF)
        return positions[..., 0], positions[..., 1]

    def _evaluate(self, x: Floats, y: Floats, margin: float) -> Floats:
        x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
        out = np.empty((x.size, 2))
        map_points(self.arrays, np.ascontiguousarray(x).ravel(), np.ascontiguousarray(y).ravel(), margin, out)
        return out.reshape(*x.shape, 2)

    def area(self, x: Floats, y: Floats) -> Floats:
        """Return the area of input pixels at positions of any one shape in output pixels; NaN outside the window."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        # lists of positions may hold infinity
        with np.errstate(invalid="ignore", over="ignore"):
            across = self._evaluate(x + HALF, y, 1.0) - self._evaluate(x - HALF, y, 1.0)
            up = self._evaluate(x, y + HALF, 1.0) - self._evaluate(x, y - HALF, 1.0)
            area: Floats = np.abs(across[..., 0] * up[..., 1] - across[..., 1] * up[..., 0])
        return area

    def dense(self) -> Floats:
        """Return the output x and y of every input pixel, shape (ny, nx, 2); NaN outside the window."""
        return map_window(self.arrays, self.window, self.shape)


def make_pixel_map(
    to_output: ToOutput,
    shape: tuple[int, int],
    output_shape: tuple[int, int],
    *,
    tolerance_px: float = TOLERANCE_PX,
    bounds: Window | None = None,
    step: int = NODE_STEP,
) -> PixelMap | None:
    """Return where the pixels of an image fall on an output grid.

    The coordinate systems are evaluated at nodes, joined by bicubic splines, and at points between the nodes, which
    tells the error. While it is larger than the tolerance the nodes are made denser; a map with undefined places, or
    that stays rough, lists every pixel in the end.

    Parameters
    ----------
    to_output
        From places on the input to places on the output; called with float64 arrays of shape (n,), for places between
        the outermost pixel centres of the bounds, or up to half a pixel beside them where these are one pixel wide.
    shape, output_shape
        Shapes (ny, nx) of the input image and of the output grid.
    tolerance_px
        Largest error in output pixels.
    bounds
        The part of the input for which ``to_output`` holds; all of it by default.
    step
        Distance of the nodes at first, in pixels.

    Returns
    -------
    PixelMap or None
        None if no pixel can reach the output. A part of the image with positions that measures fewer than 16 pixels is
        not found if nothing else has any.

    Raises
    ------
    ValueError
        If a shape is not positive, or the bounds are empty or reach outside the image.
    """
    for name, each in (("input image", shape), ("output", output_shape)):
        if min(each) < 1:
            raise ValueError(f"The {name} has the shape {each}; both numbers must be positive.")
    bounds = _checked_bounds(bounds, shape)
    to_output = within_reach(to_output, bounds)
    window = reaching_window(to_output, bounds, output_shape)
    if window is None:
        return None
    domain = map_domain(window, bounds)
    while step >= LEAST_STEP:
        found = fit_splines(to_output, domain, step)
        if found is None:
            break
        error = error_bound(to_output, found, domain)
        if error <= tolerance_px:
            return _finished(shape, bounds, window, error, found)
        step //= 2
    listed = list_positions(to_output, domain)
    if not np.isfinite(listed).all(axis=-1).any():
        return None
    return _finished(shape, bounds, window, 0.0, listed_arrays(domain, listed))


def _checked_bounds(bounds: Window | None, shape: tuple[int, int]) -> Window:
    if bounds is None:
        return Window.full(shape)
    inside = 0 <= bounds.x_min < bounds.x_max <= shape[1] and 0 <= bounds.y_min < bounds.y_max <= shape[0]
    if not inside:
        raise ValueError(f"The bounds {bounds} are empty or reach outside an image of shape {shape}.")
    return bounds


def _finished(shape: tuple[int, int], bounds: Window, window: Window, error: float, arrays: MapArrays) -> PixelMap:
    without_area = PixelMap(shape, bounds, window, error, np.nan, arrays)
    x, y = (
        low + (high - low) * (np.arange(AREA_POINTS) + HALF) / AREA_POINTS - HALF
        for low, high in ((window.x_min, window.x_max), (window.y_min, window.y_max))
    )
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    areas = without_area.area(grid_x, grid_y)
    finite = areas[np.isfinite(areas)]
    mean_area = float(finite.mean()) if len(finite) else float("nan")
    return PixelMap(shape, bounds, window, error, mean_area, arrays)
