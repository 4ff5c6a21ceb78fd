"""Smoothing the wings of a PSF model, where a single pixel is only noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit

Floats = NDArray[np.float64]

KNOT_SPACING_PX = 4.0
ANGULAR_ORDER = 4
FALL = 5.0
"""The wings are fitted in units of radius^-5, between what turbulence and Moffat profiles do."""
BLEND_PX = 3.0
RADIAL_PRIOR = 0.5
SHAPE_PRIOR = 0.2
RIDGE = 1e-12


class WingSmoother:
    """Replaces pixels beyond a radius by a fit of few parameters: piecewise linear in radius, up to cos(4 angle).

    Divided by radius^-5 the wings change slowly, so straight pieces of 4 pixels follow them, and spider arms and
    ellipticity are kept where they rise above the noise. A Gaussian prior, whose weight follows from the noise of the
    outermost pixels, takes the wings to be round, equal everywhere on the CCD and proportional to radius^-5 unless
    the stars say otherwise.
    """

    def __init__(self, size: int, start_px: float) -> None:
        """Prepare for images of ``size`` pixels a side whose wings begin at radius ``start_px``."""
        offset = np.arange(size) - size // 2
        radius = np.hypot(offset[:, None], offset[None, :])
        # in the corners beyond the largest circle nothing tells an angle
        edge = float(size // 2)
        self._active = start_px + BLEND_PX < edge
        if not self._active:
            return
        self._wing = radius >= start_px
        r = radius[self._wing]
        self._blend = np.clip((r - start_px) / BLEND_PX, 0.0, 1.0)
        self._fitted, self._sky = r <= edge, r > edge - KNOT_SPACING_PX
        self._first = r < start_px + BLEND_PX
        self._scale = (r / start_px) ** -FALL
        angle = np.arctan2(offset[:, None], offset[None, :] + np.zeros((size, 1)))[self._wing]
        n_knots = max(2, round((edge - start_px) / KNOT_SPACING_PX) + 1)
        knots = np.linspace(start_px, edge, n_knots)
        hats = np.maximum(0.0, 1.0 - np.abs(np.clip(r, start_px, edge)[:, None] - knots) / (knots[1] - knots[0]))
        hats *= self._scale[:, None]
        angular = [np.ones_like(r)]
        for order in range(1, ANGULAR_ORDER + 1):
            angular += [self._fitted * np.cos(order * angle), self._fitted * np.sin(order * angle)]
        self._basis = np.ascontiguousarray(np.einsum("pk,ap->pak", hats, np.array(angular)).reshape(r.size, -1))
        fitted = self._basis[self._fitted]
        self._normal = np.einsum("pa,pb->ab", fitted, fitted)
        self._normal[np.diag_indices_from(self._normal)] += RIDGE * np.trace(self._normal)
        self._steps, self._size = _priors(n_knots, len(angular))

    def smooth(self, images: Floats) -> Floats:
        """Return images of shape (n, size, size) with smooth wings; the core is unchanged.

        The first image is the mean PSF, the others say how it varies.
        """
        if not self._active:
            return images
        wings = images[:, self._wing]
        right = np.einsum("pa,np->na", self._basis[self._fitted], wings[:, self._fitted])
        level = abs(float(np.mean((wings[0] / self._scale)[self._first])))
        noise = wings[:, self._sky].std(axis=1)
        blend = self._blend
        result = images.copy()
        for k in range(len(images)):
            shape = self._size if k else self._size * (np.arange(len(self._size)) >= self._radial)
            prior = self._steps / RADIAL_PRIOR**2 + np.diag(shape) / SHAPE_PRIOR**2
            matrix = self._normal + prior * (noise[k] / max(level, 1e-300)) ** 2
            values = _cholesky_solve(matrix, right[k])
            result[k, self._wing] = (1.0 - blend) * wings[k] + blend * np.einsum("pa,a->p", self._basis, values)
        return result

    @property
    def _radial(self) -> int:
        """Number of parameters of the round profile; they come first."""
        return int(len(self._size) / (2 * ANGULAR_ORDER + 1))


def _priors(n_knots: int, n_angular: int) -> tuple[Floats, Floats]:
    """Return the matrix of squared steps from knot to knot, and the diagonal of squared values."""
    step = np.diff(np.eye(n_knots), axis=0)
    steps = np.kron(np.eye(n_angular), np.einsum("sa,sb->ab", step, step))
    return steps, np.ones(n_knots * n_angular)


# own solver: LAPACK's sums depend on its number of threads
@njit(cache=True, nogil=True)
def _cholesky_solve(matrix: Floats, right: Floats) -> Floats:
    """Solve a system with a positive definite matrix."""
    n = matrix.shape[0]
    factor = np.zeros((n, n))
    result = right.copy()
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= factor[i, k] * factor[j, k]
            factor[i, j] = np.sqrt(total) if i == j else total / factor[j, j]
    for i in range(n):
        for k in range(i):
            result[i] -= factor[i, k] * result[k]
        result[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            result[i] -= factor[k, i] * result[k]
        result[i] /= factor[i, i]
    return result
