"""Where the HDUs of a FITS file lie, and what their headers say, a few times faster than a whole FITS library.

Only what every FITS file has is understood here: fixed-format cards of numbers, logicals and texts (FITS standard 4.0,
section 4). Long texts, compressed images and odd tables are left to astropy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

BLOCK = 2880
CARD = 80
VALUE_INDICATOR = "= "
STRING = re.compile(r"\s*'((?:[^']|'')*)'")
COLUMN = re.compile(r"(\d*)([ABIJK])")
INTEGERS = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8"}


class OddFileError(ValueError):
    """The file is not what this module understands, or no FITS file at all."""


@dataclass(frozen=True)
class Hdu:
    """One HDU: its header, and where it lies in the file in bytes."""

    number: int
    header: dict[str, Any]
    """Values by keyword; comments are left out, and of repeated keywords the first counts."""
    start: int
    data_start: int
    end: int

    @property
    def name(self) -> str:
        """EXTNAME, or PRIMARY for the first HDU."""
        return str(self.header.get("EXTNAME", "" if self.number else "PRIMARY")).strip().upper()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the data as numpy orders the axes; of the image inside if it is compressed."""
        prefix = "ZNAXIS" if self.is_compressed else "NAXIS"
        return tuple(int(self.header[f"{prefix}{axis}"]) for axis in range(int(self.header[prefix]), 0, -1))

    @property
    def is_compressed(self) -> bool:
        """Whether this is a table that holds an image in compressed tiles."""
        return self.header.get("ZIMAGE") is True

    @property
    def is_image(self) -> bool:
        """Whether this holds an image, compressed or not."""
        return self.is_compressed or self.number == 0 or str(self.header.get("XTENSION", "")).strip() == "IMAGE"


def scan_hdus(handle: BinaryIO, size: int) -> tuple[Hdu, ...]:
    """Return the HDUs of a file in order; no data are read.

    Raises
    ------
    OddFileError
        If a header is broken, or the file ends inside an HDU.
    """
    hdus: list[Hdu] = []
    start = 0
    while start < size:
        handle.seek(start)
        text = b""
        while (end := _end_card(text)) < 0:
            block = handle.read(BLOCK)
            if len(block) < BLOCK:
                raise OddFileError(f"the file ends inside header {len(hdus)}")
            if hdus and not text and not block.startswith(b"XTENSION"):
                return tuple(hdus)  # the standard allows further records behind the last HDU
            text += block
        header = parse_cards(text[:end])
        data_start = start + len(text)
        hdu = Hdu(len(hdus), header, start, data_start, data_start + _padded(_data_bytes(header)))
        if hdu.end > size:
            raise OddFileError(f"HDU {hdu.name or hdu.number} ends at byte {hdu.end}, the file at byte {size}")
        hdus.append(hdu)
        start = hdu.end
    return tuple(hdus)


def _end_card(text: bytes) -> int:
    """Return where the card END begins, which stands at the start of one of the cards; -1 without one."""
    at = text.find(b"END" + b" " * (CARD - 3))
    while at >= 0 and at % CARD:
        at = text.find(b"END" + b" " * (CARD - 3), at + 1)
    return at


def parse_cards(text: bytes) -> dict[str, Any]:
    """Return the values of header cards by keyword."""
    try:
        cards = text.decode("ascii")
    except UnicodeDecodeError as error:
        raise OddFileError(f"a header is no ASCII text: {error}") from error
    header: dict[str, Any] = {}
    for at in range(0, len(cards), CARD):
        card = cards[at : at + CARD]
        if card[8:10] == VALUE_INDICATOR and (keyword := card[:8].rstrip()) not in header:
            header[keyword] = _value(card[10:])
    return header


def _value(field: str) -> str | int | float | bool | None:
    if (found := STRING.match(field)) is not None:
        return found[1].replace("''", "'").rstrip()
    text = field.split("/", 1)[0].strip()
    if text in {"T", "F"}:
        return text == "T"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.upper().replace("D", "E"))
    except ValueError:
        return text or None


def _data_bytes(header: dict[str, Any]) -> int:
    try:
        axes = [int(header[f"NAXIS{axis}"]) for axis in range(1, int(header["NAXIS"]) + 1)]
        if not axes:
            return 0
        groups, extra = int(header.get("GCOUNT", 1)), int(header.get("PCOUNT", 0))
        return abs(int(header["BITPIX"])) // 8 * groups * (extra + int(np.prod(axes, dtype=np.int64)))
    except (KeyError, TypeError, ValueError) as error:
        raise OddFileError(f"a header does not say how large its data are: {error}") from error


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def read_table(handle: BinaryIO, hdu: Hdu) -> dict[str, NDArray[Any]] | None:
    """Return the columns of a table of texts and whole numbers by upper-case name, or none for any other table."""
    fields = []
    for column in range(1, int(hdu.header.get("TFIELDS", 0)) + 1):
        form = COLUMN.fullmatch(str(hdu.header.get(f"TFORM{column}", "")).strip())
        if form is None or f"TSCAL{column}" in hdu.header or (form[2] != "A" and form[1] not in {"", "1"}):
            return None
        fields.append((str(column), f"S{form[1] or 1}" if form[2] == "A" else INTEGERS[form[2]]))
    dtype, rows = np.dtype(fields), int(hdu.header["NAXIS2"])
    if not fields or dtype.itemsize != hdu.header["NAXIS1"]:
        return None
    handle.seek(hdu.data_start)
    table = np.frombuffer(handle.read(rows * dtype.itemsize), dtype)
    return {
        str(hdu.header.get(f"TTYPE{name}", "")).strip().upper(): _scaled(table[name], hdu.header.get(f"TZERO{name}", 0))
        for name, _ in fields
    }


def _scaled(column: NDArray[Any], zero: float) -> NDArray[Any]:
    return column if column.dtype.kind == "S" else column.astype(np.int64) + int(zero)
