"""Stamps of stars on a CCD, with everything masked that is not the star or its sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from tasks.errors import ShapeMismatchError
from tasks.products.images import CcdImage
from tasks.products.sources import SourceList
from tasks.science.background import expand_mesh
from tasks.science.cutouts import cut, stamp_start

Floats = NDArray[np.float64]

NEIGHBOUR_MARGIN = 2
"""Pixels around a neighbour's segment that are masked, too: its wings reach below the threshold."""


@dataclass(frozen=True)
class StarStamps:
    """Stars in units of their CCD's pixel values, without background."""

    data: Floats
    """Shape (n, size, size); the central pixel contains the star's centroid. 0 where bad."""
    bad: NDArray[np.bool_]
    """True for pixels that are masked, belong to another object or lie outside the image, shape (n, size, size)."""
    variance: Floats
    """Variance of a pixel of the sky around each star, shape (n,)."""
    x: Floats
    """Position on the CCD, pixels from 0, shape (n,)."""
    y: Floats

    def __len__(self) -> int:
        return len(self.x)

    def keep(self, chosen: NDArray[np.bool_]) -> StarStamps:
        """Return the chosen stars."""
        return StarStamps(self.data[chosen], self.bad[chosen], self.variance[chosen], self.x[chosen], self.y[chosen])


def cut_stars(image: CcdImage, mask: NDArray[np.uint32], sources: SourceList, stars: Table, *, size: int) -> StarStamps:
    """Cut stamps of stars from a CCD.

    Pixels are bad where the lensing mask has any bit, where the weight is 0 or a value is not finite, and within two
    pixels of another object's segment unless they belong to the star's own.

    Parameters
    ----------
    image
        CCD in ADU, not background-subtracted; not changed.
    mask
        Lensing mask, shape (ny, nx).
    sources
        Background, segmentation and variance scale of the CCD.
    stars
        Rows with ``number``, ``x_win`` and ``y_win``.
    size
        Side of the stamps in pixels, odd.

    Returns
    -------
    StarStamps
        In the order of the rows.

    Raises
    ------
    ShapeMismatchError
        If the mask or the segmentation does not have the shape of the image.
    """
    shape = image.sci.shape
    if mask.shape != shape or sources.segmentation.shape != shape:
        raise ShapeMismatchError(
            f"CCD {image.id.ccd} of exposure {image.id.exposure} has an image of shape {shape}, a mask of {mask.shape} "
            f"and a segmentation of {sources.segmentation.shape}; all three must agree."
        )
    x, y = np.asarray(stars["x_win"], np.float64), np.asarray(stars["y_win"], np.float64)
    rows, cols = stamp_start(y, size), stamp_start(x, size)
    background = expand_mesh(sources.background_mesh, (shape[0], shape[1]), sources.box_px)
    unusable = (mask != 0) | ~(image.weight > 0) | ~np.isfinite(image.sci)
    bad = cut(unusable, rows, cols, size, fill=True)
    bad |= _neighbours(cut(sources.segmentation, rows, cols, size), np.asarray(stars["number"]))
    data = cut(np.where(unusable, 0.0, image.sci.astype(np.float64) - background), rows, cols, size)
    weight = cut(image.weight, rows, cols, size)
    variance = np.array([_sky_variance(w[~b], sources.variance_scale) for w, b in zip(weight, bad, strict=True)])
    return StarStamps(np.where(bad, 0.0, data), bad, variance, x, y)


def _sky_variance(weight: NDArray[np.float32], variance_scale: float) -> float:
    return variance_scale / float(np.median(weight)) if weight.size else np.inf


def _neighbours(segments: NDArray[np.int32], number: NDArray[np.int32]) -> NDArray[np.bool_]:
    own = segments == number[:, None, None]
    others = (segments != 0) & ~own
    cross = np.zeros((3, 3, 3), np.bool_)
    cross[1] = [[False, True, False], [True, True, True], [False, True, False]]
    grown: NDArray[np.bool_] = binary_dilation(others, cross, iterations=NEIGHBOUR_MARGIN)
    return np.asarray(others | (grown & ~own))
