"""Tables to FITS binary tables and back: names, units, meanings and the 1-based pixel come from the schema."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.table import Table

from blocks.store import DataStore
from tasks.archive.fits_files import get_hdu, open_fits, put_fits
from tasks.errors import BadFileError
from tasks.products.columns import Column, TableSchema
from tasks.products.identity import ProductRef, SummaryValue


def table_hdu(table: Table, schema: TableSchema, header: fits.Header | None = None) -> fits.BinTableHDU:
    """Return a table as a FITS binary table with TUNIT and TCOMM of every column.

    Parameters
    ----------
    table
        Columns by their Python names, in any order; exactly those of the schema. Not changed.
    schema
        Which columns there are.
    header
        Further cards.

    Raises
    ------
    ValueError
        If a column is missing or unknown: a bug in the stage that made the table.
    """
    absent = [name for name in schema.names if name not in table.colnames]
    unknown = [name for name in table.colnames if name not in schema]
    if absent or unknown:
        raise ValueError(f"table {schema.name} lacks columns {absent} and has unknown columns {unknown}")
    columns = [_fits_column(table, column) for column in schema.columns]
    hdu = fits.BinTableHDU.from_columns(columns, name=schema.name)
    for number, column in enumerate(schema.columns, start=1):
        hdu.header[f"TCOMM{number}"] = column.meaning
    if header is not None:
        hdu.header.extend(header.cards, strip=True, unique=True)
    return hdu


def _fits_column(table: Table, column: Column) -> fits.Column:
    # one copy in the declared type; pixel positions count from 1 only in the file
    values = np.array(table[column.name]).astype(column.dtype)
    if column.origin_one:
        values += values.dtype.type(1)
    shape = values.shape[1:]
    length = int(np.prod(shape)) if shape else 1
    if values.dtype.kind == "U":
        code = f"{max(1, values.dtype.itemsize // 4)}A"
    else:
        code = f"{length}{fits.column.NUMPY2FITS[values.dtype.str[1:]]}"
    dim = f"({','.join(str(size) for size in reversed(shape))})" if len(shape) > 1 else None
    return fits.Column(column.ttype, code, unit=column.unit or None, array=values, dim=dim)


def table_from_hdu(hdu: fits.BinTableHDU, schema: TableSchema, ref: ProductRef) -> Table:
    """Return a table from its HDU, columns by their Python names and in the schema's types.

    Raises
    ------
    BadFileError
        If a column of the schema is missing.
    """
    absent = [column.ttype for column in schema.columns if column.ttype not in hdu.columns.names]
    if absent:
        raise BadFileError(f"{ref.key}: table {schema.name} lacks the columns {', '.join(absent)}.")
    table = Table()
    for column in schema.columns:
        values = np.asarray(hdu.data[column.ttype])
        if column.shape and values.ndim == 1:
            # astropy drops the axis of vectors of length 1
            values = values[:, None]
        dtype = np.dtype(column.dtype)
        values = values.astype(dtype) if dtype.kind != "U" else values.astype(np.str_)
        table[column.name] = values - values.dtype.type(1) if column.origin_one else values
    table.meta["header"] = dict(hdu.header.items())
    return table


def write_table(
    store: DataStore,
    key: str,
    table: Table,
    schema: TableSchema,
    *,
    subject: object,
    summary: dict[str, SummaryValue] | None = None,
    header: fits.Header | None = None,
) -> ProductRef:
    """Publish one table; ``header`` holds further cards of its HDU."""
    return put_fits(store, key, [table_hdu(table, schema, header)], subject=subject, summary=summary)


def read_table(store: DataStore, ref: ProductRef, schema: TableSchema) -> Table:
    """Return the table of a product; its HDU header is in ``meta["header"]``.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If the HDU or a column is missing.
    """
    with open_fits(store, ref) as hdus:
        return table_from_hdu(get_hdu(hdus, schema.name, ref), schema, ref)


def empty_table(schema: TableSchema, **sizes: tuple[int, ...]) -> Table:
    """Return a table without rows; ``sizes`` gives the cell shape of columns whose schema leaves it open."""
    return Table(
        {
            column.name: np.empty((0, *sizes.get(column.name, column.shape)), dtype=np.dtype(column.dtype))
            for column in schema.columns
        }
    )
