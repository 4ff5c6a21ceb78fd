"""Spread model of every source of a tile, to tell stars from galaxies."""

from typing import Annotated

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.coadds import read_coadd
from tasks.archive.planes import read_plane
from tasks.archive.sources import read_sources
from tasks.archive.tables import read_table, write_table
from tasks.products.columns import EPOCH_PSF, SPREAD
from tasks.products.config import StageConfig, StampSize
from tasks.products.dq import MaskFlag, MaskName
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.images import Coadd
from tasks.products.sources import SourceList
from tasks.science.background import expand_mesh
from tasks.science.coadd_psf import mean_psf_size
from tasks.science.cutouts import cut, nearest_pixel, stamp_start
from tasks.science.geometry import pixel_scale_arcsec
from tasks.science.spread import measure_spread
from tasks.stage import stage

CHUNK = 512


class SpreadModelConfig(StageConfig):
    """Settings of the spread model."""

    stamp_size: StampSize = 51
    """Side of the stamps in pixels, odd."""

    coadd_variance_px2: Annotated[float, Field(ge=0, le=4)] = 1.0 / 6.0
    """Variance that coaddition adds to the PSF along each axis: 1/6 for drizzle with full pixels onto equal ones."""

    excluded: tuple[MaskName, ...] = ("WEIGHT", "EXTERNAL", "MISSING")
    """Bits of the lensing mask whose pixels are not used."""


def measure_spread_model(
    coadd: Coadd, mask: NDArray[np.uint32], sources: SourceList, psf: Table, config: SpreadModelConfig
) -> Table:
    """Measure the spread model of the sources of a tile.

    Parameters
    ----------
    coadd
        The tile; not changed.
    mask
        Lensing mask, shape (ny, nx).
    sources
        Sources of the tile, with background, segmentation and variance scale.
    psf
        Columns of ``tasks.products.columns.EPOCH_PSF``.
    config
        Settings.

    Returns
    -------
    Table
        Columns of ``tasks.products.columns.SPREAD``, one row per source and in its order.
    """
    number = np.asarray(sources.table["number"])
    x, y = np.asarray(sources.table["x_win"], np.float64), np.asarray(sources.table["y_win"], np.float64)
    size_arcsec, n_epochs = mean_psf_size(psf, number)
    scale = pixel_scale_arcsec(coadd.wcs, x, y)
    sigma = np.sqrt((size_arcsec / scale) ** 2 + config.coadd_variance_px2)
    bits = np.bitwise_or.reduce([int(MaskFlag[name]) for name in config.excluded], initial=0)
    bad = (mask & np.uint32(bits)) != 0
    weight = np.where(bad | ~np.isfinite(coadd.weight), np.float32(0), coadd.weight) / np.float32(
        sources.variance_scale
    )
    image = coadd.sci - expand_mesh(sources.background_mesh, (bad.shape[0], bad.shape[1]), sources.box_px)
    model, error, flags = np.empty(len(x)), np.empty(len(x)), np.empty(len(x), np.int32)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        at = stamp_start(y[part], config.stamp_size), stamp_start(x[part], config.stamp_size), config.stamp_size
        segments = cut(sources.segmentation, *at)
        other = (segments != 0) & (segments != number[part, None, None])
        dx, dy = x[part] - nearest_pixel(x[part]), y[part] - nearest_pixel(y[part])
        stamps, weights = cut(image, *at), np.where(other, np.float32(0), cut(weight, *at))
        model[part], error[part], flags[part] = measure_spread(stamps, weights, sigma[part], dx=dx, dy=dy)
    columns = {"number": number, "spread_model": model, "spreaderr_model": error}
    columns |= {"sigma_psf": sigma, "n_epoch_psf": n_epochs, "flags": flags}
    return Table({column.name: columns[column.name].astype(column.dtype) for column in SPREAD.columns})


def spread_summary(table: Table) -> dict[str, SummaryValue]:
    """Return the numbers of a spread-model table."""
    return {"n_sources": len(table), "n_measured": int(np.count_nonzero(np.asarray(table["flags"]) == 0))}


@stage(name="spread_model")
def measure_spread_task(
    coadd: ProductRef,
    mask: ProductRef,
    sources: ProductRef,
    psf: ProductRef,
    config: SpreadModelConfig,
    store: DataStore,
) -> ProductRef:
    """Read a tile, its sources and their PSFs, measure the spread model, store it."""
    tile, plane = read_coadd(store, coadd), read_plane(store, mask, "MASK")
    table = measure_spread_model(tile, plane, read_sources(store, sources), read_table(store, psf, EPOCH_PSF), config)
    key, summary = keys.tile(tile.id, "spread_model.fits"), spread_summary(table)
    return write_table(store, key, table, SPREAD, subject=tile.id, summary=summary)
