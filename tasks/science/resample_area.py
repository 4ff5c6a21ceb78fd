"""The mean solid angle of the pixels of an image, from the area of its outline on the sphere."""

from __future__ import annotations

import math

import numpy as np

from tasks.science.resample_wcs import Bounds, Floats, PixelFrame
from tasks.science.sphere import unit_vectors

OUTLINE_STEP = 15
"""Largest distance of neighbouring points of an outline, in pixels: distorted edges are curved."""
MIN_STEPS = 4
"""Steps of an outline along each edge of a small image."""


def mean_pixel_area(frame: PixelFrame, shape: tuple[int, int] | None = None) -> float | None:
    """Return the mean solid angle of the pixels of an image.

    The outline runs through the centres of the outermost pixels inside the bounding box. Edges that have no position on
    the sky are left out, a pixel at a time.

    Parameters
    ----------
    frame
        Coordinates of the image.
    shape
        Shape (ny, nx); that of the frame by default.

    Returns
    -------
    float or None
        Steradians; None if no outline of at least two pixels each way is on the sky.

    Raises
    ------
    ValueError
        If the shape is neither given nor known.
    """
    shape = shape or frame.shape
    if shape is None:
        raise ValueError("The mean pixel area needs the shape of the image: set 'array_shape' of its WCS.")
    edges = _pixel_limits(shape, frame.bounds)
    while edges[0] < edges[1] and edges[2] < edges[3]:
        x, y, side = outline(*edges)
        world = frame.to_world(x, y)
        lon, lat = (world[axis] for axis in frame.spatial[:2])
        lost = ~(np.isfinite(lon) & np.isfinite(lat))
        if not lost.any():
            return solid_angle(lon, lat) / ((edges[1] - edges[0]) * (edges[3] - edges[2]))
        edges = _shrunk(edges, {int(number) for number in side[lost]})
    return None


def outline(x_min: int, x_max: int, y_min: int, y_max: int) -> tuple[Floats, Floats, Floats]:
    """Return points along a rectangle of pixel centres, anticlockwise, and the edge that each is on.

    Returns
    -------
    tuple of ndarray
        x, y and the number of the edge: 0 bottom, 1 right, 2 top, 3 left; shape (n,). Each corner is on the edge that
        it starts.
    """
    along_x, along_y = _steps(x_min, x_max), _steps(y_min, y_max)
    low_x, low_y = np.full(along_y.size - 1, float(x_min)), np.full(along_x.size - 1, float(y_min))
    high_x, high_y = np.full(along_y.size - 1, float(x_max)), np.full(along_x.size - 1, float(y_max))
    x = np.concatenate([along_x[:-1], high_x, along_x[:0:-1], low_x])
    y = np.concatenate([low_y, along_y[:-1], high_y, along_y[:0:-1]])
    counts = [along_x.size - 1, along_y.size - 1] * 2
    return x, y, np.repeat(np.arange(4.0), counts)


def solid_angle(lon: Floats, lat: Floats) -> float:
    """Return the solid angle of a polygon on the sky in steradians: the smaller of the two parts of the sphere.

    The sum of the signed triangles between its middle and its edges, each by van Oosterom & Strackee (1983, IEEE Trans.
    Biomed. Eng. 30, 125), equation 8. The triple product is taken of differences, so that polygons of arcseconds lose
    no digits.

    Parameters
    ----------
    lon, lat
        Corners in order, in degrees, shape (n,).
    """
    corners = unit_vectors(lon, lat)
    middle = corners.mean(axis=0)
    middle /= np.linalg.norm(middle)
    following = np.roll(corners, -1, axis=0)
    triple = np.cross(corners - middle, following - middle) @ middle
    scale = 1.0 + corners @ middle + following @ middle + np.sum(corners * following, axis=1)
    total = abs(float(2.0 * np.arctan2(triple, scale).sum()))
    return min(total, 4.0 * math.pi - total)


def _steps(first: int, last: int) -> Floats:
    step = min(max(1, (last - first) // MIN_STEPS), OUTLINE_STEP)
    return np.linspace(first, last, math.ceil((last - first + 1) / step) + 1)


def _pixel_limits(shape: tuple[int, int], bounds: Bounds | None) -> tuple[int, int, int, int]:
    ny, nx = shape
    (x_min, x_max), (y_min, y_max) = bounds or ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
    return (
        max(0, int(x_min + 0.5)),
        min(nx - 1, int(x_max - 0.5)),
        max(0, int(y_min + 0.5)),
        min(ny - 1, int(y_max - 0.5)),
    )


def _shrunk(edges: tuple[int, int, int, int], lost: set[int]) -> tuple[int, int, int, int]:
    x_min, x_max, y_min, y_max = edges
    return x_min + (3 in lost), x_max - (1 in lost), y_min + (0 in lost), y_max - (2 in lost)
