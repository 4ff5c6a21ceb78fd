"""Adaptive moments: the elliptical Gaussian that matches its own moments, the shape of stars and PSF models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ShapeMismatchError
from tasks.science.compiled import njit

Floats = NDArray[np.float64]

# the steps and limits of hsm, the reference code of the method
MAX_STEP = 0.25
TOLERANCE = 1e-8
MAX_SHIFT_PX = 15.0
MAX_MOMENT_PX2 = 8000.0
MAX_ITERATIONS = 400
# exp(-r2 / 2) is below 1e-12 of its peak
MAX_RADIUS2 = 55.0
MIN_MOMENT_PX2 = 1e-2


class MomentsFlag(IntFlag):
    """Why a stamp has no adaptive moments."""

    GOOD = 0
    NO_PIXELS = 1 << 0
    NO_FLUX = 1 << 1
    LOST = 1 << 2
    NOT_CONVERGED = 1 << 3
    MASKED = 1 << 4


MOMENTS_MEANINGS = MappingProxyType(
    {
        MomentsFlag.NO_PIXELS: "The stamp has no usable pixel or values that are no numbers",
        MomentsFlag.NO_FLUX: "The flux in the window is not positive",
        MomentsFlag.LOST: "The fit left the object or its moments are not positive definite",
        MomentsFlag.NOT_CONVERGED: "The fit did not converge",
        MomentsFlag.MASKED: "Masked pixels lie in the core",
    }
)
"""What each bit means, in the order of the bits."""


@dataclass(frozen=True)
class Moments:
    """Adaptive moments of many stamps, in the pixel frame; NaN where flagged, all of shape (n,)."""

    g1: Floats
    """Reduced shape, positive along the columns (x)."""
    g2: Floats
    """Reduced shape, positive along x = y."""
    sigma: Floats
    """Fourth root of the determinant of the moments, pixels."""
    flux: Floats
    """Flux of the matched Gaussian."""
    x: Floats
    """Centroid, pixels of the stamp from 0."""
    y: Floats
    flag: NDArray[np.int32]
    """`MomentsFlag` bits."""


def adaptive_moments(
    images: NDArray[np.floating], masks: NDArray[np.bool_] | None = None, *, guess_sigma: float = 5.0
) -> Moments:
    """Measure adaptive moments.

    The weight is an elliptical Gaussian whose centre and second moments are iterated until they are those of the
    weighted image (Bernstein & Jarvis 2002; Hirata & Seljak 2003), with the steps and limits
    of the ``hsm`` code in GalSim.

    Parameters
    ----------
    images
        Stamps without background, shape (n, ny, nx); not changed.
    masks
        True for pixels to leave out, same shape.
    guess_sigma
        Size of the first weight in pixels; it starts in the middle of the stamp.

    Returns
    -------
    Moments
        Of each stamp; a stamp that cannot be measured is flagged.

    Raises
    ------
    ShapeMismatchError
        If masks and images differ in shape.
    """
    stamps = np.ascontiguousarray(images, dtype=np.float64)
    bad = np.zeros(stamps.shape, np.bool_) if masks is None else np.ascontiguousarray(masks)
    if stamps.shape != bad.shape:
        raise ShapeMismatchError(
            f"The stamps have shape {stamps.shape} but their masks {bad.shape}; they must be equal."
        )
    values, flag = np.full((len(stamps), 6), np.nan), np.zeros(len(stamps), np.int32)
    _measure_all(stamps, bad, guess_sigma, values, flag)
    g1, g2, sigma, flux, x, y = values.T.copy()
    return Moments(g1, g2, sigma, flux, x, y, flag)


@njit(cache=True, nogil=True)
def _measure_all(stamps: Floats, bad: NDArray[np.bool_], guess: float, values: Floats, flag: NDArray[np.int32]) -> None:
    state = np.empty(6)
    for k in range(stamps.shape[0]):
        flag[k] = _measure(stamps[k], bad[k], guess, state)
        if flag[k] == 0:
            mxx, mxy, myy = state[2], state[3], state[4]
            determinant = mxx * myy - mxy * mxy
            # g = e / (1 + sqrt(1 - e^2)) with the numbers arranged so that nothing cancels
            scale = mxx + myy + 2.0 * np.sqrt(determinant)
            values[k, 0] = (mxx - myy) / scale
            values[k, 1] = 2.0 * mxy / scale
            values[k, 2] = determinant**0.25
            values[k, 3] = 2.0 * state[5]
            values[k, 4] = state[0]
            values[k, 5] = state[1]


@njit(cache=True, nogil=True)
def _measure(image: Floats, bad: NDArray[np.bool_], guess: float, state: Floats) -> int:
    """Iterate centre, moments and amplitude (x, y, xx, xy, yy, A) of one stamp; return its flag."""
    ny, nx = image.shape
    x0, y0 = 0.5 * (nx - 1), 0.5 * (ny - 1)
    state[:] = np.array([x0, y0, guess * guess, 0.0, guess * guess, 0.0])
    sums = np.empty(6)
    first_scale = 0.0
    for iteration in range(MAX_ITERATIONS):
        mxx, mxy, myy = state[2], state[3], state[4]
        mean, split = 0.5 * (mxx + myy), np.sqrt(0.25 * (mxx - myy) ** 2 + mxy * mxy)
        minor = mean - split
        if not minor > MIN_MOMENT_PX2 or mean > MAX_MOMENT_PX2:
            return 4
        used = _weighted_sums(image, bad, state, sums)
        if used == 0 or not np.isfinite(sums[0]):
            return 1
        if sums[0] <= 0.0:
            return 2
        scale = np.sqrt(minor)
        if iteration == 0:
            first_scale = scale
        steps = (
            2.0 * sums[1] / (sums[0] * scale),
            2.0 * sums[2] / (sums[0] * scale),
            4.0 * (sums[3] / sums[0] - 0.5 * mxx) / minor,
            4.0 * (sums[4] / sums[0] - 0.5 * mxy) / minor,
            4.0 * (sums[5] / sums[0] - 0.5 * myy) / minor,
        )
        largest = 0.0
        for i in range(5):
            largest = max(largest, abs(steps[i]))
            step = min(max(steps[i], -MAX_STEP), MAX_STEP)
            state[i] += step * (scale if i < 2 else minor)
        state[5] = sums[0]
        if abs(state[0] - x0) > MAX_SHIFT_PX or abs(state[1] - y0) > MAX_SHIFT_PX:
            return 4
        if largest * max(1.0, first_scale / scale) <= TOLERANCE:
            return 0
    return 8


@njit(cache=True, nogil=True)
def _weighted_sums(image: Floats, bad: NDArray[np.bool_], state: Floats, sums: Floats) -> int:
    """Sum image times weight times (1, x, y, xx, xy, yy) about the centre; return the number of pixels used."""
    ny, nx = image.shape
    x0, y0, mxx, mxy, myy = state[0], state[1], state[2], state[3], state[4]
    determinant = mxx * myy - mxy * mxy
    ixx, ixy, iyy = myy / determinant, -mxy / determinant, mxx / determinant
    sums[:] = 0.0
    used = 0
    for j in range(ny):
        dy = j - y0
        # the largest weight of the row
        if dy * dy / myy > MAX_RADIUS2:
            continue
        for i in range(nx):
            dx = i - x0
            r2 = dx * dx * ixx + 2.0 * dx * dy * ixy + dy * dy * iyy
            if r2 > MAX_RADIUS2 or bad[j, i]:
                continue
            used += 1
            value = image[j, i] * np.exp(-0.5 * r2)
            sums[0] += value
            sums[1] += value * dx
            sums[2] += value * dy
            sums[3] += value * dx * dx
            sums[4] += value * dx * dy
            sums[5] += value * dy * dy
    return used


def to_sky(g1: Floats, g2: Floats, sigma: Floats, jacobian: Floats) -> tuple[Floats, Floats, Floats]:
    """Bring moments of the pixel frame to the sky.

    Parameters
    ----------
    g1, g2, sigma
        Shapes and sizes in pixels as `adaptive_moments` gives them, shape (n,).
    jacobian
        ``[[dv/drow, dv/dcol], [du/drow, du/dcol]]`` in arcsec per pixel, shape (n, 2, 2) or (2, 2).

    Returns
    -------
    tuple of ndarray
        g1 and g2 in the frame with u West and v North, and the size T = <u^2> + <v^2> in arcsec^2; shape (n,).
    """
    modulus2 = g1 * g1 + g2 * g2
    with np.errstate(invalid="ignore", divide="ignore"):
        # moments of determinant sigma^4
        size = sigma * sigma / (1.0 - modulus2)
    mxx, myy = size * (1.0 + modulus2 + 2.0 * g1), size * (1.0 + modulus2 - 2.0 * g1)
    mxy = size * 2.0 * g2
    v_row, v_col = jacobian[..., 0, 0], jacobian[..., 0, 1]
    u_row, u_col = jacobian[..., 1, 0], jacobian[..., 1, 1]
    muu = u_col * u_col * mxx + 2.0 * u_col * u_row * mxy + u_row * u_row * myy
    mvv = v_col * v_col * mxx + 2.0 * v_col * v_row * mxy + v_row * v_row * myy
    muv = u_col * v_col * mxx + (u_col * v_row + u_row * v_col) * mxy + u_row * v_row * myy
    trace = muu + mvv
    scale = trace + 2.0 * np.sqrt(np.maximum(muu * mvv - muv * muv, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (muu - mvv) / scale, 2.0 * muv / scale, trace
