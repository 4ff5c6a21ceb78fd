"""Planes of flags, windows and stripes in FITS files: read with little memory, without a store.

Flags are whole numbers of any type; FITS keeps unsigned ones as signed ones with an offset. Subarrays are told by the
keywords SUBSTRT1, SUBSTRT2 (first column and row, from 1), SUBSIZE1 and SUBSIZE2, which become 0-based windows here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tasks.archive.fits_scan import Hdu
from tasks.errors import BadFileError, MissingKeywordError
from tasks.products.detector import StripeReadout, as_flag_plane
from tasks.products.windows import Window

IRS2_LINES = 3200
"""Lines of the NIRSpec detectors in IRS2 readout, with the reference pixels that it interleaves."""
IRS2_SUBSIZE = 2048
"""What SUBSIZE2 says of them: the lines without these pixels."""
UNSIGNED_OFFSETS = {16: 1 << 15, 32: 1 << 31}
STRIPE_KEYWORDS = ("MSTR_RD1", "MSTR_SK1", "MSTR_RD2", "MSTR_SK2", "MSTR_RPT", "MSTR_ILV", "SSTR_NST", "SSTR_STP")
AXIS_KEYWORDS = ("FASTAXIS", "SLOWAXIS")


def read_flags(hdu: Hdu, handle: BinaryIO, subject: str) -> NDArray[np.uint32]:
    """Return an image of flags as uint32.

    Parameters
    ----------
    hdu
        An image with data, compressed or not.
    handle
        Its file; the position is changed.
    subject
        How messages call the file.

    Raises
    ------
    BadFileError
        If a value is not a set of flags.
    EOFError
        If the file ends inside the image.
    """
    header = hdu.header
    bits, offset = header.get("BITPIX", 0), header.get("BZERO", 0)
    unsigned = offset == UNSIGNED_OFFSETS.get(bits)
    plain = not hdu.is_compressed and header.get("BSCALE", 1) == 1 and "BLANK" not in header
    if not plain or bits not in {8, 16, 32} or not (unsigned or offset == 0):
        return as_flag_plane(read_with_astropy(hdu, handle), subject)
    kind = "u" if unsigned or bits == 8 else "i"
    raw = np.empty(hdu.shape, f">{kind}{bits // 8}")
    handle.seek(hdu.data_start)
    if handle.readinto(raw.reshape(-1).view(np.uint8).data) != raw.nbytes:  # type: ignore[attr-defined]
        raise EOFError(f"the file ends inside the HDU {hdu.name}")
    # in place: astropy would hold the plane three times
    native = raw.byteswap(inplace=True).view(raw.dtype.newbyteorder("=")) if sys.byteorder == "little" else raw
    if unsigned:
        native ^= native.dtype.type(offset)
    return native if native.dtype == np.uint32 else as_flag_plane(native, subject)


def read_with_astropy(hdu: Hdu, handle: BinaryIO) -> Any:  # noqa: ANN401 (an array, a table, or none)
    """Return the data of an HDU of any kind."""
    handle.seek(0)
    hdus = fits.open(handle, memmap=False, lazy_load_hdus=True)
    data = hdus[hdu.number].data
    hdus.close(closed=False)  # the handle is the caller's
    return data


def read_window(header: Mapping[str, Any], shape: tuple[int, ...], subject: str) -> Window | None:
    """Return the part of the detector that a file covers, or none if its header does not say.

    Parameters
    ----------
    header
        Header values by keyword. Without SUBSIZE1 and SUBSIZE2 the shape is believed, and also where SUBSIZE2 does not
        count the interleaved reference pixels of NIRSpec's IRS2 readout.
    shape
        Shape (ny, nx) of the array.
    subject
        How messages call the file.

    Raises
    ------
    MissingKeywordError
        If one of the two starts is missing.
    BadFileError
        If a value is not a whole number, or a start is below 1.
    """
    x, y, width, height = (
        read_whole(header, keyword, subject) for keyword in ("SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2")
    )
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise MissingKeywordError(f"{subject} has only one of SUBSTRT1 and SUBSTRT2; a window needs both.")
    if x < 1 or y < 1:
        raise BadFileError(f"{subject} has SUBSTRT1 = {x} and SUBSTRT2 = {y}; columns and rows count from 1.")
    if height is None or (height == IRS2_SUBSIZE and shape[0] == IRS2_LINES):
        height = shape[0]
    return Window(x - 1, y - 1, x - 1 + (shape[1] if width is None else width), y - 1 + height)


def read_stripes(header: Mapping[str, Any], subject: str) -> StripeReadout | None:
    """Return how the lines of an image were read, or none if its window was read as a whole.

    Raises
    ------
    MissingKeywordError
        If a keyword of the stripes is missing.
    BadFileError
        If a value is not a whole number.
    """
    values = {keyword: read_whole(header, keyword, subject) for keyword in (*STRIPE_KEYWORDS, *AXIS_KEYWORDS)}
    if values["MSTR_RD1"] is None and not values["SSTR_NST"]:
        return None
    missing = [keyword for keyword, value in values.items() if value is None]
    if missing:
        raise MissingKeywordError(
            f"{subject} is read in stripes, but its header lacks {' and '.join(missing)}; the lines of the detector "
            "cannot be told without."
        )
    number = {keyword: value for keyword, value in values.items() if value is not None}
    return StripeReadout(
        reference_lines=number["MSTR_RD1"],
        first_skip=number["MSTR_SK1"],
        stripe_lines=number["MSTR_RD2"],
        next_skip=number["MSTR_SK2"],
        repeats=number["MSTR_RPT"] > 0,
        interleaves=number["MSTR_ILV"] != 0,
        n_superstripes=number["SSTR_NST"],
        superstripe_step=number["SSTR_STP"],
        fast_axis=number["FASTAXIS"],
        slow_axis=number["SLOWAXIS"],
        # early DHS exposures have a wrong start; all of them are read from the edge
        starts_at_edge="DHS" in str(header.get("SUBARRAY", "")).upper(),
    )


def read_whole(header: Mapping[str, Any], keyword: str, subject: str) -> int | None:
    """Return a whole number from a header, or none if it is missing or blank.

    Raises
    ------
    BadFileError
        If the value is not a whole number.
    """
    value = header.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not number.is_integer():
        raise BadFileError(f"{subject} has {keyword} = {value!r}, which is not a whole number.")
    return int(number)
