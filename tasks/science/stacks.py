"""A tile that was stacked elsewhere: whether it lies on our grid, and its pixels as those of a coadd."""

from __future__ import annotations

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.errors import ShapeMismatchError, WCSError
from tasks.products.images import CoaddPlanes
from tasks.products.wcs_index import TileExposures
from tasks.science.geometry import pixel_scale_arcsec, pixel_to_sky, sky_to_pixel, tile_wcs

Plane = NDArray[np.float32]
POINTS = 5
"""Places along each axis at which two grids are compared."""
MAX_DISTORTION_PX = 0.01


def check_stack_grid(name: str, wcs: WCS, shape: tuple[int, int], tile: TileExposures, max_offset_px: float) -> None:
    """Refuse a stack that is not the image of this tile.

    Parameters
    ----------
    name
        What it is, for errors: ``The external stack X of tile T``.
    wcs, shape
        Its coordinate system and shape (ny, nx).
    tile
        Where the tile is, and what its image is like.
    max_offset_px
        How far its corners may be from those of the tile, in pixels.

    Raises
    ------
    ShapeMismatchError
        If it has another shape.
    WCSError
        If it is distorted, or lies elsewhere on the sky.
    """
    size = tile.size_px
    if shape != (size, size):
        raise ShapeMismatchError(
            f"{name} has the shape {shape}, a tile of the survey {(size, size)}; correct find_exposures.size_px or the "
            "file."
        )
    bend = _distortion_px(wcs, shape)
    if bend > MAX_DISTORTION_PX:
        raise WCSError(
            f"{name} is distorted: pixels lie up to {bend:.2f} pixels beside those of a plain TAN projection; stack it "
            "again without distortion, with SWarp as PROJECTION_TYPE TAN."
        )
    grid = tile_wcs(tile.ra, tile.dec, size_px=size, pixel_scale_arcsec=tile.pixel_scale_arcsec)
    offset = _largest_offset(grid, wcs, shape)
    if offset > max_offset_px:
        middle = np.array([(size - 1) / 2])
        scale = float(pixel_scale_arcsec(wcs, middle, middle)[0])
        ra, dec = (float(value[0]) for value in pixel_to_sky(wcs, middle, middle))
        away = f"up to {offset:.1f} pixels away" if np.isfinite(offset) else "outside it"
        raise WCSError(
            f"{name} is centred at RA {ra:.4f}, Dec {dec:+.4f} with pixels of {scale:.5f} arcsec; the tile is at RA "
            f"{tile.ra:.4f}, Dec {tile.dec:+.4f} with {tile.pixel_scale_arcsec:.5f}, which puts its corners {away}; "
            f"{max_offset_px:g} pixels are allowed. Correct find_exposures or the file."
        )


def _distortion_px(wcs: WCS, shape: tuple[int, int]) -> float:
    """Return how far pixels are from where they were without distortion, at most, in pixels."""
    # the projection's name does not tell: TAN with PV terms is one way to write a distortion
    plain = WCS(naxis=2)
    plain.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plain.wcs.crval, plain.wcs.crpix, plain.wcs.cd = wcs.wcs.crval, wcs.wcs.crpix, wcs.pixel_scale_matrix
    plain.wcs.cunit = ["deg", "deg"]
    return _largest_offset(wcs, plain, shape)


def _largest_offset(first: WCS, second: WCS, shape: tuple[int, int]) -> float:
    """Return how far the corners and edges of one image are from those of another; infinity if outside it."""
    grid_y, grid_x = np.meshgrid(*(np.linspace(0, length - 1, POINTS) for length in shape), indexing="ij")
    x, y = grid_x.ravel(), grid_y.ravel()
    on_x, on_y, found = sky_to_pixel(second, *pixel_to_sky(first, x, y), shape)
    return float(np.hypot(on_x - x, on_y - y).max()) if found.all() else np.inf


def stack_planes(sci: Plane, weight: Plane | None, scale: float) -> CoaddPlanes:
    """Return rows of a stack at zero point 30; pixels without a finite value or a positive weight are empty.

    Parameters
    ----------
    sci
        Values, shape (n, nx); not changed.
    weight
        Their weight; none gives all the same weight that are not exactly 0, which is what stacks hold where there is
        nothing.
    scale
        Factor of the values.
    """
    known = np.isfinite(sci)
    if weight is None:
        used = known & (sci != 0)
        weight = np.ones_like(sci)
    else:
        used = known & (weight > 0) & np.isfinite(weight)
    return CoaddPlanes(
        sci=np.where(used, sci * np.float32(scale), np.float32(0)),
        weight=np.where(used, weight / np.float32(scale) ** 2, np.float32(0)),
    )
