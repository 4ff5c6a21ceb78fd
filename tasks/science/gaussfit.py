"""Maximum-likelihood fit of one elliptical Gaussian to deconvolved stamps, and its errors.

Gauss-Newton, the usual choice, creeps at low signal to noise, where the residuals are as large as the model; the exact
Hessian is at hand (see :mod:`tasks.science.gaussian_likelihood`), so this is Newton's method.
"""

import math

import numpy as np

from tasks.science.compiled import njit
from tasks.science.fourier import Floats, add_moments_in_frame, gaussian_moments
from tasks.science.gaussian_likelihood import evaluate, in_pixels, shape_chain, transform_symmetric

CONVERGED = 0
TOO_MANY_ITERATIONS = 1
SINGULAR = 2
NOT_FINITE = 3

NO_GAIN = 1e-7
"""Expected fall of L below which a step is noise of the arithmetic."""
LARGEST_DAMPING = 1e8


@njit(cache=True, nogil=True)
def solve_damped(matrix: Floats, diagonal: Floats, damping: float, gradient: Floats, step: Floats) -> bool:
    """Solve (matrix + damping diag(diagonal)) step = -gradient by Cholesky; False if it is not positive definite."""
    n = gradient.size
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            s = matrix[i, j]
            if i == j:
                s += damping * diagonal[i, i]
            for k in range(j):
                s -= lower[i, k] * lower[j, k]
            if i == j:
                if not s > 1e-14 * abs(matrix[i, i]):
                    return False
                lower[i, i] = math.sqrt(s)
            else:
                lower[i, j] = s / lower[j, j]
    for i in range(n):
        s = -gradient[i]
        for k in range(i):
            s -= lower[i, k] * step[k]
        step[i] = s / lower[i, i]
    for i in range(n - 1, -1, -1):
        s = step[i]
        for k in range(i + 1, n):
            s -= lower[k, i] * step[k]
        step[i] = s / lower[i, i]
    return True


@njit(cache=True, nogil=True)
def fit_gaussian(
    theta: Floats,
    real: Floats,
    imag: Floats,
    size: int,
    frames: Floats,
    areas: Floats,
    weights: Floats,
    targets: Floats,
    priors: Floats,
    scratch: Floats,
    fisher: Floats,
    hessian: Floats,
    tolerance: float,
    max_iterations: int,
) -> tuple[int, int]:
    """Minimise L from the start ``theta``, in place: Newton's method, damped where a step does not help.

    Where the Hessian is not positive definite the Gauss-Newton matrix takes its place. Done when a nearly undamped step
    changes g by less than ``tolerance`` and T and F by less than that fraction.

    Returns
    -------
    tuple of int
        The status (CONVERGED, ...) and the number of evaluations. ``fisher`` and ``hessian`` are those of the solution.
    """
    gradient, trial_gradient, step = np.empty(6), np.empty(6), np.empty(6)
    trial_fisher, trial_hessian = np.empty((6, 6)), np.empty((6, 6))
    value = evaluate(
        theta, real, imag, size, frames, areas, weights, targets, priors, scratch, gradient, fisher, hessian
    )
    if not math.isfinite(value):
        return NOT_FINITE, 1
    scale = abs(theta[4]) + 2.0 * targets[0]
    damping = 0.0
    for n in range(max_iterations):
        solved = solve_damped(hessian, fisher, damping, gradient, step)
        if not (solved or solve_damped(fisher, fisher, damping, gradient, step)):
            return SINGULAR, n + 1
        gain = -np.sum(step * gradient)
        if damping > 0.0 and gain < NO_GAIN:
            return CONVERGED, n + 1
        trial = theta + step
        new = evaluate(trial, real, imag, size, frames, areas, weights, targets, priors, scratch, trial_gradient,
                       trial_fisher, trial_hessian)  # fmt: skip
        if new <= value + 1e-10 * abs(value):
            theta[:], gradient[:], value = trial, trial_gradient, new
            fisher[:], hessian[:] = trial_fisher, trial_hessian
            moved = max(abs(step[2]), abs(step[3]), abs(step[4]) / scale, abs(step[5]) / (abs(theta[5]) + 1e-300))
            if moved < tolerance and damping < 0.1:
                return CONVERGED, n + 2
            damping = 0.1 * damping if damping > 1e-3 else 0.0
        else:
            damping = max(10.0 * damping, 1e-2)
            if damping > LARGEST_DAMPING:
                return TOO_MANY_ITERATIONS, n + 2
    return TOO_MANY_ITERATIONS, max_iterations + 1


@njit(cache=True, nogil=True)
def standard_errors(
    theta: Floats,
    power: Floats,
    size: int,
    frames: Floats,
    weights: Floats,
    targets: Floats,
    fisher: Floats,
    hessian: Floats,
    scratch: Floats,
    errors: Floats,
) -> None:
    r"""Write the standard errors of theta for noise that is white in the pixels, shape (6,); NaN where there is none.

    Deconvolution makes the noise of the fitted data correlated, and galaxies are no Gaussians, so that the inverse of
    the Gauss-Newton matrix is too small an answer (errors of g by 20 %). The score is linear in the data, and its
    covariance V are sums like those of the fit, with :math:`1 / |P|^2` (``power``, shape (n_epoch, 2 h + 1, h + 1)) in
    the place of D and the square of the weight. The errors are the roots of the diagonal of
    :math:`H^{-1} V H^{-1}`, H being
    the exact Hessian, or the Gauss-Newton matrix where that is not positive definite.
    """
    score = np.zeros((6, 6))
    f = 2.0 / (1.0 + theta[2] ** 2 + theta[3] ** 2)
    vv, uv, uu = 1.0 - f * theta[2], f * theta[3], 1.0 + f * theta[2]
    zeros, center = np.zeros_like(power[0]), np.zeros(6)
    moments, total = np.empty(15), np.empty(15)
    for e in range(power.shape[0]):
        total[:] = 0.0
        for n in range(frames.shape[1]):
            frame, twice_target = frames[e, n], 4.0 * targets[e]
            (a_rr, a_rc, a_cc), row, col = in_pixels(
                frame, twice_target + theta[4] * vv, theta[4] * uv, twice_target + theta[4] * uu, center
            )
            gaussian_moments(power[e], zeros, size, a_rr, a_rc, a_cc, row, col, scratch, moments)
            add_moments_in_frame(moments, frame, total)
        # every field has the variance that all fields share as 1 / weight
        add_score(total, weights[e] / (frames.shape[1] * size * size), theta[5], score)
    transform_symmetric(shape_chain(theta[2], theta[3], theta[4]), score)
    unit, column = np.zeros(6), np.empty(6)
    for i in range(6):
        unit[:] = 0.0
        unit[i] = -1.0
        errors[i] = math.nan
        solved = solve_damped(hessian, fisher, 0.0, unit, column)
        if solved or solve_damped(fisher, fisher, 0.0, unit, column):
            variance = 0.0
            for a in range(6):
                for b in range(6):
                    variance += column[a] * score[a, b] * column[b]
            errors[i] = math.sqrt(variance) if variance > 0.0 else math.nan


@njit(cache=True, nogil=True)
def add_score(t: Floats, weight: float, flux: float, score: Floats) -> None:
    """Add one epoch to the covariance of the score by (v, u, C_vv, C_uv, C_uu, F); upper triangle."""
    w = weight * flux * flux
    score[0, 0] += w * t[3]
    score[0, 1] += w * t[4]
    score[1, 1] += w * t[5]
    score[2, 2] += 0.25 * w * t[10]
    score[2, 3] += 0.5 * w * t[11]
    score[2, 4] += 0.25 * w * t[12]
    score[3, 3] += w * t[12]
    score[3, 4] += 0.5 * w * t[13]
    score[4, 4] += 0.25 * w * t[14]
    score[2, 5] -= 0.5 * weight * flux * t[3]
    score[3, 5] -= weight * flux * t[4]
    score[4, 5] -= 0.5 * weight * flux * t[5]
    score[5, 5] += weight * t[0]
