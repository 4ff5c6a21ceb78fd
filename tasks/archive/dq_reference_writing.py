"""DQ references as FITS bytes: HDU ``DQ`` of uint32, table ``DQ_DEF``, and the header that rules and readers need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits

from tasks.archive.fits_files import fits_bytes
from tasks.errors import ConfigError
from tasks.products.detector import DQReference
from tasks.products.dq import DQ_MEANINGS, DQFlag
from tasks.products.windows import Window

UINT32_ZERO = 2**31
MAX_KEYWORD = 8


def dq_reference_bytes(reference: DQReference, cards: Mapping[str, str | int | float | bool]) -> bytes:
    """Return the FITS file of a DQ reference whose flags have the standard numbering.

    Parameters
    ----------
    reference
        Flags of shape (ny, nx), uint32, and the window of the detector that they cover.
    cards
        Further header cards, such as INSTRUME and DETECTOR.

    Returns
    -------
    bytes
        The file; the same arguments give the same bytes.

    Raises
    ------
    ConfigError
        If a card cannot be written.
    """
    window = reference.window or Window.full(reference.dq.shape)
    primary = fits.PrimaryHDU()
    for keyword, value in cards.items():
        if not 0 < len(keyword) <= MAX_KEYWORD:
            raise ConfigError(f"{keyword!r} cannot be a header keyword; these have up to {MAX_KEYWORD} characters.")
        try:
            primary.header[keyword] = value
        except ValueError as error:
            raise ConfigError(f"{keyword}={value!r} cannot be a header card: {error}; use plain ASCII text.") from error
    primary.header["SUBSTRT1"], primary.header["SUBSTRT2"] = window.x_min + 1, window.y_min + 1
    primary.header["SUBSIZE1"], primary.header["SUBSIZE2"] = window.shape[1], window.shape[0]
    return fits_bytes([primary, fits.ImageHDU(reference.dq, name="DQ"), _definitions(reference)])


def write_new_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _definitions(reference: DQReference) -> fits.BinTableHDU:
    """Return the table of the flags that occur."""
    present = int(np.bitwise_or.reduce(reference.dq, axis=None, initial=0))
    flags = [flag for flag in DQFlag if flag & present]
    columns = [
        fits.Column("BIT", "J", array=np.array([flag.bit_length() - 1 for flag in flags], np.int32)),
        fits.Column("VALUE", "J", bzero=UINT32_ZERO, array=np.array([int(flag) for flag in flags], np.uint32)),
        fits.Column("NAME", "40A", array=np.array([flag.name for flag in flags], "U40")),
        fits.Column("DESCRIPTION", "80A", array=np.array([DQ_MEANINGS[flag] for flag in flags], "U80")),
    ]
    return fits.BinTableHDU.from_columns(columns, name="DQ_DEF")
