"""Compiled photometry of single sources: Kron-like ellipses, circles, half-light radii.

The kernels read the maps that ``tasks.science.window`` describes. Pixels that the edge of an aperture crosses are
divided into 8 x 8 parts.
"""

# ruff: noqa: ANN001, ANN201, ANN202 (numba takes the types of kernels from their arguments)
from __future__ import annotations

import numpy as np

from tasks.science.compiled import njit
from tasks.science.window import pixel_value

KRON_COLUMNS = ("flux", "variance", "radius", "disturbed", "outside")
"""Columns of the result of `kron_photometry`."""
PARTS = 8


@njit(cache=True, nogil=True)
def _overlap(dx, dy, cxx, cyy, cxy, radius, margin):  # type: ignore[no-untyped-def]
    """Fraction of the pixel at (dx, dy) inside the ellipse cxx dx^2 + cyy dy^2 + cxy dx dy <= radius^2."""
    r = np.sqrt(cxx * dx * dx + cyy * dy * dy + cxy * dx * dy)
    if r <= radius - margin:
        return 1.0
    if r >= radius + margin:
        return 0.0
    inside = 0
    for q in range(PARTS):
        v = dy + (q + 0.5) / PARTS - 0.5
        for p in range(PARTS):
            u = dx + (p + 0.5) / PARTS - 0.5
            inside += cxx * u * u + cyy * v * v + cxy * u * v <= radius * radius
    return inside / (PARTS * PARTS)


@njit(cache=True, nogil=True)
def _ellipse_sum(  # type: ignore[no-untyped-def]
    data, variance, bad, segments, label, x, y, cxx, cyy, cxy, radius, gain
):
    """Sum over an ellipse: flux, its variance, its area in the image, the part of it disturbed, its whole area."""
    ny, nx = data.shape
    det = cxx * cyy - 0.25 * cxy * cxy
    half_x, half_y = radius * np.sqrt(cyy / det), radius * np.sqrt(cxx / det)
    # |grad r| is largest along the minor axis
    largest = np.sqrt(0.5 * (cxx + cyy) + np.sqrt(0.25 * (cxx - cyy) ** 2 + 0.25 * cxy * cxy))
    margin = 0.7072 * largest
    flux, noise, area, disturbed = 0.0, 0.0, 0.0, 0.0
    for j in range(max(int(np.floor(y - half_y)), 0), min(int(np.ceil(y + half_y)), ny - 1) + 1):
        for i in range(max(int(np.floor(x - half_x)), 0), min(int(np.ceil(x + half_x)), nx - 1) + 1):
            part = _overlap(i - x, j - y, cxx, cyy, cxy, radius, margin)
            if part == 0.0:
                continue
            value, var, own = pixel_value(data, variance, bad, segments, label, x, y, i, j)
            if gain > 0.0 and value > 0.0:
                var += value / gain
            flux += part * value
            noise += part * var
            area += part
            if not own:
                disturbed += part
    return flux, noise, area, disturbed, np.pi * radius * radius / np.sqrt(det)


@njit(cache=True, nogil=True)
def kron_photometry(  # type: ignore[no-untyped-def]
    data, variance, bad, segments, x, y, x2, y2, xy, gain, factor, least_radius
):
    """Flux of every source in a Kron-like ellipse (Kron 1980; Bertin & Arnouts 1996, sect. 7.4).

    Parameters
    ----------
    x, y, x2, y2, xy
        Isophotal centroids and variances, pixels.
    gain
        Electrons per unit of the image, for the photon noise of the source; 0 leaves it out.
    factor, least_radius
        The ellipse has ``max(factor * r1, least_radius)`` times the isophotal axes, r1 being the first radial moment
        within six times these axes.

    Returns
    -------
    ndarray of float64
        Shape (n_sources, 5), see `KRON_COLUMNS`: flux and its variance, scale of the ellipse, fraction of its area
        that is bad or belongs to others, fraction outside the image.
    """
    ny, nx = data.shape
    result = np.zeros((x.size, 5))
    for k in range(x.size):
        det = x2[k] * y2[k] - xy[k] * xy[k]
        cxx, cyy, cxy = y2[k] / det, x2[k] / det, -2.0 * xy[k] / det
        half_x, half_y = 6.0 * np.sqrt(x2[k]), 6.0 * np.sqrt(y2[k])
        total, moment = 0.0, 0.0
        for j in range(max(int(np.ceil(y[k] - half_y)), 0), min(int(y[k] + half_y), ny - 1) + 1):
            for i in range(max(int(np.ceil(x[k] - half_x)), 0), min(int(x[k] + half_x), nx - 1) + 1):
                dx, dy = i - x[k], j - y[k]
                r2 = cxx * dx * dx + cyy * dy * dy + cxy * dx * dy
                if r2 <= 36.0:
                    value, _, _ = pixel_value(data, variance, bad, segments, k + 1, x[k], y[k], i, j)
                    total += value
                    moment += np.sqrt(r2) * value
        r1 = min(moment / total, 6.0) if total > 0.0 and moment > 0.0 else 0.0
        radius = max(factor * r1, least_radius)
        flux, noise, area, disturbed, whole = _ellipse_sum(
            data, variance, bad, segments, k + 1, x[k], y[k], cxx, cyy, cxy, radius, gain
        )
        out = result[k]
        out[0], out[1], out[2] = flux, noise, radius
        out[3], out[4] = disturbed / whole, 1.0 - area / whole
    return result


@njit(cache=True, nogil=True)
def circle_photometry(  # type: ignore[no-untyped-def]
    data, variance, bad, segments, x, y, radii, gain
):
    """Flux of every source in circles.

    Returns
    -------
    tuple of ndarray
        Fluxes and their variances, float64, shape (n_sources, n_radii).
    """
    fluxes, noises = np.zeros((x.size, radii.size)), np.zeros((x.size, radii.size))
    for k in range(x.size):
        for r in range(radii.size):
            flux, noise, _, _, _ = _ellipse_sum(
                data, variance, bad, segments, k + 1, x[k], y[k], 1.0, 1.0, 0.0, radii[r], gain
            )
            fluxes[k, r], noises[k, r] = flux, noise
    return fluxes, noises


@njit(cache=True, nogil=True)
def half_light_radii(  # type: ignore[no-untyped-def]
    data, variance, bad, segments, x, y, flux, reach
):
    """Radius in pixels of the smallest circle that holds half of ``flux``, for every source.

    Half-pixel steps outwards until the circle holds enough, then bisection to 1e-3 px; NaN if the flux is not positive
    or no circle within ``reach`` pixels holds half of it.
    """
    result = np.full(x.size, np.nan)
    for k in range(x.size):
        goal, low, high = 0.5 * flux[k], 0.0, 0.0
        if not goal > 0.0:
            continue
        step, found = max(0.5, reach[k] / 100.0), False
        while high < reach[k] and not found:
            low, high = high, high + step
            held, _, _, _, _ = _ellipse_sum(data, variance, bad, segments, k + 1, x[k], y[k], 1.0, 1.0, 0.0, high, 0.0)
            found = held >= goal
        if not found:
            continue
        while high - low > 1e-3:
            middle = 0.5 * (low + high)
            held, _, _, _, _ = _ellipse_sum(
                data, variance, bad, segments, k + 1, x[k], y[k], 1.0, 1.0, 0.0, middle, 0.0
            )
            if held >= goal:
                high = middle
            else:
                low = middle
        result[k] = 0.5 * (low + high)
    return result
