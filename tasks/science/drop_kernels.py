"""What one input pixel gives to the output: the drops of drizzle, and how they are added to a band of it.

The kernels other than the square are products of a function of x and one of y, so that their values are found once per
column and row and not once per pixel. Their formulas are those of the `drizzle` package, to whose numbers they agree.

Compiled functions that are called for every pixel take arrays one by one: taken from a tuple, they would be counted as
references every time, which costs more than the work. Their indices have no sign, so that none is tested for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit
from tasks.science.engine_options import INLINE, PART
from tasks.science.lanes import LANES, UNSIGNED_LANES, add_products, add_squares
from tasks.science.overlap import NO_SHARE, RUN
from tasks.science.wide_overlap import areas_in_column

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Flags = NDArray[np.uint32]
Marks = NDArray[np.uint8]

SQUARE, POINT, TURBO, GAUSSIAN, LANCZOS = range(5)
FWHM_SIGMAS = 2.3548
"""Full width at half maximum of a Gaussian in standard deviations, with the digits that drizzle has."""
GAUSSIAN_SIGMAS, LEAST_REACH = 2.5, 1.2
"""A Gaussian is cut at so many standard deviations, but not below so many input pixels, that no holes are left."""
TABLE_STEP = 0.003
"""Step of the table of the Lanczos function, in input pixels; values between are not interpolated."""
POINT_PIXFRAC = 0.001
"""Up to this size a drop is a point, as in drizzle."""
LARGEST_DROP = 1e6
"""Output pixels that a drop may extend over: larger ones lie across a break of the map; their areas are rounding."""
ADDED, ADDED_POSITIVE = 1, 3
"""Marks of an output pixel to which a kernel with negative parts added anything, and something positive."""


class Drop(NamedTuple):
    """A kernel."""

    kind: int
    half: float
    """Half the size in input pixels (square)."""
    reach: float
    """Half the size in output pixels (all others)."""
    norm: float
    """Factor of the product of the two functions."""
    sharpness: float
    """Gaussian: factor of the square in the exponent. Lanczos: steps of the table per output pixel."""


class Band(NamedTuple):
    """Rows and columns of the output that are summed; around them is a frame of one pixel for what falls beside.

    The sums of all planes of a pixel lie together.
    """

    x_min: int
    y_min: int
    x_max: int
    y_max: int
    n_linear: int
    """Number of planes to which values are added times their coefficient: LANES or twice as many."""
    n_planes: int
    """Number of all planes; to those after the linear ones, none, LANES or twice as many, the square of the product is
    added."""


@njit(**INLINE)
def nearest(x: float) -> float:
    """Return the nearest integer, halves away from zero."""
    integer: float = np.floor(x + 0.5) if x >= 0.0 else -np.floor(0.5 - x)
    return integer


@njit(**INLINE)
def pixel_of(band: Band, column: int, row: int) -> int:
    """Return the number of an output pixel in a band."""
    return (row - band.y_min + 1) * (band.x_max - band.x_min + 2) + column - band.x_min + 1


@njit(**INLINE)
def add_values(band: Band, sums: Floats32, pixel: int, coefficient: np.float32, values: Floats32, k: int) -> None:
    """Add the values of pixel ``k`` of a run to those of a pixel of a band."""
    n_planes = np.uint64(band.n_planes)
    to, first = np.uint64(pixel) * n_planes, np.uint64(k) * n_planes
    # a loop over the lanes would be unrolled and joined to wider vectors, to no use for so few of them
    add_products(sums, to, values, first, coefficient)
    if band.n_linear > LANES:
        add_products(sums, to + UNSIGNED_LANES, values, first + UNSIGNED_LANES, coefficient)
    if band.n_planes > band.n_linear:
        plane = np.uint64(band.n_linear)
        add_squares(sums, to + plane, values, first + plane, coefficient)
        if band.n_planes > band.n_linear + LANES:
            plane += UNSIGNED_LANES
            add_squares(sums, to + plane, values, first + plane, coefficient)


@njit(**PART)
def add_large_drop(
    band: Band, sums: Floats32, flags: Flags, corners: Floats, i: int, column: float, row: float, weight: float,
    values: Floats32, k: int, dq: np.uint32, areas: Floats,
) -> None:  # fmt: skip
    """Add a quadrilateral that may meet any number of output pixels.

    Parameters
    ----------
    band, sums, flags
        The band, its sums and its flags.
    corners, i
        Corners of several drops, and the number of this one.
    column, row
        What its corners are counted from: the lowest pixel that it meets.
    weight
        Weight of the pixel.
    values, k
        Values of a run, and the number of the pixel.
    dq
        Its flags.
    areas
        Working space, shape (rows of the band + 1,).
    """
    x0, x1, x2, x3 = corners[i], corners[i + RUN], corners[i + 2 * RUN], corners[i + 3 * RUN]
    y0, y1, y2, y3 = corners[i + 4 * RUN], corners[i + 5 * RUN], corners[i + 6 * RUN], corners[i + 7 * RUN]
    right, top = nearest(max(x0, x1, x2, x3)), nearest(max(y0, y1, y2, y3))
    x_low, x_high = max(column, float(band.x_min)), min(column + right, band.x_max - 1.0)
    y_low, y_high = max(row, float(band.y_min)), min(row + top, band.y_max - 1.0)
    if not (x_low <= x_high and y_low <= y_high and max(right, top) <= LARGEST_DROP):
        return
    first_row, n_rows = int(y_low - row), int(y_high - y_low) + 1
    scale = 2.0 / ((x1 - x3) * (y0 - y2) - (x0 - x2) * (y1 - y3))
    for c in range(int(x_low - column), int(x_high - column) + 1):
        areas_in_column(corners, i, c, first_row, n_rows, areas)
        for r in range(n_rows):
            share = areas[r] * scale
            if share > NO_SHARE:
                pixel = pixel_of(band, int(column) + c, int(row) + first_row + r)
                add_values(band, sums, pixel, np.float32(share * weight), values, k)
                if dq != 0:
                    flags[pixel] |= dq


@njit(**PART)
def _fill_profile(drop: Drop, table: Floats, centre: float, low: int, high: int, profile: Floats) -> None:
    """Set the kernel's function of one coordinate, without its norm, at the output pixels from low to high."""
    for k in range(high - low + 1):
        offset = centre - (low + k)
        if drop.kind == TURBO:
            profile[k] = max(min(centre + drop.reach, low + k + 0.5) - max(centre - drop.reach, low + k - 0.5), 0.0)
        elif drop.kind == GAUSSIAN:
            profile[k] = np.exp(-offset * offset * drop.sharpness)
        elif drop.kind == LANCZOS:
            step = int(nearest(abs(offset * drop.sharpness)))
            profile[k] = table[step] if step < len(table) else 0.0
        else:
            profile[k] = 1.0


@njit(**PART)
def add_product(
    band: Band, sums: Floats32, flags: Flags, marks: Marks, drop: Drop, table: Floats, x: float, y: float, weight:
    float, values: Floats32, k: int, dq: np.uint32, along_x: Floats, along_y: Floats,
) -> None:  # fmt: skip
    """Add a drop whose kernel is a product of functions of x and y.

    Parameters
    ----------
    band, sums, flags, marks
        The band, its sums, its flags and its marks (for a kernel with negative parts).
    drop, table
        The kernel, and the table of the Lanczos function.
    x, y
        Where the centre of the input pixel falls.
    weight
        Weight of the pixel.
    values, k
        Values of a run, and the number of the pixel.
    dq
        Its flags.
    along_x, along_y
        Working space, as long as the band has columns and rows.
    """
    if drop.kind == LANCZOS:
        x_low, x_high = np.floor(x - drop.reach) + 1.0, np.floor(x + drop.reach)
        y_low, y_high = np.floor(y - drop.reach) + 1.0, np.floor(y + drop.reach)
    else:
        x_low, x_high = nearest(x - drop.reach), nearest(x + drop.reach)
        y_low, y_high = nearest(y - drop.reach), nearest(y + drop.reach)
    x_low, x_high = max(x_low, float(band.x_min)), min(x_high, band.x_max - 1.0)
    y_low, y_high = max(y_low, float(band.y_min)), min(y_high, band.y_max - 1.0)
    if not (x_low <= x_high and y_low <= y_high):
        return
    column, row = int(x_low), int(y_low)
    _fill_profile(drop, table, x, column, int(x_high), along_x)
    _fill_profile(drop, table, y, row, int(y_high), along_y)
    for r in range(int(y_high) - row + 1):
        factor = along_y[r] * drop.norm * weight
        pixel = pixel_of(band, column, row + r)
        for c in range(int(x_high) - column + 1):
            coefficient = np.float32(along_x[c] * factor)
            if coefficient != 0.0:
                add_values(band, sums, pixel + c, coefficient, values, k)
                if drop.kind == LANCZOS:
                    marks[pixel + c] |= np.uint8(ADDED_POSITIVE if coefficient > 0.0 else ADDED)
                if dq != 0:
                    flags[pixel + c] |= dq


def make_drop(kernel: str, pixfrac: float, scale_ratio: float) -> tuple[Drop, Floats]:
    """Return a kernel, and the table of the Lanczos function if it is one.

    Parameters
    ----------
    kernel
        One of square, gaussian, point, turbo, lanczos2, lanczos3.
    pixfrac
        Size of the drop in input pixels; up to ``POINT_PIXFRAC`` it is a point. Without meaning for lanczos.
    scale_ratio
        Size of an output pixel in input pixels.
    """
    # drizzle takes the ratio in single precision
    ratio = float(np.float32(scale_ratio))
    nothing = np.zeros(1)
    if pixfrac <= POINT_PIXFRAC or kernel == "point":
        return Drop(POINT, 0.0, 0.0, 1.0, 0.0), nothing
    if kernel == "square":
        return Drop(SQUARE, pixfrac / 2.0, 0.0, 1.0, 0.0), nothing
    if kernel == "turbo":
        return Drop(TURBO, 0.0, pixfrac / ratio / 2.0, (ratio / pixfrac) ** 2, 0.0), nothing
    if kernel == "gaussian":
        reach = max(GAUSSIAN_SIGMAS * pixfrac / FWHM_SIGMAS, LEAST_REACH) / ratio
        sharpness = (FWHM_SIGMAS * ratio / pixfrac) ** 2 / 2.0
        return Drop(GAUSSIAN, 0.0, reach, sharpness / np.pi, sharpness), nothing
    order = 2 if kernel == "lanczos2" else 3
    x = np.arange(int(np.ceil(order / TABLE_STEP)) + 1) * TABLE_STEP
    table = np.where(x <= order, np.sinc(x) * np.sinc(x / order), 0.0)
    return Drop(LANCZOS, 0.0, order / ratio, 1.0, ratio / TABLE_STEP), table
