"""Stamps: small images of every source of a tile, in the coadd and in every epoch, as one MEDS file."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.coadds import read_coadd
from tasks.archive.images import read_ccd_image
from tasks.archive.meds import scratch_arrays, write_stamps
from tasks.archive.planes import read_plane
from tasks.archive.sources import read_sources
from tasks.archive.tables import read_table
from tasks.products.columns import EPOCH_PSF, EPOCHS
from tasks.products.config import StageConfig, StampSize
from tasks.products.dq import MaskFlag, MaskName
from tasks.products.identity import CcdProducts, ProductRef, SummaryValue, TileId
from tasks.products.images import Coadd
from tasks.products.sources import SourceList
from tasks.products.stamps import MultiEpochStamps
from tasks.science.background import expand_mesh
from tasks.science.multi_epoch import Allocate, StampImage, TileMaps, build_stamps, ccd_stamp_image, choose_epochs
from tasks.stage import stage


class StampsConfig(StageConfig):
    """Settings of stamps."""

    stamp_size: StampSize = 51
    """Side of the stamps in pixels, odd."""

    sky_mask: tuple[MaskName, ...] = ("HALO", "SPIKE", "MESSIER", "NGC")
    """Bits of the tile's mask that are carried over to the stamps of the CCDs: those that belong to the sky."""


def cut_stamps(
    coadd: Coadd,
    mask: NDArray[np.uint32],
    sources: SourceList,
    epochs: Table,
    psf: Table,
    ccds: Mapping[str, Callable[[], StampImage]],
    config: StampsConfig,
    *,
    allocate: Allocate = np.zeros,
) -> MultiEpochStamps:
    """Cut the stamps of all sources of a tile.

    Parameters
    ----------
    coadd, mask
        The tile and its lensing mask, shape (ny, nx).
    sources
        Sources of the tile with their segmentation map.
    epochs, psf
        One row per source and CCD, aligned: columns of ``EPOCHS`` and ``EPOCH_PSF``.
    ccds
        By CCD name, in the order in which epochs are kept, a function that reads the CCD. Those of CCDs with an epoch
        are called once each, and only one CCD is in memory at a time.
    config
        Settings.
    allocate
        Makes the arrays of the pixels.

    Returns
    -------
    MultiEpochStamps
        Stamps of every source; an epoch without a good PSF has none.

    Raises
    ------
    DataError
        If there are no sources, or the tables do not belong together.
    """
    targets = choose_epochs(sources, coadd.wcs, epochs, psf, list(ccds))
    bits = int(np.bitwise_or.reduce([int(MaskFlag[name]) for name in config.sky_mask], initial=0))
    weight = coadd.weight / np.float32(sources.variance_scale)
    tile = StampImage(sources.subject, coadd.sci, weight, mask.astype(np.int32))
    maps = TileMaps(tile, sources.segmentation, (mask & np.uint32(bits)).astype(np.int32))
    return build_stamps(
        targets, maps, (ccds[name]() for name in targets.images), size=config.stamp_size, allocate=allocate
    )


def read_stamp_image(ccd: CcdProducts, store: DataStore) -> StampImage:
    """Read a CCD and bring it to zero point 30, without its background and with true inverse variances."""
    image, sources = read_ccd_image(store, ccd.image), read_sources(store, ccd.sources)
    return ccd_stamp_image(
        str(ccd.ccd),
        image.sci,
        image.weight,
        expand_mesh(sources.background_mesh, (image.sci.shape[0], image.sci.shape[1]), sources.box_px),
        read_plane(store, ccd.mask, "MASK"),
        flux_scale=image.photometry.flux_scale,
        variance_scale=sources.variance_scale,
    )


def ccd_order(ccd: CcdProducts) -> tuple[str, int]:
    """Return what CCDs are sorted by, so that the order in which they arrive changes nothing."""
    return ccd.ccd.exposure, ccd.ccd.ccd


def stamps_summary(stamps: MultiEpochStamps, n_rows: int) -> dict[str, SummaryValue]:
    """Return the numbers of a tile's stamps; ``n_rows`` is the number of epochs, usable or not."""
    n_epochs = int(stamps.n_epoch.sum())
    return {
        "n_sources": len(stamps),
        "n_epochs": n_epochs,
        "n_epochs_without_psf": n_rows - n_epochs,
        "n_sources_without_epochs": int(np.count_nonzero(stamps.n_epoch == 0)),
    }


@stage(name="stamps")
def cut_stamps_task(
    coadd: ProductRef,
    mask: ProductRef,
    sources: ProductRef,
    epochs: ProductRef,
    psf: ProductRef,
    ccds: list[CcdProducts],
    config: StampsConfig,
    store: DataStore,
) -> ProductRef:
    """Read the tile and its CCDs, cut the stamps, store them as one MEDS file."""
    readers = {str(ccd.ccd): partial(read_stamp_image, ccd, store) for ccd in sorted(ccds, key=ccd_order)}
    tables = read_table(store, epochs, EPOCHS), read_table(store, psf, EPOCH_PSF)
    planes = read_coadd(store, coadd), read_plane(store, mask, "MASK"), read_sources(store, sources)
    with scratch_arrays() as allocate:
        stamps = cut_stamps(*planes, *tables, readers, config, allocate=allocate)
        summary = stamps_summary(stamps, n_rows=len(tables[0]))
        return write_stamps(
            store, keys.tile(TileId(coadd.subject), "stamps.fits"), stamps, coadd_key=coadd.key, summary=summary
        )
