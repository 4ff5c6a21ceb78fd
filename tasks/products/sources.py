"""The result of detection: a source table with the maps that belong to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray


@dataclass(frozen=True)
class MeasuredSky:
    """Background and noise of a CCD or tile, as detection measured them."""

    mesh: NDArray[np.float64]
    """Background in the boxes of the mesh, in units of the image."""
    box_px: int
    """Size of a box of the mesh in pixels."""
    variance_scale: float
    """Factor between weights and noise: the variance of a pixel is ``variance_scale / weight``."""

    @property
    def level(self) -> float:
        """Median of the background."""
        return float(np.median(self.mesh))


@dataclass(frozen=True)
class SourceList:
    """Sources of one CCD or tile, their segmentation map and the background that was subtracted.

    The background is kept as a mesh: ``tasks.science.background.expand_mesh(background_mesh, shape, box_px)`` gives the
    map of the image back, bit by bit the one that detection subtracted.
    """

    subject: str
    """Name of the CCD or tile."""
    table: Table
    """One row per source, with the columns of ``tasks.products.columns.SOURCES``; row i is source number i + 1."""
    segmentation: NDArray[np.int32]
    """Source number of every pixel above the threshold, 0 elsewhere; shape (ny, nx)."""
    background_mesh: NDArray[np.float64]
    """Background in the boxes of the mesh, in units of the image."""
    rms_mesh: NDArray[np.float64]
    """Noise of the background in the boxes of the mesh, in units of the image."""
    box_px: int
    """Size of a box of the mesh in pixels."""
    variance_scale: float
    """Factor between weights and noise: the variance of a pixel is ``variance_scale / weight``."""
    zero_point: float
    """Zero point of the magnitudes in the table."""

    @property
    def sky(self) -> MeasuredSky:
        """Background and noise without the sources."""
        return MeasuredSky(self.background_mesh, self.box_px, self.variance_scale)
