"""Exact area that a quadrilateral has in common with pixels of a grid.

The area of a polygon is the sum over its edges of the signed area between the edge and a base line (Green's theorem).
To cut a polygon by a grid line, every edge is cut by it instead: the cut itself adds nothing to the sum. So no polygon
is ever built, and few edges meet more than one pixel.

Corners go round the quadrilateral, and pixel (i, j) covers i - 1/2 .. i + 1/2 and j - 1/2 .. j + 1/2. A quadrilateral
whose corners go round the other way has negative areas, all of them; shares of its own area do not change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit
from tasks.science.engine_options import ENTRY, PART

Floats = NDArray[np.float64]

RUN = 256
"""Most pixels of a row that are worked on at a time: enough that what every run costs does not count, which is half a
microsecond for passing dozens of arrays on; and not so many that they leave the cache."""
STRIDE = RUN + 2
"""Length of a slot: a run with a neighbour on either side."""
UPPER_X, UPPER_Y, LOWER_X, LOWER_Y = 0, STRIDE, 2 * STRIDE, 3 * STRIDE
"""Slots of the positions half a drop above and below the pixel centres, the left neighbour of the run first."""
COLUMN, ROW, AREA, WIDE = 0, STRIDE, 2 * STRIDE, 3 * STRIDE
"""Slots of the lowest output column and row that a drop meets, of its pixel's area in output pixels (0 or NaN if it has
none), and of whether it meets at most two columns and rows (0), at most three (1), or more (2)."""
LEFT_LOWER, RIGHT_LOWER, LEFT_UPPER, RIGHT_UPPER = 4 * STRIDE, 5 * STRIDE, 6 * STRIDE, 7 * STRIDE
"""Slots of the shares of a drop's area in the two columns and rows from there."""
N_POSITIONS, N_SHARES = 4 * STRIDE, 8 * STRIDE
"""Lengths of the arrays of positions and of shares. They are two, so that the compiler sees that writing one does not
change the other."""

NO_SHARE = 1e-12
"""Share of a drop below which an overlap is rounding, not area."""
TINY = 1e-150
"""Height of an edge below which its slope is not used."""


@njit(**PART)
def _share(part: float, rise: float) -> float:
    """Return the share of an edge that a part of its rise is; 1 for an edge without rise, which is all in one place."""
    share = part / (rise if abs(rise) > TINY else 1.0)
    return share if abs(rise) > TINY else 1.0


@njit(**PART)
def _under_edge(ua: float, va: float, ub: float, vb: float) -> tuple[float, float, float]:
    """Return signed areas under an edge: where v > 0; left of u = 0; left of u = 0 and where v > 0."""
    du, dv = ub - ua, vb - va
    above_a = va if va > 0.0 else 0.0
    above_b = vb if vb > 0.0 else 0.0
    left_a = ua if ua < 0.0 else 0.0
    left_b = ub if ub < 0.0 else 0.0
    upper = du * 0.5 * (above_a + above_b) * _share(above_b - above_a, dv)
    # the ends of the piece left of u = 0
    slope = dv / (du if abs(du) > TINY else 1.0)
    slope = slope if abs(du) > TINY else 0.0
    va += (left_a - ua) * slope
    vb += (left_b - ub) * slope
    width = left_b - left_a
    left = width * 0.5 * (va + vb)
    above_a = va if va > 0.0 else 0.0
    above_b = vb if vb > 0.0 else 0.0
    return upper, left, width * 0.5 * (above_a + above_b) * _share(above_b - above_a, vb - va)


@njit(**PART)
def _lowest(a: float, b: float, c: float, d: float) -> float:
    a = a if a < b else b
    c = c if c < d else d
    return a if a < c else c


@njit(**ENTRY)
def share_in_four(positions: Floats, first: int, last: int, half: float, shares: Floats) -> None:
    """Share drops among the two columns and two rows that most of them meet at most.

    Without branches, so that the compiler works on several drops at once. A drop that meets a third column or row is
    marked as wide, and its shares are not valid.

    Parameters
    ----------
    positions
        Positions above and below the pixels, shape (N_POSITIONS,). The corners of the drops are between them, half a
        drop to the left and right, by linear interpolation, as drizzle has them.
    first, last
        Drops of the run, the last one excluded.
    half
        Half the size of a drop in input pixels.
    shares
        Set to what the slots say, shape (N_SHARES,).
    """
    rest, per_pixel = 1.0 - half, 0.25 / (half * half)
    # without a sign, an index cannot count from the end, and the compiler sees that neighbours are neighbours
    for k in range(np.uint64(first), np.uint64(last)):
        x0 = rest * positions[np.uint64(UPPER_X + 1) + k] + half * positions[np.uint64(UPPER_X) + k]
        x1 = rest * positions[np.uint64(UPPER_X + 1) + k] + half * positions[np.uint64(UPPER_X + 2) + k]
        x2 = rest * positions[np.uint64(LOWER_X + 1) + k] + half * positions[np.uint64(LOWER_X + 2) + k]
        x3 = rest * positions[np.uint64(LOWER_X + 1) + k] + half * positions[np.uint64(LOWER_X) + k]
        y0 = rest * positions[np.uint64(UPPER_Y + 1) + k] + half * positions[np.uint64(UPPER_Y) + k]
        y1 = rest * positions[np.uint64(UPPER_Y + 1) + k] + half * positions[np.uint64(UPPER_Y + 2) + k]
        y2 = rest * positions[np.uint64(LOWER_Y + 1) + k] + half * positions[np.uint64(LOWER_Y + 2) + k]
        y3 = rest * positions[np.uint64(LOWER_Y + 1) + k] + half * positions[np.uint64(LOWER_Y) + k]
        column = np.floor(_lowest(x0, x1, x2, x3) + 0.5)
        right = -_lowest(-x0, -x1, -x2, -x3) - column
        row = np.floor(_lowest(y0, y1, y2, y3) + 0.5)
        top = -_lowest(-y0, -y1, -y2, -y3) - row
        area = 0.5 * ((x1 - x3) * (y0 - y2) - (x0 - x2) * (y1 - y3))
        x0, x1, x2, x3 = x0 - column - 0.5, x1 - column - 0.5, x2 - column - 0.5, x3 - column - 0.5
        y0, y1, y2, y3 = y0 - row - 0.5, y1 - row - 0.5, y2 - row - 0.5, y3 - row - 0.5
        upper_a, left_a, both_a = _under_edge(x0, y0, x1, y1)
        upper_b, left_b, both_b = _under_edge(x1, y1, x2, y2)
        upper_c, left_c, both_c = _under_edge(x2, y2, x3, y3)
        upper_d, left_d, both_d = _under_edge(x3, y3, x0, y0)
        scale = 1.0 / area
        upper = (upper_a + upper_b + upper_c + upper_d) * scale
        left = (left_a + left_b + left_c + left_d) * scale
        both = (both_a + both_b + both_c + both_d) * scale
        corner = left - both
        shares[np.uint64(LEFT_LOWER) + k] = corner if corner > NO_SHARE else 0.0
        corner = 1.0 - left - upper + both
        shares[np.uint64(RIGHT_LOWER) + k] = corner if corner > NO_SHARE else 0.0
        shares[np.uint64(LEFT_UPPER) + k] = both if both > NO_SHARE else 0.0
        corner = upper - both
        shares[np.uint64(RIGHT_UPPER) + k] = corner if corner > NO_SHARE else 0.0
        shares[np.uint64(COLUMN) + k] = column
        shares[np.uint64(ROW) + k] = row
        shares[np.uint64(AREA) + k] = abs(area) * per_pixel
        wide = 1.0 if (right > 1.5) | (top > 1.5) else 0.0
        shares[np.uint64(WIDE) + k] = 2.0 if (right > 2.5) | (top > 2.5) else wide
