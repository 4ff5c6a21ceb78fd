"""The images that `Resample` takes: dictionaries, checked before anything of them is used."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.science.good_bits import good_pixels
from tasks.science.resample_errors import MissingKeyError

Model: TypeAlias = Mapping[str, Any]
Plane: TypeAlias = NDArray[np.float32]

REQUIRED_KEYS = (
    "data", "dq", "filename", "group_id", "wcs", "exposure_time", "start_time", "end_time", "duration",
    "measurement_time", "pixelarea_steradians", "level", "subtracted",
)  # fmt: skip
"""What every model has; of the values only data, wcs and exposure_time may not be None."""
DQ_BITS = 32
SMALLEST_VARIANCE = np.float32(1 / np.finfo(np.float32).max)
"""The inverse of less is not a float32."""
BLOCK_ROWS = 128


@dataclass(frozen=True)
class InputArrays:
    """The arrays of one model, as the drizzle engine takes them: float32, in C order, of one shape."""

    name: str
    """What errors call the model."""
    data: Plane
    """The image."""
    level: float
    """Background that is still to be subtracted from it."""
    dq: NDArray[np.unsignedinteger] | None
    """Flags; None if they are not used."""
    variances: Mapping[str, Plane | None]
    """Variances by name; None for those that the model does not have."""
    err: Plane | None
    """Standard deviations, if they are to be drizzled."""


def model_name(model: object, number: int) -> str:
    """Return what errors call a model: its file name, or its number counted from 1."""
    name = model.get("filename") if isinstance(model, Mapping) else None
    return repr(name) if isinstance(name, str) and name.strip() else f"model {number}"


def check_keys(model: object, keys: Sequence[str], name: str) -> None:
    """Refuse a model without one of its keys.

    Raises
    ------
    TypeError
        If the model is not a dictionary.
    KeyError
        If a key is missing.
    """
    if not isinstance(model, Mapping):
        raise TypeError(f"A model must be a dictionary; {name} is a {type(model).__name__}.")
    missing = [key for key in keys if key not in model]
    if missing:
        raise MissingKeyError(f"The model {name} has no key {', '.join(map(repr, missing))}.")


def check_times(model: Model, weight_type: str, name: str) -> None:
    """Refuse times that cannot be: the exposure time must be positive, durations not negative.

    Raises
    ------
    ValueError
        If a time is not a number, not finite, or too small.
    """
    _check_time(model, "exposure_time", name, positive=True, optional=False)
    _check_time(model, "measurement_time", name, positive=weight_type == "exptime", optional=True)
    _check_time(model, "duration", name, positive=False, optional=True)


def check_area(model: Model, name: str) -> None:
    """Refuse a nominal pixel area that is not a number.

    Raises
    ------
    TypeError
        If it is neither a number nor None.
    """
    area = model["pixelarea_steradians"]
    if area is not None and not isinstance(area, numbers.Real):
        raise TypeError(f"The pixelarea_steradians of {name} is {area!r}; it must be a number or None.")


def _check_time(model: Model, key: str, name: str, *, positive: bool, optional: bool) -> None:
    value = model[key]
    if value is None and optional:
        return
    known = isinstance(value, numbers.Real) and math.isfinite(value)
    if not known or value < 0 or (positive and value == 0):
        wanted = "a number of seconds above 0" if positive else "a number of seconds, 0 or more"
        raise ValueError(f"The {key} of {name} is {value!r}; it must be {wanted}.")


def read_arrays(
    model: Model, name: str, *, variances: Collection[str], drizzle_err: bool, use_dq: bool, keep_dq: bool
) -> InputArrays:
    """Return the arrays of a model in the form that the engine takes; those of the model are not changed.

    Parameters
    ----------
    model
        The model; has the keys.
    name
        What errors call it.
    variances
        Keys of variances that are wanted; values that are None or empty count as not there.
    drizzle_err
        Whether the standard deviations are wanted.
    use_dq, keep_dq
        Whether flags decide about weights, and whether they are wanted in the output.

    Raises
    ------
    RuntimeError
        If the data are not an image.
    TypeError
        If an array does not hold numbers, or the flags not whole numbers of at most 32 bits.
    ValueError
        If arrays differ in shape, an array that is needed is missing, or the level is not a finite number.
    """
    data = _numbers(model["data"], "data", name)
    if data.ndim != 2 or data.size == 0:
        raise RuntimeError(
            f"The data of {name} have shape {data.shape}; they must be an image with at least one pixel."
        )
    dq = _flags(model["dq"], data.shape, name, keep=keep_dq) if use_dq or keep_dq else None
    planes = {key: _plane(model.get(key), key, data.shape, name) for key in variances}
    err = _plane(model["err"], "err", data.shape, name) if drizzle_err else None
    if drizzle_err and err is None:
        raise ValueError(f"The model {name} has no 'err' array; compute_err='driz_err' needs one.")
    return InputArrays(name, *_background(data, model, name), dq, planes, err)


def weight_plane(arrays: InputArrays, good_bits: int | None, *, variance: Plane | None, constant: float) -> Plane:
    """Return the weight of every pixel; 0 where it is flagged.

    Parameters
    ----------
    arrays
        The image and its flags.
    good_bits
        Flags that do not matter; None if none matters.
    variance
        The weight is its inverse, and 0 where it is not positive and finite.
    constant
        The weight if there is no variance.

    Returns
    -------
    ndarray of float32
        Shape of the image.
    """
    weight = np.zeros(arrays.data.shape, np.float32)
    if variance is None:
        weight[...] = constant
    # a few rows at a time stay in the cache
    for first in range(0, len(weight), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        if variance is not None:
            block = variance[rows]
            np.divide(np.float32(1), block, out=weight[rows], where=(block > SMALLEST_VARIANCE) & (block < np.inf))
        if arrays.dq is not None and good_bits is not None:
            weight[rows] *= good_pixels(arrays.dq[rows], good_bits)
    return weight


def _background(data: NDArray[Any], model: Model, name: str) -> tuple[Plane, float]:
    """Return the data and what is still to be subtracted from them."""
    level = model["level"]
    if model["subtracted"] or level is None:
        return _float32(data), 0.0
    if not isinstance(level, numbers.Real) or not math.isfinite(level):
        raise ValueError(f"The background level of {name} is {level!r}; it must be a finite number or None.")
    if not np.can_cast(data.dtype, np.float32):
        # a faint signal on a bright sky needs the digits until the sky is gone
        return _float32(data - level), 0.0
    return _float32(data), float(level)


def _numbers(values: Any, key: str, name: str) -> NDArray[Any]:  # noqa: ANN401 (whatever a caller put into a dictionary)
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.asarray(values, np.result_type(values.dtype, np.float32)).filled(np.nan)
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"The {key!r} of {name} has type {array.dtype}; it must be an array of real numbers.")
    return array


def _plane(values: Any, key: str, shape: tuple[int, ...], name: str) -> Plane | None:  # noqa: ANN401
    if values is None or np.size(values) == 0:
        return None
    array = _numbers(values, key, name)
    _check_shape(array, key, shape, name)
    return _float32(array)


def _flags(values: Any, shape: tuple[int, ...], name: str, *, keep: bool) -> NDArray[Any]:  # noqa: ANN401
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"The 'dq' of {name} has type {array.dtype}; flags are whole numbers (good_bits=None does without)."
        )
    _check_shape(array, "dq", shape, name)
    # the highest bit of a signed type is a flag like the others, not a sign to be extended
    flags = array.view(array.dtype.str.replace("i", "u"))
    if keep and flags.dtype.itemsize > DQ_BITS // 8 and (flags >> DQ_BITS).any():
        raise TypeError(f"The 'dq' of {name} has flags beyond bit {DQ_BITS - 1}; propagate_dq keeps {DQ_BITS} bits.")
    return flags


def _check_shape(array: NDArray[Any], key: str, shape: tuple[int, ...], name: str) -> None:
    if array.shape != shape:
        raise ValueError(f"The {key!r} of {name} has shape {array.shape}, its data {shape}; they must agree.")


def _float32(array: NDArray[Any]) -> Plane:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)
