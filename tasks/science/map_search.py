"""Which part of an image can reach an output grid, and what of it is asked of the coordinate systems."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.products.windows import Window
from tasks.science.map_splines import ToOutput, evaluated, spaced_nodes

Floats = NDArray[np.float64]

SEARCH_STEP = 64
"""Pixels between the points at which the part of an image that can reach the output is looked for."""
FINE_STEP = 16
"""The same if nothing is defined at those points."""
REACH_PX = 4.0
"""Input pixels by which a drop can reach beyond its pixel's centre: the widest kernel has 3."""
CURVATURE_SHARE = 0.05
"""Share of its size by which a search cell may bulge over its corners."""
HALF = 0.5


def map_domain(window: Window, bounds: Window) -> Window:
    """Return the window with the neighbours that its outer pixels take their corners from, where there are any."""
    edges = []
    for low, high, first, last in (
        (window.x_min, window.x_max, bounds.x_min, bounds.x_max),
        (window.y_min, window.y_max, bounds.y_min, bounds.y_max),
    ):
        alone = last - first == 1
        edges.append((low - 1, high + 1) if alone else (max(low - 1, first), min(high + 1, last)))
    return Window(edges[0][0], edges[1][0], edges[0][1], edges[1][1])


def within_reach(to_output: ToOutput, bounds: Window) -> ToOutput:
    """Return a function that knows the domain of bounds that are one pixel wide, but asks only up to its pixels' edges.

    Coordinate systems may end there. Beyond, positions go on as they do from the middle of the pixel to its edge.
    """
    alone_x, alone_y = bounds.shape[1] == 1, bounds.shape[0] == 1
    if not (alone_x or alone_y):
        return to_output

    def extended(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        middle_x = np.full_like(x, bounds.x_min) if alone_x else x
        middle_y = np.full_like(y, bounds.y_min) if alone_y else y
        on_x, on_y = to_output(middle_x, middle_y)
        half_x, half_y = to_output((x + middle_x) / 2, (y + middle_y) / 2)
        return 2 * half_x - on_x, 2 * half_y - on_y

    return extended


def reaching_window(to_output: ToOutput, bounds: Window, output_shape: tuple[int, int]) -> Window | None:
    """Return the part of the bounds that can reach the output, or more; None if none can."""
    x, y, positions = _searched(to_output, bounds, SEARCH_STEP)
    defined = np.isfinite(positions).all(axis=-1)
    if not defined.all():
        # any pixel between these places may be defined: all will be listed
        return bounds if defined.any() or np.isfinite(_searched(to_output, bounds, FINE_STEP)[2]).any() else None
    corners = np.stack([positions[:-1, :-1], positions[:-1, 1:], positions[1:, :-1], positions[1:, 1:]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    sizes = np.minimum(np.diff(x)[None, :], np.diff(y)[:, None])[..., None]
    margin = (high - low).max(axis=-1, keepdims=True) * (CURVATURE_SHARE + REACH_PX / sizes) + 1.0
    limits = np.array([output_shape[1], output_shape[0]]) - HALF
    reaches = np.asarray(((high + margin >= -HALF) & (low - margin <= limits)).all(axis=-1))
    if not reaches.any():
        return None
    columns, rows = np.flatnonzero(reaches.any(axis=0)), np.flatnonzero(reaches.any(axis=1))
    return Window(
        max(bounds.x_min, int(np.floor(x[columns[0]]))),
        max(bounds.y_min, int(np.floor(y[rows[0]]))),
        min(bounds.x_max, int(np.ceil(x[columns[-1] + 1])) + 1),
        min(bounds.y_max, int(np.ceil(y[rows[-1] + 1])) + 1),
    )


def _searched(to_output: ToOutput, bounds: Window, step: int) -> tuple[Floats, Floats, Floats]:
    """Return columns and rows a step apart, and their positions on the output."""
    area = map_domain(bounds, bounds)
    x, y = spaced_nodes(area.x_min, area.x_max - 1, step), spaced_nodes(area.y_min, area.y_max - 1, step)
    return x, y, evaluated(to_output, x, y)
