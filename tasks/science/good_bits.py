"""Which data-quality bits do not spoil a pixel: every way of writing them, and the mask that follows.

The grammar is that of `astropy.nddata.bitmask.interpret_bit_flags`, which does the parsing.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

import numpy as np
from astropy.nddata.bitmask import BitFlagNameMap, interpret_bit_flags
from numpy.typing import NDArray

from tasks.science.resample_errors import MissingKeyError

GoodBits: TypeAlias = int | str | Collection[int | str] | None
"""Bits to ignore: a sum, ``"4+8"``, ``"4, 8"``, ``"4|8"``, ``"~4+8"``, names, lists; None ignores all flags."""

FlagNames: TypeAlias = Mapping[str, int] | type[BitFlagNameMap] | None
"""Names of flags and their bits."""


def interpret_good_bits(good_bits: GoodBits, flag_names: FlagNames = None) -> int | None:
    """Return the bits to ignore as one number.

    Parameters
    ----------
    good_bits
        The bits, in any of the forms of `GoodBits`. A leading ``~`` turns the list round: all other bits are ignored.
        The empty string, ``"None"`` and ``"INDEF"`` mean None.
    flag_names
        What names in ``good_bits`` stand for.

    Returns
    -------
    int or None
        The sum of the bits; a negative number after ``~``, as Python's ``~`` gives. None if no flag counts.

    Raises
    ------
    TypeError
        If it is neither a whole number, a string, a list of them nor None.
    ValueError
        If a number in a list is not a single bit, separators are mixed, ``~`` or brackets stand inside, an item of a
        list is itself a list, or there are names but no table of them.
    KeyError
        If the table has no flag of a name, or names and numbers are mixed.
    """
    if isinstance(good_bits, Iterable) and not isinstance(good_bits, str):
        good_bits = [_item(item, good_bits) for item in good_bits]
        if any(isinstance(item, str) for item in good_bits):
            good_bits = ",".join(str(item) for item in good_bits)
    elif good_bits is not None and not isinstance(good_bits, str):
        good_bits = _whole(good_bits, good_bits)
    try:
        bits = interpret_bit_flags(good_bits, flag_name_map=flag_names)
    except (ValueError, KeyError, AttributeError) as error:
        raise _explained(good_bits, flag_names) from error
    return None if bits is None else int(bits)


def names_flags(good_bits: GoodBits) -> bool:
    """Tell whether flags are given by name, so that they cannot be understood without a table."""
    text = good_bits if isinstance(good_bits, str) else " ".join(map(str, _as_list(good_bits)))
    return text.strip().upper() not in ("NONE", "INDEF") and re.search(r"[A-Za-z_]", text) is not None


def good_pixels(dq: NDArray[np.integer], good_bits: int | None) -> NDArray[np.bool_]:
    """Return which pixels have no flag, those to be ignored aside.

    Parameters
    ----------
    dq
        Flags, whole numbers of any width; not changed.
    good_bits
        Bits to ignore, as `interpret_good_bits` returns them; None ignores all.

    Returns
    -------
    ndarray of bool
        True where the pixel is good, shape of the flags.
    """
    if good_bits is None:
        return np.ones(dq.shape, np.bool_)
    width = dq.dtype.itemsize
    bad_bits = np.array(~good_bits & ((1 << (8 * width)) - 1), dtype=f"u{width}").view(f"{dq.dtype.kind}{width}")
    clear: NDArray[np.bool_] = (dq & bad_bits) == 0
    return clear


def _item(item: object, whole: object) -> int | str:
    if not isinstance(item, str):
        return _whole(item, whole)
    if not re.fullmatch(r"\s*\w+\s*", item):
        raise ValueError(f"good_bits {whole!r} holds {item!r}; each item of a list must be a single flag.")
    return item


def _whole(item: object, whole: object) -> int:
    if isinstance(item, bool | np.bool_) or not isinstance(item, int | np.integer):
        raise TypeError(f"good_bits must be a whole number, a string, a list of them or None, not {whole!r}.")
    return int(item)


def _as_list(good_bits: GoodBits) -> list[int | str]:
    return list(good_bits) if isinstance(good_bits, Collection) and not isinstance(good_bits, str) else []


def _explained(good_bits: GoodBits, flag_names: FlagNames) -> Exception:
    """Return the error that says what is wrong with a list that could not be parsed."""
    text = good_bits.strip() if isinstance(good_bits, str) else ",".join(map(str, _as_list(good_bits)))
    body = (text[1:] if text.startswith("~") else text).strip()
    while body.startswith("(") and body.endswith(")"):
        body = body[1:-1].strip()
    if "~" in body:
        return ValueError(f"The ~ of good_bits {text!r} may only stand once, before the whole list.")
    if sum(separator in body for separator in ",+|") > 1:
        return ValueError(f"good_bits {text!r} mixes separators: use only one of comma, plus and bar.")
    if re.search(r"[()]", body):
        return ValueError(f"The brackets of good_bits {text!r} must enclose the whole list.")
    items = [item.strip() for item in re.split(r"[,+|]", body)]
    numbers = [item for item in items if re.fullmatch(r"[+-]?\d+", item)]
    if not all(items):
        return ValueError(f"good_bits {text!r} has an empty place: write a flag on either side of each separator.")
    if numbers and len(numbers) < len(items):
        return MissingKeyError(f"good_bits {text!r} mixes names and numbers of flags: use one or the other.")
    if numbers:
        sums = [item for item in numbers if int(item) <= 0 or int(item) & (int(item) - 1)]
        return ValueError(
            f"good_bits {text!r} lists {', '.join(sums)}, which is not a single flag (1, 2, 4, 8 ...): a sum of flags "
            "must stand alone."
        )
    if flag_names is None:
        return ValueError(
            f"good_bits {text!r} names flags, but there is no table of names: set dq_flag_name_map to a dictionary of "
            "names and bits."
        )
    return _unknown_name(items, flag_names)


def _unknown_name(items: list[str], flag_names: Mapping[str, int] | type[BitFlagNameMap]) -> Exception:
    known = list(flag_names) if isinstance(flag_names, Mapping) else [n for n in dir(flag_names) if n[:1] != "_"]
    unknown = [item for item in items if item not in known]
    near = {name.upper(): name for name in known}
    found = difflib.get_close_matches(unknown[0].upper(), near, n=1) if unknown else []
    hint = f"; the nearest is {near[found[0]]!r}" if found else ""
    return MissingKeyError(f"There is no data-quality flag {unknown[0] if unknown else items[0]!r}{hint}.")
