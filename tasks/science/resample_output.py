"""The output of `Resample`: a dictionary of planes and of what is known about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.science.resample_wcs import ImageWCS
from tasks.science.sphere import ARCSEC_PER_RADIAN

Plane = NDArray[np.float32]


def empty_output(
    wcs: ImageWCS, pixel_scale_arcsec: float, settings: dict[str, Any], planes: Sequence[str]
) -> dict[str, Any]:
    """Return an output model without data.

    Parameters
    ----------
    wcs
        Coordinate system of the output.
    pixel_scale_arcsec
        Size of its pixels.
    settings
        What is recorded of the settings.
    planes
        Names of the variance and error planes that it will have.
    """
    area = pixel_scale_arcsec**2
    return {
        "wcs": wcs,
        "data": None,
        "wht": None,
        "con": None,
        "dq": None,
        **settings,
        "pixelarea_steradians": area / ARCSEC_PER_RADIAN**2,
        "pixelarea_arcsecsq": area,
        "pointings": 0,
        "exposure_time": 0.0,
        "measurement_time": None,
        "start_time": None,
        "end_time": None,
        "duration": 0.0,
        "level": None,
        "subtracted": False,
        **dict.fromkeys(planes),
    }


def total_error(variances: Sequence[Plane]) -> Plane:
    """Return the standard deviation of the sum of variances; those that are NaN are left out.

    Parameters
    ----------
    variances
        Planes of one shape; at least one.

    Returns
    -------
    ndarray of float32
        NaN where all are.
    """
    total = np.zeros(variances[0].shape, np.float32)
    known = np.zeros(total.shape, np.bool_)
    for variance in variances:
        there = ~np.isnan(variance)
        np.add(total, variance, out=total, where=there)
        known |= there
    np.sqrt(total, out=total)
    total[~known] = np.nan
    return total


def variance_factor(pixel_scale_ratio: float | None, *, imaging: bool) -> float:
    """Return what variances of single drops are multiplied with for pixels of the size of the output.

    An image drizzled onto finer pixels repeats each value; with this factor sums over an aperture have the error that
    the same aperture has on the input (surface brightness, noise of output pixels taken as independent).

    Parameters
    ----------
    pixel_scale_ratio
        Size of an output pixel in input pixels; None if it is not known.
    imaging
        False for spectra, where only one axis is on the sky.
    """
    if pixel_scale_ratio is None:
        return 1.0
    return pixel_scale_ratio**-2 if imaging else pixel_scale_ratio
