r"""Stamps in Fourier space: deconvolution on the stamp's own grid, Gaussian-weighted sums, the metacalibration target.

All planes are half planes of a real image's transform, cropped to :math:`|k_{row}|, |k_{col}| \le h` cells: arrays of
shape (2 h + 1, h + 1), row ``h`` being :math:`k_{row} = 0` and column 0 being :math:`k_{col} = 0`. One cell is
:math:`2\pi / M` radians per pixel for a transform of M by M points. Real and imaginary parts are kept apart, because
compiled loops over two real arrays are vectorised and those over one complex array are not.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit

Floats = NDArray[np.float64]
Modes = NDArray[np.complex128]

KEPT_FRACTION = 0.85
"""Part of the Nyquist frequency that is used; at well-sampled PSFs the target has vanished there."""

SMALLEST_PSF_MODE = 1e-5
"""Modes at which the PSF falls below this fraction of its flux carry nothing and are set to zero."""

N_MOMENTS = 15
"""Gaussian-weighted sums of all monomials up to order four in two variables."""

EXPONENT_LIMIT = 36.0
"""Where the Gaussian weight is below exp(-36) the sums stop: rounding errors are larger than what is left out."""

# p and its value where the target is pinned, relative to p: both rules as ngmix has them
GAUSS_THRESHOLD = 0.01
AZGAUSS_THRESHOLD = 0.03
PIN_FRACTION = 0.3


def transform_size(stamp_size: int) -> int:
    """Length of the transform of a stamp: an even number with small factors, a quarter longer than the stamp.

    Parameters
    ----------
    stamp_size
        The longest side of the stamps and PSFs that are transformed together, pixels.

    Returns
    -------
    int
        51 → 64, 64 → 80.
    """
    size = math.ceil(1.25 * stamp_size)
    while size % 2 or not _has_small_factors(size):
        size += 1
    return size


def _has_small_factors(number: int) -> bool:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number == 1


def kept_modes(size: int) -> int:
    """Half width of the cropped planes of a transform of ``size`` points: 64 → 27."""
    return int(KEPT_FRACTION * (size // 2))


@njit(cache=True, nogil=True)
def crop_plane(
    plane: Modes, size: int, half: int, offset_row: float, offset_col: float, real: Floats, imag: Floats
) -> None:
    """Crop the transform of an image, moving the point (offset_row, offset_col) of the image to the origin.

    ``plane`` is ``rfft2`` of the image, complex128 (size, size // 2 + 1); ``real`` and ``imag`` are written.
    """
    cell = 2.0 * math.pi / size
    for j in range(2 * half + 1):
        k_row = j - half
        source = k_row if k_row >= 0 else size + k_row
        row_phase = complex(math.cos(k_row * cell * offset_row), math.sin(k_row * cell * offset_row))
        step = complex(math.cos(cell * offset_col), math.sin(cell * offset_col))
        phase = row_phase
        for i in range(half + 1):
            value = plane[source, i] * phase
            real[j, i] = value.real
            imag[j, i] = value.imag
            phase *= step


@njit(cache=True, nogil=True)
def divide_by_psf(real: Floats, imag: Floats, psf_real: Floats, psf_imag: Floats) -> None:
    """Divide a cropped plane, in place, by the one of the PSF (normalised to flux 1), where the PSF is not nothing."""
    flux = psf_real[psf_real.shape[0] // 2, 0]
    for j in range(real.shape[0]):
        for i in range(real.shape[1]):
            p_real = psf_real[j, i] / flux
            p_imag = psf_imag[j, i] / flux
            power = p_real * p_real + p_imag * p_imag
            if power < SMALLEST_PSF_MODE * SMALLEST_PSF_MODE:
                real[j, i] = 0.0
                imag[j, i] = 0.0
            else:
                z_real = (real[j, i] * p_real + imag[j, i] * p_imag) / power
                imag[j, i] = (imag[j, i] * p_real - real[j, i] * p_imag) / power
                real[j, i] = z_real


@njit(cache=True, nogil=True)
def invert_power(psf_real: Floats, psf_imag: Floats, power: Floats) -> None:
    """Write 1 / abs(P)^2 of a PSF of flux 1, the spectrum of deconvolved white noise; zero where the PSF is nothing."""
    for j in range(power.shape[0]):
        for i in range(power.shape[1]):
            p = psf_real[j, i] * psf_real[j, i] + psf_imag[j, i] * psf_imag[j, i]
            power[j, i] = 1.0 / p if p >= SMALLEST_PSF_MODE * SMALLEST_PSF_MODE else 0.0


# no fastmath, though it saves 15 %: its sums depend on what is inlined, so on what was in the cache of compiled code
@njit(cache=True, nogil=True)
def gaussian_moments(
    real: Floats,
    imag: Floats,
    size: int,
    a_rr: float,
    a_rc: float,
    a_cc: float,
    row: float,
    col: float,
    scratch: Floats,
    moments: Floats,
) -> None:
    r"""Sum a plane times a Gaussian, a phase and every monomial of k up to order four.

    With :math:`z(k) = D(k)\,e^{i k\cdot c}\,e^{-k^T A k / 2}` the sums over the **whole** plane (a half plane stands
    for both) are :math:`\mathrm{Re}\sum k_r^p k_c^q z` for even p + q, and the imaginary part of it for odd p + q.
    They are written to ``moments[n (n + 1) / 2 + q]``, n = p + q, k in radians per pixel. ``scratch`` is (4, half + 1).
    """
    half = real.shape[1] - 1
    cell = 2.0 * math.pi / size
    rows = min(half, int(math.sqrt(2.0 * EXPONENT_LIMIT / (a_rr - a_rc * a_rc / a_cc)) / cell))
    cols = min(half, int(math.sqrt(2.0 * EXPONENT_LIMIT / (a_cc - a_rc * a_rc / a_rr)) / cell)) + 1
    base_real, base_imag, cross, ratio = scratch[0], scratch[1], scratch[2], scratch[3]
    for i in range(cols):
        k_col = i * cell
        twice = 2.0 if i > 0 else 1.0  # the mirrored half plane holds the complex conjugates
        amplitude = twice * math.exp(-0.5 * a_cc * k_col * k_col)
        base_real[i] = amplitude * math.cos(k_col * col)
        base_imag[i] = amplitude * math.sin(k_col * col)
        cross[i] = math.exp(a_rc * rows * cell * k_col)
        ratio[i] = math.exp(-a_rc * cell * k_col)
    moments[:] = 0.0
    for j in range(half - rows, half + rows + 1):
        s0r = s0i = s1r = s1i = s2r = s2i = s3r = s3i = s4r = s4i = 0.0
        for i in range(cols):
            power = float(i)
            z_real = (real[j, i] * base_real[i] - imag[j, i] * base_imag[i]) * cross[i]
            z_imag = (real[j, i] * base_imag[i] + imag[j, i] * base_real[i]) * cross[i]
            cross[i] *= ratio[i]
            s0r += z_real
            s0i += z_imag
            s1r += z_real * power
            s1i += z_imag * power
            s2r += z_real * power * power
            s2i += z_imag * power * power
            s3r += z_real * power * power * power
            s3i += z_imag * power * power * power
            s4r += z_real * power * power * power * power
            s4i += z_imag * power * power * power * power
        k_row = (j - half) * cell
        amplitude = math.exp(-0.5 * a_rr * k_row * k_row)
        p_real = amplitude * math.cos(k_row * row)
        p_imag = amplitude * math.sin(k_row * row)
        r0, i0 = s0r * p_real - s0i * p_imag, s0r * p_imag + s0i * p_real
        r1, i1 = (s1r * p_real - s1i * p_imag) * cell, (s1r * p_imag + s1i * p_real) * cell
        r2, i2 = (s2r * p_real - s2i * p_imag) * cell**2, (s2r * p_imag + s2i * p_real) * cell**2
        r3, i3 = (s3r * p_real - s3i * p_imag) * cell**3, (s3r * p_imag + s3i * p_real) * cell**3
        r4 = (s4r * p_real - s4i * p_imag) * cell**4
        _add_row(moments, k_row, r0, i0, r1, i1, r2, i2, r3, i3, r4)


@njit(cache=True, nogil=True, inline="always")
def _add_row(
    moments: Floats,
    k: float,
    r0: float,
    i0: float,
    r1: float,
    i1: float,
    r2: float,
    i2: float,
    r3: float,
    i3: float,
    r4: float,
) -> None:
    moments[0] += r0
    moments[1] += k * i0
    moments[2] += i1
    moments[3] += k * k * r0
    moments[4] += k * r1
    moments[5] += r2
    moments[6] += k * k * k * i0
    moments[7] += k * k * i1
    moments[8] += k * i2
    moments[9] += i3
    moments[10] += k * k * k * k * r0
    moments[11] += k * k * k * r1
    moments[12] += k * k * r2
    moments[13] += k * r3
    moments[14] += r4


@njit(cache=True, nogil=True)
def add_moments_in_frame(moments: Floats, frame: Floats, total: Floats) -> None:
    r"""Turn moments over pixel frequencies into moments over sky frequencies and add them to ``total``.

    ``frame`` is the 2 by 2 matrix G with pixel = G sky, so :math:`k_{sky} = G^T k_{pixel}`. Each monomial
    :math:`k_v^p k_u^q` is a product of linear forms of the pixel frequencies; it is multiplied out factor by factor.
    """
    product = np.empty(5)
    for order in range(5):
        start = order * (order + 1) // 2
        for q in range(order + 1):
            product[:] = 0.0
            product[0] = 1.0
            for factor in range(order):
                axis = 0 if factor < order - q else 1
                along_row, along_col = frame[0, axis], frame[1, axis]
                for n in range(factor + 1, 0, -1):
                    product[n] = product[n] * along_row + product[n - 1] * along_col
                product[0] *= along_row
            for n in range(order + 1):
                total[start + q] += product[n] * moments[start + n]


@njit(cache=True, nogil=True)
def target_variance(psf_real: Floats, size: int, frame: Floats, azimuthal: bool) -> float:
    """Variance (square units of the sky frame) of the round Gaussian that a PSF is replaced by.

    The Gaussian falls to 0.3 p at the frequency at which the PSF falls to p. ``azimuthal``: the frequency is that of
    the mean over azimuth and p = 0.03 ("azgauss", little moved by noise in the PSF); otherwise it is the smallest of
    all directions and p = 0.01 ("gauss"). Interpolated logarithmically between rings of one cell.
    """
    half = psf_real.shape[1] - 1
    threshold = AZGAUSS_THRESHOLD if azimuthal else GAUSS_THRESHOLD
    flux = psf_real[half, 0]
    cell = 2.0 * math.pi / size * math.sqrt(abs(frame[0, 0] * frame[1, 1] - frame[0, 1] * frame[1, 0]))
    total = np.zeros(half + 1)
    count = np.zeros(half + 1)
    radius = np.zeros(half + 1)
    for j in range(2 * half + 1):
        for i in range(half + 1):
            r = _sky_radius(j - half, i, size, frame) / cell
            ring = int(r + 0.5)
            if ring <= half:
                total[ring] += psf_real[j, i] / flux
                count[ring] += 1.0
                radius[ring] += r
    outer = 1
    while outer < half and total[outer] >= threshold * count[outer]:
        outer += 1
    inner = outer - 1
    above = max(total[inner] / count[inner], 1e-12)
    below = max(total[outer] / count[outer], 1e-12)
    slope = math.log(below / above) / (radius[outer] / count[outer] - radius[inner] / count[inner])
    if not slope < 0.0:
        return math.nan
    crossing = radius[inner] / count[inner] + math.log(threshold / above) / slope
    if not azimuthal:
        crossing = _first_crossing(psf_real, flux, size, frame, cell, crossing, slope, threshold)
    return float(-2.0 * math.log(PIN_FRACTION * threshold) / (crossing * cell) ** 2)


@njit(cache=True, nogil=True, inline="always")
def _sky_radius(k_row: int, k_col: int, size: int, frame: Floats) -> float:
    k_v = frame[0, 0] * k_row + frame[1, 0] * k_col
    k_u = frame[0, 1] * k_row + frame[1, 1] * k_col
    return 2.0 * math.pi / size * math.sqrt(float(k_v * k_v + k_u * k_u))


@njit(cache=True, nogil=True)
def _first_crossing(
    psf_real: Floats,
    flux: float,
    size: int,
    frame: Floats,
    cell: float,
    mean_crossing: float,
    slope: float,
    threshold: float,
) -> float:
    """Frequency, in cells, of the direction in which the PSF falls to the threshold first."""
    half = psf_real.shape[1] - 1
    smallest = 1.3 * mean_crossing
    for j in range(2 * half + 1):
        for i in range(half + 1):
            r = _sky_radius(j - half, i, size, frame) / cell
            value = psf_real[j, i] / flux
            if abs(r - mean_crossing) < 1.0 and value > 0.0:
                smallest = min(smallest, r + math.log(threshold / value) / slope)
    return smallest
