"""Find sources and measure them, with the quantities that SExtractor users know.

Detection is photutils' (threshold, connected pixels, deblending by multiple thresholds); the measurements are our own
kernels in ``tasks.science.window`` and ``tasks.science.apertures``. Method: Bertin & Arnouts 1996, A&AS 117, 393.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from numpy.typing import NDArray
from photutils.segmentation import SegmentationImage, deblend_sources
from photutils.segmentation import detect_sources as connect_pixels
from scipy.ndimage import correlate1d

from tasks.errors import NoGoodPixelsError, ShapeMismatchError
from tasks.products.dq import MaskFlag
from tasks.science.background import BackgroundMesh, expand_mesh, measure_background, measure_variance_scale
from tasks.science.compiled import njit
from tasks.science.geometry import pixel_scale_arcsec, pixel_to_sky
from tasks.science.source_table import SourceMaps, make_source_table
from tasks.science.window import isophote_sums

Floats = NDArray[np.float64]
Image = NDArray[np.float32]

FILTER = np.array([0.25, 0.5, 0.25], dtype=np.float32)
"""Along each axis: the 3 x 3 pyramid of SExtractor's default.conv."""

CLEAN_ZONE = 10.0
"""How far wings are believed in, in units of the isophotal axes."""


@dataclass(frozen=True)
class DetectionSettings:
    """Settings of detection and photometry; lengths in pixels."""

    excluded: MaskFlag = MaskFlag.WEIGHT
    """Bits of the mask that keep a pixel out of every source."""

    threshold_sigma: float = 1.5
    """Threshold on the filtered image in units of the pixel noise of the unfiltered one."""
    min_area_px: int = 5
    """Smallest number of connected pixels above the threshold."""
    deblend_levels: int = 32
    """Number of thresholds between the detection threshold and the peak; 1 switches deblending off."""
    deblend_contrast: float = 0.001
    """Smallest fraction of the flux of a blend that makes a source of its own."""
    deblend_min_area_px: int = 40
    """Footprints with fewer pixels are not deblended."""
    clean_exponent: float = 2.5
    """Exponent of the wings that are subtracted before a faint neighbour is believed; 0 switches cleaning off."""
    subtract_background: bool = True
    """Whether a background is measured and subtracted; without, it is taken as 0."""
    background_box_px: int = 64
    background_filter_boxes: int = 3
    aperture_diameters_px: tuple[float, ...] = (5.0,)
    kron_factor: float = 2.5
    kron_min_radius: float = 3.5


@dataclass(frozen=True)
class Detection:
    """Sources of one image."""

    table: Table
    """Columns of ``tasks.products.columns.SOURCES``."""
    segmentation: NDArray[np.int32]
    """Source number of every pixel above the threshold, 0 elsewhere; shape (ny, nx)."""
    background: BackgroundMesh
    variance_scale: float
    """The variance of a pixel is ``variance_scale / weight``."""


def detect_sources(
    sci: Image,
    weight: Image,
    mask: NDArray[np.unsignedinteger],
    *,
    wcs: WCS,
    gain: float,
    saturation: float,
    zero_point: float,
    settings: DetectionSettings,
) -> Detection:
    """Find and measure the sources of an image.

    Pixels without weight, without a finite value, or with an excluded bit of the mask are never part of a source. What
    the mask says of the other pixels of a source is its column ``imaflags``.

    Parameters
    ----------
    sci, weight
        Image and inverse variance up to a factor, float32, shape (ny, nx); not changed.
    mask
        Lensing mask, bits of `MaskFlag`, shape (ny, nx).
    wcs
        Coordinate system of the image.
    gain
        Electrons per unit of the image; 0 leaves the photon noise of the sources out.
    saturation
        Level in units of ``sci`` from which a pixel is saturated; so are those with SATURATED in the mask.
    zero_point
        Magnitude of a source of flux 1.
    settings
        How to detect and measure.

    Returns
    -------
    Detection
        Possibly with no source.

    Raises
    ------
    NoGoodPixelsError
        If no pixel has both weight and value, or the good ones have no noise.
    ShapeMismatchError
        If the three planes differ in shape.
    """
    if not sci.shape == weight.shape == mask.shape:
        raise ShapeMismatchError(
            f"Image {sci.shape}, weight {weight.shape} and mask {mask.shape} must have the same shape."
        )
    bad = ~(np.isfinite(sci) & np.isfinite(weight) & (weight > 0)) | ((mask & np.uint32(settings.excluded)) > 0)
    if bool(bad.all()):
        raise NoGoodPixelsError(
            f"None of the {sci.size} pixels has a finite value, a positive weight and no mask that rules it out: "
            "nothing can be detected."
        )
    mesh = measure_background(
        sci, bad, box_px=settings.background_box_px, filter_boxes=settings.background_filter_boxes
    )
    if not settings.subtract_background:
        mesh = BackgroundMesh(np.zeros_like(mesh.level), mesh.rms, mesh.box_px)
    scale = measure_variance_scale(mesh, weight, bad)
    background = expand_mesh(mesh.level, (sci.shape[0], sci.shape[1]), mesh.box_px)
    data = np.where(bad, np.float32(0), sci - background)
    variance = np.where(bad, np.float32(0), np.float32(scale) / np.where(bad, np.float32(1), weight))
    threshold = np.float32(settings.threshold_sigma) * np.sqrt(variance)
    filtered = filter_image(data, bad)
    segments, deblended = segment_image(filtered, threshold, bad, settings)
    maps = SourceMaps(
        data=data,
        filtered=filtered,
        variance=variance,
        bad=bad,
        segments=segments,
        mask=mask.astype(np.int64),
        saturated=(sci >= saturation) | ((mask & np.uint32(MaskFlag.SATURATED)) > 0),
        background=background,
        threshold=threshold,
    )
    center = [0.5 * (sci.shape[1] - 1)], [0.5 * (sci.shape[0] - 1)]
    table = make_source_table(
        maps,
        deblended,
        gain=gain,
        zero_point=zero_point,
        pixel_scale_arcsec=float(pixel_scale_arcsec(wcs, *(np.array(c) for c in center))[0]),
        aperture_diameters_px=settings.aperture_diameters_px,
        kron_factor=settings.kron_factor,
        kron_min_radius=settings.kron_min_radius,
    )
    if len(table):
        table["ra"], table["dec"] = pixel_to_sky(wcs, table["x"], table["y"])
        table["ra_win"], table["dec_win"] = pixel_to_sky(wcs, table["x_win"], table["y_win"])
    return Detection(table, segments, mesh, scale)


def filter_image(data: Image, bad: NDArray[np.bool_]) -> Image:
    """Return the image convolved with the 3 x 3 pyramid; bad pixels count as 0 and stay 0."""
    filtered = correlate1d(correlate1d(data, FILTER, axis=0, mode="constant"), FILTER, axis=1, mode="constant")
    return np.where(bad, np.float32(0), filtered).astype(np.float32)


def segment_image(
    filtered: Image, threshold: Image, bad: NDArray[np.bool_], settings: DetectionSettings
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Divide the pixels above the threshold among sources.

    Parameters
    ----------
    filtered, threshold
        Filtered image and threshold, shape (ny, nx).
    bad
        Pixels that belong to no source.
    settings
        How to detect.

    Returns
    -------
    tuple of ndarray
        Source numbers 1 ... n in the order of their first pixels, int32, shape (ny, nx); and whether each source was
        deblended from others, shape (n,).
    """
    with warnings.catch_warnings():
        # photutils warns of images without sources, and of blends that it cannot divide exponentially
        warnings.simplefilter("ignore", AstropyWarning)
        segm = connect_pixels(filtered, threshold, settings.min_area_px, connectivity=8, mask=bad)
        if segm is None:
            return np.zeros(filtered.shape, np.int32), np.zeros(0, np.bool_)
        parents = np.asarray(segm.data)
        segments = _deblend(segm, filtered, settings)
    if settings.clean_exponent > 0:
        segments = _clean(segments, filtered, threshold, settings)
    segments, n_sources = _renumber(segments)
    first = np.unique(segments, return_index=True)[1][-n_sources:]
    parent = parents.ravel()[first]
    return segments, np.bincount(parent)[parent] > 1


def _deblend(segm: SegmentationImage, filtered: Image, settings: DetectionSettings) -> NDArray[np.int32]:
    parents = np.asarray(segm.data, dtype=np.int32)
    if settings.deblend_levels <= 1:
        return parents
    peaks = count_peaks(filtered, parents, int(parents.max()))
    area = np.bincount(parents.ravel(), minlength=peaks.size + 1)[1:]
    # a footprint of one local maximum cannot fall apart at any threshold
    wanted = np.flatnonzero((peaks > 1) & (area >= settings.deblend_min_area_px)) + 1
    if wanted.size == 0:
        return parents
    result = deblend_sources(
        filtered,
        segm,
        settings.min_area_px,
        labels=wanted,
        n_levels=settings.deblend_levels,
        contrast=settings.deblend_contrast,
        mode="exponential",
        connectivity=8,
        progress_bar=False,
    )
    return np.asarray(result.data, dtype=np.int32)


def _clean(
    segments: NDArray[np.int32], filtered: Image, threshold: Image, settings: DetectionSettings
) -> NDArray[np.int32]:
    """Give to a bright source the pixels of neighbours that its wings would have lifted above the threshold."""
    n_sources = int(segments.max())
    nothing, no_pixel = np.zeros(segments.shape, np.int64), np.zeros(segments.shape, np.bool_)
    sums, counts = isophote_sums(filtered, filtered, no_pixel, segments, nothing, no_pixel, n_sources)
    above = segments > 0
    labels, excess = segments[above], (filtered - threshold)[above]
    order = np.lexsort((-excess, labels))
    starts = np.searchsorted(labels[order], np.arange(1, n_sources + 1))
    # the lift that would still leave enough pixels of the source above the threshold
    margin = excess[order][np.minimum(starts + settings.min_area_px - 1, starts + counts[:, 0] - 1)]
    level = np.bincount(labels, weights=threshold[above], minlength=n_sources + 1)[1:] / counts[:, 0]
    owner = wing_owners(sums, counts[:, 0], level, margin.astype(np.float64), settings.clean_exponent)
    return np.concatenate([[0], owner + 1]).astype(np.int32)[segments]


def _renumber(segments: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """Give the sources numbers in the order of their first pixels."""
    labels, first = np.unique(segments, return_index=True)
    present = labels > 0
    rank = np.zeros(int(labels[-1]) + 1, dtype=np.int32)
    rank[labels[present][np.argsort(first[present])]] = np.arange(1, int(present.sum()) + 1)
    return rank[segments], int(present.sum())


@njit(cache=True, nogil=True)
def count_peaks(filtered, segments, n_sources):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Count the local maxima (of 8 neighbours, plateaus count every pixel) in every footprint."""
    ny, nx = filtered.shape
    peaks = np.zeros(n_sources, np.int64)
    for j in range(ny):
        for i in range(nx):
            k = segments[j, i]
            if k == 0:
                continue
            highest = True
            for q in range(max(j - 1, 0), min(j + 1, ny - 1) + 1):
                for p in range(max(i - 1, 0), min(i + 1, nx - 1) + 1):
                    if segments[q, p] == k and filtered[q, p] > filtered[j, i]:
                        highest = False
            if highest:
                peaks[k - 1] += 1
    return peaks


@njit(cache=True, nogil=True)
def wing_owners(sums, area, level, margin, exponent):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return for every source the index of the source whose wings explain it, or its own.

    The profile of a source is a Gaussian's amplitude with wings (1 + alpha r^2)^-exponent that reach the threshold at
    its isophotal area, and end at ten times its axes; a fainter source whose ``margin`` above the threshold is below
    these wings is theirs.
    """
    n = area.size
    owner = np.arange(n)
    order = np.argsort(sums[:, 0])
    for rank in range(n):
        victim = order[rank]
        strongest = margin[victim]
        for other in order[rank + 1 :]:
            x2, y2, xy = max(sums[other, 3], 0.1), max(sums[other, 4], 0.1), sums[other, 5]
            det = max(x2 * y2 - xy * xy, 0.01)
            root = np.sqrt(det)
            peak = sums[other, 0] / (2.0 * np.pi * root)
            if peak <= level[other]:
                continue
            alpha = ((peak / level[other]) ** (1.0 / exponent) - 1.0) * np.pi * root / area[other]
            dx, dy = sums[victim, 1] - sums[other, 1], sums[victim, 2] - sums[other, 2]
            r2 = (y2 * dx * dx + x2 * dy * dy - 2.0 * xy * dx * dy) / det
            wing = peak * (1.0 + alpha * r2) ** (-exponent)
            if r2 < CLEAN_ZONE**2 and wing > strongest:
                strongest, owner[victim] = wing, other
    for rank in range(n - 1, -1, -1):
        owner[order[rank]] = owner[owner[order[rank]]]
    return owner
