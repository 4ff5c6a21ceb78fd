"""Matching of positions on the sky, and the choice between detections of one object in overlapping tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tasks.products.footprint import TileFootprint
from tasks.science.sphere import ARCSEC_PER_DEGREE, ARCSEC_PER_RADIAN, separation_deg, tangent_plane, unit_vectors


@dataclass(frozen=True)
class SkyMatch:
    """Pairs of matched positions, by increasing index in the first list."""

    first: NDArray[np.int64]
    """Indices into the first list, shape (n,); each occurs once."""
    second: NDArray[np.int64]
    """Indices into the second list, shape (n,); each occurs once."""
    separation: NDArray[np.float64]
    """Distance on the sky in arcsec, shape (n,)."""


def chord(angle_arcsec: float) -> float:
    """Return the straight distance between two unit vectors that are ``angle_arcsec`` apart on the sky."""
    return 2.0 * float(np.sin(0.5 * min(angle_arcsec / ARCSEC_PER_RADIAN, np.pi)))


def match_sky(
    ra1: NDArray[np.float64],
    dec1: NDArray[np.float64],
    ra2: NDArray[np.float64],
    dec2: NDArray[np.float64],
    *,
    tolerance_arcsec: float,
) -> SkyMatch:
    """Match two lists of positions one to one, nearest pairs first.

    Of all pairs within the tolerance the nearest is taken and both its members leave the lists, and so on; ties go to
    the lower indices. The result therefore does not depend on which list is called first, nor on chance.

    Parameters
    ----------
    ra1, dec1
        First list, ICRS degrees, shape (n1,), finite.
    ra2, dec2
        Second list, ICRS degrees, shape (n2,), finite.
    tolerance_arcsec
        Largest distance of a pair.

    Returns
    -------
    SkyMatch
        The pairs.

    Raises
    ------
    ValueError
        If the tolerance is not positive, or a position is not finite.
    """
    ra1, dec1, ra2, dec2 = (np.asarray(values, dtype=np.float64) for values in (ra1, dec1, ra2, dec2))
    if not tolerance_arcsec > 0.0:
        raise ValueError(f"the tolerance of a match must be positive, not {tolerance_arcsec} arcsec")
    if not all(np.isfinite(values).all() for values in (ra1, dec1, ra2, dec2)):
        raise ValueError("positions to match must be finite")
    first, second = _pairs_within(unit_vectors(ra1, dec1), unit_vectors(ra2, dec2), chord(tolerance_arcsec))
    separation = ARCSEC_PER_DEGREE * separation_deg(ra1[first], dec1[first], ra2[second], dec2[second])
    chosen = _nearest_first(first, second, separation)
    order = chosen[np.argsort(first[chosen], kind="stable")]
    return SkyMatch(first[order], second[order], separation[order])


def _pairs_within(
    a: NDArray[np.float64], b: NDArray[np.float64], distance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of all pairs of points that are at most ``distance`` apart."""
    if len(a) == 0 or len(b) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # the margin covers rounding of the chord: a pair at exactly the tolerance counts
    neighbours = cKDTree(b).query_ball_point(a, distance * (1.0 + 1e-12), return_sorted=True)
    counts = np.array([len(found) for found in neighbours], dtype=np.int64)
    first = np.repeat(np.arange(len(a), dtype=np.int64), counts)
    second = np.array([j for found in neighbours for j in found], dtype=np.int64)
    return first, second


def _nearest_first(
    first: NDArray[np.int64], second: NDArray[np.int64], separation: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the pairs that a greedy one-to-one assignment by separation takes."""
    remaining = np.lexsort((second, first, separation))
    chosen: list[NDArray[np.int64]] = []
    while len(remaining):
        best_of_first = np.zeros(len(remaining), dtype=bool)
        best_of_second = np.zeros(len(remaining), dtype=bool)
        best_of_first[np.unique(first[remaining], return_index=True)[1]] = True
        best_of_second[np.unique(second[remaining], return_index=True)[1]] = True
        # a pair that is the best of both its members is what the greedy choice takes sooner or later
        taken = remaining[best_of_first & best_of_second]
        chosen.append(taken)
        free = ~(np.isin(first[remaining], first[taken]) | np.isin(second[remaining], second[taken]))
        remaining = remaining[free]
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def inside_footprint(tile: TileFootprint, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which positions lie in the footprint of a tile, its edges included.

    Parameters
    ----------
    tile
        The footprint.
    ra, dec
        ICRS degrees, shape (n,), anywhere on the sky.

    Returns
    -------
    NDArray[np.bool_]
        Shape (n,).
    """
    ra, dec = np.atleast_1d(np.asarray(ra, np.float64)), np.atleast_1d(np.asarray(dec, np.float64))
    # the tangent plane ends 90 degrees from its point of contact
    reach = tile.half_width + tile.half_height
    inside: NDArray[np.bool_] = separation_deg(ra, dec, tile.ra, tile.dec) * ARCSEC_PER_DEGREE <= reach
    u, v = tangent_plane(ra[inside], dec[inside], tile.ra, tile.dec)
    inside[inside] = (np.abs(u) <= tile.half_width) & (np.abs(v) <= tile.half_height)
    return inside


def home_tile(ra: NDArray[np.float64], dec: NDArray[np.float64], tiles: list[TileFootprint]) -> NDArray[np.int64]:
    """Return which tile each position belongs to: of the tiles that contain it, the one with the nearest centre.

    Ties go to the earlier tile of the list. Every position of the sky that any tile covers has exactly one home, so
    the homes divide the survey into unique areas.

    Parameters
    ----------
    ra, dec
        ICRS degrees, shape (n,).
    tiles
        Footprints of all tiles of the survey.

    Returns
    -------
    NDArray[np.int64]
        Index into ``tiles``, shape (n,); -1 where no tile contains the position.
    """
    ra, dec = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
    nearest = np.full(ra.shape, np.inf)
    home = np.full(ra.shape, -1, dtype=np.int64)
    for index, tile in enumerate(tiles):
        distance = separation_deg(ra, dec, tile.ra, tile.dec)
        closer = inside_footprint(tile, ra, dec) & (distance < nearest)
        nearest[closer] = distance[closer]
        home[closer] = index
    return home


@dataclass(frozen=True)
class Resolution:
    """Which detections of overlapping tiles stand for an object."""

    primary: NDArray[np.bool_]
    """One detection of every object, shape (n,)."""
    in_unique_area: NDArray[np.bool_]
    """Whether the detection lies in the unique area of its own tile, shape (n,)."""
    group: NDArray[np.int64]
    """Lowest index of the detections of the same object, shape (n,)."""

    @property
    def duplicate(self) -> NDArray[np.bool_]:
        """Detections that give way to another detection of the same object, shape (n,)."""
        kept = np.zeros(len(self.group), dtype=bool)
        kept[self.group[self.primary]] = True
        return ~self.primary & kept[self.group]


def resolve_duplicates(
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    tile: NDArray[np.int64],
    tiles: list[TileFootprint],
    *,
    tolerance_arcsec: float,
    keep_unmatched: bool,
) -> Resolution:
    """Choose one detection of every object that overlapping tiles have in common.

    Detections of different tiles within the tolerance are one object, which is represented by the detection whose
    tile is its home and, failing that, by the one with the nearest tile centre. So an object on the border of two
    unique areas is neither lost nor counted twice when its positions in the two tiles straddle the border.

    Parameters
    ----------
    ra, dec
        Positions of all detections, ICRS degrees, shape (n,), finite.
    tile
        Index of the tile of each detection, shape (n,).
    tiles
        Footprints of all tiles.
    tolerance_arcsec
        Largest distance between detections of one object.
    keep_unmatched
        Whether a detection outside the unique area of its tile that no other tile has found is kept. If so, the
        overlaps go deeper than the rest of the survey; if not, a faint object that only one of two tiles finds can
        be lost.

    Returns
    -------
    Resolution
        Flags of all detections; nothing is removed.
    """
    ra, dec, tile = np.asarray(ra), np.asarray(dec), np.asarray(tile)
    unique_area = home_tile(ra, dec, tiles) == tile
    group = _groups_across_tiles(ra, dec, tile, tolerance_arcsec)
    centre_ra = np.array([footprint.ra for footprint in tiles])[tile]
    centre_dec = np.array([footprint.dec for footprint in tiles])[tile]
    distance = separation_deg(ra, dec, centre_ra, centre_dec)
    order = np.lexsort((np.arange(len(ra)), tile, distance, ~unique_area, group))
    best = np.zeros(len(ra), dtype=bool)
    best[order[np.unique(group[order], return_index=True)[1]]] = True
    size = np.bincount(group, minlength=len(ra))[group] if len(ra) else np.empty(0, np.int64)
    return Resolution(best & (unique_area | (size > 1) | keep_unmatched), unique_area, group)


def _groups_across_tiles(
    ra: NDArray[np.float64], dec: NDArray[np.float64], tile: NDArray[np.int64], tolerance_arcsec: float
) -> NDArray[np.int64]:
    """Return the lowest index of the detections that are the same object; a group has one detection per tile."""
    group = np.arange(len(ra), dtype=np.int64)
    for current in np.unique(tile)[1:]:
        earlier, here = np.flatnonzero(tile < current), np.flatnonzero(tile == current)
        # one representative per known object, so that a group never takes two detections of one tile
        earlier = earlier[group[earlier] == earlier]
        match = match_sky(ra[earlier], dec[earlier], ra[here], dec[here], tolerance_arcsec=tolerance_arcsec)
        group[here[match.second]] = group[earlier[match.first]]
    return group
