"""The CCDs of a tile without the pixels that other exposures of the same sky contradict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.science.ccd_flux import FluxRows
from tasks.science.outliers import Exposure, find_outliers
from tasks.science.tile_ccds import TileCcd


def without_outliers(
    ccds: Sequence[TileCcd],
    wcs: WCS,
    shape: tuple[int, int],
    *,
    n_threads: int = 1,
    tell: Callable[[str], None] = lambda _text: None,
) -> list[TileCcd]:
    """Return CCDs whose outliers, such as cosmic rays and satellites, have weight 0.

    Every CCD is read whole: once for every band of the tile that it touches, and once to be compared. In memory are the
    clean image of the tile and, for every CCD, one bit per pixel.

    Parameters
    ----------
    ccds
        The CCDs of the tile.
    wcs, shape
        Coordinate system and shape (ny, nx) of the tile.
    n_threads
        Threads that share the rows; the result does not depend on it.
    tell
        Is told when the clean image is begun, and of every CCD that was compared, in a sentence.
    """
    tell(f"{len(ccds)} CCDs are read for the clean image with which each is compared")
    found, masked = find_outliers([partial(_exposure, ccd) for ccd in ccds], wcs, shape, n_threads=n_threads), []
    for number, (ccd, flags) in enumerate(zip(ccds, found, strict=True), 1):
        masked.append(_masked(ccd, flags))
        n_outliers = masked[-1].input.n_outliers
        tell(f"CCD {number} of {len(ccds)} is compared with the others: {n_outliers} outliers in {ccd.input.ccd}")
    return masked


def _exposure(ccd: TileCcd) -> Exposure:
    rows, light = ccd.read(slice(0, ccd.place.shape[0])), ccd.input.photometry
    return Exposure(rows.flux, rows.weight, ccd.wcs, light.gain / light.flux_scale)


def _masked(ccd: TileCcd, flags: NDArray[np.uint32]) -> TileCcd:
    outlier = flags != 0
    read = partial(_read_without, ccd.read, np.packbits(outlier, axis=1))
    return replace(ccd, input=replace(ccd.input, n_outliers=int(np.count_nonzero(outlier))), read=read)


def _read_without(read: Callable[[slice], FluxRows], outlier: NDArray[np.uint8], rows: slice) -> FluxRows:
    found = read(rows)
    bad = np.unpackbits(outlier[rows], axis=1, count=found.weight.shape[1]).astype(np.bool_)
    return replace(found, weight=np.where(bad, np.float32(0), found.weight))
