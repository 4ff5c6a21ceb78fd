"""Source lists to multi-extension FITS files and back."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.table import Table

from blocks.store import DataStore
from tasks.archive.fits_files import get_hdu, image_hdu, open_fits, put_fits
from tasks.archive.tables import table_from_hdu, table_hdu
from tasks.errors import BadFileError
from tasks.products.columns import SOURCES
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.sources import MeasuredSky, SourceList


def write_sources(
    store: DataStore, key: str, sources: SourceList, summary: dict[str, SummaryValue] | None = None
) -> ProductRef:
    """Publish a source list as SOURCES, SEG, BACKGROUND and RMS extensions."""
    header = fits.Header()
    header["VARSCALE"] = (sources.variance_scale, "variance of a pixel is this / weight")
    header["BACKSIZE"] = (sources.box_px, "[pix] box of the background mesh")
    header["MAGZP"] = (sources.zero_point, "[mag] zero point of the magnitudes")
    hdus = [
        table_hdu(sources.table, SOURCES, header),
        image_hdu(sources.segmentation, "SEG"),
        # not compressed: a mesh is tiny, and its float64 must come back to the bit
        fits.ImageHDU(sources.background_mesh, name="BACKGROUND"),
        fits.ImageHDU(sources.rms_mesh, name="RMS"),
    ]
    return put_fits(store, key, hdus, subject=sources.subject, summary=summary)


def read_sources(store: DataStore, ref: ProductRef) -> SourceList:
    """Return a source list.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If the file is truncated or not a source list.
    """
    with open_fits(store, ref) as hdus:
        hdu = get_hdu(hdus, SOURCES.name, ref)
        scale, box_px, zero_point = _settings(hdu, ref)
        return SourceList(
            subject=str(hdus[0].header["OBJECTID"]),
            table=_with_vectors(table_from_hdu(hdu, SOURCES, ref)),
            segmentation=np.asarray(get_hdu(hdus, "SEG", ref).data).astype(np.int32),
            background_mesh=np.asarray(get_hdu(hdus, "BACKGROUND", ref).data).astype(np.float64),
            rms_mesh=np.asarray(get_hdu(hdus, "RMS", ref).data).astype(np.float64),
            box_px=box_px,
            variance_scale=scale,
            zero_point=zero_point,
        )


def read_sky(store: DataStore, ref: ProductRef) -> MeasuredSky:
    """Return background and noise of a source list; its table and maps are not read.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If the file is truncated or not a source list.
    """
    with open_fits(store, ref) as hdus:
        scale, box_px, _ = _settings(get_hdu(hdus, SOURCES.name, ref), ref)
        mesh = np.asarray(get_hdu(hdus, "BACKGROUND", ref).data).astype(np.float64)
        return MeasuredSky(mesh, box_px, scale)


def _settings(hdu: fits.BinTableHDU, ref: ProductRef) -> tuple[float, int, float]:
    """Return variance scale, box size and zero point."""
    try:
        scale, box_px, zero_point = (hdu.header[keyword] for keyword in ("VARSCALE", "BACKSIZE", "MAGZP"))
    except KeyError as error:
        raise BadFileError(f"{ref.key} is not a source list: {error}") from error
    return float(scale), int(box_px), float(zero_point)


def _with_vectors(table: Table) -> Table:
    """Give columns of vectors their second axis back, which FITS does not keep for vectors of length 1."""
    for column in SOURCES.columns:
        if column.shape and table[column.name].ndim == 1:
            table[column.name] = np.asarray(table[column.name])[:, np.newaxis]
    return table
