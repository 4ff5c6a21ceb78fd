"""Outlier rejection: cosmic rays, satellites and bad pixels, found by comparing exposures of the same sky.

Each exposure is drizzled to a common grid; the median of all is a clean image; blotted back to an exposure it tells
what that should have seen (Fruchter & Hook 2002, PASP 114, 144, on cosmic rays; AstroDrizzle; JWST outlier detection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.products.windows import Window
from tasks.science.blotting import blot_all
from tasks.science.interpolation import Interpolation
from tasks.science.outlier_exposures import Exposure, OutlierSettings, map_to_grid, push_exposure
from tasks.science.outlier_flags import GROUND, Thresholds, flag_deviations
from tasks.science.outlier_model import BandStack, CleanImage, CombineSettings
from tasks.science.outlier_sources import ExposureSource, as_sources
from tasks.science.resample_wcs import ImageWCS

__all__ = [
    "GROUND",
    "CleanImage",
    "CombineSettings",
    "Exposure",
    "ExposureSource",
    "OutlierSettings",
    "Thresholds",
    "clean_image",
    "find_outliers",
    "flag_exposure",
]

Plane = NDArray[np.float32]

DEFAULTS = OutlierSettings()


def find_outliers(
    exposures: Sequence[Callable[[], Exposure] | ExposureSource],
    output_wcs: ImageWCS,
    shape: tuple[int, int],
    settings: OutlierSettings = DEFAULTS,
    *,
    n_threads: int = 1,
    tell: Callable[[str], None] = lambda _text: None,
) -> Iterator[NDArray[np.uint32]]:
    """Flag the pixels of each exposure that the other exposures of the same place contradict.

    The clean image is made at the first step of the iteration; then each exposure is read once more and compared. Only
    one exposure and its mask are in memory at a time, beside the clean image: ``list`` gets all masks if there is room.

    Parameters
    ----------
    exposures
        Functions that read the exposures. Each is called once for every band of rows that it touches (but for the first
        band, for which all are), and once to be compared. An `ExposureSource` is asked for no more than its part of a
        band.
    output_wcs, shape
        Coordinate system and shape (ny, nx) of the common grid, such as that of the coadd; its pixels should not be
        much larger than those of the exposures. Pixels of exposures outside it are not judged.
    settings
        Settings.
    n_threads
        Threads that share the rows; the result does not depend on it.
    tell
        Is told of every band of the clean image that is done, in a sentence.

    Yields
    ------
    ndarray
        For each exposure in turn: OUTLIER and DO_NOT_USE or 0, in the shape of the exposure, uint32.

    Raises
    ------
    ShapeMismatchError
        If data and weight of an exposure differ in shape.
    """
    sources = as_sources(exposures, output_wcs, shape, settings)
    clean = clean_image(sources, output_wcs, shape, settings, n_threads=n_threads, tell=tell)
    for read in sources:
        yield flag_exposure(read(), clean, output_wcs, settings, n_threads=n_threads)


def clean_image(
    exposures: Sequence[Callable[[], Exposure] | ExposureSource],
    output_wcs: ImageWCS,
    shape: tuple[int, int],
    settings: OutlierSettings = DEFAULTS,
    *,
    n_threads: int = 1,
    tell: Callable[[str], None] = lambda _text: None,
) -> CleanImage:
    """Return the image of a piece of sky without what only one exposure saw.

    The grid is made in bands of rows, with all exposures that touch a band. A pixel keeps as many values as exposures
    saw it, so memory is this image plus ``band_rows`` rows times the number of exposures that overlap there, however
    many exposures there are.

    Parameters
    ----------
    exposures, output_wcs, shape, settings, n_threads, tell
        As for `find_outliers`.

    Returns
    -------
    CleanImage
        Of the shape of the grid; with the scatter of the exposures if the thresholds allow for it.

    Raises
    ------
    ShapeMismatchError
        If data and weight of an exposure differ in shape.
    """
    with_scatter = settings.thresholds.scatter > 0
    data = np.full(shape, np.nan, np.float32)
    scatter = np.zeros(shape, np.float32) if with_scatter else None
    sources = as_sources(exposures, output_wcs, shape, settings)
    margin = settings.combine.grow_px
    for first in range(0, shape[0], settings.band_rows):
        last = min(first + settings.band_rows, shape[0])
        # neighbours of the first and the last row decide about them, too
        band = Window(0, max(0, first - margin), shape[1], min(shape[0], last + margin))
        stack = BandStack(band.shape)
        for source in sources:
            exposure = source.reaching(band)
            if exposure is not None:
                push_exposure(stack, exposure, output_wcs, shape, band, settings, n_threads)
        inner = slice(first - band.y_min, last - band.y_min)
        clean = stack.combine(settings.combine, share=settings.thresholds.share, scatter=with_scatter)
        data[first:last] = clean.data[inner]
        if scatter is not None and clean.scatter is not None:
            scatter[first:last] = clean.scatter[inner]
        tell(f"rows up to {last} of {shape[0]} of the clean image are done")
    return CleanImage(data, scatter)


def flag_exposure(
    exposure: Exposure,
    clean: CleanImage,
    clean_wcs: ImageWCS,
    settings: OutlierSettings = DEFAULTS,
    *,
    n_threads: int = 1,
) -> NDArray[np.uint32]:
    """Flag the pixels of one exposure that a clean image contradicts.

    Parameters
    ----------
    exposure
        The exposure; not changed.
    clean, clean_wcs
        The clean image, and its coordinate system.
    settings
        Settings, of which thresholds, interpolation and the kind of values matter.
    n_threads
        Threads that share the rows.

    Returns
    -------
    ndarray
        OUTLIER and DO_NOT_USE or 0, in the shape of the exposure, uint32.
    """
    pixel_map = map_to_grid(exposure, clean_wcs, (clean.data.shape[0], clean.data.shape[1]))
    if pixel_map is None:
        return np.zeros(exposure.data.shape, np.uint32)
    images: list[tuple[Plane, Interpolation]] = [(clean.data, settings.interpolation)]
    if clean.scatter is not None:
        # polynomials could make the scatter negative
        images.append((clean.scatter, "linear"))
    blotted = blot_all(images, pixel_map, pixels_hold=settings.pixels_hold, n_threads=n_threads)
    return flag_deviations(
        exposure.data,
        blotted[0],
        exposure.weight,
        settings.thresholds,
        scatter=blotted[1] if clean.scatter is not None else None,
        gain=exposure.gain,
    )
