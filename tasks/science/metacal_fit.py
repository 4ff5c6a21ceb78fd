"""The compiled part of metacalibration: one object, from the transforms of its stamps to five fits."""

import math

import numpy as np

from tasks.science.compiled import njit
from tasks.science.fourier import Floats, Modes, crop_plane, divide_by_psf, invert_power, target_variance
from tasks.science.gaussfit import CONVERGED, NOT_FINITE, fit_gaussian, standard_errors
from tasks.science.gaussian_likelihood import evaluate

N_TYPES = 5
N_VALUES = 13
"""v, u, g1, g2, T, flux, errors of the last four, s2n, status of the fit, evaluations."""

PSF_FIT_WEIGHT = 1e6
"""Inverse variance with which PSFs of flux one are fitted; it only sets the scale of chi square."""

STARTS = (1.0, 0.3, 3.0)
"""Sizes, relative to the target, from which a fit starts until one converges."""


@njit(cache=True, nogil=True)
def invert_frame(matrix: Floats) -> Floats:
    """Invert a 2 by 2 matrix."""
    det = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    inverse = np.empty((2, 2))
    inverse[0, 0], inverse[0, 1] = matrix[1, 1] / det, -matrix[0, 1] / det
    inverse[1, 0], inverse[1, 1] = -matrix[1, 0] / det, matrix[0, 0] / det
    return inverse


@njit(cache=True, nogil=True)
def multiply_frames(left: Floats, right: Floats) -> Floats:
    """Multiply two 2 by 2 matrices."""
    product = np.empty((2, 2))
    for i in range(2):
        for j in range(2):
            product[i, j] = left[i, 0] * right[0, j] + left[i, 1] * right[1, j]
    return product


@njit(cache=True, nogil=True)
def shear_matrix(g1: float, g2: float) -> Floats:
    """Matrix of a shear of unit determinant, in the order (v, u)."""
    norm = math.sqrt(1.0 - g1 * g1 - g2 * g2)
    shear = np.empty((2, 2))
    shear[0, 0], shear[0, 1] = (1.0 - g1) / norm, g2 / norm
    shear[1, 0], shear[1, 1] = g2 / norm, (1.0 + g1) / norm
    return shear


@njit(cache=True, nogil=True)
def set_frames(jacobians: Floats, g1: float, g2: float, frames: Floats) -> None:
    """Write the matrices from sky to pixels of every epoch for one shear: (S J)^-1, and that of the rotated noise."""
    unshear = shear_matrix(-g1, -g2)
    for e in range(jacobians.shape[0]):
        inverse = invert_frame(jacobians[e])
        frames[e, 0] = multiply_frames(inverse, unshear)
        if frames.shape[1] == 2:
            # R J^-1 with R a quarter turn from the rotated stamp back: (row, col) <- (-col, row)
            turned = np.empty((2, 2))
            turned[0], turned[1] = -inverse[1], inverse[0]
            frames[e, 1] = multiply_frames(multiply_frames(frames[e, 0], jacobians[e]), turned)


@njit(cache=True, nogil=True)
def shear_guess(theta: Floats, g1: float, g2: float) -> None:
    """Shear the Gaussian of theta in place, C' = S C S^T, where that leaves a positive size."""
    f = 2.0 / (1.0 + theta[2] ** 2 + theta[3] ** 2)
    shear = shear_matrix(g1, g2)
    covariance = np.empty((2, 2))
    covariance[0, 0], covariance[1, 1] = 0.5 * theta[4] * (1 - f * theta[2]), 0.5 * theta[4] * (1 + f * theta[2])
    covariance[0, 1] = covariance[1, 0] = 0.5 * theta[4] * f * theta[3]
    sheared = multiply_frames(multiply_frames(shear, covariance), shear)
    size_t = sheared[0, 0] + sheared[1, 1]
    if size_t > 1e-6:
        e1, e2 = (sheared[1, 1] - sheared[0, 0]) / size_t, 2.0 * sheared[0, 1] / size_t
        if e1 * e1 + e2 * e2 < 0.9:
            to_g = 1.0 / (1.0 + math.sqrt(1.0 - e1 * e1 - e2 * e2))
            theta[2], theta[3], theta[4] = e1 * to_g, e2 * to_g, size_t


@njit(cache=True, nogil=True)
def fit_psfs(
    real: Floats, imag: Floats, size: int, jacobians: Floats, areas: Floats, targets: Floats, weights: Floats,
    tolerance: float, max_iterations: int, scratch: Floats, result: Floats,
) -> bool:  # fmt: skip
    """Fit a Gaussian to the PSF of every epoch; write the weighted means of g1, g2 and T. True if a fit failed."""
    frames = np.empty((1, 1, 2, 2))
    theta, fisher, hessian = np.empty(6), np.empty((6, 6)), np.empty((6, 6))
    psf_weight = np.array([PSF_FIT_WEIGHT])
    result[:3] = 0.0
    for e in range(jacobians.shape[0]):
        frames[0, 0] = invert_frame(jacobians[e])
        theta[:] = 0.0
        theta[4], theta[5] = targets[e], 1.0
        # no target: the PSF itself is fitted, as it is; the tiny one keeps the domain open
        status, _ = fit_gaussian(
            theta, real[e : e + 1], imag[e : e + 1], size, frames, areas[e : e + 1], psf_weight,
            1e-6 * targets[e : e + 1], np.zeros(2), scratch, fisher, hessian, tolerance, max_iterations,
        )  # fmt: skip
        if status != CONVERGED:
            return True
        for n in range(3):
            result[n] += theta[2 + n] * weights[e] / np.sum(weights)
    return False


@njit(cache=True, nogil=True)
def measure_planes(
    planes: Modes, half: int, offsets: Floats, psf_centers: Floats, jacobians: Floats, weights: Floats, step: float,
    azimuthal: bool, priors: Floats, tolerance: float, max_iterations: int, values: Floats, psf_values: Floats,
) -> bool:  # fmt: skip
    """Measure one object from the transforms of its stamps.

    ``planes`` (n_epoch, 1 + n_field, size, size // 2 + 1) holds PSF, image and, with fixnoise, rotated noise;
    ``offsets`` the object's position on each field. Writes ``values`` (5, 13) and ``psf_values`` (g1, g2, T, T
    of the target).
    Returns True if the PSF cannot be used.
    """
    n_epoch, n_field, size = planes.shape[0], planes.shape[1] - 1, planes.shape[2]
    real = np.empty((n_epoch, n_field, 2 * half + 1, half + 1))
    imag = np.empty_like(real)
    psf_real, psf_imag = np.empty_like(real[:, :1]), np.empty_like(real[:, :1])
    power = np.empty((n_epoch, 2 * half + 1, half + 1))
    areas, targets, scratch = np.empty(n_epoch), np.empty(n_epoch), np.empty((4, half + 1))
    values[:] = math.nan
    psf_values[:] = math.nan
    for e in range(n_epoch):
        row, col = psf_centers[e]
        crop_plane(planes[e, 0], size, half, row, col, psf_real[e, 0], psf_imag[e, 0])
        flux = psf_real[e, 0, half, 0]
        psf_real[e, 0] /= flux
        psf_imag[e, 0] /= flux
        inverse = invert_frame(jacobians[e])
        areas[e] = abs(jacobians[e, 0, 0] * jacobians[e, 1, 1] - jacobians[e, 0, 1] * jacobians[e, 1, 0])
        # a shear stretches the deconvolved noise: the target grows by twice the step
        targets[e] = target_variance(psf_real[e, 0], size, inverse, azimuthal) * (1.0 + 2.0 * step) ** 2
        if not targets[e] > 0.0:
            return True
        invert_power(psf_real[e, 0], psf_imag[e, 0], power[e])
        for n in range(n_field):
            crop_plane(planes[e, 1 + n], size, half, offsets[e, n, 0], offsets[e, n, 1], real[e, n], imag[e, n])
            divide_by_psf(real[e, n], imag[e, n], psf_real[e, 0], psf_imag[e, 0])
    if fit_psfs(
        psf_real, psf_imag, size, jacobians, areas, targets, weights, tolerance, max_iterations, scratch, psf_values
    ):
        return True
    psf_values[3] = 2.0 * np.sum(weights * targets) / np.sum(weights)
    for k in range(5):
        sign = step if k % 2 == 1 else -step
        fit_type(
            real, imag, power, size, jacobians, areas, weights, targets, priors, sign if k in (1, 2) else 0.0,
            sign if k > 2 else 0.0, tolerance, max_iterations, scratch, values[0], values[k],
        )  # fmt: skip
    return False


@njit(cache=True, nogil=True)
def fit_type(
    real: Floats, imag: Floats, power: Floats, size: int, jacobians: Floats, areas: Floats, weights: Floats,
    targets: Floats, priors: Floats, g1: float, g2: float, tolerance: float, max_iterations: int, scratch: Floats,
    unsheared: Floats, result: Floats,
) -> None:  # fmt: skip
    """Fit one type: from the unsheared solution, sheared, if there is one, then from rounds of several sizes."""
    frames = np.empty((real.shape[0], real.shape[1], 2, 2))
    set_frames(jacobians, g1, g2, frames)
    theta, fisher, hessian, errors = np.empty(6), np.empty((6, 6)), np.empty((6, 6)), np.empty(6)
    is_sheared = g1 != 0.0 or g2 != 0.0
    status, count = NOT_FINITE, 0
    for attempt in range(0 if is_sheared and unsheared[11] == CONVERGED else 1, 4):
        theta[:] = 0.0
        theta[4] = 2.0 * targets[0] * STARTS[max(attempt - 1, 0)]
        if attempt == 0:
            theta[:] = unsheared[:6]
            shear_guess(theta, g1, g2)
        else:
            start_flux(theta, real, imag, size, frames, areas, weights, targets, priors, scratch)
        status, n = fit_gaussian(theta, real, imag, size, frames, areas, weights, targets, priors, scratch, fisher,
                                 hessian, tolerance, max_iterations)  # fmt: skip
        count += n
        if status == CONVERGED and theta[5] > 0.0:
            break
    result[:6] = theta
    standard_errors(theta, power, size, frames, weights, targets, fisher, hessian, scratch, errors)
    result[6:10] = errors[2:]
    result[10] = theta[5] * math.sqrt(fisher[5, 5])
    result[11] = status
    result[12] = count


@njit(cache=True, nogil=True)
def start_flux(
    theta: Floats, real: Floats, imag: Floats, size: int, frames: Floats, areas: Floats, weights: Floats,
    targets: Floats, priors: Floats, scratch: Floats,
) -> None:  # fmt: skip
    """Set the flux of theta to the best one for its other parameters, in which L is quadratic."""
    gradient, fisher, hessian = np.empty(6), np.empty((6, 6)), np.empty((6, 6))
    theta[5] = 1.0
    evaluate(theta, real, imag, size, frames, areas, weights, targets, priors, scratch, gradient, fisher, hessian)
    flux = 1.0 - gradient[5] / fisher[5, 5]
    theta[5] = flux if flux > 0.0 else 1.0 / math.sqrt(fisher[5, 5])
