"""Settings of `Resample`, checked before any work, and the memory that its output needs."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from tasks.science.drizzling import CONTEXT_BITS, KERNELS, MAX_PIXFRAC, Kernel

WeightType: TypeAlias = Literal["ivm", "ivm-sky", "exptime"]
ComputeErr: TypeAlias = Literal["from_var", "driz_err"] | None
VarianceRule: TypeAlias = Literal["averaged", "propagated"]
FillValue: TypeAlias = float | str | None

WEIGHT_TYPES: tuple[WeightType, ...] = ("ivm", "ivm-sky", "exptime")
PIXMAP_ORDERS = (1, 3)
GIB = 1 << 30
PLANE_BYTES = 4
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_choice(value: object, choices: Collection[object], name: str) -> None:
    """Refuse a setting that is not one of its choices.

    Raises
    ------
    ValueError
        If it is not.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")


def parse_kernel(kernel: object) -> Kernel:
    """Return the kernel of a name in upper or lower case.

    Raises
    ------
    ValueError
        If there is no such kernel.
    """
    for known in KERNELS:
        if isinstance(kernel, str) and kernel.lower() == known:
            return known
    raise ValueError(f"Kernel {kernel!r} is not supported; the kernels are {', '.join(KERNELS)}.")


def check_pixfrac(pixfrac: object) -> float:
    """Return a drop size as a number.

    Raises
    ------
    ValueError
        If it is not a number from 0 to 2.
    """
    if not isinstance(pixfrac, int | float | np.number) or not 0 <= float(pixfrac) <= MAX_PIXFRAC:
        raise ValueError(f"pixfrac is {pixfrac!r}; it must be the drop's size in pixels, from 0 to {MAX_PIXFRAC:g}.")
    return float(pixfrac)


def parse_fill_value(fillval: FillValue) -> float:
    """Return the value of output pixels without data: NaN for None, an empty string, INDEF and NAN.

    Raises
    ------
    ValueError
        If it is neither a number nor the text of one.
    """
    if fillval is None or (isinstance(fillval, str) and fillval.strip().upper() in ("", "INDEF")):
        return math.nan
    try:
        return float(fillval)
    except (TypeError, ValueError) as error:
        raise ValueError(f"fillval is {fillval!r}; it must be a number, the text of one, 'INDEF' or None.") from error


def check_pixel_map(step: object, order: object) -> int:
    """Return the distance of the nodes of the pixel map; 1 leaves it to the map.

    Raises
    ------
    ValueError
        If the step is not a whole number from 1, or the order neither 1 nor 3.
    """
    if step is None:
        step = 1
    if isinstance(step, bool) or not isinstance(step, int | float | np.number) or not step >= 1 or float(step) % 1:
        raise ValueError(f"pixmap_stepsize is {step!r}; it must be a whole number of pixels, 1 or more.")
    check_choice(order, PIXMAP_ORDERS, "pixmap_order")
    return int(step)


def check_number(value: object, name: str) -> None:
    """Refuse a number of threads or images that is not a whole number from 1.

    Raises
    ------
    ValueError
        If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number, 1 or more.")


def check_scale(value: object, name: str) -> None:
    """Refuse a pixel scale or a ratio of scales that is not positive.

    Raises
    ------
    ValueError
        If it is not a finite number above 0.
    """
    if not isinstance(value, numbers.Real) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"The {name} of the output is {value!r}; it must be a number above 0.")


def check_error_names(names: Sequence[str] | None, variances: Sequence[str]) -> None:
    """Refuse an error that is to be made from no variances, or from some that are not resampled.

    Raises
    ------
    ValueError
        If there is one.
    """
    chosen = variances if names is None else names
    unknown = [name for name in chosen if name not in variances]
    if unknown or not chosen:
        raise ValueError(
            f"error_from_variances names {', '.join(map(repr, unknown)) or 'nothing'}; variance_array_names has only "
            f"{', '.join(map(repr, variances)) or 'nothing'}."
        )


def check_output_shape(shape: tuple[int, int]) -> None:
    """Refuse an output without pixels.

    Raises
    ------
    ValueError
        If a side is not positive.
    """
    if min(shape) < 1:
        raise ValueError(f"The output has shape {tuple(shape)}; both sides must be at least one pixel.")


def output_bytes(
    shape: tuple[int, int],
    *,
    n_images: int | None,
    context: bool,
    error: bool,
    dq: bool,
    variances: int = 0,
    averaged: bool = True,
    propagated: bool = False,
) -> int:
    """Return the size of an output's planes, and of the sums behind them; ``error`` is whether there is an error."""
    planes = 2 + error + dq + variances * (2 * averaged + propagated)
    planes += math.ceil((n_images or 1) / CONTEXT_BITS) if context else 0
    return PLANE_BYTES * shape[0] * shape[1] * planes


def check_memory(shape: tuple[int, int], needed_bytes: int, limit_gib: float | None) -> None:
    """Refuse an output that memory cannot hold.

    Parameters
    ----------
    shape
        Shape (ny, nx) of the output.
    needed_bytes
        Size of all its planes.
    limit_gib
        What may be used, in GiB; all of the machine's or container's memory by default.

    Raises
    ------
    MemoryError
        If it needs more.
    """
    limit = total_memory() if limit_gib is None else limit_gib * GIB
    if limit is not None and needed_bytes > limit:
        raise MemoryError(
            f"An output of {shape[1]} x {shape[0]} pixels needs {_gib(needed_bytes)} of memory, and {_gib(limit)} may "
            "be used: make it smaller, or leave out planes (enable_ctx, enable_var)."
        )


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / GIB:.2g} GiB"


def total_memory() -> float | None:
    """Return the memory of this machine, or of the container if that has less, in bytes; None if it is not known."""
    sizes = []
    if "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    for path in map(Path, CONTAINER_LIMITS):
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if text.isdigit():
            sizes.append(float(text))
    return min(sizes, default=None)
