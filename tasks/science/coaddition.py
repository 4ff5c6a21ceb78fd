"""A tile from CCDs: drizzled a band of rows at a time, so that memory grows with neither its height nor their number.

Of each CCD only the rows that reach the band are read, and those of the next CCD while the present one is drizzled. The
bands follow each other, and within a band the CCDs in the order in which they are given, whatever arrives when. Between
bands nothing is kept of a CCD but where it lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, islice

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.products.dq import DQFlag
from tasks.products.images import CoaddMetadata, CoaddPlanes
from tasks.science.drizzling import CONTEXT_BITS, DrizzleImage, Drizzler, FluxKernel
from tasks.science.tile_ccds import TileCcd
from tasks.science.tile_parts import read_ahead

Plane = NDArray[np.float32]
Shape = tuple[int, int]

MAX_BAND_ROWS = 1024
"""Rows of a band: its planes take 0.3 GB for a tile of 10,000 pixels, and CCDs are cut into a handful of parts."""
STRIP_ROWS = 64
"""Bands consist of strips of so many rows, in which files of coadds are compressed."""
OTHER_PLANES = 6
"""Planes of a band besides those of the context."""


def band_height(n_ccds: int) -> int:
    """Return the rows of a band: from 65 CCDs on fewer, as every 32 of them have a context plane that takes memory."""
    n_context = max(2, -(-n_ccds // CONTEXT_BITS))
    n_strips = MAX_BAND_ROWS * (OTHER_PLANES + 2) // (OTHER_PLANES + n_context) // STRIP_ROWS
    return max(1, n_strips) * STRIP_ROWS


@dataclass
class _Share:
    """How much one CCD gave to a tile."""

    number: int
    """Its place among those that gave anything, which chooses its context bit."""
    n_pixels: int = 0
    weight: float = 0.0


@dataclass
class _Totals:
    """Sums over the covered pixels of a tile."""

    covered: int = 0
    electrons: float = 0.0
    exposure_time_s: float = 0.0
    noise: float = 0.0
    """Variance times weight: how much lower the noise of single pixels is."""


@dataclass(frozen=True)
class _Part:
    """The rows of one CCD that reach one band."""

    index: int
    first: int
    """First row of the band on the tile."""
    rows: slice


@dataclass(eq=False)
class Coaddition:
    """Drizzles CCDs onto a tile, once; what the whole tile is like is known when the last band is made."""

    ccds: Sequence[TileCcd]
    wcs: WCS
    """Coordinate system of the tile."""
    shape: Shape
    """Shape (ny, nx) of the tile."""
    kernel: FluxKernel = "square"
    pixfrac: float = 1.0
    n_threads: int = 1
    """Threads that share a band; the bits do not depend on it."""
    band_rows: int = MAX_BAND_ROWS
    """Rows of a band; `band_height` says how many keep the memory bounded."""
    tell: Callable[[str], None] = field(default=lambda _text: None)
    """Is told of every band that is done, in a sentence."""
    # by the place of the CCD among all, in the order of the context bits
    _shares: dict[int, _Share] = field(default_factory=dict, init=False)
    _totals: _Totals = field(default_factory=_Totals, init=False)

    def bands(self) -> Iterator[CoaddPlanes]:
        """Make the bands from the lowest row up.

        Yields
        ------
        CoaddPlanes
            The planes of one band; of the context as many as the CCDs need that contributed so far.
        """
        firsts = range(0, self.shape[0], self.band_rows)
        parts = [list(self._parts(first)) for first in firsts]
        n_parts, done = sum(map(len, parts)), 0
        with closing(read_ahead(list(chain(*parts)), self._image)) as images:
            for first, here in zip(firsts, parts, strict=True):
                drizzler = self._drizzler(first)
                self._add(drizzler, islice(images, len(here)))
                planes = self._finish(drizzler)
                # else the planes of two bands were in memory while the next begins
                del drizzler
                yield planes
                del planes
                done += len(here)
                last = min(first + self.band_rows, self.shape[0])
                self.tell(f"rows up to {last} of {self.shape[0]} are done, {done / max(1, n_parts):.0%} of the work")

    def _parts(self, first: int) -> Iterator[_Part]:
        """Return the rows of every CCD that reach the band that begins with a row of the tile."""
        last = first + self._band_shape(first)[0] - 1
        for index, ccd in enumerate(self.ccds):
            rows = ccd.place.rows_reaching(first, last)
            if rows is not None:
                yield _Part(index, first, rows)

    def _band_shape(self, first: int) -> Shape:
        return min(self.band_rows, self.shape[0] - first), self.shape[1]

    def _image(self, part: _Part) -> DrizzleImage | None:
        """Read a part of a CCD; None if it does not reach the band."""
        ccd = self.ccds[part.index]
        pixel_map = ccd.place.map_rows(part.rows, part.first, self._band_shape(part.first))
        if pixel_map is None:
            return None
        rows = ccd.read(part.rows)
        return DrizzleImage(
            rows.flux,
            rows.weight,
            pixel_map,
            variances=(rows.variance,),
            dq=rows.dq,
            exposure_time=ccd.input.photometry.exposure_time_s,
            holds_flux=True,
        )

    def _drizzler(self, first: int) -> Drizzler:
        return Drizzler(
            self._band_shape(first),
            kernel=self.kernel,
            pixfrac=self.pixfrac,
            n_images=len(self._shares) or 1,
            variances=1,
            averaged=False,
            propagated=True,
            dq=True,
            exposure_time=True,
            n_threads=self.n_threads,
        )

    def _add(self, drizzler: Drizzler, images: Iterable[tuple[_Part, DrizzleImage | None]]) -> None:
        """Drizzle parts of CCDs onto their band, and count what each gave."""
        total = 0.0
        for part, image in images:
            share = self._shares.get(part.index) or _Share(len(self._shares))
            n_pixels = 0 if image is None else drizzler.add(image, number=share.number)
            if n_pixels:
                self._shares[part.index] = share
                before, total = total, _total(drizzler.weight)
                share.n_pixels += n_pixels
                share.weight += total - before
                light = self.ccds[part.index].input.photometry
                self._totals.electrons += light.gain / light.flux_scale * n_pixels

    def _finish(self, drizzler: Drizzler) -> CoaddPlanes:
        """Return the planes of a band, and count them in."""
        used = drizzler.weight > 0
        assert drizzler.context is not None
        assert drizzler.propagated_variances is not None
        assert drizzler.dq is not None
        assert drizzler.exposure_time is not None
        variance = np.where(used, drizzler.propagated_variances[0], np.float32(0))
        self._totals.covered += int(np.count_nonzero(used))
        self._totals.exposure_time_s += _total(drizzler.exposure_time)
        self._totals.noise += _total(variance * drizzler.weight)
        dq = np.where(used, drizzler.dq, np.uint32(DQFlag.DO_NOT_USE))
        # the last CCD that was tried may have asked for a plane and then contributed nothing
        context = drizzler.context[: max(1, -(-len(self._shares) // CONTEXT_BITS))]
        return CoaddPlanes(drizzler.data, drizzler.weight, context, variance, dq, drizzler.exposure_time)

    @property
    def n_covered(self) -> int:
        """Number of pixels of the tile to which anything contributed."""
        return self._totals.covered

    def metadata(self, pixel_scale_arcsec: float) -> CoaddMetadata:
        """Return what the tile was made of and how; call it when all bands are made.

        Parameters
        ----------
        pixel_scale_arcsec
            Size of the pixels of the tile.
        """
        used, covered = [self.ccds[index] for index in self._shares], max(1, self._totals.covered)
        return CoaddMetadata(
            saturation=min((ccd.saturation / ccd.place.mean_area for ccd in used), default=math.inf),
            gain=self._totals.electrons / covered,
            inputs=tuple(
                replace(ccd.input, n_pixels=share.n_pixels, weight=share.weight)
                for ccd, share in zip(used, self._shares.values(), strict=True)
            ),
            kernel=self.kernel,
            pixfrac=self.pixfrac,
            pixel_scale_arcsec=pixel_scale_arcsec,
            exposure_time_s=self._totals.exposure_time_s / covered,
            noise_correlation=math.sqrt(covered / self._totals.noise) if self._totals.noise > 0 else math.nan,
        )


def _total(plane: Plane) -> float:
    return float(np.sum(plane, dtype=np.float64))
