"""Exact areas of drops that meet more output pixels than two by two, and of drops that are boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit
from tasks.science.engine_options import ENTRY, PART
from tasks.science.overlap import (
    COLUMN,
    LEFT_LOWER,
    LEFT_UPPER,
    NO_SHARE,
    RIGHT_LOWER,
    RIGHT_UPPER,
    ROW,
    RUN,
    TINY,
    UPPER_X,
    UPPER_Y,
    WIDE,
)

Floats = NDArray[np.float64]

N_CORNERS, N_NINE = 8 * RUN, 9 * RUN
"""Lengths of the arrays of corners (x of four, then y) and of shares in three columns of three rows, for RUN drops."""
_RUN = np.uint64(RUN)


@njit(**PART)
def _overlaps(centre: float, reach: float) -> tuple[float, float, float, bool]:
    """Return the lowest pixel that a stretch meets, its overlaps with that and the next one, and whether it meets more.

    A stretch of no length meets the pixel that it is in.
    """
    low = np.floor(centre - reach + 0.5)
    edge = low + 0.5
    end = centre + reach
    first = (end if end < edge else edge) - (centre - reach)
    second = end - edge
    second = second if second > 0.0 else 0.0
    return low, first, second, end > edge + 1.0


@njit(**ENTRY)
def share_boxes(positions: Floats, n: int, reach: float, scale: float, shares: Floats) -> None:
    """Share boxes that are parallel to the axes among four pixels, as `share_in_four` does; areas are left as they are.

    Parameters
    ----------
    positions
        Centres in the slots UPPER_X and UPPER_Y.
    n
        Number of boxes.
    reach
        Half the size of a box in output pixels. With 0, all is given to the pixel that holds the centre.
    scale
        Factor of the shares.
    shares
        Set to what the slots say.
    """
    point = 1.0 if reach == 0.0 else 0.0
    for k in range(np.uint64(n)):
        column, left, right, wide_x = _overlaps(positions[np.uint64(UPPER_X + 1) + k], reach)
        row, lower, upper, wide_y = _overlaps(positions[np.uint64(UPPER_Y + 1) + k], reach)
        corner = (left * lower + point) * scale
        shares[np.uint64(LEFT_LOWER) + k] = corner if corner > NO_SHARE else 0.0
        corner = right * lower * scale
        shares[np.uint64(RIGHT_LOWER) + k] = corner if corner > NO_SHARE else 0.0
        corner = left * upper * scale
        shares[np.uint64(LEFT_UPPER) + k] = corner if corner > NO_SHARE else 0.0
        corner = right * upper * scale
        shares[np.uint64(RIGHT_UPPER) + k] = corner if corner > NO_SHARE else 0.0
        shares[np.uint64(COLUMN) + k] = column
        shares[np.uint64(ROW) + k] = row
        shares[np.uint64(WIDE) + k] = 1.0 if wide_x | wide_y else 0.0


@njit(**PART)
def _under_edge(xa: float, ya: float, xb: float, yb: float, left: float) -> tuple[float, float, float]:
    """Return signed areas under an edge in a column: all of them, those above y = 1/2, and those above y = 3/2."""
    clipped_a = xa if xa > left else left
    clipped_a = clipped_a if clipped_a < left + 1.0 else left + 1.0
    clipped_b = xb if xb > left else left
    clipped_b = clipped_b if clipped_b < left + 1.0 else left + 1.0
    run = xb - xa
    slope = (yb - ya) / (run if abs(run) > TINY else 1.0)
    slope = slope if abs(run) > TINY else 0.0
    ya += (clipped_a - xa) * slope
    yb += (clipped_b - xb) * slope
    half_width = 0.5 * (clipped_b - clipped_a)
    rise = yb - ya
    inverse = 1.0 / (rise if abs(rise) > TINY else 1.0)
    # an edge without rise is all in one place
    flat = 0.0 if abs(rise) > TINY else 1.0
    a, b = ya - 0.5, yb - 0.5
    a = a if a > 0.0 else 0.0
    b = b if b > 0.0 else 0.0
    middle = half_width * (a + b) * ((b - a) * inverse + flat)
    a, b = ya - 1.5, yb - 1.5
    a = a if a > 0.0 else 0.0
    b = b if b > 0.0 else 0.0
    top = half_width * (a + b) * ((b - a) * inverse + flat)
    return half_width * (ya + yb + 1.0), middle, top


@njit(**ENTRY)
def share_column(corners: Floats, n: int, column: int, nine: Floats) -> None:
    """Set the shares of drops in one of the three columns that they meet at most; as in `overlap`, several at once.

    Parameters
    ----------
    corners
        x of the corners, one after the other, then y, counted from the lowest column and row that the drop meets; shape
        (N_CORNERS,).
    n
        Number of drops.
    column
        The column, from 0 to 2.
    nine
        Set to the shares in the rows of this column, shape (N_NINE,); those of column c and row r begin at
        (3 c + r) x RUN.
    """
    left = column - 0.5
    to = np.uint64(3 * column) * _RUN
    for k in range(np.uint64(n)):
        x0, x1 = corners[k], corners[k + _RUN]
        x2, x3 = corners[k + np.uint64(2) * _RUN], corners[k + np.uint64(3) * _RUN]
        y0, y1 = corners[k + np.uint64(4) * _RUN], corners[k + np.uint64(5) * _RUN]
        y2, y3 = corners[k + np.uint64(6) * _RUN], corners[k + np.uint64(7) * _RUN]
        all_a, middle_a, top_a = _under_edge(x0, y0, x1, y1, left)
        all_b, middle_b, top_b = _under_edge(x1, y1, x2, y2, left)
        all_c, middle_c, top_c = _under_edge(x2, y2, x3, y3, left)
        all_d, middle_d, top_d = _under_edge(x3, y3, x0, y0, left)
        scale = 2.0 / ((x1 - x3) * (y0 - y2) - (x0 - x2) * (y1 - y3))
        middle = (middle_a + middle_b + middle_c + middle_d) * scale
        top = (top_a + top_b + top_c + top_d) * scale
        share = (all_a + all_b + all_c + all_d) * scale - middle
        nine[to + k] = share if share > NO_SHARE else 0.0
        share = middle - top
        nine[to + k + _RUN] = share if share > NO_SHARE else 0.0
        nine[to + k + np.uint64(2) * _RUN] = top if top > NO_SHARE else 0.0


@njit(**ENTRY)
def areas_in_column(corners: Floats, i: int, column: int, first_row: int, n_rows: int, areas: Floats) -> None:
    """Find the area that a quadrilateral has in common with each pixel of a column of the grid.

    Parameters
    ----------
    corners, i
        Corners of several quadrilaterals, as in `share_column`, and the number of this one.
    column, first_row, n_rows
        The pixels.
    areas
        Set to the signed areas, shape (at least ``n_rows`` + 1,); the last one is that above the pixels.
    """
    left, right, bottom = column - 0.5, column + 0.5, first_row - 0.5
    for r in range(np.uint64(n_rows + 1)):
        areas[r] = 0.0
    for corner in range(4):
        following = (corner + 1) & 3
        xa, ya = corners[corner * RUN + i], corners[(4 + corner) * RUN + i]
        xb, yb = corners[following * RUN + i], corners[(4 + following) * RUN + i]
        clipped_a = xa if xa > left else left
        clipped_a = clipped_a if clipped_a < right else right
        clipped_b = xb if xb > left else left
        clipped_b = clipped_b if clipped_b < right else right
        width = clipped_b - clipped_a
        if width == 0.0:
            continue
        slope = (yb - ya) / (xb - xa)
        yb += (clipped_b - xb) * slope - bottom
        ya += (clipped_a - xa) * slope - bottom
        rise = yb - ya
        # the share of the edge above a line; all of it where it has no rise
        inverse = 1.0 / rise if abs(rise) > TINY else 0.0
        flat = 0.0 if abs(rise) > TINY else 1.0
        high = ya if ya > yb else yb
        for r in range(np.uint64(n_rows + 1)):
            above_a = ya - r if ya > r else 0.0
            above_b = yb - r if yb > r else 0.0
            areas[r] += width * 0.5 * (above_a + above_b) * ((above_b - above_a) * inverse + flat)
            if high <= r + 1.0:
                break
    for r in range(np.uint64(n_rows)):
        areas[r] -= areas[r + np.uint64(1)]
