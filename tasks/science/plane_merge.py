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

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Flags = NDArray[np.uint32]
Marks = NDArray[np.uint8]


@njit(**PART)
def take_plane(sums: Floats32, first: int, place: int, n_planes: int, row: Floats) -> None:
    """Set a row to one plane of sums from a pixel on."""
    at, step = np.uint64(first * n_planes + place), np.uint64(n_planes)
    for c in range(len(row)):
        row[c] = sums[at]
        at += step


@njit(**PART)
def empty(numbers: Floats32 | Flags | Marks, first: int, count: int) -> None:
    """Set numbers to 0."""
    start = np.uint64(first)
    for k in range(np.uint64(count)):
        numbers[start + k] = 0


@njit(**PART)
def copy_row(source: Floats32, row: Floats) -> None:
    """Copy a row to one of double precision."""
    for c in range(len(row)):
        row[c] = source[c]


@njit(**PART)
def merge_mean(mean: Floats32, before: Floats, added: Floats, weight: Floats, fill: float) -> None:
    """Merge a mean: ``added`` is the sum of value times weight."""
    for c in range(len(mean)):
        old = mean[c] * before[c]
        old = old if before[c] != 0.0 else 0.0
        total = before[c] + weight[c]
        value = (old + added[c]) / total
        value = value if total != 0.0 else fill
        mean[c] = value if weight[c] != 0.0 else mean[c]


@njit(**PART)
def set_inverses(numbers: Floats, inverses: Floats) -> None:
    """Set a row to the inverses of another, for what several planes divide by."""
    for c in range(len(numbers)):
        inverses[c] = 1.0 / numbers[c]


@njit(**PART)
def set_variance_weights(errors: Floats, inverse_weight: Floats, variance_weights: Floats) -> None:
    """Set the weights of an image in the averaged variances to the inverses of one of its own."""
    for c in range(len(errors)):
        error = errors[c] * inverse_weight[c]
        variance_weights[c] = 1.0 / (error * error)


@njit(**PART)
def merge_averaged(
    variance: Floats32,
    totals: Floats32,
    errors: Floats,
    weight: Floats,
    inverse_weight: Floats,
    variance_weights: Floats,
) -> None:
    """Merge the square of the mean error, the image being weighted as a whole."""
    for c in range(len(variance)):
        error = errors[c] * inverse_weight[c]
        new, g, before = error * error, variance_weights[c], float(totals[c])
        used = (weight[c] != 0.0) & (g > 0.0) & (g < np.inf) & (new < np.inf)
        total = before + g
        inverse = 1.0 / total
        old_share, new_share = before * inverse, g * inverse
        old = variance[c] * old_share * old_share
        old = old if before > 0.0 else 0.0
        variance[c] = old + new * new_share * new_share if used else variance[c]
        totals[c] = total if used else totals[c]


@njit(**PART)
def merge_propagated(variance: Floats32, before: Floats, squares: Floats, weight: Floats) -> None:
    """Merge a sum of squared coefficients times variances; what is not finite is left out."""
    for c in range(len(variance)):
        inverse = 1.0 / (before[c] + weight[c])
        share = before[c] * inverse
        old = variance[c] * share * share
        old = old if before[c] != 0.0 else 0.0
        used = (weight[c] != 0.0) & (squares[c] < np.inf)
        variance[c] = old + squares[c] * inverse * inverse if used else variance[c]


@njit(**PART)
def leave_out(weight: Floats, added: Floats, left: Floats) -> None:
    """Set weights to 0 where what they belong to is not finite."""
    for c in range(len(weight)):
        left[c] = weight[c] if abs(added[c]) < np.inf else 0.0


@njit(**PART)
def add_row(totals: Floats32, weight: Floats) -> None:
    """Add weights to their sums."""
    for c in range(len(totals)):
        totals[c] += weight[c]


@njit(**PART)
def mark_contributions(
    weight: Floats, marks: Marks, context: Flags, bit: np.uint32, time: Floats32, seconds: np.float32
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
