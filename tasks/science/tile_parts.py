"""Which rows of a CCD a band of a tile needs, and how they get there in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.products.windows import Window
from tasks.science.pixel_map import PixelMap, make_pixel_map

Shape = tuple[int, int]
Item = TypeVar("Item")
Read = TypeVar("Read")

SAMPLE_STEP = 32
"""Pixels between the places at which it is asked which rows of a CCD reach a band."""
REACH_PX = 2.0
"""How far the drop of a pixel reaches at most, in pixels of the tile or in its own, whichever is larger."""


def rows_reaching(pixel_map: PixelMap, first: int, last: int) -> slice | None:
    """Return the rows of a CCD that can reach rows of a tile, from the first to the last; None if none can.

    None that can is missing; some of those at the ends may not reach.
    """
    window = pixel_map.window
    x, y = _samples(window.x_min, window.x_max), _samples(window.y_min, window.y_max)
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    on_tile = pixel_map(grid_x, grid_y)[1]
    # a place that is not on the tile's projection is NaN, which rules nothing out
    lowest, highest = np.fmin.reduce(on_tile, axis=1), np.fmax.reduce(on_tile, axis=1)
    lowest, highest = np.fmin(lowest[:-1], lowest[1:]), np.fmax(highest[:-1], highest[1:])
    reach = REACH_PX * max(1.0, math.sqrt(pixel_map.mean_area))
    steps = np.flatnonzero((highest >= first - 0.5 - reach) & (lowest <= last + 0.5 + reach))
    if steps.size == 0:
        return None
    return slice(int(y[steps[0]]), math.ceil(y[steps[-1] + 1]) + 1)


def _samples(start: int, stop: int) -> NDArray[np.float64]:
    """Return places from the first pixel to the last, at least two."""
    return np.linspace(start, stop - 1, max(2, math.ceil((stop - start) / SAMPLE_STEP) + 1))


def part_of_map(pixel_map: PixelMap, rows: slice, first: int, shape: Shape) -> PixelMap | None:
    """Return where some rows of a CCD fall on a band of the tile; None if no pixel reaches it.

    Parameters
    ----------
    pixel_map
        Where the CCD falls on the tile.
    rows
        The rows of the CCD, which count from 0 in the result.
    first, shape
        First row of the band on the tile, which counts from 0 in the result, and shape (ny, nx) of the band.
    """

    def to_band(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        on_x, on_y = pixel_map(x, y + rows.start)
        return on_x, on_y - first

    window = pixel_map.window
    low, high = max(window.y_min, rows.start) - rows.start, min(window.y_max, rows.stop) - rows.start
    cut = Window(window.x_min, low, window.x_max, high)
    return make_pixel_map(to_band, (rows.stop - rows.start, pixel_map.shape[1]), shape, bounds=cut)


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
