"""Statistics that outliers do not spoil."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.science.compiled import njit

MAD_TO_SIGMA = 1.4826022185056018
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
CLIPPED_SIGMA_3 = 0.98658
"""Standard deviation of a normal distribution that is cut at three standard deviations, in units of the full one."""


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """Return the finite values as a flat float64 array; the input is not changed."""
    array = np.asarray(values, dtype=np.float64).ravel()
    result: NDArray[np.float64] = array[np.isfinite(array)]
    return result


def sigma_mad(values: ArrayLike) -> float:
    """Return the standard deviation estimated from the median absolute deviation, NaN if no value is finite."""
    good = finite(values)
    if good.size == 0:
        return float("nan")
    return float(MAD_TO_SIGMA * np.median(np.abs(good - np.median(good))))


def clipped_statistics(
    values: ArrayLike, *, n_sigma: float = 3.0, max_iterations: int = 20
) -> tuple[float, float, float]:
    """Return mean, median and standard deviation after clipping around the median.

    Parameters
    ----------
    values
        Numbers of any shape; those that are not finite are left out.
    n_sigma
        Values further than this from the median, in standard deviations, are left out in the next round.
    max_iterations
        Upper limit of rounds; usually nothing changes after five.

    Returns
    -------
    tuple of float
        Mean, median and population standard deviation of what is left; NaN three times if nothing is finite.
    """
    good = np.sort(finite(values))
    if good.size == 0:
        return float("nan"), float("nan"), float("nan")
    mean, median, sigma = clip_sorted(good, n_sigma, max_iterations)
    return float(mean), float(median), float(sigma)


def mode(values: ArrayLike, *, few: int = 20, width: float = 1e-3, max_iterations: int = 1000) -> float:
    """Return the most frequent value by repeated histograms, the estimator of ShapePipe's star selection.

    A histogram of N / 5 bins (N / 10 above 100 values) is made of the current window; the fullest bin, the first of
    equals, becomes the new window. It stops when the window is narrower than ``width``, when no bin holds two values,
    or when the window holds fewer than two distinct values, so the window is never empty.

    Parameters
    ----------
    values
        Numbers of any shape; those that are not finite are left out.
    few
        Below this number of values the median is returned.
    width
        Width of the last window, in units of the values.
    max_iterations
        Upper limit of rounds.

    Returns
    -------
    float
        Middle of the last window, or NaN if nothing is finite.
    """
    good = np.sort(finite(values))
    if good.size == 0:
        return float("nan")
    if good.size < few:
        return float(np.median(good))
    n_bins = good.size // 5 if good.size <= 100 else good.size // 10
    window = good
    for _ in range(max_iterations):
        low, high = float(window[0]), float(window[-1])
        # a window that is narrow against its own position cannot be divided into bins in float64
        if high - low <= max(width, 64 * np.finfo(np.float64).eps * max(abs(low), abs(high))):
            break
        counts, edges = np.histogram(window, bins=n_bins, range=(low, high))
        fullest = int(np.argmax(counts))
        if counts[fullest] < 2:
            break
        # only the last bin of a histogram includes its upper edge
        below = window <= edges[fullest + 1] if fullest == n_bins - 1 else window < edges[fullest + 1]
        inside = window[(window >= edges[fullest]) & below]
        if inside.size < 2:
            break
        window = inside
    return float(0.5 * (window[0] + window[-1]))


@njit(cache=True, nogil=True)
def clip_sorted(values, n_sigma, max_iterations):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Clip sorted values around their median: the values that are left are always one run of the array."""
    low, high = 0, values.size
    mean, median, sigma = 0.0, 0.0, 0.0
    for _ in range(max_iterations):
        n = high - low
        middle = low + n // 2
        median = float(values[middle]) if n % 2 else 0.5 * (float(values[middle - 1]) + float(values[middle]))
        total, squares = 0.0, 0.0
        for i in range(low, high):
            # relative to the median: a sky of 1e4 with a noise of 1 would lose digits in the squares
            difference = float(values[i]) - median
            total += difference
            squares += difference * difference
        mean = median + total / n
        sigma = np.sqrt(max(squares / n - (total / n) ** 2, 0.0))
        new_low, new_high = low, high
        while new_low < new_high - 1 and values[new_low] < median - n_sigma * sigma:
            new_low += 1
        while new_high > new_low + 1 and values[new_high - 1] > median + n_sigma * sigma:
            new_high -= 1
        if new_low == low and new_high == high:
            break
        low, high = new_low, new_high
    return mean, median, sigma
