"""Arithmetic of data-quality flags: names and values, translation of foreign bits, combination.

Flags are bits of unsigned integers, so planes are combined with bitwise OR only: never added, never overwritten.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.errors import BadFileError, ConfigError, ShapeMismatchError
from tasks.products.detector import FlagDefinition
from tasks.products.dq import MAX_FLAGS, DQFlag

BLOCK_PIXELS = 1 << 18
"""How many pixels are translated at a time."""


def encode_flags(names: Iterable[str]) -> int:
    """Return the sum of the bits with these names.

    Parameters
    ----------
    names
        Names of standard flags, such as ``["HOT", "DO_NOT_USE"]``.

    Raises
    ------
    ConfigError
        If a name is not in the table.
    """
    value = 0
    for name in names:
        if name not in DQFlag.__members__:
            near = difflib.get_close_matches(name.upper(), DQFlag.__members__, n=1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise ConfigError(f"There is no data-quality flag {name!r}{hint}.")
        value |= int(DQFlag[name])
    return value


def decode_flags(value: int) -> tuple[str, ...]:
    """Return the names of the bits that are set in a value, lowest bit first; empty for a good pixel.

    Raises
    ------
    BadFileError
        If the value is negative or needs more than 32 bits.
    """
    if not 0 <= value <= MAX_FLAGS:
        raise BadFileError(f"{value} is not a set of data-quality flags: flags are numbers from 0 to {MAX_FLAGS}.")
    return tuple(str(flag.name) for flag in DQFlag if value & flag)


def count_flags(dq: NDArray[np.uint32]) -> dict[str, int]:
    """Return how many pixels carry each flag, for the flags that occur, lowest bit first."""
    flagged = dq[dq != 0]
    counts = {str(flag.name): int(np.count_nonzero(flagged & np.uint32(flag))) for flag in DQFlag}
    return {name: count for name, count in counts.items() if count}


def flag_pixels(dq: NDArray[np.uint32], positions: ArrayLike, names: Iterable[str]) -> NDArray[np.uint32]:
    """Return a copy of a plane with flags set at single pixels.

    Parameters
    ----------
    dq
        Flags, shape (ny, nx), uint32; not changed.
    positions
        Pixels as pairs (y, x), shape (n, 2), 0-based. An array of this shape used as a numpy index would select rows.
    names
        Flags to set.

    Raises
    ------
    ShapeMismatchError
        If the positions are not pairs or lie outside the plane.
    """
    pixels = np.asarray(positions, dtype=np.int64)
    if pixels.ndim != 2 or pixels.shape[1] != 2:
        raise ShapeMismatchError(f"Positions must be pairs (y, x), shape (n, 2); these have shape {pixels.shape}.")
    outside = ((pixels < 0) | (pixels >= np.array(dq.shape))).any(axis=1)
    if outside.any():
        y, x = pixels[outside][0]
        raise ShapeMismatchError(f"Pixel (y={y}, x={x}) lies outside a plane of shape {dq.shape}.")
    flagged = dq.copy()
    flagged[pixels[:, 0], pixels[:, 1]] |= np.uint32(encode_flags(names))
    return flagged


def clear_flags(dq: NDArray[np.uint32], names: Iterable[str]) -> NDArray[np.uint32]:
    """Return a copy of a plane without these flags."""
    return dq & np.uint32(MAX_FLAGS ^ encode_flags(names))


@dataclass(frozen=True)
class TranslatedFlags:
    """Flags in the standard numbering, and what could not be translated."""

    dq: NDArray[np.uint32]
    """Standard flags, shape of the input."""

    unknown_names: tuple[str, ...]
    """Names of the definitions that the standard table does not have, in the order of the file; their bits are lost."""

    undefined_bits: int
    """Bits that occur in the plane but have no definition; they are lost."""


def translate_flags(raw: NDArray[np.uint32], definitions: Sequence[FlagDefinition] | None) -> TranslatedFlags:
    """Renumber the flags of a reference file to the standard table, by name.

    A pixel gets the standard flag of every definition of which it has a bit, as JWST reads its DQ_DEF tables. Without
    definitions the bits are the standard ones. GOOD is a name without a bit and is skipped.

    Parameters
    ----------
    raw
        Flags as the file numbers them, uint32, any shape; not changed.
    definitions
        Value and name of every bit of the file, or none.

    Raises
    ------
    BadFileError
        If a definition has a value that no uint32 pixel can carry.
    """
    if definitions is None:
        return TranslatedFlags(raw.copy(), (), 0)
    renumbered, unknown, defined = _standard_bits(definitions)
    translated = np.zeros_like(raw, order="C")
    present = 0
    source, target = np.atleast_2d(raw), np.atleast_2d(translated)
    # a block at a time, so that the positions of flagged pixels, 8 bytes each, never outgrow the plane
    for rows in _row_blocks(source):
        block = np.ascontiguousarray(source[rows]).reshape(-1)
        # a detector has few bad pixels: translate only these; numpy finds true ones three times as fast as numbers
        flagged = np.flatnonzero(block != 0)
        values = block[flagged]
        present |= int(np.bitwise_or.reduce(values, initial=0))
        target[rows].reshape(-1)[flagged] = _renumber(values, renumbered)
    return TranslatedFlags(translated, unknown, present & (MAX_FLAGS ^ defined))


def _standard_bits(definitions: Sequence[FlagDefinition]) -> tuple[list[tuple[int, int]], tuple[str, ...], int]:
    """Return pairs of a value in the file and in the standard table, the unknown names, and all defined bits."""
    pairs: list[tuple[int, int]] = []
    unknown: list[str] = []
    defined = 0
    for definition in definitions:
        if not 0 <= definition.value <= MAX_FLAGS:
            raise BadFileError(
                f"The definition of flag {definition.name!r} has the value {definition.value}, not a bit."
            )
        defined |= definition.value
        if definition.name in DQFlag.__members__:
            pairs.append((definition.value, int(DQFlag[definition.name])))
        else:
            unknown.append(definition.name)
    return pairs, tuple(unknown), defined


def _row_blocks(plane: NDArray[np.uint32]) -> Iterator[slice]:
    height = max(1, BLOCK_PIXELS // max(1, plane[0].size if len(plane) else 1))
    return (slice(start, start + height) for start in range(0, len(plane), height))


def _renumber(values: NDArray[np.uint32], pairs: Sequence[tuple[int, int]]) -> NDArray[np.uint32]:
    standard = np.zeros_like(values)
    for value, flag in pairs:
        standard[(values & np.uint32(value)) != 0] |= np.uint32(flag)
    return standard
