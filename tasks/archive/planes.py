"""Integer planes of an image, each a product of its own: DQ, lensing mask."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from blocks.store import DataStore
from tasks.archive.fits_files import get_hdu, image_hdu, open_fits, put_fits
from tasks.products.identity import ProductRef, SummaryValue


def write_plane(
    store: DataStore,
    key: str,
    plane: NDArray[np.generic],
    name: str,
    *,
    subject: object,
    summary: dict[str, SummaryValue] | None = None,
    header: fits.Header | None = None,
) -> ProductRef:
    """Publish one integer plane of shape (ny, nx) as the HDU ``name``, such as ``DQ`` or ``MASK``.

    ``header`` holds further cards of the primary header, such as the provenance of a reference file.
    """
    return put_fits(store, key, [image_hdu(plane, name)], subject=subject, summary=summary, header=header)


def read_plane(store: DataStore, ref: ProductRef, name: str) -> NDArray[np.uint32]:
    """Return one integer plane, shape (ny, nx), uint32.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If it has no such plane.
    """
    with open_fits(store, ref) as hdus:
        return np.asarray(get_hdu(hdus, name, ref).data).astype(np.uint32)
