"""One image summed over one band of the output: every pixel whose drop touches the band, in the order of the input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit
from tasks.science.drop_kernels import SQUARE, Band, Drop
from tasks.science.drop_runs import add_drops, fill_areas, share_products, used_range
from tasks.science.engine_options import ENTRY, MERGED, PART
from tasks.science.lanes import LANES, UNSIGNED_LANES, transpose
from tasks.science.map_rows import TILE_COLUMNS, TILE_ROWS, MapArrays, fill_run, set_row
from tasks.science.map_tiles import X_HIGH, X_LOW, Y_HIGH, Y_LOW
from tasks.science.overlap import RUN, share_in_four

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Flags = NDArray[np.uint32]
Marks = NDArray[np.uint8]

TILES_PER_RUN = RUN // TILE_COLUMNS
MAX_PLANES = 6
"""Most planes of an image beside its values: variances and error."""
NOTHING, ONE, VALUE = -1, -2, -3
"""Sources of the planes of a band that are not planes of the image: none, the number 1, the values."""


class Source(NamedTuple):
    """An image as compiled code reads it; arrays of shape (ny, nx), or (1, 1) where there is none."""

    x_min: int
    y_min: int
    x_max: int
    y_max: int
    """With the former three: the window of the image that is used."""
    data: Floats32
    weight: Floats32
    planes: tuple[Floats32, ...]
    """Variances, then the error, filled up to MAX_PLANES."""
    dq: NDArray[np.uint32]
    sources: NDArray[np.int64]
    """What each plane of a band takes: the number of one of ``planes``, or NOTHING, ONE or VALUE; shape (planes,)."""
    n_variances: int
    """So many of ``planes`` are variances, of which the root is taken."""
    level: np.float32
    scale: np.float32
    has_dq: bool
    holds_flux: bool


class Space(NamedTuple):
    """Working space of a thread."""

    positions: Floats
    shares: Floats
    cubics: Floats
    weights: Floats
    rows: Floats32
    values: Floats32
    wide: NDArray[np.int64]
    corners: Floats
    nine: Floats
    areas: Floats
    along_x: Floats
    along_y: Floats


@njit(**PART)
def _read_weights(data: Floats32, weight: Floats32, weights: Floats) -> bool:
    """Set the weights of a run, 0 where a pixel cannot be used; tell whether any can."""
    n_used = 0
    for k in range(len(data)):
        w = weight[k]
        used = (w > 0.0) & (w < np.inf) & (abs(data[k]) < np.inf)
        weights[k] = w if used else np.float32(0.0)
        n_used += used
    return n_used > 0


@njit(**PART)
def _scaled_row(pixels: Floats32, root: bool, scale: np.float32, weights: Floats, row: Floats32) -> int:
    """Set a row to pixels or their roots, scaled; return how many that are used are not finite."""
    not_finite = 0
    for k in range(len(pixels)):
        value = pixels[k]
        rooted = np.sqrt(value)
        value = (rooted if root else value) * scale
        not_finite += (weights[k] != 0.0) & (not abs(value) < np.inf)
        row[k] = value
    return not_finite


@njit(**PART)
def _read_values(
    image: Source, j: int, start: int, first: int, last: int, n_planes: int, weights: Floats, rows: Floats32,
    values: Floats32,
) -> bool:  # fmt: skip
    """Set what pixels of a run add to each plane, pixel by pixel; tell whether all of it that is used is finite."""
    not_finite = 0
    for plane in range(n_planes):
        source = image.sources[plane]
        row = rows[plane * RUN + first : plane * RUN + last]
        if source == VALUE:
            pixels = image.data[j, start + first : start + last]
            for k in range(len(row)):
                row[k] = (pixels[k] - image.level) * image.scale
        elif source >= 0:
            pixels, root = image.planes[source][j, start + first : start + last], source < image.n_variances
            not_finite += _scaled_row(pixels, root, image.scale, weights[first:last], row)
        elif source == ONE:
            row[:] = np.float32(1.0)
    # planes without a source are 0, as all working space is from the start
    run, step = np.uint64(RUN), np.uint64(n_planes)
    for k in range(np.uint64(first - first % LANES), np.uint64(last), UNSIGNED_LANES):
        for plane in range(np.uint64(0), step, UNSIGNED_LANES):
            transpose(rows, plane * run + k, run, values, k * step + plane, step)
    return not_finite == 0


@njit(**MERGED)
def _add_run(
    m: MapArrays, image: Source, drop: Drop, table: Floats, band: Band, sums: Floats32, flags: Flags, marks: Marks, j:
    int, start: int, stop: int, space: Space,
) -> None:  # fmt: skip
    """Add a run of pixels of one row."""
    n = stop - start
    weights, positions, shares, values = space.weights, space.positions, space.shares, space.values
    if not _read_weights(image.data[j, start:stop], image.weight[j, start:stop], weights):
        return
    dq = image.dq[j, start:stop] if image.has_dq else image.dq[0, :0]
    if drop.kind != SQUARE and image.holds_flux:
        # between rows half a pixel apart are the pixels' areas; the centres are set afterwards
        set_row(m, j, start, stop, 0.5, space.cubics)
        fill_run(m, j, start, stop, 0.5, space.cubics, positions)
        fill_areas(positions, n, shares)
        set_row(m, j, start, stop, 0.0, space.cubics)
    fill_run(m, j, start, stop, drop.half, space.cubics, positions)
    first, last = used_range(band, drop, positions, weights, n)
    if first == last:
        return
    if drop.kind == SQUARE:
        share_in_four(positions, first, last, drop.half, shares)
    else:
        share_products(drop, positions, n, image.holds_flux, shares)
    finite = _read_values(image, j, start, first, last, band.n_planes, weights, space.rows, values)
    add_drops(
        band, sums, flags, marks, drop, table, positions, shares, weights, values, dq, first, last, image.holds_flux,
        finite, space.wide, space.corners, space.nine, space.areas, space.along_x, space.along_y,
    )  # fmt: skip


@njit(**PART)
def _touches(band: Band, extents: Floats, tile_row: int, tile_column: int) -> bool:
    touches: bool = (
        extents[tile_row, tile_column, Y_HIGH] >= band.y_min - 0.5
        and extents[tile_row, tile_column, Y_LOW] <= band.y_max - 0.5
        and extents[tile_row, tile_column, X_HIGH] >= band.x_min - 0.5
        and extents[tile_row, tile_column, X_LOW] <= band.x_max - 0.5
    )
    return touches


@njit(**PART)
def _end_of_run(band: Band, extents: Floats, tile_row: int, begin: int, last: int) -> int:
    """Return how far from a tile on all tiles of a row touch a band, if they are not too many for a run."""
    end = begin
    while end < min(last, begin + TILES_PER_RUN) and _touches(band, extents, tile_row, end):
        end += 1
    return end


@njit(**ENTRY)
def sum_band(
    m: MapArrays, image: Source, drop: Drop, table: Floats, band: Band, sums: Floats32, flags: Flags, marks: Marks,
    extents: Floats, space: Space,
) -> None:  # fmt: skip
    """Add an image to an empty band.

    Parameters
    ----------
    m, image, drop, table
        Pixel map, image, kernel and its table.
    band, sums, flags, marks
        The band, with sums, flags and marks that are 0; shapes (pixels x planes,), (pixels,), (pixels,), the latter two
        of any length if they are not needed.
    extents
        Where the tiles of the image lie on the output, shape (tile rows, tile columns, 4).
    space
        Working space.
    """
    n_rows, n_columns = extents.shape[0], extents.shape[1]
    for tile_row in range(n_rows):
        first, last = 0, n_columns
        while first < last and not _touches(band, extents, tile_row, first):
            first += 1
        while last > first and not _touches(band, extents, tile_row, last - 1):
            last -= 1
        if first == last:
            continue
        top = image.y_min + tile_row * TILE_ROWS
        left, right = image.x_min + first * TILE_COLUMNS, min(image.x_min + last * TILE_COLUMNS, image.x_max)
        for j in range(top, min(top + TILE_ROWS, image.y_max)):
            set_row(m, j, left, right, drop.half, space.cubics)
            end = first
            while end < last:
                begin, end = end, _end_of_run(band, extents, tile_row, end, last)
                if begin == end:
                    end += 1
                    continue
                start = image.x_min + begin * TILE_COLUMNS
                stop = min(image.x_min + end * TILE_COLUMNS, image.x_max)
                _add_run(m, image, drop, table, band, sums, flags, marks, j, start, stop, space)
