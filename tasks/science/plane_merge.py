"""Rows of planes merged: what an image adds to means, variances, weights and context of one row of the output.

Every pixel is computed, and kept as it was where the image adds nothing: without branches, the compiler works on
several pixels at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.science.compiled import njit
from tasks.science.drop_kernels import ADDED_POSITIVE
from tasks.science.engine_options import PART
from tasks.science.lanes import UNSIGNED_LANES, transpose

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Flags = NDArray[np.uint32]
Marks = NDArray[np.uint8]


@njit(**PART)
def take_planes(sums: Floats32, first: int, n_planes: int, planes: Floats32, n: int) -> None:
    """Set each row of ``planes`` to one plane of the sums of some pixels, and of up to three behind them."""
    step, row = np.uint64(n_planes), np.uint64(planes.shape[1])
    for c in range(np.uint64(0), np.uint64(n), UNSIGNED_LANES):
        for plane in range(np.uint64(0), step, UNSIGNED_LANES):
            transpose(sums, (np.uint64(first) + c) * step + plane, step, planes, plane * row + c, row)


@njit(**PART)
def empty(numbers: Floats32 | Flags | Marks, first: int, count: int) -> None:
    """Set numbers to 0."""
    start = np.uint64(first)
    for k in range(np.uint64(count)):
        numbers[start + k] = 0


@njit(**PART)
def merge_mean(mean: Floats32, before: Floats32, added: Floats32, weight: Floats32, fill: float) -> None:
    """Merge a mean: ``added`` is the sum of value times weight."""
    for c in range(len(mean)):
        old_weight, new_weight = np.float64(before[c]), np.float64(weight[c])
        old = mean[c] * old_weight
        old = old if old_weight != 0.0 else 0.0
        total = old_weight + new_weight
        value = (old + added[c]) / total
        value = value if total != 0.0 else fill
        mean[c] = value if new_weight != 0.0 else mean[c]


@njit(**PART)
def set_inverses(numbers: Floats32, inverses: Floats) -> None:
    """Set a row to the inverses of another, for what several planes divide by."""
    for c in range(len(numbers)):
        inverses[c] = 1.0 / np.float64(numbers[c])


@njit(**PART)
def set_variance_weights(errors: Floats32, inverse_weight: Floats, variance_weights: Floats) -> None:
    """Set the weights of an image in the averaged variances to the inverses of one of its own."""
    for c in range(len(errors)):
        error = errors[c] * inverse_weight[c]
        variance_weights[c] = 1.0 / (error * error)


@njit(**PART)
def merge_averaged(
    variance: Floats32,
    totals: Floats32,
    errors: Floats32,
    weight: Floats32,
    inverse_weight: Floats,
    variance_weights: Floats,
) -> None:
    """Merge the square of the mean error, the image being weighted as a whole."""
    for c in range(len(variance)):
        error = errors[c] * inverse_weight[c]
        new, g, before = error * error, variance_weights[c], np.float64(totals[c])
        used = (weight[c] != 0.0) & (g > 0.0) & (g < np.inf) & (new < np.inf)
        total = before + g
        inverse = 1.0 / total
        old_share, new_share = before * inverse, g * inverse
        old = variance[c] * old_share * old_share
        old = old if before > 0.0 else 0.0
        variance[c] = old + new * new_share * new_share if used else variance[c]
        totals[c] = total if used else totals[c]


@njit(**PART)
def merge_propagated(variance: Floats32, before: Floats32, squares: Floats32, weight: Floats32) -> None:
    """Merge a sum of squared coefficients times variances; what is not finite is left out."""
    for c in range(len(variance)):
        old_weight = np.float64(before[c])
        inverse = 1.0 / (old_weight + weight[c])
        share = old_weight * inverse
        old = variance[c] * share * share
        old = old if old_weight != 0.0 else 0.0
        used = (weight[c] != 0.0) & (squares[c] < np.inf)
        variance[c] = old + squares[c] * inverse * inverse if used else variance[c]


@njit(**PART)
def leave_out(weight: Floats32, added: Floats32, left: Floats32) -> None:
    """Set weights to 0 where what they belong to is not finite."""
    for c in range(len(weight)):
        left[c] = weight[c] if abs(added[c]) < np.inf else np.float32(0.0)


@njit(**PART)
def add_row(totals: Floats32, weight: Floats32) -> None:
    """Add weights to their sums."""
    for c in range(len(totals)):
        totals[c] += weight[c]


@njit(**PART)
def mark_contributions(
    weight: Floats32, marks: Marks, context: Flags, bit: np.uint32, time: Floats32, seconds: np.float32
) -> int:
    """Set the context bit and add the time where the image contributes; return to how many pixels it does."""
    count = 0
    for c in range(len(weight)):
        contributes = marks[c] == ADDED_POSITIVE if len(marks) > 0 else weight[c] > 0.0
        count += contributes
        if len(context) > 0:
            context[c] |= bit if contributes else np.uint32(0)
        if len(time) > 0:
            time[c] += seconds if contributes else np.float32(0.0)
    return count
