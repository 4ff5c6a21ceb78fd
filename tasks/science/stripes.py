"""Detectors that are read in stripes: which lines of the detector a frame holds, and planes with these lines.

The rules are those of the multistripe subarrays of JWST, which its calibration pipeline uses for references (jwst 3.0,
``lib/stripe_utils.py``): lines count along the slow axis in the order of the readout, and references cover the slow
axis of the whole detector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.errors import BadFileError, ReferenceMismatchError
from tasks.products.detector import StripeReadout
from tasks.products.windows import Window
from tasks.science.subarrays import Scalar, view_window

DETECTOR_LINES = 2048
"""Lines along the slow axis of the detectors that are read in stripes."""


def stripe_lines(readout: StripeReadout, start: int, n_lines: int, superstripe: int, subject: str) -> NDArray[np.intp]:
    """Return which line of the detector each line of a frame is, in the order of the readout.

    Parameters
    ----------
    readout
        How the lines are read.
    start
        First line of the window, 0-based, in the order of the readout.
    n_lines
        Lines of a frame.
    superstripe
        Which of the superstripes the frame is, from 0.
    subject
        How messages call the image.

    Returns
    -------
    NDArray
        Lines of the detector, shape (n_lines,).

    Raises
    ------
    BadFileError
        If the keywords describe no frame of that many lines.
    """
    moved = readout.superstripe_step * superstripe
    stripe = readout.stripe_lines
    if stripe <= 0 and readout.n_superstripes:
        stripe = readout.superstripe_step  # a stripe is what it moves on
    if stripe <= 0:
        raise BadFileError(f"{subject} is read in stripes of {stripe} lines (MSTR_RD2); there must be at least one.")
    head = range(start, start + readout.reference_lines)
    position = start + len(head) + readout.first_skip + moved
    lines = [*head, *range(position, position + stripe)]
    interleaved = readout.first_skip
    while len(lines) < n_lines:
        if readout.repeats:
            interleaved += readout.next_skip + stripe
            position = start + len(head) + (interleaved if readout.interleaves else readout.first_skip + moved)
            lines += head
        else:
            position += stripe + readout.next_skip
        lines += range(position, position + stripe)
    if len(lines) != n_lines:
        raise BadFileError(
            f"{subject} has {n_lines} lines along its slow axis, but its stripes of {readout.reference_lines} and "
            f"{stripe} lines make {len(lines)}; correct its keywords MSTR_RD1, MSTR_RD2 and SSTR_STP."
        )
    return np.array(lines, np.intp)


def assemble_stripes(
    plane: NDArray[Scalar], covered: Window, wanted: Window, readout: StripeReadout, *, name: str, subject: str
) -> NDArray[Scalar]:
    """Return the values of a detector at the pixels that an image in stripes holds.

    Parameters
    ----------
    plane
        Values of the detector, shape (ny, nx), all lines along the slow axis; not changed.
    covered
        The part of the detector that the plane covers.
    wanted
        The window of the image as its keywords say. Along the slow axis it says where the readout starts, and how many
        lines a frame has; these need not be neighbours.
    readout
        How the lines are read.
    name, subject
        How messages call the plane and the image.

    Returns
    -------
    NDArray
        A new array of shape ``wanted.shape``; of superstripes ``(n_superstripes, ny, nx)``.

    Raises
    ------
    BadFileError
        If the keywords describe no frame of that many lines.
    ReferenceMismatchError
        If the image holds pixels that the plane does not.
    """
    slow_is_y = _slow_axis_is_y(readout, subject)
    full = _across(covered, slow_is_y, (0, DETECTOR_LINES))
    if covered != full:
        raise ReferenceMismatchError(
            f"{name} covers only a part of the {DETECTOR_LINES} lines of the detector, but {subject} is read in "
            "stripes across all of them; choose a reference of the whole detector."
        )
    lines_of_reference = (covered.y_min, covered.y_max) if slow_is_y else (covered.x_min, covered.x_max)
    whole = view_window(plane, covered, _across(wanted, slow_is_y, lines_of_reference), name=name, subject=subject)
    first, n_lines = (wanted.y_min, wanted.shape[0]) if slow_is_y else (wanted.x_min, wanted.shape[1])
    start = _readout_start(readout, first)
    frames = [
        _pick(whole, stripe_lines(readout, start, n_lines, number, subject), readout, slow_is_y, name, subject)
        for number in range(max(1, readout.n_superstripes))
    ]
    return np.stack(frames) if readout.n_superstripes else frames[0]


def _slow_axis_is_y(readout: StripeReadout, subject: str) -> bool:
    axes = {abs(readout.fast_axis), abs(readout.slow_axis)}
    if axes != {1, 2}:
        raise BadFileError(
            f"{subject} has FASTAXIS = {readout.fast_axis} and SLOWAXIS = {readout.slow_axis}; one must be 1 or -1, "
            "the other 2 or -2."
        )
    return abs(readout.slow_axis) == 2


def _across(window: Window, slow_is_y: bool, lines: tuple[int, int]) -> Window:
    """Return the window with other lines along the slow axis."""
    if slow_is_y:
        return Window(window.x_min, lines[0], window.x_max, lines[1])
    return Window(lines[0], window.y_min, lines[1], window.y_max)


def _readout_start(readout: StripeReadout, first: int) -> int:
    """Return the line where the readout starts, counted as it goes, from the first one of the window in the image."""
    if readout.starts_at_edge:
        return 0
    if readout.slow_axis > 0:
        return first
    # for stripes, SUBSTRT is where the readout starts and not the lowest line; early files have 1 for the last line
    return 0 if first == 0 else DETECTOR_LINES - 1 - first


def _pick(
    whole: NDArray[Scalar], lines: NDArray[np.intp], readout: StripeReadout, slow_is_y: bool, name: str, subject: str
) -> NDArray[Scalar]:
    if lines.min() < 0 or lines.max() >= DETECTOR_LINES:
        raise ReferenceMismatchError(
            f"{subject} has lines {lines.min()}..{lines.max()} in its stripes, but {name} only "
            f"0..{DETECTOR_LINES - 1}; correct the keywords of its stripes."
        )
    if readout.slow_axis < 0:
        # the readout goes down, so what it read last comes first in the image
        lines = DETECTOR_LINES - 1 - lines[::-1]
    return whole[lines, :] if slow_is_y else whole[:, lines]
