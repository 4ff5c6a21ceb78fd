"""One image summed over one band of the output: every pixel whose drop touches the band, in the order of the input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit
from tasks.science.drop_kernels import SQUARE, Band, Drop
from tasks.science.drop_runs import add_drops, fill_areas, share_products, used_range
from tasks.science.engine_options import ENTRY, MERGED, PART
from tasks.science.map_rows import TILE_COLUMNS, TILE_ROWS, MapArrays, fill_run, set_row
from tasks.science.map_tiles import X_HIGH, X_LOW, Y_HIGH, Y_LOW
from tasks.science.overlap import share_in_four

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Flags = NDArray[np.uint32]
Marks = NDArray[np.uint8]

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
    row: Floats32
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
    highest = 0.0
    for k in range(len(data)):
        w = float(weight[k])
        used = (w > 0.0) & (w < np.inf) & (abs(data[k]) < np.inf)
        w = w if used else 0.0
        weights[k] = w
        highest = max(highest, w)
    return highest > 0.0


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
    image: Source, j: int, start: int, stop: int, n_planes: int, weights: Floats, row: Floats32, values: Floats32
) -> bool:
    """Set what a run adds to each plane, pixel by pixel; tell whether all of it that is used is finite."""
    not_finite = 0
    n = stop - start
    step = np.uint64(n_planes)
    for plane in range(n_planes):
        source = image.sources[plane]
        if source == VALUE:
            for k in range(n):
                row[k] = (image.data[j, start + k] - image.level) * image.scale
        elif source >= 0:
            root = source < image.n_variances
            not_finite += _scaled_row(image.planes[source][j, start:stop], root, image.scale, weights, row)
        elif source == ONE:
            for k in range(n):
                row[k] = np.float32(1.0)
        else:
            # working space is 0 from the start
            continue
        at = np.uint64(plane)
        for k in range(n):
            values[at] = row[k]
            at += step
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
    finite = _read_values(image, j, start, stop, band.n_planes, weights, space.row, values)
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
            for tile_column in range(first, last):
                if _touches(band, extents, tile_row, tile_column):
                    start = image.x_min + tile_column * TILE_COLUMNS
                    stop = min(start + TILE_COLUMNS, image.x_max)
                    _add_run(m, image, drop, table, band, sums, flags, marks, j, start, stop, space)
