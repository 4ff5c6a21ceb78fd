"""The CCDs of a tile as its coaddition takes them: where they fall on it, and their rows as flux."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from astropy.wcs import WCS

from tasks.products.ccd_rows import CcdSource
from tasks.products.dq import MaskName
from tasks.products.identity import CcdId
from tasks.products.images import CoaddInput
from tasks.products.wcs_index import CcdRecord, TileExposures
from tasks.science.ccd_flux import FluxRows, flux_rows
from tasks.science.geometry import pixel_scale_arcsec
from tasks.science.resample_wcs import map_between, pixel_frame
from tasks.science.tile_parts import Placement, place_ccd


@dataclass(frozen=True, eq=False)
class TileCcd:
    """One CCD of a tile."""

    input: CoaddInput
    """Which it is, and what is known of it before it is drizzled."""
    wcs: WCS
    place: Placement
    """Where its pixels fall on the tile."""
    read: Callable[[slice], FluxRows]
    """Returns some of its rows; may be called by another thread."""
    saturation: float
    """Flux above the background at which a pixel is saturated."""


def tile_ccds(
    tile: TileExposures, ccds: Mapping[CcdId, CcdSource], wcs: WCS, excluded: Sequence[MaskName]
) -> Iterator[TileCcd]:
    """Return the CCDs that reach a tile, in its order.

    Parameters
    ----------
    tile
        The tile and the CCDs that overlap it.
    ccds
        The CCDs; none is read yet.
    wcs
        Coordinate system of the tile.
    excluded
        Bits of the lensing mask that keep a pixel out of the tile.

    Raises
    ------
    DataError
        If a CCD of the tile is missing.
    """
    tile.require(ccds)
    for record in tile.ccds:
        ccd, light = ccds[record.ccd], record.photometry
        place = _place(ccd.wcs, record, wcs, tile.size_px)
        if place is not None:
            yield TileCcd(
                CoaddInput(record.ccd, light, fwhm_arcsec=ccd.fwhm_px * _middle_scale(ccd.wcs, record.shape)),
                ccd.wcs,
                place,
                partial(_read, ccd, record, tuple(excluded)),
                (light.saturation - ccd.sky.level) * light.flux_scale,
            )


def _place(ccd_wcs: WCS, record: CcdRecord, wcs: WCS, size_px: int) -> Placement | None:
    name = f"CCD {record.ccd}"
    to_tile = map_between(pixel_frame(ccd_wcs, name), pixel_frame(wcs, "the tile"), name)
    return place_ccd(to_tile, record.shape, (size_px, size_px), record.data_section)


def _middle_scale(wcs: WCS, shape: tuple[int, int]) -> float:
    x, y = np.array([(shape[1] - 1) / 2]), np.array([(shape[0] - 1) / 2])
    return float(pixel_scale_arcsec(wcs, x, y)[0])


def _read(ccd: CcdSource, record: CcdRecord, excluded: Sequence[MaskName], rows: slice) -> FluxRows:
    return flux_rows(ccd.read(rows), rows.start, ccd.sky, record, excluded)
