"""Tables that other people made: star catalogues and lists of objects, as FITS or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from blocks.store import BadKeyError, DataStore, ObjectNotFoundError
from tasks.errors import BadFileError, MissingProductError


def read_columns(store: DataStore, key: str, names: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
    """Return columns of numbers from a FITS table or, if the key ends with ``.csv``, a CSV file with a header line.

    Parameters
    ----------
    store, key
        Where the file is.
    names
        Column names, upper or lower case; lines of a CSV file that start with ``#`` are comments.

    Returns
    -------
    tuple of ndarray
        One float64 array per name, NaN where a value is missing.

    Raises
    ------
    MissingProductError
        If the file is not in the store.
    BadFileError
        If it cannot be read, or lacks a column.
    """
    try:
        data = store.read_bytes(key, cached=True)
    except (ObjectNotFoundError, BadKeyError) as error:
        raise MissingProductError(f"The table {key} is not in {store.url}.") from error
    columns = _csv_columns(data, key) if key.endswith(".csv") else _fits_columns(data, key)
    absent = [name for name in names if name.upper() not in columns]
    if absent:
        raise BadFileError(f"The table {key} has no column {', '.join(absent)}; it has {', '.join(columns)}.")
    try:
        return tuple(np.asarray(columns[name.upper()]).astype(np.float64) for name in names)
    except ValueError as error:
        raise BadFileError(f"The table {key} has a value that is not a number: {error}.") from error


def read_text(store: DataStore, key: str) -> str:
    """Return the text of a file.

    Raises
    ------
    MissingProductError
        If the file is not in the store.
    BadFileError
        If it is not text.
    """
    try:
        return store.read_bytes(key).decode()
    except (ObjectNotFoundError, BadKeyError) as error:
        raise MissingProductError(f"The list {key} is not in {store.url}.") from error
    except UnicodeDecodeError as error:
        raise BadFileError(f"The list {key} is not text: {error}.") from error


def _fits_columns(data: bytes, key: str) -> dict[str, NDArray[np.generic]]:
    try:
        with fits.open(io.BytesIO(data), memmap=False) as hdus:
            tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU) and hdu.header.get("ZIMAGE") is None]
            if not tables:
                raise BadFileError(f"The file {key} has no table.")
            return {name.upper(): np.asarray(tables[0].data[name]) for name in tables[0].columns.names}
    except (OSError, ValueError, TypeError, fits.VerifyError) as error:
        raise BadFileError(f"The table {key} cannot be read as FITS: {error}.") from error


def _csv_columns(data: bytes, key: str) -> dict[str, NDArray[np.generic]]:
    try:
        lines = [line for line in data.decode().splitlines() if line.strip() and not line.startswith("#")]
    except UnicodeDecodeError as error:
        raise BadFileError(f"The table {key} is not text: {error}.") from error
    rows = list(csv.reader(lines))
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise BadFileError(f"The table {key} is not a CSV file with the same columns in every line.")
    values = [[cell.strip() or "nan" for cell in row] for row in rows[1:]]
    by_column = zip(*values, strict=True) if values else [()] * len(rows[0])
    return {name.strip().upper(): np.array(column) for name, column in zip(rows[0], by_column, strict=True)}
