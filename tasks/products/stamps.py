"""Multi-epoch stamps: small images of every source, in the coadd and on every CCD that saw it.

The frame is that of the whole package: u increases West and v increases North, in arcsec, and a Jacobian is
``[[dv/drow, dv/dcol], [du/drow, du/dcol]]`` in arcsec per pixel. Pixels count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ShapeMismatchError


@dataclass(frozen=True)
class StampEpoch:
    """One source on one CCD, or in the coadd; the arrays share memory with those of the tile where they can."""

    source_image: str
    """Name of the CCD (``2113737-10``) or, for the coadd, of the tile."""
    image: NDArray[np.float32]
    """Background-subtracted flux per pixel at zero point 30, shape (size, size)."""
    weight: NDArray[np.float32]
    """Inverse variance of ``image``, shape (size, size); 0 where a pixel is bad or outside the image."""
    bmask: NDArray[np.int32]
    """Lensing-mask bits, shape (size, size)."""
    seg: NDArray[np.int32]
    """Number of the source that owns the pixel, 0 for sky, shape (size, size)."""
    psf: NDArray[np.float32]
    """PSF at the source, centred, of sum 1, shape (psf size, psf size); all zero for the coadd, which has no model."""
    orig_row: float
    """Row of the source in the image that the stamp was cut from."""
    orig_col: float
    """Column of the source in the image that the stamp was cut from."""
    orig_start_row: int
    """Row of the stamp's first pixel in that image; negative if the stamp hangs over the edge."""
    orig_start_col: int
    """Column of the stamp's first pixel in that image."""
    cutout_row: float
    """Row of the source in the stamp, exact: ``orig_row - orig_start_row``."""
    cutout_col: float
    """Column of the source in the stamp, exact."""
    jacobian: NDArray[np.float64]
    """``[[dv/drow, dv/dcol], [du/drow, du/dcol]]`` at the source, arcsec per pixel, shape (2, 2)."""


@dataclass(frozen=True)
class MultiEpochStamps:
    """The stamps of every source of a tile.

    Cutouts of one source are contiguous: cutouts ``first[i]`` to ``first[i + 1]`` belong to source ``i``, the coadd's
    first, then the epochs in the order of the images. All arrays over cutouts have the same first axis m.
    """

    tile: str
    """Name of the tile."""
    ids: NDArray[np.int64]
    """Number of each source in the tile's table and segmentation map, shape (n,)."""
    ra: NDArray[np.float64]
    """Right ascension in degrees, ICRS, shape (n,)."""
    dec: NDArray[np.float64]
    """Declination in degrees, ICRS, shape (n,)."""
    first: NDArray[np.int64]
    """First cutout of each source, and the number of cutouts, shape (n + 1,)."""
    images: tuple[str, ...]
    """Names of the images: the tile, then the CCDs."""
    image_index: NDArray[np.int64]
    """Which of ``images`` each cutout was cut from, shape (m,)."""
    orig_row: NDArray[np.float64]
    """Row of the source in that image, shape (m,)."""
    orig_col: NDArray[np.float64]
    """Column of the source in that image, shape (m,)."""
    start_row: NDArray[np.int64]
    """Row of the cutout's first pixel in that image, shape (m,)."""
    start_col: NDArray[np.int64]
    """Column of the cutout's first pixel in that image, shape (m,)."""
    jacobian: NDArray[np.float64]
    """Jacobian at the source, shape (m, 2, 2)."""
    image: NDArray[np.float32]
    """Flux at zero point 30, shape (m, size, size)."""
    weight: NDArray[np.float32]
    """Inverse variance, shape (m, size, size)."""
    bmask: NDArray[np.int32]
    """Lensing-mask bits, shape (m, size, size)."""
    seg: NDArray[np.int32]
    """Segmentation, shape (m, size, size)."""
    psf: NDArray[np.float32]
    """PSFs, shape (m, psf size, psf size)."""

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        n, m = len(self.ids), int(self.first[-1])
        for name in ("ra", "dec"):
            self._check_length(name, n)
        self._check_length("first", n + 1)
        for name in ("image_index", "orig_row", "orig_col", "start_row", "start_col", "jacobian"):
            self._check_length(name, m)
        for name in ("image", "weight", "bmask", "seg", "psf"):
            self._check_length(name, m)
        if not self.image.shape == self.weight.shape == self.bmask.shape == self.seg.shape:
            raise ShapeMismatchError(
                f"The stamps of tile {self.tile} have images of shape {self.image.shape}, weights of "
                f"{self.weight.shape}, masks of {self.bmask.shape} and segmentations of {self.seg.shape}; "
                "all four must agree."
            )

    def _check_length(self, name: str, expected: int) -> None:
        found = len(getattr(self, name))
        if found != expected:
            raise ShapeMismatchError(
                f"The stamps of tile {self.tile} have {found} values of {name} where {expected} are needed."
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        """Side of a stamp in pixels."""
        return int(self.image.shape[-1])

    @property
    def psf_size(self) -> int:
        """Side of a PSF stamp in pixels."""
        return int(self.psf.shape[-1])

    @property
    def n_epoch(self) -> NDArray[np.int64]:
        """Number of usable epochs of each source, without the coadd, shape (n,)."""
        return np.diff(self.first) - 1

    def coadd(self, index: int) -> StampEpoch:
        """Return the stamp of source ``index`` in the coadd; its PSF is all zero."""
        return self._cutout(int(self.first[index]))

    def epochs(self, index: int) -> list[StampEpoch]:
        """Return the stamps of source ``index`` on the CCDs, without the coadd's; empty if no CCD is usable."""
        return [self._cutout(k) for k in range(int(self.first[index]) + 1, int(self.first[index + 1]))]

    def _cutout(self, k: int) -> StampEpoch:
        row, col = float(self.orig_row[k]), float(self.orig_col[k])
        start_row, start_col = int(self.start_row[k]), int(self.start_col[k])
        return StampEpoch(
            source_image=self.images[int(self.image_index[k])],
            # no copy, unless the arrays are in the byte order of a file
            image=np.asarray(self.image[k], dtype=np.float32),
            weight=np.asarray(self.weight[k], dtype=np.float32),
            bmask=np.asarray(self.bmask[k], dtype=np.int32),
            seg=np.asarray(self.seg[k], dtype=np.int32),
            psf=np.asarray(self.psf[k], dtype=np.float32),
            orig_row=row,
            orig_col=col,
            orig_start_row=start_row,
            orig_start_col=start_col,
            cutout_row=row - start_row,
            cutout_col=col - start_col,
            jacobian=self.jacobian[k],
        )
