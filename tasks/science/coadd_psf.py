"""The size of the PSF of a coadd, from the PSFs of its epochs."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray


def mean_psf_size(psf: Table, number: NDArray[np.integer]) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return the mean size of the PSF over the good epochs of each source.

    Parameters
    ----------
    psf
        Columns of ``tasks.products.columns.EPOCH_PSF``; rows with flags do not count.
    number
        Numbers of the sources, all different, shape (n,).

    Returns
    -------
    tuple of ndarray
        Fourth root of the determinant of the moments in arcsec, float64, NaN without a good epoch; and the number of
        good epochs, int32; shape (n,).
    """
    good = psf[np.asarray(psf["flags"]) == 0]
    modulus2 = np.asarray(good["g1"]) ** 2 + np.asarray(good["g2"]) ** 2
    size = np.sqrt(0.5 * np.asarray(good["t"]) * (1.0 - modulus2) / (1.0 + modulus2))
    order = np.argsort(number, kind="stable")
    place = np.searchsorted(number[order], np.asarray(good["number"]))
    known = place < len(number)
    known[known] = number[order][place[known]] == np.asarray(good["number"])[known]
    row = order[place[known]]
    count = np.bincount(row, minlength=len(number))
    total = np.bincount(row, weights=size[known], minlength=len(number))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), count.astype(np.int32)
