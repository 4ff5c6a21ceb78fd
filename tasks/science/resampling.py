"""Drizzle: CCD images resampled to the grid of a tile and averaged (Fruchter & Hook 2002).

A CCD is resampled into a window of its own, so that memory follows the window and CCDs may be resampled anywhere; the
windows are then added in a fixed order, which makes the sum the same to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from astropy.wcs import WCS
from drizzle.resample import Drizzle
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from tasks.errors import ShapeMismatchError
from tasks.products.images import Window
from tasks.science.geometry import pixel_to_sky

Kernel = Literal["square", "turbo", "point"]
"""The drizzle kernels that conserve flux."""

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

NODE_STEP = 16
"""Pixels between the nodes of the coarse pixel map: cubic interpolation is then exact to 2e-8 pixels."""
MIN_NODES = 5
BAND_ROWS = 256
"""Input rows for which the dense pixel map is made at a time."""
EDGE_PIXELS = 2.0
"""Distance from the tile at which a pixel can no longer reach it."""
CONTEXT_BITS = 32


@dataclass(frozen=True)
class ResamplingInput:
    """One CCD as it goes into a tile."""

    flux: Plane
    """Background-subtracted flux per pixel, in the units of the tile, shape (ny, nx)."""
    weight: Plane
    """Inverse variance of the flux, shape (ny, nx); pixels with 0 are not used, whatever their flux."""
    wcs: WCS
    dq: NDArray[np.uint32] | None = None
    """Flags, shape (ny, nx); those of pixels with weight are combined by OR."""
    saturation: float = np.inf
    """Flux above the background at which a pixel is saturated."""
    gain: float = 0.0
    """Electrons per unit of the flux."""


@dataclass(frozen=True)
class Resampled:
    """One CCD on the grid of a tile."""

    window: Window
    """The part of the tile that the arrays cover."""
    sci: Plane
    """Flux per tile pixel; 0 where the CCD has no weight."""
    weight: Plane
    """Inverse variance per tile pixel, that of a tile without correlated noise."""
    variance: Plane
    """Variance of the flux of each tile pixel, its correlation with its neighbours left out."""
    dq: NDArray[np.uint32]
    """Flags of all contributing pixels."""
    pixel_area: float
    """Area of a CCD pixel in tile pixels, at the middle of what was resampled."""


@dataclass(frozen=True)
class CoaddPlanes:
    """The planes of a tile, shape (ny, nx) each; 0 where nothing contributed."""

    sci: Plane
    """Flux per tile pixel: the mean of the inputs, weighted by inverse variance."""
    weight: Plane
    """Inverse variance: the sum of the inputs' weights."""
    context: NDArray[np.int32]
    """Bit i % 32 of plane i // 32 tells whether input i contributed, shape (nplanes, ny, nx)."""
    variance: Plane
    """Variance of the flux of each pixel, correlations left out."""
    dq: NDArray[np.uint32]
    """Flags of all contributing pixels."""


@dataclass(frozen=True)
class PixelMap:
    """Where the pixels of a window of a CCD fall on a tile, as splines over a coarse grid of nodes."""

    window: Window
    """The part of the CCD that can reach the tile."""
    x: RectBivariateSpline
    y: RectBivariateSpline
    area: RectBivariateSpline
    """Area of a CCD pixel in tile pixels."""

    @property
    def scale_ratio(self) -> float:
        """Size of a tile pixel in CCD pixels, at the middle of the window."""
        middle = self.area((self.window.y_min + self.window.y_max) / 2, (self.window.x_min + self.window.x_max) / 2)
        return float(1.0 / np.sqrt(middle[0, 0]))

    def evaluate(self, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return positions of shape (rows, nx, 2), x first, and areas of shape (rows, nx) for rows of the CCD."""
        columns = np.arange(self.window.x_min, self.window.x_max)
        positions = np.stack([self.x(rows, columns), self.y(rows, columns)], axis=-1)
        return positions, self.area(rows, columns)


def make_pixel_map(
    wcs: WCS, shape: tuple[int, int], tile_wcs: WCS, tile_shape: tuple[int, int], *, step: int = NODE_STEP
) -> PixelMap | None:
    """Return the pixel map of the part of a CCD that overlaps a tile.

    The coordinate systems are evaluated at coarse nodes only, and interpolated by bicubic splines.

    Parameters
    ----------
    wcs, shape
        Coordinate system and shape (ny, nx) of the CCD.
    tile_wcs, tile_shape
        Coordinate system and shape of the tile.
    step
        Largest distance of nodes in pixels.

    Returns
    -------
    PixelMap or None
        None if the CCD does not reach the tile.
    """
    window = _overlapping_window(wcs, shape, tile_wcs, tile_shape, step)
    if window is None:
        return None
    x = _nodes(window.x_min - 1.0, float(window.x_max), step)
    y = _nodes(window.y_min - 1.0, float(window.y_max), step)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    on_x, on_y = _to_tile(wcs, tile_wcs, grid_x, grid_y)
    right, left = (_to_tile(wcs, tile_wcs, grid_x + half, grid_y) for half in (0.5, -0.5))
    above, below = (_to_tile(wcs, tile_wcs, grid_x, grid_y + half) for half in (0.5, -0.5))
    area = np.abs((right[0] - left[0]) * (above[1] - below[1]) - (above[0] - below[0]) * (right[1] - left[1]))
    return PixelMap(window, *(RectBivariateSpline(y, x, values, s=0) for values in (on_x, on_y, area)))


def _nodes(start: float, stop: float, step: int) -> Floats:
    count = max(MIN_NODES, int(np.ceil((stop - start) / step)) + 1)
    return np.linspace(start, stop, count)


def _to_tile(wcs: WCS, tile_wcs: WCS, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    tile_x, tile_y = tile_wcs.all_world2pix(*pixel_to_sky(wcs, x, y), 0)
    return np.asarray(tile_x), np.asarray(tile_y)


def _overlapping_window(
    wcs: WCS, shape: tuple[int, int], tile_wcs: WCS, tile_shape: tuple[int, int], step: int
) -> Window | None:
    ny, nx = shape
    x, y = _nodes(-0.5, nx - 0.5, step), _nodes(-0.5, ny - 0.5, step)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    on_x, on_y = _to_tile(wcs, tile_wcs, grid_x, grid_y)
    reaches = np.ones((len(y) - 1, len(x) - 1), np.bool_)
    for values, length in ((on_x, tile_shape[1]), (on_y, tile_shape[0])):
        corners = np.stack([values[:-1, :-1], values[:-1, 1:], values[1:, :-1], values[1:, 1:]])
        # a corner that the tile's projection does not reach is NaN, and so is what it is compared to
        reaches &= (corners.max(axis=0) >= -0.5 - EDGE_PIXELS) & (corners.min(axis=0) <= length - 0.5 + EDGE_PIXELS)
    if not reaches.any():
        return None
    columns, rows = np.flatnonzero(reaches.any(axis=0)), np.flatnonzero(reaches.any(axis=1))
    return Window(
        max(0, int(np.floor(x[columns[0]]))),
        max(0, int(np.floor(y[rows[0]]))),
        min(nx, int(np.ceil(x[columns[-1] + 1])) + 1),
        min(ny, int(np.ceil(y[rows[-1] + 1])) + 1),
    )


def resample(
    ccd: ResamplingInput,
    tile_wcs: WCS,
    tile_shape: tuple[int, int],
    *,
    kernel: Kernel = "square",
    pixfrac: float = 1.0,
) -> Resampled | None:
    """Drizzle one CCD onto the grid of a tile.

    Pixels hold flux, and drizzle averages: each value is divided by the area of its pixel in tile pixels first, so that
    the flux of a star is conserved where the distortion changes the size of pixels.

    Parameters
    ----------
    ccd
        The CCD; not changed.
    tile_wcs, tile_shape
        Coordinate system and shape (ny, nx) of the tile.
    kernel
        Shape of the drop.
    pixfrac
        Size of the drop in pixels.

    Returns
    -------
    Resampled or None
        None if no pixel with weight reaches the tile.

    Raises
    ------
    ShapeMismatchError
        If flux, weight and flags differ in shape.
    """
    planes = [ccd.flux.shape, ccd.weight.shape] + ([ccd.dq.shape] if ccd.dq is not None else [])
    if len(set(planes)) > 1:
        raise ShapeMismatchError(f"Flux, weight and flags to be resampled have the shapes {planes}; they must agree.")
    pixel_map = make_pixel_map(ccd.wcs, ccd.flux.shape, tile_wcs, tile_shape)
    if pixel_map is None:
        return None
    target = _target_window(pixel_map, tile_shape)
    if target is None:
        return None
    out = Drizzle(kernel=kernel, fillval="0", fillval2="0", out_shape=target.shape, disable_ctx=True)
    window = pixel_map.window
    for first in range(window.y_min, window.y_max, BAND_ROWS):
        rows = (first, min(first + BAND_ROWS, window.y_max))
        _drizzle_band(out, ccd, pixel_map, target, rows, pixfrac)
    used = out.out_wht > 0
    if not used.any():
        return None
    sci, variance = np.where(used, out.out_img, 0), np.where(used, out.out_img2[0], 0)
    dq = np.where(used, out.out_dq, 0).astype(np.uint32)
    return Resampled(target, sci, out.out_wht, variance, dq, pixel_area=pixel_map.scale_ratio**-2)


def _target_window(pixel_map: PixelMap, tile_shape: tuple[int, int]) -> Window | None:
    window = pixel_map.window
    edges = []
    for spline, length in ((pixel_map.x, tile_shape[1]), (pixel_map.y, tile_shape[0])):
        # the outermost pixels of a smooth map are on its outline
        columns, rows = np.arange(window.x_min, window.x_max), np.arange(window.y_min, window.y_max)
        outline = np.concatenate([spline(rows[[0, -1]], columns).ravel(), spline(rows, columns[[0, -1]]).ravel()])
        edges.append(max(0, int(np.floor(outline.min() - EDGE_PIXELS))))
        edges.append(min(length, int(np.ceil(outline.max() + EDGE_PIXELS)) + 1))
    target = Window(edges[0], edges[2], edges[1], edges[3])
    return target if min(target.shape) > 0 else None


def _drizzle_band(
    out: Drizzle, ccd: ResamplingInput, pixel_map: PixelMap, target: Window, rows: tuple[int, int], pixfrac: float
) -> None:
    """Add the rows of one band; a row more on either side gives its outer pixels their corners."""
    window = pixel_map.window
    low, high = max(window.y_min, rows[0] - 1), min(window.y_max, rows[1] + 1)
    cut = (slice(low, high), slice(window.x_min, window.x_max))
    flux, weight = ccd.flux[cut], ccd.weight[cut]
    good = (weight > 0) & np.isfinite(weight) & np.isfinite(flux)
    if not good.any():
        return
    positions, area = pixel_map.evaluate(np.arange(low, high))
    positions -= (target.x_min, target.y_min)
    ivar = np.where(good, weight, 0.0) * area**2
    dq = ccd.dq[cut] if ccd.dq is not None else np.zeros(flux.shape, np.uint32)
    out.add_image(
        (np.where(good, flux, 0.0) / area).astype(np.float32),
        exptime=1.0,
        pixmap=positions,
        data2=np.divide(1.0, ivar, out=np.zeros_like(ivar), where=good).astype(np.float32),
        dq=np.ascontiguousarray(dq, dtype=np.uint32),
        weight_map=ivar.astype(np.float32),
        pixel_scale_ratio=pixel_map.scale_ratio,
        pixfrac=pixfrac,
        ymin=rows[0] - low,
        ymax=rows[1] - 1 - low,
    )


class CoaddBuilder:
    """Adds resampled CCDs to a tile; the order of the calls is the order of the context bits."""

    def __init__(self, shape: tuple[int, int], n_inputs: int) -> None:
        """Make an empty tile of a shape (ny, nx) for at most this number of inputs."""
        self._sum = np.zeros(shape, np.float32)
        self._weight = np.zeros(shape, np.float32)
        self._variance = np.zeros(shape, np.float32)
        self._dq = np.zeros(shape, np.uint32)
        self._context = np.zeros((max(1, -(-n_inputs // CONTEXT_BITS)), *shape), np.uint32)
        self._n_inputs = n_inputs
        self._n_planes = 1

    def add(self, number: int, resampled: Resampled) -> None:
        """Add input ``number``, counted from 0.

        Raises
        ------
        ValueError
            If there is no such input.
        """
        if not 0 <= number < self._n_inputs:
            raise ValueError(f"input {number} was added to a tile of {self._n_inputs} inputs")
        here = resampled.window.slices
        self._sum[here] += resampled.weight * resampled.sci
        self._weight[here] += resampled.weight
        self._variance[here] += resampled.weight**2 * resampled.variance
        self._dq[here] |= resampled.dq
        plane, bit = divmod(number, CONTEXT_BITS)
        self._n_planes = max(self._n_planes, plane + 1)
        self._context[plane][here] |= np.where(resampled.weight > 0, np.uint32(1 << bit), np.uint32(0))

    def finish(self) -> CoaddPlanes:
        """Return the planes of the tile."""
        used = self._weight > 0
        sci, variance = np.zeros_like(self._sum), np.zeros_like(self._sum)
        np.divide(self._sum, self._weight, out=sci, where=used)
        np.divide(self._variance, self._weight**2, out=variance, where=used)
        context = self._context[: self._n_planes].view(np.int32)
        return CoaddPlanes(sci, self._weight, context, variance, self._dq)


def contributing_inputs(context: NDArray[np.int32], x: int, y: int) -> tuple[int, ...]:
    """Return the numbers of the inputs that contributed to one pixel of a tile.

    Parameters
    ----------
    context
        Context planes, shape (nplanes, ny, nx).
    x, y
        The pixel, counted from 0.
    """
    words = np.ascontiguousarray(context[:, y, x]).view(np.uint32)
    return tuple(
        plane * CONTEXT_BITS + bit
        for plane, word in enumerate(words)
        for bit in range(CONTEXT_BITS)
        if int(word) >> bit & 1
    )
