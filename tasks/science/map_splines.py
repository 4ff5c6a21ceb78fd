"""Bicubic splines through nodes of a pixel map, and what is known of their error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from tasks.products.windows import Window
from tasks.science.map_points import map_points
from tasks.science.map_rows import ORDER, MapArrays

Floats = NDArray[np.float64]
ToOutput = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""Takes the x and y of places on the input image, pixel centres being integers from 0, and returns those on the output
grid, NaN where there are none. Arrays of shape (n,)."""

MIN_NODES = 5
END_NODES = (0.25, 0.5)
"""Nodes in the outer intervals, in intervals."""
MIN_PROBES = 256
PROBE_MARGIN = 1.5
"""How much larger the error may be anywhere than at the points where it was looked for."""
PLASTIC = 1.324717957244746
"""The plastic number: multiples of its powers fill a square evenly (Roberts 2018, the R2 sequence)."""
HALF = 0.5
LISTED_AT_ONCE = 1 << 20
"""Pixels whose positions are asked for at a time."""


def evaluated(to_output: ToOutput, x: Floats, y: Floats) -> Floats:
    """Return output positions of the grid of these columns and rows, shape (rows, columns, 2)."""
    grid_y, grid_x = np.meshgrid(y, x, indexing="ij")
    out_x, out_y = to_output(grid_x.ravel(), grid_y.ravel())
    return np.stack([np.asarray(out_x, np.float64), np.asarray(out_y, np.float64)], axis=-1).reshape(len(y), len(x), 2)


def spaced_nodes(first: int, last: int, step: int) -> Floats:
    """Return nodes from the centre of one pixel to that of another, at most a step apart, and denser at the ends.

    A spline is worse in its outer intervals, where it knows one side only.
    """
    nodes = np.linspace(first, last, max(MIN_NODES, -(-(last - first) // step) + 1))
    width = nodes[1] - nodes[0]
    dense = np.array(END_NODES) * width
    return np.concatenate([nodes[:1], first + dense, nodes[1:-1], last - dense[::-1], nodes[-1:]])


def fit_splines(to_output: ToOutput, domain: Window, step: int) -> MapArrays | None:
    """Return bicubic splines through nodes; None if a node is not defined."""
    x, y = spaced_nodes(domain.x_min, domain.x_max - 1, step), spaced_nodes(domain.y_min, domain.y_max - 1, step)
    values = evaluated(to_output, x, y)
    if not np.isfinite(values).all():
        return None
    along_x = CubicSpline(x, values, axis=1, bc_type="not-a-knot").c
    # axes are now: powers of x from the highest, columns, rows, coordinate
    both = CubicSpline(y, along_x, axis=2, bc_type="not-a-knot").c
    # and: powers of y, rows, powers of x, columns, coordinate
    patches = np.ascontiguousarray(both[::-1, :, ::-1].transpose(1, 4, 0, 2, 3))
    columns, rows = np.arange(domain.x_min, domain.x_max), np.arange(domain.y_min, domain.y_max)
    x_patch = np.clip(np.searchsorted(x, columns, side="right") - 1, 0, len(x) - 2)
    return MapArrays(
        domain.x_min,
        domain.y_min,
        domain.x_max,
        domain.y_max,
        patches,
        x[:-1].copy(),
        y[:-1].copy(),
        domain.x_min + np.searchsorted(x_patch, np.arange(len(x) - 1), side="right"),
        x_patch,
        np.clip(np.searchsorted(y, rows, side="right") - 1, 0, len(y) - 2),
        np.zeros((1, 1, 2)),
        False,
    )


def error_bound(to_output: ToOutput, arrays: MapArrays, domain: Window) -> float:
    """Return a bound of the distance from the truth, from points all over the domain; infinity if one is undefined."""
    count = max(MIN_PROBES, len(arrays.x_starts) * len(arrays.y_starts) // 4)
    order = np.arange(count)
    x = domain.x_min + (domain.x_max - 1 - domain.x_min) * np.mod(HALF + order / PLASTIC, 1.0)
    y = domain.y_min + (domain.y_max - 1 - domain.y_min) * np.mod(HALF + order / PLASTIC**2, 1.0)
    found = np.empty((count, 2))
    map_points(arrays, x, y, 0.0, found)
    error = np.hypot(*(truth - found[:, axis] for axis, truth in enumerate(to_output(x, y))))
    return float(PROBE_MARGIN * error.max()) if np.isfinite(error).all() else float("inf")


def list_positions(to_output: ToOutput, domain: Window) -> Floats:
    """Return the exact positions of all pixels of a domain, shape (rows, columns, 2)."""
    listed = np.empty((*domain.shape, 2))
    rows_at_once = max(1, LISTED_AT_ONCE // domain.shape[1])
    for first in range(0, domain.shape[0], rows_at_once):
        last = min(first + rows_at_once, domain.shape[0])
        rows = np.arange(domain.y_min + first, domain.y_min + last, dtype=np.float64)
        listed[first:last] = evaluated(to_output, np.arange(domain.x_min, domain.x_max, dtype=np.float64), rows)
    return listed


def listed_arrays(domain: Window, positions: Floats) -> MapArrays:
    """Return a map that holds the positions of all pixels of a domain."""
    nothing, one = np.zeros(1), np.zeros(1, np.int64)
    limits = (domain.x_min, domain.y_min, domain.x_max, domain.y_max)
    return MapArrays(*limits, np.zeros((1, 2, ORDER, ORDER, 1)), nothing, nothing, one, one, one, positions, True)
