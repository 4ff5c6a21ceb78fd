r"""Likelihood of one elliptical Gaussian given deconvolved stamps, jointly over epochs, in Fourier space.

Parameters are :math:`\theta = (v, u, g_1, g_2, T, F)` in the tangent frame of the sky: centre (arcsec), reduced shape,
:math:`T = C_{vv} + C_{uu}` (arcsec², before the target), flux. The model of an epoch, seen through a round Gaussian
target of variance :math:`s`, is :math:`m(k) = F e^{-i k c} e^{-k^T (C + s 1) k / 2}` and the data are
:math:`d(k) = D(k) e^{-s k^2 / 2}`, so that half of chi square is, up to a constant,

.. math:: L = \sum_{epochs} \tfrac12 F^2 Q(C) - F w \langle D, e^{-i k c} e^{-k^T (C + 2 s 1) k / 2}\rangle,
   \qquad Q = w\,\frac{|J|}{4\pi \sqrt{\det (C + s 1)}} .

The model-model term is closed form. The data enter through Gaussian-weighted sums of the monomials of k (see
:func:`tasks.science.fourier.gaussian_moments`): order 0 gives the value, orders 1 and 2 the gradient, orders up to 4
the exact Hessian.
"""

import math

import numpy as np

from tasks.science.compiled import njit
from tasks.science.fourier import Floats, add_moments_in_frame, gaussian_moments

LARGEST_G_SQUARED = 0.98
"""Shapes beyond are outside the domain of the fit."""


@njit(cache=True, nogil=True)
def add_epoch(
    total: Floats,
    weight: float,
    area: float,
    target: float,
    size: int,
    flux: float,
    c_vv: float,
    c_uv: float,
    c_uu: float,
    gradient: Floats,
    fisher: Floats,
    hessian: Floats,
) -> float:
    """Add one epoch to L and its derivatives by (v, u, C_vv, C_uv, C_uu, F); ``total`` are its moments on the sky.

    ``fisher`` is the Gauss-Newton matrix, ``hessian`` the exact one; upper triangles only. Returns its part of L.
    """
    b_vv, b_uu = target + c_vv, target + c_uu
    det = b_vv * b_uu - c_uv * c_uv
    q = weight * area / (4.0 * math.pi * math.sqrt(det))
    f2q = flux * flux * q
    # covariance of k under the squared model, whose weight is exp(-k^T B k)
    vv, vu, uu = 0.5 * b_uu / det, -0.5 * c_uv / det, 0.5 * b_vv / det
    w = weight / (size * size)
    fw = flux * w
    t = total

    gradient[0] += fw * t[1]
    gradient[1] += fw * t[2]
    gradient[2] += 0.5 * (fw * t[3] - f2q * vv)
    gradient[3] += fw * t[4] - f2q * vu
    gradient[4] += 0.5 * (fw * t[5] - f2q * uu)
    gradient[5] += flux * q - w * t[0]

    fisher[0, 0] += f2q * vv
    fisher[0, 1] += f2q * vu
    fisher[1, 1] += f2q * uu
    cc = (0.75 * vv * vv, 1.5 * vv * vu, 0.25 * (vv * uu + 2 * vu * vu), vv * uu + 2 * vu * vu, 1.5 * uu * vu,
          0.75 * uu * uu)  # fmt: skip
    data = (0.25 * t[10], 0.5 * t[11], 0.25 * t[12], t[12], 0.5 * t[13], 0.25 * t[14])
    n = 0
    for a in range(2, 5):
        for b in range(a, 5):
            fisher[a, b] += f2q * cc[n]
            hessian[a, b] += 2.0 * f2q * cc[n] - fw * data[n]
            n += 1
    half_q = (-0.5 * vv * q, -vu * q, -0.5 * uu * q)
    half_t = (0.5 * t[3], t[4], 0.5 * t[5])
    for a in range(3):
        fisher[2 + a, 5] += flux * half_q[a]
        hessian[2 + a, 5] += 2.0 * flux * half_q[a] + w * half_t[a]
        scale = -fw * (1.0 if a == 1 else 0.5)
        hessian[0, 2 + a] += scale * t[6 + a]
        hessian[1, 2 + a] += scale * t[7 + a]
    fisher[5, 5] += q
    hessian[5, 5] += q
    hessian[0, 0] += fw * t[3]
    hessian[0, 1] += fw * t[4]
    hessian[1, 1] += fw * t[5]
    hessian[0, 5] += w * t[1]
    hessian[1, 5] += w * t[2]
    return float(0.5 * f2q - fw * t[0])


@njit(cache=True, nogil=True)
def shape_chain(g1: float, g2: float, size_t: float) -> Floats:
    """Return the derivatives of (v, u, C_vv, C_uv, C_uu, F) by (v, u, g1, g2, T, F), a 6 by 6 matrix."""
    f = 2.0 / (1.0 + g1 * g1 + g2 * g2)
    e1, e2 = f * g1, f * g2
    e11, e12, e22 = f - f * f * g1 * g1, -f * f * g1 * g2, f - f * f * g2 * g2
    chain = np.zeros((6, 6))
    chain[0, 0] = chain[1, 1] = chain[5, 5] = 1.0
    chain[2, 2], chain[3, 2], chain[4, 2] = -0.5 * size_t * e11, 0.5 * size_t * e12, 0.5 * size_t * e11
    chain[2, 3], chain[3, 3], chain[4, 3] = -0.5 * size_t * e12, 0.5 * size_t * e22, 0.5 * size_t * e12
    chain[2, 4], chain[3, 4], chain[4, 4] = 0.5 * (1.0 - e1), 0.5 * e2, 0.5 * (1.0 + e1)
    return chain


@njit(cache=True, nogil=True)
def to_shape_parameters(g1: float, g2: float, size_t: float, gradient: Floats, fisher: Floats, hessian: Floats) -> None:
    """Turn derivatives by (C_vv, C_uv, C_uu) into derivatives by (g1, g2, T), in place, and fill both triangles.

    C_vv = T (1 - e1) / 2, C_uv = T e2 / 2, C_uu = T (1 + e1) / 2 with the distortion e = 2 g / (1 + g²).
    """
    f = 2.0 / (1.0 + g1 * g1 + g2 * g2)
    e11, e12, e22 = f - f * f * g1 * g1, -f * f * g1 * g2, f - f * f * g2 * g2
    chain = shape_chain(g1, g2, size_t)
    by_e1 = 0.5 * (gradient[4] - gradient[2])
    by_e2 = 0.5 * gradient[3]
    transform_symmetric(chain, fisher)
    transform_symmetric(chain, hessian)
    by_c = gradient.copy()
    for i in range(6):
        gradient[i] = 0.0
        for a in range(6):
            gradient[i] += chain[a, i] * by_c[a]
    # the curvature of T e(g): e_i,jk = -f² (g_k d_ij + d_ik g_j + g_i d_jk) + 2 f³ g_i g_j g_k
    f2, f3 = f * f, 2.0 * f * f * f
    p1, p2 = size_t * by_e1, size_t * by_e2
    hessian[2, 2] += p1 * (-3.0 * f2 * g1 + f3 * g1**3) + p2 * (-f2 * g2 + f3 * g2 * g1 * g1)
    hessian[3, 3] += p1 * (-f2 * g1 + f3 * g1 * g2 * g2) + p2 * (-3.0 * f2 * g2 + f3 * g2**3)
    mixed = p1 * (-f2 * g2 + f3 * g1 * g1 * g2) + p2 * (-f2 * g1 + f3 * g1 * g2 * g2)
    hessian[2, 3] += mixed
    hessian[3, 2] += mixed
    for i, slope in ((2, by_e1 * e11 + by_e2 * e12), (3, by_e1 * e12 + by_e2 * e22)):
        hessian[i, 4] += slope
        hessian[4, i] += slope


@njit(cache=True, nogil=True)
def transform_symmetric(chain: Floats, matrix: Floats) -> None:
    """Replace a symmetric matrix, given by its upper triangle, by chain^T matrix chain, in full."""
    n = matrix.shape[0]
    half = np.zeros((n, n))
    for a in range(n):
        for i in range(n):
            for b in range(n):
                half[a, i] += (matrix[a, b] if a <= b else matrix[b, a]) * chain[b, i]
    for i in range(n):
        for j in range(n):
            matrix[i, j] = 0.0
            for a in range(n):
                matrix[i, j] += chain[a, i] * half[a, j]


@njit(cache=True, nogil=True)
def add_priors(
    theta: Floats, shape_sigma: float, center_sigma: float, gradient: Floats, fisher: Floats, hessian: Floats
) -> float:
    r"""Add the priors to L and its derivatives; a width of 0 means no prior.

    On shapes :math:`p(g) \propto (1 - g^2)^2 \exp(-g^2 / 2 \sigma^2)` (Bernstein & Armstrong 2014, eq. 24 in form), on
    the centre a Gaussian. Returns the priors' part of L.
    """
    value = 0.0
    if shape_sigma > 0.0:
        g1, g2 = theta[2], theta[3]
        g_squared = g1 * g1 + g2 * g2
        r = 1.0 / (1.0 - g_squared)
        value += 0.5 * g_squared / shape_sigma**2 - 2.0 * math.log(1.0 - g_squared)
        slope = 1.0 / shape_sigma**2 + 4.0 * r
        for i in (2, 3):
            gradient[i] += slope * theta[i]
            for j in (2, 3):
                curvature = 8.0 * theta[i] * theta[j] * r * r + (slope if i == j else 0.0)
                fisher[i, j] += curvature
                hessian[i, j] += curvature
    if center_sigma > 0.0:
        for i in (0, 1):
            value += 0.5 * (theta[i] / center_sigma) ** 2
            gradient[i] += theta[i] / center_sigma**2
            fisher[i, i] += 1.0 / center_sigma**2
            hessian[i, i] += 1.0 / center_sigma**2
    return value


@njit(cache=True, nogil=True)
def evaluate(
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
    gradient: Floats,
    fisher: Floats,
    hessian: Floats,
) -> float:
    """Evaluate L, its gradient, Gauss-Newton matrix and Hessian at theta = (v, u, g1, g2, T, F).

    ``real`` and ``imag`` are (n_epoch, n_field, 2 h + 1, h + 1): the fields of an epoch (image, noise) are added, each
    in its own frame ``frames`` (n_epoch, n_field, 2, 2), pixel = G sky. ``areas`` arcsec² per pixel, ``weights``
    1 / noise², ``targets`` variance of the target in arcsec², ``priors`` (shape_sigma, center_sigma). Infinite outside
    the domain.
    """
    gradient[:] = 0.0
    fisher[:] = 0.0
    hessian[:] = 0.0
    g1, g2, size_t, flux = theta[2], theta[3], theta[4], theta[5]
    g_squared = g1 * g1 + g2 * g2
    if not g_squared < LARGEST_G_SQUARED:
        return math.inf
    f = 2.0 / (1.0 + g_squared)
    c_vv, c_uv, c_uu = 0.5 * size_t * (1.0 - f * g1), 0.5 * size_t * f * g2, 0.5 * size_t * (1.0 + f * g1)
    moments = np.empty(15)
    total = np.empty(15)
    value = 0.0
    for e in range(real.shape[0]):
        b_vv, b_uu = targets[e] + c_vv, targets[e] + c_uu
        if not (b_vv > 0.0 and b_uu > 0.0 and b_vv * b_uu - c_uv * c_uv > 1e-6 * targets[e] ** 2):
            return math.inf
        total[:] = 0.0
        for n in range(real.shape[1]):
            frame = frames[e, n]
            (a_rr, a_rc, a_cc), row, col = in_pixels(frame, b_vv + targets[e], c_uv, b_uu + targets[e], theta)
            gaussian_moments(real[e, n], imag[e, n], size, a_rr, a_rc, a_cc, row, col, scratch, moments)
            add_moments_in_frame(moments, frame, total)
        value += add_epoch(
            total, weights[e], areas[e], targets[e], size, flux, c_vv, c_uv, c_uu, gradient, fisher, hessian
        )
    to_shape_parameters(g1, g2, size_t, gradient, fisher, hessian)
    value += add_priors(theta, priors[0], priors[1], gradient, fisher, hessian)
    return value if math.isfinite(value) else math.inf


@njit(cache=True, nogil=True)
def in_pixels(
    frame: Floats, vv: float, uv: float, uu: float, theta: Floats
) -> tuple[tuple[float, float, float], float, float]:
    """Turn a covariance and the centre of theta into pixels: (G A G^T as its three elements, row, column)."""
    (a, b), (c, d) = (frame[0, 0], frame[0, 1]), (frame[1, 0], frame[1, 1])
    rr = a * a * vv + 2.0 * a * b * uv + b * b * uu
    rc = a * c * vv + (a * d + b * c) * uv + b * d * uu
    cc = c * c * vv + 2.0 * c * d * uv + d * d * uu
    return (rr, rc, cc), a * theta[0] + b * theta[1], c * theta[0] + d * theta[1]
