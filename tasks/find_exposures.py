"""Which CCDs overlap a tile."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.documents import write_document
from tasks.archive.wcs_index import read_index
from tasks.errors import BadFileError, TooFewEpochsError
from tasks.products.config import StageConfig
from tasks.products.identity import ExposureId, ProductRef, SummaryValue, TileId
from tasks.products.wcs_index import CcdRecord, TileExposures
from tasks.science.geometry import TileGrid, image_footprint, tile_wcs
from tasks.science.sphere import bounding_circle, polygons_overlap
from tasks.stage import stage

INPUT_IMAGE = re.compile(r"input image (?P<exposure>[A-Za-z0-9][A-Za-z0-9_+-]*?)p?\.\S+\s+\d+ extension\(s\)")


class FindExposuresConfig(StageConfig):
    """Settings of the survey grid, and of which CCDs overlap a tile."""

    spacing_deg: Annotated[float, Field(gt=0, le=90)] = 0.5
    """Distance of neighbouring tile centres in degrees."""

    size_px: Annotated[int, Field(ge=16, le=100_000)] = 10_000
    """Width and height of tiles in pixels; tiles that are wider than their distance overlap."""

    pixel_scale_arcsec: Annotated[float, Field(gt=0, le=60)] = 0.186
    """Size of the pixels of tiles in arcseconds."""

    min_exposures: Annotated[int, Field(ge=1)] = 1
    """Fewest exposures with which a tile still stands."""


def find_exposures(
    tile: TileId,
    records: Sequence[CcdRecord],
    config: FindExposuresConfig,
    *,
    only: Iterable[ExposureId] | None = None,
) -> TileExposures:
    """Return the CCDs that overlap a tile.

    Parameters
    ----------
    tile
        Cell of the survey grid.
    records
        CCDs that may overlap it, in any order.
    config
        Settings.
    only
        If given, other exposures are left out: those that `exposures_in_history` finds for an external tile.

    Returns
    -------
    TileExposures
        The overlapping CCDs, by exposure and number. None that overlaps is missing; a CCD that only comes near a
        corner may be there, and adds nothing later.

    Raises
    ------
    TooFewEpochsError
        If fewer exposures overlap the tile than the configured floor.
    DataError
        If the grid has no such tile.
    """
    ra, dec = TileGrid(config.spacing_deg).centre(tile)
    outline = tile_outline(tile, config)
    wanted = None if only is None else {exposure.name for exposure in only}
    overlapping = [
        record
        for record in sorted(records, key=lambda record: record.sort_key)
        if (wanted is None or record.ccd.exposure in wanted) and polygons_overlap(outline, record.outline)
    ]
    n_exposures = len({record.ccd.exposure for record in overlapping})
    if n_exposures < config.min_exposures:
        raise TooFewEpochsError(
            f"Tile {tile} at RA {ra:.4f}, Dec {dec:+.4f} is overlapped by {n_exposures} processed "
            f"exposures; it needs {config.min_exposures}. Process the exposures around it first."
        )
    return TileExposures(
        tile=tile,
        ra=ra,
        dec=dec,
        size_px=config.size_px,
        pixel_scale_arcsec=config.pixel_scale_arcsec,
        ccds=tuple(overlapping),
    )


def tile_outline(tile: TileId, config: FindExposuresConfig) -> NDArray[np.float64]:
    """Return the outline of a tile on the sky, points (ra, dec) in degrees, shape (n, 2)."""
    ra, dec = TileGrid(config.spacing_deg).centre(tile)
    wcs = tile_wcs(ra, dec, size_px=config.size_px, pixel_scale_arcsec=config.pixel_scale_arcsec)
    return image_footprint(wcs, (config.size_px, config.size_px))


def exposures_in_history(history: Iterable[str], tile: TileId) -> tuple[ExposureId, ...]:
    """Return the exposures that an external tile was stacked from, as its HISTORY cards name them.

    Parameters
    ----------
    history
        The cards, such as ``input image 2228303p.fits 4 extension(s)``; others are passed over.
    tile
        The tile, for the error sentence.

    Returns
    -------
    tuple of ExposureId
        Each exposure once, by name, without the letter that CFHT names end with.

    Raises
    ------
    BadFileError
        If no card names an exposure.
    """
    matches = (INPUT_IMAGE.fullmatch(str(line).strip()) for line in history)
    names = sorted({match["exposure"] for match in matches if match})
    if not names:
        raise BadFileError(
            f"Tile {tile} has no HISTORY card of the form 'input image 2228303p.fits 4 extension(s)', so its exposures "
            "are not known."
        )
    return tuple(ExposureId(name) for name in names)


@stage(name="find_exposures")
def find_exposures_task(tile: TileId, index: ProductRef, config: FindExposuresConfig, store: DataStore) -> ProductRef:
    """List the CCDs of an index that overlap a tile."""
    outline = tile_outline(tile, config)
    _, dec, radius = bounding_circle(outline[:, 0], outline[:, 1])
    records = read_index(store, index, dec_range=(dec - radius, dec + radius))
    found = find_exposures(tile, records, config)
    summary: dict[str, SummaryValue] = {"n_ccds": len(found.ccds), "n_exposures": len(found.exposures)}
    return write_document(store, keys.tile(tile, "exposures.json"), found, subject=tile, summary=summary)
