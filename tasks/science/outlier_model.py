"""The clean image that exposures are compared with: their median on a common grid, made a band of rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.errors import ConfigError
from tasks.science.robust import MAD_TO_SIGMA

Plane = NDArray[np.float32]
Combination = Literal["median", "minmed"]

LEAST_EXPOSURES = 2
"""Exposures that must have seen a pixel: one alone cannot tell what is wrong with it."""
LEAST_FOR_SCATTER = 3
"""Exposures from which on their median absolute deviation tells more than one of them does."""
NOISE_IN_SCATTER = 2.0
"""Scatter up to this multiple of the noise is taken for noise: that of few values is uncertain."""
CHUNK_ROWS = 16


@dataclass(frozen=True)
class CleanImage:
    """What the sky looks like without what only one exposure saw."""

    data: Plane
    """Flux per pixel of the grid, or surface brightness, shape (ny, nx); NaN where fewer than two exposures saw it."""
    scatter: Plane | None = None
    """By how much exposures differ more than by noise, such as by seeing: standard deviation; None if not asked."""


@dataclass(frozen=True)
class CombineSettings:
    """How the values that the exposures have in one pixel become one."""

    combination: Combination = "minmed"
    """``minmed`` takes the minimum where the median is much higher: rays that cross in most of few exposures."""
    few_exposures: int = 5
    """Up to how many exposures ``minmed`` does so. With more, the minimum is low by chance, and the median is safe."""
    n_sigma: tuple[float, float] = (4.0, 3.0)
    """Significance above which the minimum is taken, and that for the neighbours of such pixels."""
    grow_px: int = 1
    """How far the neighbours of such pixels reach."""

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.combination not in ("median", "minmed"):
            raise ConfigError(f"Exposures cannot be combined by {self.combination!r}; choose median or minmed.")
        if self.few_exposures < LEAST_EXPOSURES:
            raise ConfigError(f"Few exposures are {self.few_exposures}; give a number from {LEAST_EXPOSURES} up.")
        if not (np.isfinite(self.n_sigma).all() and min(self.n_sigma) >= 0):
            raise ConfigError(f"The minimum is to be taken above {self.n_sigma} sigma; give two numbers from 0 up.")
        if not 0 <= self.grow_px <= 100:
            raise ConfigError(f"The minimum is to grow by {self.grow_px} pixels; give a number from 0 to 100.")


class BandStack:
    """The values that exposures have in the pixels of one band; a pixel holds as many as exposures saw it.

    The planes do not belong to exposures: the first value of every pixel lies in the first plane, and so on. So the
    number of planes is the largest number of exposures that overlap, not the number of exposures.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Make an empty band of a shape (rows, columns)."""
        self._planes: list[Plane] = []
        self._count = np.zeros(shape, np.int16)
        self._variance = np.zeros(shape, np.float32)
        self._photons = np.zeros(shape, np.float32)

    def push(self, values: Plane, variance: Plane, per_electron: float, here: tuple[slice, slice]) -> None:
        """Add one exposure.

        Parameters
        ----------
        values
            The exposure on a part of the band, shape (rows, columns); NaN where it has none.
        variance
            Variance of the values without photon noise of sources, the same shape.
        per_electron
            Variance by photon noise for a value of 1.
        here
            The part of the band.
        """
        known, count = np.isfinite(values), self._count[here]
        for layer, plane in enumerate(self._planes):
            np.copyto(plane[here], values, where=known & (count == layer))
        beyond = known & (count == len(self._planes))
        if beyond.any():
            self._planes.append(np.full(self._count.shape, np.nan, np.float32))
            np.copyto(self._planes[-1][here], values, where=beyond)
        count += known
        np.add(self._variance[here], variance, out=self._variance[here], where=known)
        np.add(self._photons[here], np.float32(per_electron), out=self._photons[here], where=known)

    def combine(self, settings: CombineSettings, *, share: float = 0.0, scatter: bool = False) -> CleanImage:
        """Return the clean image of the band.

        The median of three values or more; the mean of two. Where the minimum is significantly lower than that, the
        minimum: for ``minmed`` of few values, otherwise only of two, whose mean a cosmic ray shifts by half its height.

        Parameters
        ----------
        settings
            How values become one.
        share
            By how much the minimum may be lower than the median beside the noise, as a share of the median: by seeing.
        scatter
            Whether to measure how much the exposures differ.
        """
        shape = self._count.shape
        median, minimum, mad = (np.full(shape, np.nan, np.float32) for _ in range(3))
        for first in range(0, shape[0] if self._planes else 0, CHUNK_ROWS):
            rows = slice(first, first + CHUNK_ROWS)
            cube, count = np.stack([plane[rows] for plane in self._planes]), self._count[rows]
            # NaN, which is no value, comes last
            cube.sort(axis=0)
            median[rows], minimum[rows] = _median_of_sorted(cube, count), cube[0]
            if scatter:
                mad[rows] = _median_of_sorted(np.sort(np.abs(cube - median[rows]), axis=0), count)
        few = settings.few_exposures if settings.combination == "minmed" else LEAST_EXPOSURES
        doubtful = (self._count >= LEAST_EXPOSURES) & (self._count <= few)
        noise = self._noise(median)
        gap = (median - minimum - share * np.maximum(median, 0)).astype(np.float32, copy=False)
        clean = np.where(_is_low(gap, noise, doubtful, settings), minimum, median)
        clean[self._count < LEAST_EXPOSURES] = np.nan
        return CleanImage(clean, self._excess(mad, noise) if scatter else None)

    def _excess(self, mad: Plane, noise: Plane) -> Plane:
        """Return the scatter beyond noise; 0 where there are too few values to tell."""
        excess = np.float32(MAD_TO_SIGMA) * mad - np.float32(NOISE_IN_SCATTER) * noise
        return np.where((self._count >= LEAST_FOR_SCATTER) & (excess > 0), excess, np.float32(0))

    def _noise(self, median: Plane) -> Plane:
        """Return the noise of the difference of median and minimum: that of one exposure; of two, of half their gap."""
        count = np.maximum(self._count, 1).astype(np.float32)
        variance = (self._variance + self._photons * np.maximum(median, 0)) / count
        return np.sqrt(np.where(self._count == 2, variance / 2, variance)).astype(np.float32)


def _median_of_sorted(cube: Plane, count: NDArray[np.int16]) -> Plane:
    """Return the median of the first ``count`` values of each pixel, NaN of none; shape (values, rows, columns)."""
    n = count[np.newaxis].astype(np.intp)
    below = np.take_along_axis(cube, np.maximum(n - 1, 0) // 2, axis=0)[0]
    above = np.take_along_axis(cube, np.minimum(n // 2, len(cube) - 1), axis=0)[0]
    median: Plane = below / 2 + above / 2
    return median


def _is_low(gap: Plane, noise: Plane, doubtful: NDArray[np.bool_], settings: CombineSettings) -> NDArray[np.bool_]:
    """Tell where the minimum is lower than the median by more than noise, or by less beside such a pixel."""
    low: NDArray[np.bool_] = doubtful & (gap > settings.n_sigma[0] * noise)
    if settings.grow_px > 0:
        side = 2 * settings.grow_px + 1
        near = ndimage.binary_dilation(low, structure=np.ones((side, side)))
        low = low | (doubtful & near & (gap > settings.n_sigma[1] * noise))
    return low
