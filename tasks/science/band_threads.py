"""Bands of an output shared by threads.

Which thread takes a band changes nothing: bands are fixed, and no two have a part in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.products.windows import Window
from tasks.science.band_merge import PIECE, Merge, MergeSpace, Output, merge_band
from tasks.science.band_sums import Source, Space, sum_band
from tasks.science.drop_kernels import Band, Drop
from tasks.science.map_rows import N_SLOTS, ORDER, MapArrays
from tasks.science.map_tiles import X_HIGH, X_LOW, Y_HIGH, Y_LOW
from tasks.science.overlap import N_POSITIONS, N_SHARES, RUN
from tasks.science.wide_overlap import N_CORNERS, N_NINE

BAND_ROWS = 64
"""Rows of the output that are summed at a time. Fixed, because the bits of the result follow it."""
FRAME = 2
"""Columns and rows that a band has more than its part of the output."""


def touched_bands(extents: NDArray[np.float64], shape: tuple[int, int]) -> list[Window]:
    """Return the bands of an output that an image can reach, cut to the columns that it can reach in them.

    Parameters
    ----------
    extents
        Where the tiles of the image lie on the output, shape (tile rows, tile columns, 4).
    shape
        Shape (ny, nx) of the output.
    """
    ny, nx = shape
    tiles = extents.reshape(-1, extents.shape[-1])
    on_output = (tiles[:, X_LOW] <= nx) & (tiles[:, X_HIGH] >= -1) & (tiles[:, Y_LOW] <= ny) & (tiles[:, Y_HIGH] >= -1)
    tiles = tiles[on_output]
    bands = []
    for y_min in range(0, ny, BAND_ROWS):
        y_max = min(y_min + BAND_ROWS, ny)
        here = tiles[(tiles[:, Y_LOW] <= y_max) & (tiles[:, Y_HIGH] >= y_min - 1)]
        if len(here) == 0:
            continue
        x_min = max(0, int(np.floor(max(here[:, X_LOW].min(), 0.0))))
        x_max = int(np.ceil(min(here[:, X_HIGH].max(), nx - 1.0))) + 1
        if x_min < x_max:
            bands.append(Window(x_min, y_min, x_max, y_max))
    return bands


@dataclass(frozen=True, eq=False)
class BandWork:
    """One image to be added to an output."""

    arrays: MapArrays
    source: Source
    drop: Drop
    table: NDArray[np.float64]
    extents: NDArray[np.float64]
    output: Output
    merge: Merge
    n_linear: int

    @property
    def n_planes(self) -> int:
        """Number of planes of a band."""
        return len(self.source.sources)

    def small_space(self, n_columns: int) -> Space:
        """Return working space for a thread, for bands of at most so many columns."""
        return Space(
            positions=np.zeros(N_POSITIONS),
            shares=np.zeros(N_SHARES),
            cubics=np.zeros(N_SLOTS * ORDER * len(self.arrays.x_starts)),
            weights=np.zeros(RUN),
            rows=np.zeros(RUN * self.n_planes, np.float32),
            values=np.zeros(RUN * self.n_planes, np.float32),
            wide=np.zeros(RUN, np.int64),
            corners=np.zeros(N_CORNERS),
            nine=np.zeros(N_NINE),
            areas=np.zeros(BAND_ROWS + 1),
            along_x=np.zeros(n_columns),
            along_y=np.zeros(BAND_ROWS),
        )

    def merge_space(self) -> MergeSpace:
        """Return working space for merging."""
        planes = np.zeros((self.n_planes, PIECE), np.float32)
        return MergeSpace(planes, own_weight=np.zeros(PIECE, np.float32), rows=np.zeros((2, PIECE)))


class BandBuffer:
    """Sums, flags and marks of a band, empty between bands; kept by a thread from image to image."""

    def __init__(self) -> None:
        """Make an empty buffer for no pixels."""
        self.sums = np.zeros(0, np.float32)
        self.flags = np.zeros(0, np.uint32)
        self.marks = np.zeros(0, np.uint8)

    def provide(self, work: BandWork, n_pixels: int) -> None:
        """Make room for bands of this many pixels."""
        if len(self.sums) < n_pixels * work.n_planes:
            self.sums = np.zeros(n_pixels * work.n_planes, np.float32)
        if work.source.has_dq and len(self.flags) < n_pixels:
            self.flags = np.zeros(n_pixels, np.uint32)
        if work.merge.has_marks and len(self.marks) < n_pixels:
            self.marks = np.zeros(n_pixels, np.uint8)


class BandThreads:
    """Threads that sum and merge the bands of an output."""

    def __init__(self, n_threads: int) -> None:
        """Make room for this many threads."""
        self._buffers = [BandBuffer() for _ in range(n_threads)]

    def run(self, work: BandWork, bands: Sequence[Window]) -> int:
        """Add an image to an output, band by band; return the number of output pixels to which it contributed."""
        n_columns = max(band.shape[1] for band in bands)
        n_pixels = (BAND_ROWS + FRAME) * (n_columns + FRAME)
        buffers = self._buffers[: len(bands)]
        for buffer in buffers:
            buffer.provide(work, n_pixels)
        queue = iter(bands)

        def drain(buffer: BandBuffer) -> int:
            space, merge_space, count = work.small_space(n_columns), work.merge_space(), 0
            # the iterator of a list gives each band to one thread only
            for window in queue:
                band = Band(window.x_min, window.y_min, window.x_max, window.y_max, work.n_linear, work.n_planes)
                sums = (buffer.sums, buffer.flags, buffer.marks)
                sum_band(work.arrays, work.source, work.drop, work.table, band, *sums, work.extents, space)
                count += merge_band(band, *sums, work.output, work.merge, merge_space)
            return count

        if len(buffers) == 1:
            return drain(buffers[0])
        with ThreadPoolExecutor(len(buffers)) as pool:
            return sum(pool.map(drain, buffers))
