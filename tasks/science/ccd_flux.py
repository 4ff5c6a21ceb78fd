"""Rows of a CCD as flux: background-subtracted, at the zero point of the tiles, with the noise of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
from numpy.typing import NDArray

from tasks.products.ccd_rows import CcdRows
from tasks.products.dq import DQFlag, MaskFlag, MaskName
from tasks.products.sources import MeasuredSky
from tasks.products.wcs_index import CcdRecord
from tasks.science.background import expand_mesh

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class FluxRows:
    """Some rows of a CCD as they go into a tile, shape (n, nx) each."""

    flux: Plane
    """Background-subtracted flux per pixel at zero point 30."""
    weight: Plane
    """Inverse variance of the flux; pixels with 0 are not used, whatever their flux."""
    variance: Plane
    """Variance of the flux without the photon noise of sources, where the weight is positive."""
    dq: NDArray[np.uint32]
    """Standard data-quality flags."""


def flux_rows(rows: CcdRows, first: int, sky: MeasuredSky, record: CcdRecord, excluded: Sequence[MaskName]) -> FluxRows:
    """Return rows of a CCD at zero point 30, without background and without excluded pixels.

    Pixels that the lensing mask calls saturated get that flag, too.

    Parameters
    ----------
    rows
        The rows in ADU; not changed.
    first
        The row of the CCD that they begin with.
    sky
        Background and noise of the CCD.
    record
        Its shape, light-sensitive part and photometry.
    excluded
        Bits of the lensing mask that set the weight of a pixel to 0.
    """
    scale, window = np.float32(record.photometry.flux_scale), record.data_section
    bits = np.uint32(reduce(or_, (MaskFlag[name] for name in excluded), 0))
    usable = np.zeros(rows.sci.shape, np.bool_)
    usable[max(0, window.y_min - first) : max(0, window.y_max - first), window.x_min : window.x_max] = True
    usable &= ((rows.mask & bits) == 0) & (rows.weight > 0) & np.isfinite(rows.weight)
    weight = np.zeros_like(rows.weight)
    np.divide(rows.weight, np.float32(sky.variance_scale) * scale**2, out=weight, where=usable)
    saturated = (rows.mask & np.uint32(MaskFlag.SATURATED)) != 0
    background = expand_mesh(sky.mesh, record.shape, sky.box_px, slice(first, first + len(rows.sci)))
    return FluxRows(
        flux=(rows.sci - background) * scale,
        weight=weight,
        variance=np.divide(1, weight, out=np.zeros_like(weight), where=usable),
        dq=np.where(saturated, rows.dq | np.uint32(DQFlag.SATURATED), rows.dq),
    )
