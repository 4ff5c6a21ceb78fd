"""The image of a tile: its CCDs drizzled onto one grid and averaged by inverse variance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.documents import read_document
from tasks.archive.images import read_ccd_image, write_coadd
from tasks.archive.planes import read_plane
from tasks.archive.sources import read_sources
from tasks.errors import NoGoodPixelsError, ShapeMismatchError
from tasks.products.config import StageConfig
from tasks.products.dq import MaskFlag, MaskName
from tasks.products.identity import CcdId, CcdProducts, ProductRef, SummaryValue, TileId
from tasks.products.images import CcdImage, Coadd
from tasks.products.sources import SourceList
from tasks.products.wcs_index import TileExposures
from tasks.science.background import expand_mesh
from tasks.science.geometry import tile_wcs
from tasks.science.resampling import CoaddBuilder, Kernel, ResamplingInput, resample
from tasks.stage import stage


class CoaddConfig(StageConfig):
    """Settings of the coaddition."""

    kernel: Kernel = "square"
    """Shape of the drop that each pixel is; all of these conserve flux."""

    pixfrac: Annotated[float, Field(gt=0.01, le=1)] = 1.0
    """Size of the drop in pixels; smaller is sharper, but leaves an uneven tile if there are few exposures."""

    excluded: tuple[MaskName, ...] = ("WEIGHT", "BORDER", "EXTERNAL", "MISSING")
    """Bits of the lensing mask of a CCD that keep a pixel out of the tile."""


def prepare_ccd(image: CcdImage, mask: NDArray[np.uint32], sources: SourceList, config: CoaddConfig) -> ResamplingInput:
    """Return a CCD at zero point 30, without background, with inverse variances and without excluded pixels.

    Parameters
    ----------
    image
        The CCD in ADU; not changed.
    mask
        Its lensing mask, shape (ny, nx).
    sources
        Its source list, for background and noise.
    config
        Settings.

    Raises
    ------
    ShapeMismatchError
        If the mask has another shape than the image.
    """
    shape = (image.sci.shape[0], image.sci.shape[1])
    if mask.shape != shape:
        raise ShapeMismatchError(f"CCD {image.id}: its mask has the shape {mask.shape}, its image {shape}.")
    scale = image.photometry.flux_scale
    bits = np.uint32(np.bitwise_or.reduce([int(MaskFlag[name]) for name in config.excluded], initial=0))
    usable = np.zeros(shape, np.bool_)
    usable[image.data_section.slices] = True
    usable &= (mask & bits) == 0
    background = expand_mesh(sources.background_mesh, shape, sources.box_px)
    variance = sources.variance_scale * scale**2
    return ResamplingInput(
        flux=(image.sci - background) * np.float32(scale),
        weight=np.where(usable, image.weight / np.float32(variance), np.float32(0)).astype(np.float32),
        wcs=image.wcs,
        dq=image.dq,
        saturation=(image.photometry.saturation - float(np.median(sources.background_mesh))) * scale,
        gain=image.photometry.gain / scale,
    )


def coadd_tile(tile: TileExposures, ccds: Mapping[CcdId, Callable[[], ResamplingInput]], config: CoaddConfig) -> Coadd:
    """Return the mean of the CCDs of a tile, weighted by inverse variance.

    Parameters
    ----------
    tile
        The tile and the CCDs that overlap it; they are added in this order.
    ccds
        By CCD, a function that reads it; only one CCD is in memory at a time.
    config
        Settings.

    Returns
    -------
    Coadd
        Flux at zero point 30. Its inputs are the CCDs that added something. Its gain is the number of electrons of all
        exposures per unit of flux, the mean over the covered pixels.

    Raises
    ------
    DataError
        If a CCD of the tile is missing, or none has a usable pixel on it.
    """
    tile.require(ccds)
    shape = (tile.size_px, tile.size_px)
    wcs = tile_wcs(tile.ra, tile.dec, size_px=tile.size_px, pixel_scale_arcsec=tile.pixel_scale_arcsec)
    builder = CoaddBuilder(shape, len(tile.ccds))
    inputs: list[CcdId] = []
    saturation, electrons = np.inf, 0.0
    for record in tile.ccds:
        ccd = ccds[record.ccd]()
        resampled = resample(ccd, wcs, shape, kernel=config.kernel, pixfrac=config.pixfrac)
        if resampled is None:
            continue
        builder.add(len(inputs), resampled)
        inputs.append(record.ccd)
        saturation = min(saturation, ccd.saturation / resampled.pixel_area)
        electrons += ccd.gain * np.count_nonzero(resampled.weight)
    if not inputs:
        raise NoGoodPixelsError(f"Tile {tile.tile}: none of the {len(tile.ccds)} CCDs has a usable pixel on it.")
    planes = builder.finish()
    gain = float(electrons / np.count_nonzero(planes.weight))
    return Coadd(tile.tile, planes.sci, planes.weight, planes.context, wcs, tuple(inputs), float(saturation), gain)


def read_ccd(ccd: CcdProducts, config: CoaddConfig, store: DataStore) -> ResamplingInput:
    """Read a CCD, its mask and its background, and prepare it."""
    sources, mask = read_sources(store, ccd.sources), read_plane(store, ccd.mask, "MASK")
    return prepare_ccd(read_ccd_image(store, ccd.image), mask, sources, config)


@stage(name="coadd")
def coadd_tile_task(
    tile: TileId, exposures: ProductRef, ccds: Sequence[CcdProducts], config: CoaddConfig, store: DataStore
) -> ProductRef:
    """Read the CCDs of a tile one by one, coadd them, store the tile."""
    readers = {ccd.ccd: partial(read_ccd, ccd, config, store) for ccd in ccds}
    coadd = coadd_tile(read_document(store, exposures, TileExposures), readers, config)
    covered = round(float(np.mean(coadd.weight > 0)), 4)
    summary: dict[str, SummaryValue] = {"n_ccds": len(coadd.inputs), "covered_fraction": covered}
    return write_coadd(store, keys.tile(tile, "coadd.fits"), coadd, summary)
