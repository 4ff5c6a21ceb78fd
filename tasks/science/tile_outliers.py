"""The CCDs of a tile without the pixels that other exposures of the same sky contradict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.products.windows import Window
from tasks.science.ccd_flux import FluxRows
from tasks.science.outliers import GROUND, Exposure, OutlierSettings, find_outliers
from tasks.science.tile_ccds import TileCcd

SEEING_DIFFERS = OutlierSettings(thresholds=GROUND)


def without_outliers(
    ccds: Sequence[TileCcd],
    wcs: WCS,
    shape: tuple[int, int],
    *,
    n_threads: int = 1,
    tell: Callable[[str], None] = lambda _text: None,
) -> list[TileCcd]:
    """Return CCDs whose outliers, such as cosmic rays and satellites, have weight 0.

    Every CCD is read twice: in parts, for the bands of the tile, and whole, to be compared. In memory are the clean
    image of the tile with its scatter and, for every CCD, one bit per pixel.

    Parameters
    ----------
    ccds
        The CCDs of the tile.
    wcs, shape
        Coordinate system and shape (ny, nx) of the tile.
    n_threads
        Threads that share the rows; the result does not depend on it.
    tell
        Is told of every band of the clean image, and of every CCD that was compared, in a sentence.
    """
    sources, masked = [_CcdExposure(ccd) for ccd in ccds], []
    found = find_outliers(sources, wcs, shape, SEEING_DIFFERS, n_threads=n_threads, tell=tell)
    for number, (ccd, flags) in enumerate(zip(ccds, found, strict=True), 1):
        masked.append(_masked(ccd, flags))
        n_outliers = masked[-1].input.n_outliers
        tell(f"CCD {number} of {len(ccds)} is compared with the others: {n_outliers} outliers in {ccd.input.ccd}")
    return masked


@dataclass(frozen=True, eq=False)
class _CcdExposure:
    """A CCD as outlier rejection reads it."""

    ccd: TileCcd

    def __call__(self) -> Exposure:
        return self._rows(slice(0, self.ccd.place.shape[0]))

    def reaching(self, band: Window) -> Exposure | None:
        rows = self.ccd.place.rows_reaching(band.y_min, band.y_max - 1)
        return None if rows is None else self._rows(rows)

    def _rows(self, rows: slice) -> Exposure:
        found, light = self.ccd.read(rows), self.ccd.input.photometry
        wcs = self.ccd.wcs.slice((rows, slice(None)))
        return Exposure(found.flux, found.weight, wcs, light.gain / light.flux_scale)


def _masked(ccd: TileCcd, flags: NDArray[np.uint32]) -> TileCcd:
    outlier = flags != 0
    read = partial(_read_without, ccd.read, np.packbits(outlier, axis=1))
    return replace(ccd, input=replace(ccd.input, n_outliers=int(np.count_nonzero(outlier))), read=read)


def _read_without(read: Callable[[slice], FluxRows], outlier: NDArray[np.uint8], rows: slice) -> FluxRows:
    found = read(rows)
    bad = np.unpackbits(outlier[rows], axis=1, count=found.weight.shape[1]).astype(np.bool_)
    return replace(found, weight=np.where(bad, np.float32(0), found.weight))
