"""Which rows of a CCD a band of a tile needs, where they fall on it, and how they get there in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.products.windows import Window
from tasks.science.pixel_map import PixelMap, ToOutput, make_pixel_map

Floats = NDArray[np.float64]
Shape = tuple[int, int]
Item = TypeVar("Item")
Read = TypeVar("Read")

COARSE_STEP = 64
COARSE_PX = 0.1
"""What a map may be wrong by, in pixels of the tile, that only says which rows are wanted."""
SAMPLE_STEP = 32
"""Pixels between the places at which it is asked which rows of a CCD reach a band."""
REACH_PX = 2.0
"""How far the drop of a pixel reaches at most, in pixels of the tile or in its own, whichever is larger."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a CCD falls on a tile, in a few kilobytes: a map of all its pixels takes ten megabytes.

    Made by `place_ccd`.
    """

    to_tile: ToOutput
    """From pixels of the CCD to pixels of the tile."""
    shape: Shape
    """Shape (ny, nx) of the CCD."""
    window: Window
    """The part of the CCD that can reach the tile."""
    mean_area: float
    """Mean area of its pixels in pixels of the tile."""
    samples: Floats
    """Rows of the CCD from the first to the last of the window, shape (n + 1,)."""
    lowest: Floats
    """Lowest row of the tile between two samples, shape (n,); NaN where nothing is on the tile's projection."""
    highest: Floats
    """Highest row, likewise."""

    def rows_reaching(self, first: int, last: int) -> slice | None:
        """Return the rows of the CCD that can reach rows of the tile, from the first to the last; None if none can.

        None that can is missing; some of those at the ends may not reach.
        """
        reach = REACH_PX * max(1.0, math.sqrt(self.mean_area))
        found = np.flatnonzero((self.highest >= first - 0.5 - reach) & (self.lowest <= last + 0.5 + reach))
        if found.size == 0:
            return None
        return slice(int(self.samples[found[0]]), math.ceil(self.samples[found[-1] + 1]) + 1)

    def map_rows(self, rows: slice, first: int, shape: Shape) -> PixelMap | None:
        """Return where some rows of the CCD fall on a band of the tile; None if no pixel reaches it.

        Parameters
        ----------
        rows
            The rows of the CCD, which count from 0 in the result.
        first, shape
            First row of the band on the tile, which counts from 0 in the result, and shape (ny, nx) of the band.
        """

        def to_band(x: Floats, y: Floats) -> tuple[Floats, Floats]:
            on_x, on_y = self.to_tile(x, y + rows.start)
            return on_x, on_y - first

        low, high = max(self.window.y_min, rows.start) - rows.start, min(self.window.y_max, rows.stop) - rows.start
        part = Window(self.window.x_min, low, self.window.x_max, high)
        return make_pixel_map(to_band, (rows.stop - rows.start, self.shape[1]), shape, bounds=part)


def place_ccd(to_tile: ToOutput, shape: Shape, tile_shape: Shape, bounds: Window | None = None) -> Placement | None:
    """Return where a CCD falls on a tile; None if no pixel reaches it.

    Parameters
    ----------
    to_tile
        From pixels of the CCD to pixels of the tile, NaN where there are none.
    shape, tile_shape
        Shapes (ny, nx).
    bounds
        The part of the CCD that is used; all of it by default.
    """
    coarse = make_pixel_map(to_tile, shape, tile_shape, tolerance_px=COARSE_PX, bounds=bounds, step=COARSE_STEP)
    if coarse is None:
        return None
    window = coarse.window
    x, y = _samples(window.x_min, window.x_max), _samples(window.y_min, window.y_max)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    on_tile = coarse(grid_x, grid_y)[1]
    # a place that is not on the tile's projection is NaN, which rules nothing out
    lowest, highest = np.fmin.reduce(on_tile, axis=1), np.fmax.reduce(on_tile, axis=1)
    lowest, highest = np.fmin(lowest[:-1], lowest[1:]), np.fmax(highest[:-1], highest[1:])
    return Placement(to_tile, shape, window, coarse.mean_area, y, lowest, highest)


def _samples(start: int, stop: int) -> Floats:
    """Return places from the first pixel to the last, at least two."""
    return np.linspace(start, stop - 1, max(2, math.ceil((stop - start) / SAMPLE_STEP) + 1))


def read_ahead(items: Iterable[Item], read: Callable[[Item], Read]) -> Generator[tuple[Item, Read]]:
    """Read items one after the other in another thread: the next one while the caller works on the present one."""
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        present: tuple[Item, Future[Read]] | None = None
        for item in items:
            following = item, reader.submit(read, item)
            if present is not None:
                yield present[0], present[1].result()
            present = following
        if present is not None:
            yield present[0], present[1].result()
