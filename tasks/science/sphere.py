"""Positions, circles and polygons on the celestial sphere.

Positions are right ascension and declination in degrees. In the tangent plane u grows to the west and v to the north,
in arcseconds, as in GalSim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ARCSEC_PER_DEGREE = 3600.0
ARCSEC_PER_RADIAN = 180.0 / np.pi * ARCSEC_PER_DEGREE
FULL_CIRCLE = 360.0
HEMISPHERE_COSINE = 0.1
"""Polygons with a corner further than 84 degrees from the centre are not projected."""


def tangent_plane(ra: Floats, dec: Floats, ra0: Floats | float, dec0: Floats | float) -> tuple[Floats, Floats]:
    """Project positions on the plane that touches the sky at (ra0, dec0).

    Parameters
    ----------
    ra, dec
        Positions in degrees, less than 90 degrees from the point of contact.
    ra0, dec0
        Point of contact in degrees, broadcast against the positions.

    Returns
    -------
    tuple of ndarray
        u, growing to the west, and v, growing to the north, in arcseconds (Calabretta & Greisen 2002, section 5.1.3).
    """
    delta = np.radians(np.asarray(ra, np.float64) - ra0)
    sin_dec, cos_dec = np.sin(np.radians(dec)), np.cos(np.radians(dec))
    sin_dec0, cos_dec0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    cosine = sin_dec0 * sin_dec + cos_dec0 * cos_dec * np.cos(delta)
    u = -cos_dec * np.sin(delta) / cosine
    v = (cos_dec0 * sin_dec - sin_dec0 * cos_dec * np.cos(delta)) / cosine
    return u * ARCSEC_PER_RADIAN, v * ARCSEC_PER_RADIAN


def separation_deg(ra: Floats | float, dec: Floats | float, ra0: Floats | float, dec0: Floats | float) -> Floats:
    """Return the great-circle distance of positions in degrees, exact at all distances."""
    difference = unit_vectors(ra, dec) - unit_vectors(ra0, dec0)
    half_chord = np.clip(np.linalg.norm(difference, axis=-1) / 2.0, 0.0, 1.0)
    distance: Floats = np.degrees(2.0 * np.arcsin(half_chord))
    return distance


def unit_vectors(ra: Floats | float, dec: Floats | float) -> Floats:
    """Return positions in degrees as unit vectors, shape (..., 3)."""
    longitude, latitude = np.radians(ra), np.radians(dec)
    return np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=-1
    )


def bounding_circle(ra: Floats, dec: Floats) -> tuple[float, float, float]:
    """Return centre and radius, in degrees, of a circle on the sky that contains all points of shape (n,)."""
    mean = unit_vectors(np.asarray(ra), np.asarray(dec)).mean(axis=0)
    centre_ra = float(np.degrees(np.arctan2(mean[1], mean[0])) % FULL_CIRCLE)
    centre_dec = float(np.degrees(np.arctan2(mean[2], np.hypot(mean[0], mean[1]))))
    return centre_ra, centre_dec, float(separation_deg(ra, dec, centre_ra, centre_dec).max())


def square_footprint(ra: float, dec: float, *, width_deg: float) -> Floats:
    """Return the corners of a square in the tangent plane at (ra, dec), shape (4, 2), degrees."""
    half = np.tan(np.radians(width_deg / 2.0))
    x, y = half * np.array([-1.0, 1.0, 1.0, -1.0]), half * np.array([-1.0, -1.0, 1.0, 1.0])
    sin_dec, cos_dec = np.sin(np.radians(dec)), np.cos(np.radians(dec))
    corner_ra = ra + np.degrees(np.arctan2(x, cos_dec - y * sin_dec))
    corner_dec = np.degrees(np.arctan2(sin_dec + y * cos_dec, np.hypot(x, cos_dec - y * sin_dec)))
    return np.stack([np.mod(corner_ra, FULL_CIRCLE), corner_dec], axis=-1)


def polygons_overlap(first: Floats, second: Floats, *, margin_arcsec: float = 0.0) -> bool:
    """Tell whether two convex polygons on the sky overlap.

    Both are projected on a plane, where great circles are straight, and compared along the normals of all edges of
    their convex hulls (the separating axis theorem). Nothing that overlaps is missed; touching counts as overlapping.

    Parameters
    ----------
    first, second
        Corners (ra, dec) in degrees, shapes (n, 2) and (m, 2).
    margin_arcsec
        Distance up to which polygons beside each other count as overlapping.

    Returns
    -------
    bool
        False also if a corner is more than 84 degrees from the middle of the first polygon.
    """
    ra0, dec0, _ = bounding_circle(first[:, 0], first[:, 1])
    both = np.concatenate([first, second])
    if (unit_vectors(both[:, 0], both[:, 1]) @ unit_vectors(ra0, dec0) < HEMISPHERE_COSINE).any():
        return False
    points = np.stack(tangent_plane(both[:, 0], both[:, 1], ra0, dec0), axis=-1)
    hulls = [_convex_hull(points[: len(first)]), _convex_hull(points[len(first) :])]
    for hull in hulls:
        edges = np.roll(hull, -1, axis=0) - hull
        lengths = np.hypot(edges[:, 0], edges[:, 1])
        normals = np.stack([edges[:, 1], -edges[:, 0]], axis=-1)[lengths > 0] / lengths[lengths > 0, None]
        a, b = hulls[0] @ normals.T, hulls[1] @ normals.T
        gap = np.maximum(a.min(axis=0) - b.max(axis=0), b.min(axis=0) - a.max(axis=0))
        if (gap > margin_arcsec).any():
            return False
    return True


def _convex_hull(points: Floats) -> Floats:
    """Return the convex hull of points of shape (n, 2), anticlockwise (Andrew 1979)."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]

    def half(sequence: Sequence[Floats]) -> list[Floats]:
        chain: list[Floats] = []
        for point in sequence:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        return chain[:-1]

    return np.array(half(list(ordered)) + half(list(ordered[::-1])))


def _turn(a: Floats, b: Floats, c: Floats) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
