"""The image of a tile: its CCDs drizzled onto one grid and averaged by inverse variance."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.ccd_rows import open_ccds
from tasks.archive.coadds import CoaddFile
from tasks.archive.documents import read_document
from tasks.errors import NoGoodPixelsError
from tasks.products.ccd_rows import CcdSource
from tasks.products.config import StageConfig
from tasks.products.dq import MaskName
from tasks.products.identity import CcdId, CcdProducts, ProductRef, TileId
from tasks.products.images import Coadd, CoaddMetadata
from tasks.products.wcs_index import TileExposures
from tasks.science.coadd_planes import join_bands
from tasks.science.coaddition import Coaddition, band_height
from tasks.science.drizzling import FluxKernel
from tasks.science.geometry import tile_wcs
from tasks.science.tile_ccds import tile_ccds
from tasks.science.tile_outliers import without_outliers
from tasks.stage import stage

LOGGER = logging.getLogger("shearline")


class CoaddConfig(StageConfig):
    """Settings of the coaddition."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"threads"})

    kernel: FluxKernel = "square"
    """Shape of the drop that each pixel is; all of these conserve flux."""

    pixfrac: Annotated[float, Field(gt=0.01, le=1)] = 1.0
    """Size of the drop in pixels; smaller is sharper, but leaves an uneven tile if there are few exposures."""

    excluded: tuple[MaskName, ...] = ("WEIGHT", "BORDER", "EXTERNAL", "MISSING")
    """Bits of the lensing mask of a CCD that keep a pixel out of the tile."""

    reject_outliers: bool = False
    """Whether pixels that other exposures contradict, as of satellites, are left out; CCDs are read three times."""

    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads with which a worker drizzles and compresses; the tile is the same to the bit."""


def begin_coadd(tile: TileExposures, ccds: Mapping[CcdId, CcdSource], config: CoaddConfig) -> Coaddition:
    """Return what makes the image of a tile, band by band.

    Parameters
    ----------
    tile
        The tile and the CCDs that overlap it; they are added in this order.
    ccds
        The CCDs; their pixels are read when they are wanted.
    config
        Settings.

    Raises
    ------
    DataError
        If a CCD of the tile is missing.
    """
    wcs = tile_wcs(tile.ra, tile.dec, size_px=tile.size_px, pixel_scale_arcsec=tile.pixel_scale_arcsec)
    shape = (tile.size_px, tile.size_px)
    found = list(tile_ccds(tile, ccds, wcs, config.excluded))
    if config.reject_outliers:
        found = without_outliers(found, wcs, shape, n_threads=config.threads, tell=LOGGER.info)
    height = band_height(len(found))
    return Coaddition(found, wcs, shape, config.kernel, config.pixfrac, config.threads, height, LOGGER.info)


def describe_coadd(tile: TileExposures, work: Coaddition) -> CoaddMetadata:
    """Return what a tile was made of, when all of its bands are made.

    Raises
    ------
    NoGoodPixelsError
        If no CCD has a usable pixel on it.
    """
    metadata = work.metadata(tile.pixel_scale_arcsec)
    if not metadata.inputs:
        raise NoGoodPixelsError(f"Tile {tile.tile}: none of the {len(tile.ccds)} CCDs has a usable pixel on it.")
    if len(metadata.bands) > 1:
        LOGGER.warning("the CCDs were taken through %d filters: %s", len(metadata.bands), ", ".join(metadata.bands))
    return metadata


def coadd_tile(tile: TileExposures, ccds: Mapping[CcdId, CcdSource], config: CoaddConfig) -> Coadd:
    """Return the mean of the CCDs of a tile, weighted by inverse variance, all of it in memory.

    Parameters
    ----------
    tile, ccds, config
        As for `begin_coadd`.

    Returns
    -------
    Coadd
        Flux at zero point 30. Its inputs are the CCDs that added something.

    Raises
    ------
    DataError
        If a CCD of the tile is missing, or none has a usable pixel on it.
    """
    work = begin_coadd(tile, ccds, config)
    planes = join_bands(work.bands())
    return Coadd(tile.tile, planes, work.wcs, describe_coadd(tile, work))


@stage(name="coadd")
def coadd_tile_task(
    tile: TileId, exposures: ProductRef, ccds: Sequence[CcdProducts], config: CoaddConfig, store: DataStore
) -> ProductRef:
    """Read the CCDs of a tile some rows at a time, coadd them, store the tile."""
    listed = read_document(store, exposures, TileExposures)
    work = begin_coadd(listed, open_ccds(store, ccds, listed), config)
    with CoaddFile(work.shape, config.threads) as file:
        for band in work.bands():
            file.append(band)
            del band
        metadata = describe_coadd(listed, work)
        summary = metadata.summary(work.n_covered / listed.size_px**2)
        return file.publish(store, keys.tile(tile, "coadd.fits"), tile, work.wcs, metadata, summary)
