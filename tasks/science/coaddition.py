"""A tile from CCDs: drizzled a band of rows at a time, so that memory grows with neither its height nor their number.

Of each CCD only the rows that reach the band are read, and those of the next CCD while the present one is drizzled. The
bands follow each other, and within a band the CCDs in the order in which they are given, whatever arrives when.
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
from tasks.science.ccd_flux import FluxRows
from tasks.science.drizzling import DrizzleImage, Drizzler, FluxKernel
from tasks.science.tile_ccds import TileCcd
from tasks.science.tile_parts import part_of_map, read_ahead, rows_reaching

Plane = NDArray[np.float32]
Shape = tuple[int, int]

BAND_ROWS = 1024
"""Rows of a band: its planes take 0.3 GB for a tile of 10,000 pixels, and CCDs are cut into a handful of parts."""
CONTEXT_BITS = 32


@dataclass
class _Share:
    """How much one CCD gave to a tile."""

    index: int
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
    """Drizzles CCDs onto a tile; what the whole tile is like is known when the last band is made."""

    ccds: Sequence[TileCcd]
    wcs: WCS
    """Coordinate system of the tile."""
    shape: Shape
    """Shape (ny, nx) of the tile."""
    kernel: FluxKernel = "square"
    pixfrac: float = 1.0
    n_threads: int = 1
    """Threads that share a band; the bits do not depend on it."""
    band_rows: int = BAND_ROWS
    tell: Callable[[str], None] = field(default=lambda _text: None)
    """Is told of every band that is done, in a sentence."""
    _shares: list[_Share] = field(default_factory=list, init=False)
    # in the order of the context bits
    _totals: _Totals = field(default_factory=_Totals, init=False)

    def bands(self) -> Iterator[CoaddPlanes]:
        """Make the bands from the lowest row up.

        Yields
        ------
        CoaddPlanes
            The planes of one band; of the context as many as the CCDs need that contributed so far.
        """
        parts = [list(self._parts(first)) for first in range(0, self.shape[0], self.band_rows)]
        rows = read_ahead(list(chain(*parts)), lambda part: self.ccds[part.index].read(part.rows))
        done = 0
        with closing(rows):
            for number, here in enumerate(parts):
                drizzler = self._drizzler(number * self.band_rows)
                for part, prepared in islice(rows, len(here)):
                    self._add(drizzler, part, prepared)
                done += len(here)
                planes = self._finish(drizzler)
                # else the planes of two bands were in memory while the next begins
                del drizzler
                yield planes
                del planes
                last = min((number + 1) * self.band_rows, self.shape[0])
                share = done / max(1, sum(map(len, parts)))
                self.tell(f"rows up to {last} of {self.shape[0]} are done, {share:.0%} of the work")

    def _parts(self, first: int) -> Iterator[_Part]:
        """Return the rows of every CCD that reach the band that begins with a row of the tile."""
        last = min(first + self.band_rows, self.shape[0]) - 1
        for index, ccd in enumerate(self.ccds):
            rows = rows_reaching(ccd.pixel_map, first, last)
            if rows is not None:
                yield _Part(index, first, rows)

    def _drizzler(self, first: int) -> Drizzler:
        return Drizzler(
            (min(self.band_rows, self.shape[0] - first), self.shape[1]),
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

    def _add(self, drizzler: Drizzler, part: _Part, rows: FluxRows) -> None:
        ccd = self.ccds[part.index]
        light = ccd.input.photometry
        pixel_map = part_of_map(ccd.pixel_map, part.rows, part.first, drizzler.weight.shape)
        if pixel_map is None:
            return
        image = DrizzleImage(
            rows.flux,
            rows.weight,
            pixel_map,
            variances=(rows.variance,),
            dq=rows.dq,
            exposure_time=light.exposure_time_s,
            holds_flux=True,
        )
        known = [item.index for item in self._shares]
        number = known.index(part.index) if part.index in known else len(known)
        before = _total(drizzler.weight)
        n_pixels = drizzler.add(image, number=number)
        if n_pixels and number == len(known):
            self._shares.append(_Share(part.index))
        if n_pixels:
            self._shares[number].n_pixels += n_pixels
            self._shares[number].weight += _total(drizzler.weight) - before
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
        used, covered = [self.ccds[share.index] for share in self._shares], max(1, self._totals.covered)
        return CoaddMetadata(
            saturation=min((ccd.saturation / ccd.pixel_map.mean_area for ccd in used), default=math.inf),
            gain=self._totals.electrons / covered,
            inputs=tuple(
                replace(ccd.input, n_pixels=share.n_pixels, weight=share.weight)
                for ccd, share in zip(used, self._shares, strict=True)
            ),
            kernel=self.kernel,
            pixfrac=self.pixfrac,
            pixel_scale_arcsec=pixel_scale_arcsec,
            exposure_time_s=self._totals.exposure_time_s / covered,
            noise_correlation=math.sqrt(covered / self._totals.noise) if self._totals.noise > 0 else math.nan,
        )


def _total(plane: Plane) -> float:
    return float(np.sum(plane, dtype=np.float64))


def join_bands(bands: Iterable[CoaddPlanes]) -> CoaddPlanes:
    """Return the planes of a whole tile."""
    found = list(bands)
    n_planes = max((len(band.context) for band in found if band.context is not None), default=0)
    whole = {
        name: np.concatenate([getattr(band, name) for band in found])
        for name in ("sci", "weight", "variance", "dq", "time")
    }
    context = np.zeros((n_planes, *whole["sci"].shape), np.int32)
    first = 0
    for band in found:
        last = first + len(band.sci)
        if band.context is not None:
            context[: len(band.context), first:last] = band.context
        first = last
    return CoaddPlanes(context=context, **whole)


def contributing_inputs(context: NDArray[np.int32], x: int, y: int) -> tuple[int, ...]:
    """Return the numbers of the inputs that contributed to one pixel of a tile.

    Parameters
    ----------
    context
        Context planes, shape (nplanes, ny, nx).
    x, y
        The pixel, counted from 0.
    """
    words = np.ascontiguousarray(context[:, y, x]).view(np.uint32)
    return tuple(
        plane * CONTEXT_BITS + bit
        for plane, word in enumerate(words)
        for bit in range(CONTEXT_BITS)
        if int(word) >> bit & 1
    )
