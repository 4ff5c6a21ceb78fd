"""Tables with every column of a schema, so that a test names only the columns that it is about."""

import numpy as np
from astropy.table import Table

from tasks.products.columns import SHAPES, TableSchema

TYPES = ("noshear", "1p", "1m", "2p", "2m")


def filled(schema: TableSchema, n: int, **columns: object) -> Table:
    """Return a table of n rows: the given columns, zeros elsewhere; cells of open size have one element."""
    table = Table()
    for column in schema.columns:
        if column.name in columns:
            table[column.name] = np.asarray(columns[column.name]).astype(column.dtype)
        else:
            shape = tuple(size or 1 for size in column.shape)
            table[column.name] = np.zeros((n, *shape), dtype=column.dtype)
    unknown = set(columns) - set(schema.names)
    assert not unknown, f"{schema.name} has no columns {unknown}"
    return table


def filled_shapes(number: object, **columns: object) -> Table:
    """Return shapes of good, round galaxies: S/N 50, twice the size of the PSF."""
    n = len(np.atleast_1d(number))
    good = {"number": number, "t_psf": np.full(n, 0.2), "n_epoch_used": np.full(n, 3), "metacal_step": np.full(n, 0.01)}
    for kind in TYPES:
        good |= {f"s2n_{kind}": np.full(n, 50.0), f"t_{kind}": np.full(n, 0.4)}
    return filled(SHAPES, n, **(good | columns))
