"""Compiled measurements at single sources: isophotal sums, windowed centroids and variances, core widths.

The kernels read four maps of one shape (ny, nx): background-subtracted ``data`` (float32), its ``variance`` (float32),
``bad`` (bool) and the ``segments`` (int32, source numbers). A pixel that is bad or belongs to another source takes the
value of the pixel opposite to it, as SExtractor's MASK_TYPE CORRECT does, or 0 where that one cannot be used either.
"""

# ruff: noqa: ANN001, ANN201 (numba takes the types of kernels from their arguments)
from __future__ import annotations

import numpy as np

from tasks.science.compiled import njit

FWHM_PER_SIGMA = 2.3548200450309493

ISOPHOTE_SUMS = ("flux", "x", "y", "x2", "y2", "xy", "peak")
"""Columns of the first result of `isophote_sums`."""
ISOPHOTE_COUNTS = ("area", "saturated", "at_edge", "mask")
"""Columns of the second result of `isophote_sums`."""
WINDOW_COLUMNS = ("x", "y", "snr", "x2", "y2", "xy", "errx2", "erry2", "errxy", "flags")
"""Columns of the result of `window_moments`."""


@njit(cache=True, nogil=True)
def pixel_value(data, variance, bad, segments, label, x, y, i, j):  # type: ignore[no-untyped-def]
    """Return value and variance of pixel (i, j) as source ``label`` at (x, y) sees it, and whether it is its own."""
    ny, nx = data.shape
    if not bad[j, i] and (segments[j, i] == 0 or segments[j, i] == label):
        return data[j, i], variance[j, i], True
    i, j = int(np.rint(2.0 * x - i)), int(np.rint(2.0 * y - j))
    if 0 <= i < nx and 0 <= j < ny and not bad[j, i] and (segments[j, i] == 0 or segments[j, i] == label):
        return data[j, i], variance[j, i], False
    return np.float32(0.0), np.float32(0.0), False


@njit(cache=True, nogil=True)
def isophote_sums(  # type: ignore[no-untyped-def]
    filtered, data, bad, segments, mask, saturated, n_sources
):
    """Sum over the pixels of every source: centroids and variances of the filtered image, peaks of the image itself.

    Returns
    -------
    tuple of ndarray
        float64 (n_sources, 7), see `ISOPHOTE_SUMS`: flux and moments in pixels, peak in units of the image; and
        int64 (n_sources, 4), see `ISOPHOTE_COUNTS`: number of pixels, of saturated ones, of those at the image edge,
        and the OR of the mask there and at the bad pixels that touch it: a bad pixel in a star is a hole in its
        isophote, and would otherwise go unseen.
    """
    ny, nx = data.shape
    sums, counts = np.zeros((n_sources, 7)), np.zeros((n_sources, 4), np.int64)
    sums[:, 6] = -np.inf
    first = np.zeros((n_sources, 2))
    for j in range(ny):
        for i in range(nx):
            k = segments[j, i] - 1
            if k < 0:
                continue
            if counts[k, 0] == 0:
                first[k, 0], first[k, 1] = i, j
            # relative to the first pixel: far from the origin x^2 - <x>^2 would lose the digits of a small source
            value, dx, dy = filtered[j, i], i - first[k, 0], j - first[k, 1]
            sums[k, 0] += value
            sums[k, 1] += value * dx
            sums[k, 2] += value * dy
            sums[k, 3] += value * dx * dx
            sums[k, 4] += value * dy * dy
            sums[k, 5] += value * dx * dy
            sums[k, 6] = max(sums[k, 6], data[j, i])
            counts[k, 0] += 1
            counts[k, 1] += saturated[j, i]
            counts[k, 2] += i == 0 or j == 0 or i == nx - 1 or j == ny - 1
            counts[k, 3] |= mask[j, i]
            for q in range(max(j - 1, 0), min(j + 1, ny - 1) + 1):
                for p in range(max(i - 1, 0), min(i + 1, nx - 1) + 1):
                    if bad[q, p]:
                        counts[k, 3] |= mask[q, p]
    for k in range(n_sources):
        flux = sums[k, 0]
        mx, my = sums[k, 1] / flux, sums[k, 2] / flux
        sums[k, 3] = sums[k, 3] / flux - mx * mx
        sums[k, 4] = sums[k, 4] / flux - my * my
        sums[k, 5] = sums[k, 5] / flux - mx * my
        sums[k, 1], sums[k, 2] = first[k, 0] + mx, first[k, 1] + my
    return sums, counts


@njit(cache=True, nogil=True)
def window_moments(  # type: ignore[no-untyped-def]
    data, variance, bad, segments, x_start, y_start, half_light, gain, max_iterations
):
    """Centroid, variances and signal-to-noise ratio of every source in a Gaussian window.

    The window has the FWHM of twice the half-light radius and is cut at four sigma; the centroid is iterated by
    x += 2 sum(w I dx) / sum(w I). SExtractor manual, section on windowed positional parameters.

    Parameters
    ----------
    x_start, y_start, half_light
        First centroids and half-light radii of sources 1 ... n, pixels.
    gain
        Electrons per unit of the image, for the photon noise of the source; 0 leaves it out.

    Returns
    -------
    ndarray of float64
        Shape (n_sources, 10), see `WINDOW_COLUMNS`; flags 1: no centroid, 2: variances not positive.
    """
    ny, nx = data.shape
    result = np.zeros((x_start.size, 10))
    for k in range(x_start.size):
        sigma = max(2.0 * half_light[k] / FWHM_PER_SIGMA, 0.5)
        reach, x, y, ok = 4.0 * sigma, x_start[k], y_start[k], False
        for iteration in range(max_iterations + 1):
            total, sx, sy, sxx, syy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            noise, vxx, vyy, vxy = 0.0, 0.0, 0.0, 0.0
            for j in range(max(int(np.ceil(y - reach)), 0), min(int(y + reach), ny - 1) + 1):
                for i in range(max(int(np.ceil(x - reach)), 0), min(int(x + reach), nx - 1) + 1):
                    dx, dy = i - x, j - y
                    r2 = dx * dx + dy * dy
                    if r2 > reach * reach:
                        continue
                    w = np.exp(-0.5 * r2 / (sigma * sigma))
                    value, var, _ = pixel_value(data, variance, bad, segments, k + 1, x, y, i, j)
                    if gain > 0.0 and value > 0.0:
                        var += value / gain
                    total += w * value
                    sx += w * value * dx
                    sy += w * value * dy
                    sxx += w * value * dx * dx
                    syy += w * value * dy * dy
                    sxy += w * value * dx * dy
                    noise += w * w * var
                    vxx += w * w * var * dx * dx
                    vyy += w * w * var * dy * dy
                    vxy += w * w * var * dx * dy
            if total <= 0.0 or iteration == max_iterations:
                break
            step_x, step_y = 2.0 * sx / total, 2.0 * sy / total
            if ok:
                break
            x, y = x + step_x, y + step_y
            if (x - x_start[k]) ** 2 + (y - y_start[k]) ** 2 > 4.0 * sigma * sigma:
                break
            # one more round after the last step, so that the sums belong to the centroid
            ok = step_x * step_x + step_y * step_y < 1e-10
        out = result[k]
        out[0], out[1] = (x, y) if ok else (x_start[k], y_start[k])
        out[9] = 0.0 if ok else 1.0
        out[2] = total / np.sqrt(noise) if noise > 0.0 else np.nan
        if total > 0.0:
            out[3], out[4], out[5] = sxx / total, syy / total, sxy / total
            out[6], out[7], out[8] = 4.0 * vxx / total**2, 4.0 * vyy / total**2, 4.0 * vxy / total**2
        else:
            out[3:9] = np.nan
        if not (out[3] > 0.0 and out[4] > 0.0 and out[3] * out[4] > out[5] ** 2):
            out[9] += 2.0
    return result


@njit(cache=True, nogil=True)
def core_fwhm(data, variance, bad, segments, x, y, half_light):  # type: ignore[no-untyped-def]
    """FWHM of a round Gaussian that is fitted to the core of every source, pixels; NaN where the fit fails.

    Least squares of amplitude and sigma at a fixed centre, weighted by a Gaussian of the width of a first, unweighted
    fit, so that the core decides and no pixel enters or leaves during the fit. The width includes the pixel.
    """
    ny, nx = data.shape
    result = np.full(x.size, np.nan)
    for k in range(x.size):
        start = max(2.0 * half_light[k] / FWHM_PER_SIGMA, 0.6)
        reach = max(3.0 * start, 2.5)
        sigma, window, amplitude = start, 1.5 * start, 0.0
        for iteration in range(40):
            gg, gd, gi, dd, di = 0.0, 0.0, 0.0, 0.0, 0.0
            for j in range(max(int(np.ceil(y[k] - reach)), 0), min(int(y[k] + reach), ny - 1) + 1):
                for i in range(max(int(np.ceil(x[k] - reach)), 0), min(int(x[k] + reach), nx - 1) + 1):
                    r2 = (i - x[k]) ** 2 + (j - y[k]) ** 2
                    if r2 > reach * reach:
                        continue
                    value, _, own = pixel_value(data, variance, bad, segments, k + 1, x[k], y[k], i, j)
                    if not own:
                        continue
                    w = np.exp(-0.5 * r2 / (window * window))
                    g = np.exp(-0.5 * r2 / (sigma * sigma))
                    d = g * r2 / (sigma * sigma)  # derivative by ln sigma at unit amplitude
                    gg += w * g * g
                    gd += w * g * d
                    gi += w * g * value
                    dd += w * d * d
                    di += w * d * value
            determinant = gg * dd - gd * gd
            if determinant <= 0.0:
                break
            # value = A g + (A ds) d is linear in A and A ds
            amplitude = (gi * dd - di * gd) / determinant
            if amplitude <= 0.0:
                break
            step = (di * gg - gi * gd) / determinant / amplitude
            sigma *= np.exp(min(max(step, -0.5), 0.5))
            if not 0.2 < sigma < 3.0 * start + 1.0:
                break
            if iteration == 7:
                window = 0.8 * sigma  # from here on fixed: the core
            elif iteration > 7 and abs(step) < 1e-6:
                result[k] = FWHM_PER_SIGMA * sigma
                break
    return result
