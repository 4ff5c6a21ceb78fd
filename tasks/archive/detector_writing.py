"""Writes a copy of a detector file with other flags and further header cards; everything else keeps its bytes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tasks.archive.detector_files import RAMP_TO_LIGER, DetectorFile, flag_names, open_source
from tasks.archive.fits_scan import Hdu
from tasks.errors import ConfigError
from tasks.products.detector import RAMP_DIMENSIONS, DetectorImage

FITS_BLOCK = 2880
PIECE = 1 << 20
"""Bytes that are converted or copied at a time."""
UINT32_OFFSET = 1 << 31
STALE = ("CHECKSUM", "DATASUM")
STRUCTURE = frozenset(
    {"XTENSION", "SIMPLE", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "BZERO", "BSCALE", "BLANK", "EXTEND"}
)

Flags = NDArray[np.uint32] | NDArray[np.uint8]
Cards = Mapping[str, tuple[str | int | float | bool, str]]


def write_detector_file(source: DetectorFile, image: DetectorImage, cards: Cards, target: str | Path) -> Path:
    """Write a copy of a file with the flags of an image.

    HDUs of flags are replaced where they are, or put behind the science HDU. The file appears under its name whole or
    not at all.

    Parameters
    ----------
    source
        The file that is copied.
    image
        Its image with the flags to write; the science values are taken from the source.
    cards
        Value and comment of the cards to set in the primary header, by keyword.
    target
        Path to write, in a folder that exists; a file that is there is replaced.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    ConfigError
        If the target is the source.
    OSError
        If it cannot be written.
    """
    target = Path(target)
    if isinstance(source.source, Path) and target.exists() and target.samefile(source.source):
        raise ConfigError(f"{target} is the input itself, which is never changed; write to another file.")
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with open_source(source.source) as original, partial.open("xb") as copy:
            for piece in _pieces(source, image, cards, original):
                if isinstance(piece, range):
                    _copy(original, piece, copy)
                else:
                    copy.write(piece)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _pieces(
    source: DetectorFile, image: DetectorImage, cards: Cards, original: BinaryIO
) -> Iterator[bytes | memoryview | range]:
    """Return the parts of the new file in order: bytes, and ranges of bytes of the source."""
    planes = _planes(source, image)
    missing = set(planes) - {hdu.name for hdu in source.hdus}
    for hdu in source.hdus:
        if hdu.name in planes:
            yield _renewed_header(original, hdu, planes[hdu.name])
            yield from _flag_data(planes[hdu.name])
        else:
            if hdu.number == 0:
                yield _text(_primary(_header(original, hdu), cards))
            yield range(hdu.start if hdu.number else hdu.data_start, hdu.end)
        if hdu.number == source.science:
            for name in sorted(missing, reverse=True):  # PIXELDQ before GROUPDQ
                yield _text(_flag_header(name, planes[name]))
                yield from _flag_data(planes[name])


def _planes(source: DetectorFile, image: DetectorImage) -> dict[str, Flags]:
    """Return the arrays to write by the names of their HDUs, in the axes of the file."""
    pixel_name, group_name = flag_names(image.has_group_flags)
    planes: dict[str, Flags] = {pixel_name: image.flags}
    if image.groupdq is not None:
        turned = source.family == "liger" and image.data.ndim == RAMP_DIMENSIONS
        planes[group_name] = image.groupdq.transpose(RAMP_TO_LIGER) if turned else image.groupdq
    return planes


def _primary(header: fits.Header, cards: Cards) -> fits.Header:
    header.remove("CHECKSUM", ignore_missing=True)
    for keyword, (value, comment) in cards.items():
        header[keyword] = (value, comment)
    return header


def _renewed_header(original: BinaryIO, hdu: Hdu, plane: Flags) -> bytes:
    """Return the header of an HDU of flags for other flags: its own bytes where they are true of these too."""
    header = _header(original, hdu)
    new = _flag_header(hdu.name, plane)
    if all(header.get(card.keyword) == card.value for card in new.cards) and not any(key in header for key in STALE):
        original.seek(hdu.start)
        return original.read(hdu.data_start - hdu.start)
    new.extend([card for card in header.cards if _is_kept(card.keyword, hdu.is_compressed)], unique=True)
    return _text(new)


def _flag_header(name: str, plane: Flags) -> fits.Header:
    header = fits.Header()
    header["XTENSION"] = ("IMAGE", "Image extension")
    header["BITPIX"] = (8 * plane.itemsize, "array data type")
    header["NAXIS"] = (plane.ndim, "number of array dimensions")
    for axis, length in enumerate(reversed(plane.shape), start=1):
        header[f"NAXIS{axis}"] = length
    header["PCOUNT"], header["GCOUNT"] = 0, 1
    header["EXTNAME"] = (name, "extension name")
    if plane.dtype == np.uint32:
        header["BSCALE"], header["BZERO"] = 1, UINT32_OFFSET
    return header


def _flag_data(plane: Flags) -> Iterator[bytes | memoryview]:
    for block in _blocks(plane):
        # FITS has no unsigned numbers: the offset of BZERO is the highest bit
        stored = (block ^ plane.dtype.type(UINT32_OFFSET)).astype(">u4") if plane.dtype == np.uint32 else block
        yield np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data
    yield bytes(-plane.nbytes % FITS_BLOCK)


def _is_kept(keyword: str, compressed: bool) -> bool:
    """Tell whether a card of a replaced HDU says something of it other than its structure or compression."""
    of_table = compressed and keyword.startswith(("Z", "TTYPE", "TFORM", "TFIELDS", "THEAP"))
    return not (of_table or keyword in STALE or keyword in STRUCTURE or keyword.startswith("NAXIS"))


def _blocks(array: Flags) -> Iterator[Flags]:
    """Return an array in pieces along its first axes, in the order of its values."""
    if array.ndim <= 1 or array.nbytes <= PIECE:
        yield array
        return
    height = PIECE // (array.nbytes // len(array))
    if height == 0:
        for part in array:
            yield from _blocks(part)
    else:
        for start in range(0, len(array), height):
            yield array[start : start + height]


def _header(original: BinaryIO, hdu: Hdu) -> fits.Header:
    original.seek(hdu.start)
    return fits.Header.fromstring(original.read(hdu.data_start - hdu.start))


def _text(header: fits.Header) -> bytes:
    return bytes(header.tostring(padding=True), "ascii")


def _copy(original: BinaryIO, part: range, copy: BinaryIO) -> None:
    """Copy a range of bytes, inside the kernel where it can do that."""
    copy.flush()
    start = _copy_in_kernel(original, part, copy)
    original.seek(start)
    buffer = memoryview(bytearray(min(PIECE, part.stop - start)))
    while start < part.stop:
        length = original.readinto(buffer[: part.stop - start])  # type: ignore[attr-defined]
        if not length:
            raise OSError(f"the source ended at byte {start}, before HDUs that it had when it was read")
        copy.write(buffer[:length])
        start += length


def _copy_in_kernel(original: BinaryIO, part: range, copy: BinaryIO) -> int:
    """Copy as much of a range as the kernel will, and return where it stopped."""
    start = part.start
    try:
        while start < part.stop:
            done = os.copy_file_range(original.fileno(), copy.fileno(), part.stop - start, start)
            if not done:
                break
            start += done
    except (AttributeError, OSError):
        # not on this system, not between these file systems, or bytes in memory: the caller reads and writes
        return start
    return start
