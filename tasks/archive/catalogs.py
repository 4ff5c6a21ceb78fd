"""Catalogues of tiles and of the survey: FITS tables that know where their tile lies, and Parquet."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.fits_files import put_bytes
from tasks.archive.tables import read_table, write_table
from tasks.errors import BadFileError
from tasks.products.columns import CATALOG, TableSchema
from tasks.products.footprint import TileFootprint
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.wcs_index import TileExposures

FOOTPRINT_CARDS = ("TILERA", "TILEDEC", "TILEHW", "TILEHH")


def write_catalog(store: DataStore, catalog: Table, exposures: TileExposures) -> ProductRef:
    """Publish the catalogue of a tile, with the place of the tile in its header."""
    half = exposures.size_px * exposures.pixel_scale_arcsec / 2.0
    header = fits.Header()
    header["TILEID"] = (str(exposures.tile), "tile")
    for keyword, value, comment in zip(
        FOOTPRINT_CARDS,
        (exposures.ra, exposures.dec, half, half),
        ("[deg] centre", "[deg] centre", "[arcsec] half of the width", "[arcsec] half of the height"),
        strict=True,
    ):
        header[keyword] = (value, comment)
    summary: dict[str, SummaryValue] = {
        "n_sources": len(catalog),
        "n_measured": int(np.count_nonzero(catalog["shape_flags"] == 0)),
        "n_stars": int(np.count_nonzero(catalog["spread_class"] == 0)),
        "n_galaxies": int(np.count_nonzero(catalog["spread_class"] == 1)),
    }
    key = keys.tile(exposures.tile, "catalog.fits")
    return write_table(store, key, catalog, CATALOG, subject=exposures.tile, summary=summary, header=header)


def read_catalog(store: DataStore, ref: ProductRef) -> tuple[Table, TileFootprint]:
    """Return the catalogue of a tile and where the tile lies.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If it is not the catalogue of a tile.
    """
    catalog = read_table(store, ref, CATALOG)
    header = catalog.meta["header"]
    absent = [keyword for keyword in FOOTPRINT_CARDS if keyword not in header]
    if absent:
        raise BadFileError(f"{ref.key} lacks {', '.join(absent)}: it does not say where its tile lies.")
    return catalog, TileFootprint(*(float(header[keyword]) for keyword in FOOTPRINT_CARDS))


def write_parquet(
    store: DataStore,
    key: str,
    table: Table,
    schema: TableSchema,
    *,
    subject: object,
    summary: dict[str, SummaryValue] | None = None,
) -> ProductRef:
    """Publish a table as Parquet, columns by their Python names, units and meanings in the metadata of the columns.

    Positions in pixels count from 0, as in Python; the same table always gives the same bytes.
    """
    fields, arrays = [], []
    for column in schema.columns:
        values = np.ascontiguousarray(np.asarray(table[column.name]).astype(column.dtype))
        array = pa.array(values.ravel())
        if values.ndim > 1:
            array = pa.FixedSizeListArray.from_arrays(array, int(np.prod(values.shape[1:])))
        metadata = {"unit": column.unit, "meaning": column.meaning}
        fields.append(pa.field(column.name, array.type, nullable=False, metadata=metadata))
        arrays.append(array)
    described = pa.schema(fields, metadata={"name": schema.name, "meaning": schema.meaning})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=described), buffer, compression="zstd")
    return put_bytes(store, key, buffer.getvalue(), subject=subject, summary=summary)
