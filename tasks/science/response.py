"""The response of measured shapes to shear, and mean shear corrected by it.

Metacalibration (Sheldon & Huff 2017, sections 2.2 and 4): the mean shape of a selected sample is <R> g with
R = <dg/dgamma> + d<g>/dgamma by selection. The first term is the difference of the shapes of images sheared both ways;
the second is the difference of the mean unsheared shapes of the samples that are selected on the sheared images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.errors import DataError, ShapeMismatchError

NOSHEAR = 0
# places of the +step and -step types of both components among noshear, 1p, 1m, 2p, 2m
SHEARED = ((1, 2), (3, 4))


@dataclass(frozen=True)
class ShearResponse:
    """Mean response of a sample; element [i, j] is d g_i / d shear_j."""

    shear: NDArray[np.float64]
    """Response of the shapes, shape (2, 2)."""
    selection: NDArray[np.float64]
    """Response of the selection, shape (2, 2)."""

    @property
    def total(self) -> NDArray[np.float64]:
        """Sum of both, shape (2, 2)."""
        return self.shear + self.selection


@dataclass(frozen=True)
class MeanShear:
    """Response-corrected mean shear of a sample."""

    g: NDArray[np.float64]
    """Mean shear (g1, g2)."""
    error: NDArray[np.float64]
    """Standard errors of g1 and g2, delete-one-group jackknife."""
    response: ShearResponse
    """Response of the sample."""
    n_objects: int
    """Objects with a weight above 0 in the unsheared sample."""
    n_groups: int
    """Groups of the jackknife."""


def select_by_type(
    columns: Mapping[str, NDArray[np.generic]], select: Callable[[Mapping[str, NDArray[np.generic]]], NDArray[np.bool_]]
) -> NDArray[np.bool_]:
    """Apply one selection to the measurements of each type in turn.

    Parameters
    ----------
    columns
        Measurements of shape (n, 5): the types in the order noshear, 1p, 1m, 2p, 2m.
    select
        Takes the same columns of one type, shape (n,), and returns who is selected.

    Returns
    -------
    ndarray of bool, shape (n, 5)
        The weights that :func:`mean_shear` takes.
    """
    return np.stack([select({name: values[:, k] for name, values in columns.items()}) for k in range(5)], axis=1)


def shear_response(
    g: NDArray[np.float64], weights: NDArray[np.bool_] | NDArray[np.float64], *, step: float
) -> ShearResponse:
    """Compute the mean response of a sample to shear.

    Parameters
    ----------
    g
        Shapes of the five types, shape (n, 5, 2).
    weights
        Weight of each object as judged by each type's own measurement, 0 or False = not selected, shape (n, 5).
    step
        Shear of the sheared types.

    Returns
    -------
    ShearResponse
        Mean response, with the part that comes from the selection.

    Raises
    ------
    ShapeMismatchError
        If the arrays do not belong together.
    DataError
        If a type selects nothing, or a selected object lacks a shape.
    """
    sums = _sums_by_group(g, weights, np.zeros(len(g), dtype=np.intp), 1)
    return _response(sums[0], step)


def mean_shear(
    g: NDArray[np.float64],
    weights: NDArray[np.bool_] | NDArray[np.float64],
    *,
    step: float,
    groups: NDArray[np.generic] | None = None,
) -> MeanShear:
    """Compute the mean shear of a sample, corrected by its response, and its jackknife error.

    Parameters
    ----------
    g
        Shapes of the five types, shape (n, 5, 2); rows without weight may hold NaN.
    weights
        Weight of each object as judged by each type's own measurement, 0 or False = not selected, shape (n, 5).
    step
        Shear of the sheared types.
    groups
        Label of the group that each object is left out with, shape (n,): patches of sky, or pairs of rotated galaxies.
        Every object by itself if None.

    Returns
    -------
    MeanShear
        g = (R_shear + R_selection)^-1 <g>.

    Raises
    ------
    ShapeMismatchError
        If the arrays do not belong together.
    DataError
        If a type selects nothing, a selected object lacks a shape, or there are fewer than two groups.
    """
    labels = np.arange(len(g)) if groups is None else np.asarray(groups)
    if labels.shape != (len(g),):
        raise ShapeMismatchError(f"There are {len(g)} shapes but labels of shape {labels.shape}; give one for each.")
    # groups without a selected object carry no information, and would count as ones that do
    selected = (
        np.asarray(weights, dtype=np.float64)[:, NOSHEAR] > 0
        if np.ndim(weights) == 2
        else np.ones(len(g), dtype=np.bool_)
    )
    known, index = np.unique(labels, return_inverse=True)
    occupied = np.flatnonzero(np.bincount(index[selected], minlength=len(known)))
    if len(occupied) < 2:
        raise DataError(f"The sample has {len(occupied)} groups; the jackknife error of its shear needs at least 2.")
    sums = _sums_by_group(g, weights, index, len(known))
    total = sums.sum(axis=0)
    left_out = np.array([_shear(total - part, step) for part in sums[occupied]])
    k = len(occupied)
    error = np.sqrt((k - 1) / k * np.sum((left_out - left_out.mean(axis=0)) ** 2, axis=0))
    return MeanShear(
        g=_shear(total, step),
        error=error,
        response=_response(total, step),
        n_objects=int(np.count_nonzero(selected)),
        n_groups=k,
    )


def _sums_by_group(
    g: NDArray[np.float64], weights: NDArray[np.bool_] | NDArray[np.float64], index: NDArray[np.intp], n_groups: int
) -> NDArray[np.float64]:
    """Sum per group: noshear shapes under the weights of each type (5, 3: g1, g2, weight), sheared shapes (4, 3)."""
    w = np.asarray(weights, dtype=np.float64)
    if g.ndim != 3 or g.shape[1:] != (5, 2) or w.shape != g.shape[:2]:
        raise ShapeMismatchError(
            f"Shapes must be (n, 5, 2) and weights (n, 5) for the five types; these are {g.shape} and {w.shape}."
        )
    terms = np.zeros((len(g), 9, 3))
    for k in range(5):
        terms[:, k] = _weighted(g[:, NOSHEAR], w[:, k])
    for k in range(1, 5):
        terms[:, 4 + k] = _weighted(g[:, k], w[:, NOSHEAR])
    lost = np.flatnonzero(~np.isfinite(terms).all(axis=(1, 2)))
    if lost.size:
        raise DataError(
            f"{lost.size} selected objects have no finite shape or weight in one of the five types (the first is row "
            f"{lost[0]}); select by flags of all types."
        )
    if not np.all(w.sum(axis=0) > 0.0):
        raise DataError(f"The selection is empty for one of the five types (weights add up to {w.sum(axis=0)}).")
    sums = np.zeros((n_groups, 9, 3))
    np.add.at(sums, index, terms)
    return sums


def _weighted(g: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    used = (w != 0.0)[:, None]
    return np.where(used, np.concatenate([g * np.where(used, w[:, None], 0.0), w[:, None]], axis=1), 0.0)


def _means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = sums[:, :2] / sums[:, 2:]
    return means


def _response(sums: NDArray[np.float64], step: float) -> ShearResponse:
    means = _means(sums)
    shear, selection = np.empty((2, 2)), np.empty((2, 2))
    for j, (plus, minus) in enumerate(SHEARED):
        shear[:, j] = (means[4 + plus] - means[4 + minus]) / (2.0 * step)
        selection[:, j] = (means[plus] - means[minus]) / (2.0 * step)
    return ShearResponse(shear=shear, selection=selection)


def _shear(sums: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    return np.linalg.solve(_response(sums, step).total, _means(sums)[NOSHEAR])
