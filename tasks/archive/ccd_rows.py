"""Some rows of a CCD from the store: of tile-compressed images only the strips that hold them are read."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from blocks.store import DataStore
from tasks.archive.fits_files import get_hdu, open_fits
from tasks.archive.fits_wcs import read_wcs_text
from tasks.archive.psfex import read_psf
from tasks.archive.sources import read_sky
from tasks.errors import ShapeMismatchError
from tasks.products.ccd_rows import CcdRows, CcdSource
from tasks.products.identity import CcdId, CcdProducts, ProductRef
from tasks.products.wcs_index import CcdRecord, TileExposures

Shape = tuple[int, int]


def open_ccds(store: DataStore, ccds: Iterable[CcdProducts], tile: TileExposures) -> dict[CcdId, CcdSource]:
    """Return the CCDs of a tile, whose rows are read when they are wanted.

    Parameters
    ----------
    store, ccds
        The products of the CCDs.
    tile
        What the WCS index knows of the CCDs that overlap the tile; others are left out.

    Raises
    ------
    DataError
        If a CCD of the tile has no products.
    MissingProductError
        If a product is not in the store; here or when rows are read.
    BadFileError
        If a file is truncated or not what it should be; here or when rows are read.
    """
    products = {ccd.ccd: ccd for ccd in ccds}
    tile.require(products)
    return {record.ccd: _open_ccd(store, products[record.ccd], record) for record in tile.ccds}


def _open_ccd(store: DataStore, ccd: CcdProducts, record: CcdRecord) -> CcdSource:
    return CcdSource(
        read=partial(_read_rows, store, ccd, record.shape),
        wcs=read_wcs_text(record.wcs_text, f"CCD {record.ccd}"),
        sky=read_sky(store, ccd.sources),
        fwhm_px=read_psf(store, ccd.psf).fwhm,
    )


def _read_rows(store: DataStore, ccd: CcdProducts, shape: Shape, rows: slice) -> CcdRows:
    """Read some rows of image, weight, flags and mask.

    Raises
    ------
    ShapeMismatchError
        If a plane has another shape than the CCD.
    """
    sci, weight = _planes(store, ccd, ccd.image, ("SCI", "WHT"), shape, rows)
    (dq,) = _planes(store, ccd, ccd.dq, ("DQ",), shape, rows)
    (mask,) = _planes(store, ccd, ccd.mask, ("MASK",), shape, rows)
    return CcdRows(
        sci=sci.astype(np.float32, copy=False),
        weight=weight.astype(np.float32, copy=False),
        dq=dq.astype(np.uint32, copy=False),
        mask=mask.astype(np.uint32, copy=False),
    )


def _planes(
    store: DataStore, ccd: CcdProducts, ref: ProductRef, names: tuple[str, ...], shape: Shape, rows: slice
) -> list[NDArray[np.generic]]:
    found = []
    with open_fits(store, ref) as hdus:
        for name in names:
            hdu = get_hdu(hdus, name, ref)
            if tuple(hdu.shape) != shape:
                raise ShapeMismatchError(
                    f"CCD {ccd.ccd}: {name} of {ref.key} has the shape {tuple(hdu.shape)}, the CCD {shape} by the WCS "
                    "index; process its exposure again."
                )
            found.append(np.asarray(hdu.section[rows]))
    return found
