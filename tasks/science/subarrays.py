"""Windows of a detector: find where one lies in another, and cut it out exactly.

A camera may read out part of its detector only. Windows are `Window` rectangles in 0-based pixels of the full detector;
the 1-based keywords of the files are converted where the files are read.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ReferenceMismatchError, ShapeMismatchError
from tasks.products.windows import Window

Scalar = TypeVar("Scalar", bound=np.generic)


def describe_window(window: Window) -> str:
    """Return a window as people write it: columns and rows from 0, both ends included."""
    return f"x {window.x_min}..{window.x_max - 1}, y {window.y_min}..{window.y_max - 1}"


def window_inside(outer: Window, inner: Window) -> Window | None:
    """Return where a window lies in another, in pixels of that other; none if it reaches outside.

    Parameters
    ----------
    outer, inner
        Windows in pixels of the full detector.
    """
    reaches_out = (
        inner.x_min < outer.x_min or inner.y_min < outer.y_min or inner.x_max > outer.x_max or inner.y_max > outer.y_max
    )
    if reaches_out:
        return None
    return Window(
        inner.x_min - outer.x_min, inner.y_min - outer.y_min, inner.x_max - outer.x_min, inner.y_max - outer.y_min
    )


def view_window(plane: NDArray[Scalar], covered: Window, wanted: Window, *, name: str, subject: str) -> NDArray[Scalar]:
    """Return the window of an image in a plane of the detector, without copying it.

    Parameters
    ----------
    plane
        Values of the detector, shape (ny, nx); not changed.
    covered
        The part of the detector that the plane covers; its shape is that of the plane.
    wanted
        The part of the detector that the image covers.
    name, subject
        How messages call the plane and the image.

    Returns
    -------
    NDArray
        A view of shape ``wanted.shape``, of the dtype of the plane; writing to it changes the plane.

    Raises
    ------
    ShapeMismatchError
        If the plane does not have the shape of the part that it covers.
    ReferenceMismatchError
        If the wanted part reaches outside the covered one.
    """
    if plane.shape != covered.shape:
        raise ShapeMismatchError(f"{name} has shape {plane.shape}, but its window has shape {covered.shape}.")
    inside = window_inside(covered, wanted)
    if inside is None:
        raise ReferenceMismatchError(
            f"{subject} covers {describe_window(wanted)} of the detector, but {name} covers only "
            f"{describe_window(covered)}; choose a reference that holds the whole image."
        )
    return plane[inside.slices]


def cut_window(plane: NDArray[Scalar], covered: Window, wanted: Window, *, name: str, subject: str) -> NDArray[Scalar]:
    """Return a copy of what `view_window` shows."""
    return view_window(plane, covered, wanted, name=name, subject=subject).copy()
