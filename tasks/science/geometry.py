"""Where pixels are on the sky: tiles of the survey grid, footprints, positions and Jacobians.

Pixels count from 0 with the centre of the first at (0, 0); the sky is ICRS in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS, NoConvergence
from numpy.typing import NDArray

from tasks.errors import DataError, WCSError
from tasks.products.identity import TileId
from tasks.products.images import Window
from tasks.science.sphere import (
    ARCSEC_PER_DEGREE,
    FULL_CIRCLE,
    bounding_circle,
    polygons_overlap,
    separation_deg,
    square_footprint,
    tangent_plane,
)

Floats = NDArray[np.float64]

EDGE_POINTS = 5
"""Points per edge of a footprint: the edges of a distorted CCD are curved."""
PREFILTER_MARGIN = 0.1
"""Share of the image size by which positions may lie outside before their pixels are asked for."""
ROUND_TRIP_PIXELS = 1e-3
"""A pixel position is believed if it maps back to the sky within this."""


@dataclass(frozen=True)
class TileGrid:
    """The grid of survey tiles: rows of constant declination, columns that keep their spacing on the sky.

    This is the rule of the CFIS survey for any spacing: the tile ``column.row`` is centred at
    ``dec = row * spacing - 90`` and ``ra = column * spacing / cos(dec)``.
    """

    spacing_deg: float = 0.5
    """Distance of neighbouring tile centres in degrees."""

    def __post_init__(self) -> None:
        """Refuse a spacing that no grid can have."""
        if not 0 < self.spacing_deg <= 90:
            raise ValueError(f"the spacing of tiles is {self.spacing_deg} degrees; it must be above 0 and at most 90")

    def indices(self, ra: Floats, dec: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return column and row of the tile whose cell a position falls in.

        The cosine is that of the row. CFIS takes that of the position, which is the same at tile centres but puts a
        position near the edge of a cell at right ascensions above 100 degrees into a tile that does not contain it.

        Parameters
        ----------
        ra, dec
            Positions in degrees, of one shape.

        Returns
        -------
        tuple of ndarray
            Columns and rows, int64; the column beyond the last is column 0.
        """
        row = np.rint((np.asarray(dec, np.float64) + 90.0) / self.spacing_deg)
        cosine = self._row_cosine(row)
        column = np.rint(np.mod(ra, FULL_CIRCLE) * cosine / self.spacing_deg)
        beyond = column * self.spacing_deg >= FULL_CIRCLE * cosine
        return np.where(beyond, 0, column).astype(np.int64), row.astype(np.int64)

    def tile_at(self, ra: float, dec: float) -> TileId:
        """Return the tile whose cell a position in degrees falls in."""
        column, row = self.indices(np.array([ra]), np.array([dec]))
        return self._tile(int(column[0]), int(row[0]))

    def centre(self, tile: TileId) -> tuple[float, float]:
        """Return right ascension and declination of the centre of a tile, in degrees.

        Raises
        ------
        DataError
            If the grid has no such tile.
        """
        cosine = float(self._row_cosine(np.array([float(tile.row)]))[0])
        dec = tile.row * self.spacing_deg - 90.0
        on_sphere = dec <= 90.0
        if not on_sphere or (tile.column > 0 and tile.column * self.spacing_deg >= FULL_CIRCLE * cosine):
            raise DataError(f"Tile {tile} is not on the grid of {self.spacing_deg} degrees; check its name.")
        return (tile.column * self.spacing_deg / cosine if tile.column else 0.0), dec

    def tiles_touched(self, ra: Floats, dec: Floats, *, width_deg: float) -> tuple[TileId, ...]:
        """Return the tiles that a polygon on the sky touches, by row and column.

        Parameters
        ----------
        ra, dec
            Corners of the polygon in degrees, shape (n,).
        width_deg
            Width of the square images of tiles, in degrees.

        Returns
        -------
        tuple of TileId
            Tiles whose image may overlap the polygon: none is missed, a tile just beside it may be there.
        """
        centre_ra, centre_dec, radius = bounding_circle(ra, dec)
        reach = radius + width_deg
        last_row = int(180.0 / self.spacing_deg)
        lowest = max(0, int(np.floor((centre_dec - reach + 90.0) / self.spacing_deg)))
        highest = min(last_row, int(np.ceil((centre_dec + reach + 90.0) / self.spacing_deg)))
        touched = []
        for row in range(lowest, highest + 1):
            for column in self._columns_near(row, centre_ra, reach):
                tile = self._tile(column, row)
                corners = square_footprint(*self.centre(tile), width_deg=width_deg)
                if polygons_overlap(corners, np.stack([ra, dec], axis=-1)):
                    touched.append(tile)
        return tuple(touched)

    def _columns_near(self, row: int, ra: float, reach: float) -> list[int]:
        cosine = float(self._row_cosine(np.array([float(row)]))[0])
        n_columns = max(1, int(np.ceil(FULL_CIRCLE * cosine / self.spacing_deg)))
        half = int(np.ceil(reach / self.spacing_deg)) + 1
        if 2 * half + 1 >= n_columns:
            return list(range(n_columns))
        middle = int(np.rint(np.mod(ra, FULL_CIRCLE) * cosine / self.spacing_deg))
        return sorted({(middle + step) % n_columns for step in range(-half, half + 1)})

    def _row_cosine(self, row: Floats) -> Floats:
        # at the poles the cosine is 6e-17, not 0
        cosine: Floats = np.cos(np.radians(np.clip(row * self.spacing_deg - 90.0, -90.0, 90.0)))
        return np.where(cosine < 1e-12, 0.0, cosine)

    @staticmethod
    def _tile(column: int, row: int) -> TileId:
        return TileId(f"{column:03d}.{row:03d}")


def tile_wcs(ra: float, dec: float, *, size_px: int, pixel_scale_arcsec: float) -> WCS:
    """Return the tangent projection of a square tile, north up and east to the left.

    Parameters
    ----------
    ra, dec
        Centre of the tile in degrees; it falls on the centre of the image.
    size_px
        Width and height in pixels.
    pixel_scale_arcsec
        Pixel size at the centre.

    Returns
    -------
    WCS
        TAN, ICRS.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(size_px + 1) / 2, (size_px + 1) / 2]
    scale = pixel_scale_arcsec / ARCSEC_PER_DEGREE
    wcs.wcs.cd = [[-scale, 0.0], [0.0, scale]]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.pixel_shape = (size_px, size_px)
    wcs.wcs.set()
    return wcs


def pixel_to_sky(wcs: WCS, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return right ascension in [0, 360) and declination, in degrees, of pixel positions of any one shape."""
    ra, dec = wcs.all_pix2world(np.asarray(x, np.float64), np.asarray(y, np.float64), 0)
    return np.mod(ra, FULL_CIRCLE), np.asarray(dec)


def sky_to_pixel(
    wcs: WCS, ra: Floats, dec: Floats, shape: tuple[int, int], *, margin: float = PREFILTER_MARGIN
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return the pixel positions of sky positions that are on an image or near it.

    The inverse of a distortion polynomial is only defined near the image: elsewhere it fails, or gives a pixel of the
    image for a place far from it. So only positions near the footprint are asked for, and what is found must map back
    to where it came from.

    Parameters
    ----------
    wcs
        Coordinate system of the image.
    ra, dec
        Positions in degrees, shape (n,); positions that are not finite are found nowhere.
    shape
        Shape (ny, nx) of the image.
    margin
        Share of the image size by which positions may lie outside.

    Returns
    -------
    tuple of ndarray
        x and y, NaN where there is no answer, and a mask that tells where there is one; shape (n,). Never raises for
        positions far away.
    """
    ra, dec = np.atleast_1d(np.asarray(ra, np.float64)), np.atleast_1d(np.asarray(dec, np.float64))
    x, y = np.full(ra.shape, np.nan), np.full(ra.shape, np.nan)
    footprint = image_footprint(wcs, shape)
    ra0, dec0, radius = bounding_circle(footprint[:, 0], footprint[:, 1])
    known = np.isfinite(ra) & np.isfinite(dec)
    near = np.zeros(ra.shape, np.bool_)
    near[known] = separation_deg(ra[known], dec[known], ra0, dec0) <= radius * (1.0 + 2.0 * margin)
    if not near.any():
        return x, y, near
    x[near], y[near] = _invert(wcs, ra[near], dec[near])
    believed = near & _maps_back(wcs, x, y, ra, dec)
    ny, nx = shape
    believed &= (x >= -margin * nx - 0.5) & (x <= nx * (1 + margin) - 0.5)
    believed &= (y >= -margin * ny - 0.5) & (y <= ny * (1 + margin) - 0.5)
    return np.where(believed, x, np.nan), np.where(believed, y, np.nan), believed


def _invert(wcs: WCS, ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    try:
        # far below the milliarcsecond: 1e-8 of a pixel
        x, y = wcs.all_world2pix(ra, dec, 0, tolerance=1e-8, maxiter=50, quiet=True)
    except (NoConvergence, ValueError):
        pairs = [_invert_one(wcs, float(one_ra), float(one_dec)) for one_ra, one_dec in zip(ra, dec, strict=True)]
        x, y = np.array(pairs).T
    return np.asarray(x, np.float64), np.asarray(y, np.float64)


def _invert_one(wcs: WCS, ra: float, dec: float) -> tuple[float, float]:
    try:
        x, y = wcs.all_world2pix(ra, dec, 0, tolerance=1e-8, maxiter=50, quiet=True)
    except (NoConvergence, ValueError):
        return np.nan, np.nan
    return float(x), float(y)


def _maps_back(wcs: WCS, x: Floats, y: Floats, ra: Floats, dec: Floats) -> NDArray[np.bool_]:
    result = np.isfinite(x) & np.isfinite(y)
    if result.any():
        back_ra, back_dec = pixel_to_sky(wcs, x[result], y[result])
        scale = pixel_scale_arcsec(wcs, x[result], y[result])
        distance = separation_deg(back_ra, back_dec, ra[result], dec[result]) * ARCSEC_PER_DEGREE
        result[result] = distance <= ROUND_TRIP_PIXELS * scale
    return result


def image_footprint(wcs: WCS, shape: tuple[int, int], *, points_per_edge: int = EDGE_POINTS) -> Floats:
    """Return the outline of an image on the sky, along the outer edges of its pixels.

    Parameters
    ----------
    wcs
        Coordinate system of the image.
    shape
        Shape (ny, nx).
    points_per_edge
        How many points stand for an edge, its first corner included.

    Returns
    -------
    ndarray
        Points (ra, dec) in degrees in order around the image, shape (4 points_per_edge, 2).

    Raises
    ------
    WCSError
        If a point of the outline is not on the sky.
    """
    ny, nx = shape
    step = np.arange(points_per_edge) / points_per_edge
    zero, one = np.zeros(points_per_edge), np.ones(points_per_edge)
    x = np.concatenate([step, one, 1.0 - step, zero]) * nx - 0.5
    y = np.concatenate([zero, step, one, 1.0 - step]) * ny - 0.5
    ra, dec = pixel_to_sky(wcs, x, y)
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise WCSError(f"The WCS of an image of {nx} x {ny} pixels puts part of its outline off the sky.")
    return np.stack([ra, dec], axis=-1)


def local_jacobian(wcs: WCS, x: Floats, y: Floats, *, step: float = 1.0) -> Floats:
    """Return how sky offsets follow pixel offsets at pixel positions.

    Central differences of the full WCS, distortion included, in the tangent plane at each position.

    Parameters
    ----------
    wcs
        Coordinate system of the image.
    x, y
        Pixel positions, shape (n,).
    step
        Half the distance over which the difference is taken, in pixels.

    Returns
    -------
    ndarray
        Shape (n, 2, 2), ``[[dv/drow, dv/dcol], [du/drow, du/dcol]]`` in arcseconds per pixel, u to the west and v to
        the north.
    """
    x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
    ra0, dec0 = pixel_to_sky(wcs, x, y)
    result = np.empty((*x.shape, 2, 2))
    for column, (dx, dy) in enumerate([(0.0, step), (step, 0.0)]):
        u_plus, v_plus = tangent_plane(*pixel_to_sky(wcs, x + dx, y + dy), ra0, dec0)
        u_minus, v_minus = tangent_plane(*pixel_to_sky(wcs, x - dx, y - dy), ra0, dec0)
        result[..., 0, column] = (v_plus - v_minus) / (2.0 * step)
        result[..., 1, column] = (u_plus - u_minus) / (2.0 * step)
    return result


def pixel_area_arcsec2(wcs: WCS, x: Floats, y: Floats) -> Floats:
    """Return the solid angle of pixels in square arcseconds, shape (n,)."""
    jacobian = local_jacobian(wcs, x, y)
    determinant = jacobian[..., 0, 0] * jacobian[..., 1, 1] - jacobian[..., 0, 1] * jacobian[..., 1, 0]
    return np.abs(determinant)


def pixel_scale_arcsec(wcs: WCS, x: Floats, y: Floats) -> Floats:
    """Return the pixel size, the square root of the solid angle, in arcseconds, shape (n,)."""
    return np.sqrt(pixel_area_arcsec2(wcs, x, y))


def edge_distance(window: Window, x: Floats, y: Floats) -> Floats:
    """Return how far inside a window of pixels positions are, in pixels; negative outside, NaN of NaN.

    The edges of the window are the outer edges of its outermost pixels.
    """
    left_right = np.minimum(x - (window.x_min - 0.5), (window.x_max - 0.5) - x)
    below_above = np.minimum(y - (window.y_min - 0.5), (window.y_max - 0.5) - y)
    return np.minimum(left_right, below_above)
