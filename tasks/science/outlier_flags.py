"""Pixels of an exposure that differ from what its neighbours in time saw: the rule of the archive pipelines.

A pixel is compared with the model of the same pixel, the clean image of all exposures blotted to the exposure. The
threshold allows for noise and, where the model is steep, for the errors of the interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tasks.errors import ConfigError, ShapeMismatchError
from tasks.products.dq import DQFlag
from tasks.science.compiled import njit
from tasks.science.interpolation import as_plane

Plane = NDArray[np.float32]

OUTLIER_FLAGS = np.uint32(DQFlag.OUTLIER | DQFlag.DO_NOT_USE)
"""What an outlier gets."""

FIRST, SECOND = 1, 2
"""Bits of a pixel above the threshold of the first pass and of the second."""


@dataclass(frozen=True)
class Thresholds:
    """How far a pixel may be from its model: ``scale * derivative + snr * noise`` and what is allowed for seeing."""

    snr: tuple[float, float] = (5.0, 4.0)
    """Allowed deviation in units of the noise."""
    scale: tuple[float, float] = (1.2, 0.7)
    """Allowed deviation in units of the derivative of the model."""
    share: float = 0.0
    """Allowed deviation as a share of the model (Gruen, Seitz & Bernstein 2014, PASP 126, 158); the minimum of the
    exposures may also be lower than their median by so much before it is taken for the model."""
    scatter: float = 0.0
    """Allowed deviation in units of the scatter of the exposures beyond noise."""
    grow_px: float = 0.0
    """Pixels within this distance of an outlier are flagged, too."""

    def __post_init__(self) -> None:
        """Refuse thresholds that no pixel, or every pixel, is above."""
        for name in ("snr", "scale"):
            first, second = getattr(self, name)
            if not (np.isfinite([first, second]).all() and min(first, second) >= 0):
                raise ConfigError(f"The {name} of outlier rejection is {first}, {second}; give two numbers from 0 up.")
        for name in ("share", "scatter"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ConfigError(f"The {name} of outlier rejection is {getattr(self, name)}; give a number from 0 up.")
        if not 0 <= self.grow_px <= 100:
            raise ConfigError(f"Outliers are to grow by {self.grow_px} pixels; give a number from 0 to 100.")


GROUND = Thresholds(share=0.3, scatter=3.0)
"""For images whose seeing differs: without an allowance for it, the cores and wings of bright stars are flagged."""


@njit(cache=True, nogil=True)
def _steepest(model: Plane, row: int, column: int) -> float:
    """Return the largest absolute difference of a pixel to those of its four neighbours that are known."""
    ny, nx = model.shape
    steepest = 0.0
    for j, i in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
        if 0 <= j < ny and 0 <= i < nx:
            step = abs(float(model[j, i]) - float(model[row, column]))
            # NaN is not larger
            if step > steepest:
                steepest = step
    return steepest


@njit(cache=True, nogil=True)
def _passes(
    data: Plane,
    model: Plane,
    weight: Plane,
    allowed: Plane,
    per_electron: float,
    snr: tuple[float, float],
    scale: tuple[float, float],
    passed: NDArray[np.uint8],
) -> None:
    """Fill for every pixel the bits of the passes whose threshold it exceeds."""
    for row in range(data.shape[0]):
        for column in range(data.shape[1]):
            passed[row, column] = 0
            expected, value = model[row, column], data[row, column]
            if not (0 < weight[row, column] < np.inf and np.isfinite(expected) and np.isfinite(value)):
                continue
            noise = np.sqrt(1.0 / weight[row, column] + max(expected, 0.0) * per_electron)
            deviation = abs(value - expected) - allowed[row, column]
            steepest = _steepest(model, row, column)
            if deviation > scale[0] * steepest + snr[0] * noise:
                passed[row, column] |= FIRST
            if deviation > scale[1] * steepest + snr[1] * noise:
                passed[row, column] |= SECOND


@njit(cache=True, nogil=True)
def _join_passes(passed: NDArray[np.uint8], outlier: NDArray[np.bool_]) -> None:
    """Fill which pixels exceed the second threshold and are, or touch, one that exceeds the first."""
    ny, nx = passed.shape
    for row in range(ny):
        for column in range(nx):
            near = False
            if passed[row, column] & SECOND:
                for j in range(max(0, row - 1), min(ny, row + 2)):
                    for i in range(max(0, column - 1), min(nx, column + 2)):
                        near = near or passed[j, i] & FIRST != 0
            outlier[row, column] = near


def flag_deviations(
    data: Plane,
    model: Plane,
    weight: Plane,
    thresholds: Thresholds,
    *,
    scatter: Plane | None = None,
    gain: float | None = None,
) -> NDArray[np.uint32]:
    """Flag the pixels of an exposure that differ from their model by more than noise and interpolation explain.

    A pixel is an outlier if it exceeds the second, lower threshold, and it or one of its eight neighbours exceeds the
    first: so the faint ends of a trail go with its bright middle. The threshold is
    ``scale * derivative + snr * noise``, the derivative of a pixel being the largest difference of the model to its
    four neighbours, as in AstroDrizzle (``driz_cr``) and JWST's outlier detection; an allowance for seeing is added.

    Parameters
    ----------
    data
        The exposure without background, shape (ny, nx), float32; not changed.
    model
        What the exposure should have seen, the same shape and units; NaN where nothing is known, and nothing flagged.
    weight
        Inverse variance of the data; pixels where it is not positive and finite are not judged.
    thresholds
        How far a pixel may be from its model.
    scatter
        By how much exposures differ there more than by noise, the same shape; what is not finite counts as 0.
    gain
        Electrons per unit of the data: the photon noise of the model is then added to the noise of the weight. None if
        the weight has the photon noise of the sources already. (An error plane made from the data includes the
        photons of the cosmic ray itself, which makes it harder to find.)

    Returns
    -------
    ndarray
        OUTLIER and DO_NOT_USE or 0, shape (ny, nx), uint32.

    Raises
    ------
    ShapeMismatchError
        If the planes differ in shape.
    ConfigError
        If the gain is not positive.
    """
    _check_shapes({"data": data, "model": model, "weight": weight, "scatter": scatter})
    if gain is not None and not (np.isfinite(gain) and gain > 0):
        raise ConfigError(f"The gain is {gain} electrons per unit; it must be positive, or None if the weight has all.")
    data, model, weight = as_plane(data), as_plane(model), as_plane(weight)
    passed, outlier = np.empty(data.shape, np.uint8), np.empty(data.shape, np.bool_)
    per_electron = 0.0 if gain is None else 1.0 / gain
    allowed = np.float32(thresholds.share) * np.maximum(model, np.float32(0))
    if scatter is not None:
        allowed += np.float32(thresholds.scatter) * np.where(np.isfinite(scatter), scatter, np.float32(0))
    snr, scale = _floats(thresholds.snr), _floats(thresholds.scale)
    _passes(data, model, weight, allowed, per_electron, snr, scale, passed)
    _join_passes(passed, outlier)
    if thresholds.grow_px > 0:
        outlier = _grown(outlier, thresholds.grow_px)
    return np.where(outlier, OUTLIER_FLAGS, np.uint32(0))


def _check_shapes(planes: dict[str, Plane | None]) -> None:
    shapes = {name: plane.shape for name, plane in planes.items() if plane is not None}
    if len(set(shapes.values())) > 1:
        raise ShapeMismatchError(
            f"Planes of an exposure must have one shape; theirs are {', '.join(f'{n} {s}' for n, s in shapes.items())}."
        )


def _floats(pair: tuple[float, float]) -> tuple[float, float]:
    """Return the numbers as floats: an int would be compiled for once more."""
    return float(pair[0]), float(pair[1])


def _grown(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    if not mask.any():
        return mask
    grown: NDArray[np.bool_] = ndimage.distance_transform_edt(~mask) <= radius
    return grown
