"""The sums against brute force, the derivatives against finite differences, the target against its closed form."""

import math

import numpy as np
import pytest

from tasks.science.fourier import (
    add_moments_in_frame,
    crop_plane,
    divide_by_psf,
    gaussian_moments,
    invert_power,
    kept_modes,
    target_variance,
    transform_size,
)
from tasks.science.gaussfit import CONVERGED, NOT_FINITE, fit_gaussian, solve_damped
from tasks.science.gaussian_likelihood import evaluate

SIZE = 32
HALF = 13
FRAME = np.array([[5.0, 0.3], [-0.4, 5.2]])
TURNED = np.array([[0.3, 5.1], [-5.0, 0.1]])
THETA = np.array([0.05, -0.03, 0.2, -0.15, 0.3, 5.0])


def frequencies():
    cell = 2 * math.pi / SIZE
    return (np.arange(-HALF, HALF + 1) * cell)[:, None], (np.arange(HALF + 1) * cell)[None, :]


@pytest.fixture
def planes():
    """Random half planes (2 epochs, 2 fields) of real images: column 0 is its own mirror image."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(2, 2, 2 * HALF + 1, HALF + 1)) + 1j * rng.normal(size=(2, 2, 2 * HALF + 1, HALF + 1))
    z[..., 0] = 0.5 * (z[..., 0] + z[..., ::-1, 0].conj())
    return np.ascontiguousarray(z.real), np.ascontiguousarray(z.imag)


def problem(planes):
    real, imag = planes
    frames = np.array([[FRAME, TURNED], [1.1 * FRAME, 0.9 * TURNED]])
    areas, weights, targets, priors = [np.array(x) for x in ([0.038, 0.05], [30.0, 50.0], [0.12, 0.15], [0.4, 0.2])]
    return real, imag, SIZE, frames, areas, weights, targets, priors, np.empty((4, HALF + 1))


def derivatives(theta, arguments):
    gradient, fisher, hessian = np.empty(6), np.empty((6, 6)), np.empty((6, 6))
    value = evaluate(theta, *arguments, gradient, fisher, hessian)
    return value, gradient, fisher, hessian


@pytest.mark.parametrize("kernel", [gaussian_moments, gaussian_moments.py_func], ids=["compiled", "python"])
def test_moments_are_the_sums_they_stand_for(planes, kernel):
    real, imag = planes[0][0, 0], planes[1][0, 0]
    moments = np.empty(15)

    kernel(real, imag, SIZE, 5.0, 0.7, 6.0, 0.3, -0.4, np.empty((4, HALF + 1)), moments)

    k_row, k_col = frequencies()
    weight = np.exp(-0.5 * (5.0 * k_row**2 + 1.4 * k_row * k_col + 6.0 * k_col**2)) * np.where(k_col > 0, 2, 1)
    z = (real + 1j * imag) * np.exp(1j * (0.3 * k_row - 0.4 * k_col)) * weight
    expected = []
    for order in range(5):
        for q in range(order + 1):
            total = np.sum(k_row ** (order - q) * k_col**q * z)
            expected.append(total.real if order % 2 == 0 else total.imag)
    np.testing.assert_allclose(moments, expected, atol=1e-12)


def test_moments_turn_with_the_frame():
    rng = np.random.default_rng(2)
    k = rng.normal(size=2)

    def monomials(a, b):
        return np.array([a ** (n - q) * b**q for n in range(5) for q in range(n + 1)])

    total = np.zeros(15)
    add_moments_in_frame(monomials(*k), FRAME, total)

    np.testing.assert_allclose(total, monomials(*(FRAME.T @ k)), rtol=1e-12)


@pytest.mark.parametrize("flux", [5.0, 0.2, -3.0])
def test_gradient_and_hessian_are_those_of_the_value(planes, flux):
    arguments = problem(planes)
    theta = np.append(THETA[:5], flux)

    _, gradient, _, hessian = derivatives(theta, arguments)

    steps = 1e-5 * np.eye(6)
    slopes = [(derivatives(theta + d, arguments)[0] - derivatives(theta - d, arguments)[0]) / 2e-5 for d in steps]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6)
    curvatures = [(derivatives(theta + d, arguments)[1] - derivatives(theta - d, arguments)[1]) / 2e-5 for d in steps]
    np.testing.assert_allclose(hessian, curvatures, rtol=1e-6, atol=1e-5)


def test_outside_the_domain_the_value_is_infinite(planes):
    for theta in ([0, 0, 0.8, 0.7, 0.3, 1.0], [0, 0, 0, 0, -0.5, 1.0], [0, 0, np.nan, 0, 0.3, 1.0]):
        assert derivatives(np.array(theta, dtype=float), problem(planes))[0] == math.inf


def test_hessian_and_gauss_newton_agree_where_the_model_is_the_data():
    # drawn in Fourier space, so there is no error of pixels; the frame makes it well sampled
    arguments = list(problem(np.zeros((2, 2, 1, 2 * HALF + 1, HALF + 1))))
    arguments[3] = arguments[3][:, :1]
    k_row, k_col = frequencies()
    e = 2 / (1 + THETA[2] ** 2 + THETA[3] ** 2) * THETA[2:4]
    covariance = THETA[4] / 2 * np.array([[1 - e[0], e[1]], [e[1], 1 + e[0]]])
    for n in range(2):
        frame = arguments[3][n, 0]
        (rr, rc), (_, cc) = frame @ covariance @ frame.T
        row, col = frame @ THETA[:2]
        model = THETA[5] * np.exp(-1j * (k_row * row + k_col * col))
        model *= np.exp(-0.5 * (rr * k_row**2 + 2 * rc * k_row * k_col + cc * k_col**2))
        arguments[0][n, 0], arguments[1][n, 0] = model.real, model.imag
        arguments[4][n] = 1 / abs(np.linalg.det(frame))
    arguments[7] = np.zeros(2)

    _, gradient, fisher, hessian = derivatives(THETA, arguments)
    theta = np.array([0.0, 0.0, 0.0, 0.0, 0.2, 3.0])
    status, count = fit_gaussian(theta, *arguments, np.empty((6, 6)), np.empty((6, 6)), 1e-6, 50)

    np.testing.assert_allclose(gradient, 0, atol=1e-4 * np.abs(fisher).max())
    np.testing.assert_allclose(hessian, fisher, atol=1e-3 * np.abs(fisher).max())
    assert status == CONVERGED
    assert count < 15
    np.testing.assert_allclose(theta, THETA, atol=1e-3)


def test_a_start_outside_the_domain_is_refused(planes):
    arguments = problem(planes)
    theta = np.array([0.0, 0.0, 0.9, 0.9, 0.3, 1.0])

    assert fit_gaussian(theta, *arguments, np.empty((6, 6)), np.empty((6, 6)), 1e-5, 10) == (NOT_FINITE, 1)


def test_the_solver_solves_and_refuses_what_is_not_positive_definite():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(6, 6))
    matrix = root @ root.T
    gradient, step = rng.normal(size=6), np.empty(6)

    assert solve_damped(matrix, matrix, 0.5, gradient, step)
    np.testing.assert_allclose((matrix + 0.5 * np.diag(np.diag(matrix))) @ step, -gradient, rtol=1e-9)
    assert not solve_damped(-matrix, matrix, 0.0, gradient, step)
    assert not solve_damped(np.full((6, 6), np.nan), matrix, 0.0, gradient, step)


@pytest.mark.parametrize(("azimuthal", "threshold"), [(False, 0.01), (True, 0.03)], ids=["gauss", "azgauss"])
@pytest.mark.parametrize("frame", [FRAME, TURNED, 5.0 * np.eye(2)], ids=["skewed", "turned", "square"])
def test_the_target_of_a_gaussian_psf_is_known_in_closed_form(azimuthal, threshold, frame):
    # in pixels, so that the ring of the threshold is well inside a plane of 64 points
    size, half, variance = 64, kept_modes(64), 0.12
    psf = gaussian_psf(size, half, frame, variance * np.eye(2))

    target = target_variance(psf, size, frame, azimuthal)

    # exp(-k² s / 2) = p and exp(-k² t / 2) = 0.3 p
    expected = variance * math.log(0.3 * threshold) / math.log(threshold)
    assert target == pytest.approx(expected, rel=0.01)


def gaussian_psf(size, half, frame, covariance):
    cell = 2 * math.pi / size
    k_row, k_col = (np.arange(-half, half + 1) * cell)[:, None], (np.arange(half + 1) * cell)[None, :]
    (rr, rc), (_, cc) = frame @ covariance @ frame.T
    return np.exp(-0.5 * (rr * k_row**2 + 2 * rc * k_row * k_col + cc * k_col**2))


def test_gauss_looks_at_the_broad_side_of_a_psf_and_azgauss_at_all_sides():
    size, half = 64, kept_modes(64)
    frame = 5.0 * np.eye(2)
    psf = gaussian_psf(size, half, frame, np.diag([0.13, 0.11]))

    gauss = target_variance(psf, size, frame, False)
    azgauss = target_variance(psf, size, frame, True)

    # the slope of the mean profile is not that of the broad side, which costs 1 % here
    assert gauss == pytest.approx(0.13 * math.log(0.003) / math.log(0.01), rel=0.02)
    assert azgauss == pytest.approx(0.12 * math.log(0.009) / math.log(0.03), rel=0.01)


def test_cropping_moves_the_chosen_point_to_the_origin_and_division_undoes_the_psf():
    image = np.zeros((SIZE, SIZE))
    image[4, 7] = 3.0
    psf = np.zeros((SIZE, SIZE))
    psf[2, 2], psf[2, 3], psf[3, 2] = 1.0, 0.5, 0.5
    real, imag, psf_real, psf_imag, power = (np.empty((2 * HALF + 1, HALF + 1)) for _ in range(5))

    crop_plane(np.fft.rfft2(image), SIZE, HALF, 4.0, 7.0, real, imag)
    np.testing.assert_allclose(real, 3.0)
    np.testing.assert_allclose(imag, 0.0, atol=1e-12)

    crop_plane(np.fft.rfft2(psf), SIZE, HALF, 2.0, 2.0, psf_real, psf_imag)
    before = real + 1j * imag
    divide_by_psf(real, imag, psf_real, psf_imag)
    kept = np.hypot(psf_real, psf_imag) / 2.0 > 1e-4
    after = (real + 1j * imag) * (psf_real + 1j * psf_imag) / 2.0
    np.testing.assert_allclose(after[kept], before[kept], atol=1e-9)
    invert_power(psf_real / 2.0, psf_imag / 2.0, power)
    np.testing.assert_allclose(power[kept], 4.0 / np.hypot(psf_real, psf_imag)[kept] ** 2)


def test_transforms_have_even_sizes_with_small_factors():
    assert [transform_size(n) for n in (21, 33, 51, 64, 101)] == [30, 48, 64, 80, 128]
