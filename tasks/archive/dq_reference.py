"""Data-quality references and what they are combined with: from FITS bytes to flags, windows and keywords.

A reference has an HDU ``DQ`` of whole numbers and, if it numbers its bits in its own way, a table ``DQ_DEF`` with the
columns VALUE and NAME. Subarrays are told by the keywords SUBSTRT1, SUBSTRT2 (first column and row, from 1), SUBSIZE1
and SUBSIZE2, which become 0-based windows here.
"""

from __future__ import annotations

import io
import warnings
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from blocks.store import DataStore
from tasks.archive.fits_files import get_bytes, get_hdu, open_fits
from tasks.errors import BadFileError, MissingKeywordError
from tasks.products.detector import DetectorImage, DQReference, FlagDefinition, as_flag_plane
from tasks.products.identity import CcdId, ProductRef
from tasks.products.images import Window
from tasks.products.references import ReferenceRecord

LFS_POINTER = b"version https://git-lfs"
FITS_START = b"SIMPLE"
FITS_BLOCK = 2880
MAX_CARD_NAME = 8


def check_reference_bytes(data: bytes, name: str) -> None:
    """Refuse what is not the reference file itself: pointers of git-LFS, empty files, truncated FITS files.

    CRDS hands these out as good references, since it looks at names only.

    Raises
    ------
    BadFileError
        If the file cannot be the reference.
    """
    if data.startswith(LFS_POINTER):
        raise BadFileError(
            f"Reference {name} is a git-LFS pointer of {len(data)} bytes and not the file itself; "
            "run `git lfs pull` in the CRDS cache."
        )
    if not data:
        raise BadFileError(f"Reference {name} is empty; copy it into the CRDS cache again.")
    if name.endswith(".fits"):
        if not data.startswith(FITS_START):
            raise BadFileError(f"Reference {name} is not a FITS file: it begins with {data[:16]!r}.")
        if len(data) % FITS_BLOCK:
            raise BadFileError(
                f"Reference {name} is truncated: its {len(data)} bytes are not a multiple of {FITS_BLOCK}; "
                "copy it into the CRDS cache again."
            )


def parse_dq_reference(data: bytes, name: str) -> DQReference:
    """Return the flags of a DQ reference, numbered as the file does, with their definitions and window.

    Parameters
    ----------
    data
        The whole FITS file.
    name
        Its name, for messages.

    Raises
    ------
    BadFileError
        If this is not a DQ reference, or it is truncated or damaged.
    MissingKeywordError
        If it describes its window in part only.
    ShapeMismatchError
        If its flags do not have the shape of its window.
    """
    check_reference_bytes(data, name)
    with warnings.catch_warnings():
        # astropy says of a truncated file as a warning what its reader then fails of
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            with fits.open(io.BytesIO(data), memmap=False) as hdus:
                return _reference_of(hdus, name)
        except (OSError, ValueError, TypeError, EOFError, fits.VerifyError) as error:
            raise BadFileError(
                f"Reference {name} ({len(data)} bytes) cannot be read as FITS: {error}. It may be truncated; "
                "copy it into the CRDS cache again."
            ) from error


def _reference_of(hdus: fits.HDUList, name: str) -> DQReference:
    present = ", ".join(f"{number} {hdu.name}".strip() for number, hdu in enumerate(hdus))
    if "DQ" not in hdus:
        raise BadFileError(f"Reference {name} has no HDU DQ; it has {present}.")
    hdu = hdus["DQ"]
    if not hdu.is_image or hdu.data is None or hdu.data.ndim != 2:
        raise BadFileError(f"The HDU DQ of reference {name} is not an image of two dimensions.")
    plane = as_flag_plane(hdu.data, f"Reference {name}")
    window = read_window(ChainMap(dict(hdu.header), dict(hdus[0].header)), plane.shape, f"Reference {name}")
    return DQReference(plane, _definitions_of(hdus, name), window, name)


def _definitions_of(hdus: fits.HDUList, name: str) -> tuple[FlagDefinition, ...] | None:
    if "DQ_DEF" not in hdus:
        return None
    table = hdus["DQ_DEF"].data
    missing = {"VALUE", "NAME"} - {column.upper() for column in (table.names if table is not None else [])}
    if missing:
        raise BadFileError(f"The table DQ_DEF of reference {name} has no column {' and '.join(sorted(missing))}.")
    pairs = zip(table["VALUE"], table["NAME"], strict=True)
    return tuple(FlagDefinition(int(value), str(flag).strip()) for value, flag in pairs)


def read_window(header: Mapping[str, Any], shape: tuple[int, ...], subject: str) -> Window | None:
    """Return the part of the detector that a file covers, or none if its header does not say.

    Parameters
    ----------
    header
        Header values by keyword. Without SUBSIZE1 and SUBSIZE2 the shape is believed.
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
    starts = [_whole(header, keyword, subject) for keyword in ("SUBSTRT1", "SUBSTRT2")]
    sizes = [_whole(header, keyword, subject) for keyword in ("SUBSIZE1", "SUBSIZE2")]
    if starts == [None, None]:
        return None
    x, y = starts
    if x is None or y is None:
        raise MissingKeywordError(f"{subject} has only one of SUBSTRT1 and SUBSTRT2; a window needs both.")
    if x < 1 or y < 1:
        raise BadFileError(f"{subject} has SUBSTRT1 = {x} and SUBSTRT2 = {y}; columns and rows count from 1.")
    width = shape[1] if sizes[0] is None else sizes[0]
    height = shape[0] if sizes[1] is None else sizes[1]
    return Window(x - 1, y - 1, x - 1 + width, y - 1 + height)


def _whole(header: Mapping[str, Any], keyword: str, subject: str) -> int | None:
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


def read_dq_reference(store: DataStore, record: ReferenceRecord) -> DQReference | None:
    """Return the DQ reference that was selected, or none if none applies."""
    return parse_dq_reference(get_bytes(store, record.reference), record.name) if record.reference else None


def read_detector_image(store: DataStore, ref: ProductRef) -> DetectorImage:
    """Return a CCD image as data-quality initialisation sees it: science values, flags and window.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If it is truncated or not a CCD image.
    """
    with open_fits(store, ref) as hdus:
        ccd, keywords = _identity_and_keywords(hdus, ref)
        sci = get_hdu(hdus, "SCI", ref)
        data = np.asarray(sci.data)
        window = read_window(ChainMap(dict(keywords), dict(sci.header)), data.shape, f"CCD {ccd}")
        return DetectorImage(
            data=data,
            pixeldq=np.asarray(get_hdu(hdus, "DQ", ref).data).astype(np.uint32),
            window=window,
            subject=f"CCD {ccd}",
        )


def read_reference_keywords(store: DataStore, ref: ProductRef) -> tuple[CcdId, dict[str, str]]:
    """Return which CCD an image is of and the header values that select its references; no pixel is read.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If it is not a CCD image.
    """
    with open_fits(store, ref) as hdus:
        return _identity_and_keywords(hdus, ref)


def _identity_and_keywords(hdus: fits.HDUList, ref: ProductRef) -> tuple[CcdId, dict[str, str]]:
    primary = hdus[0].header
    try:
        ccd = CcdId(exposure=primary["EXPOSURE"], ccd=primary["CCD"])
        numbers = range(1, len(primary["RKEY*"]) + 1)
        return ccd, {primary[f"RKEY{number}"]: primary[f"RVAL{number}"] for number in numbers}
    except KeyError as error:
        raise BadFileError(f"{ref.key} is not a CCD image: {error}") from error


def reference_cards(record: ReferenceRecord) -> fits.Header:
    """Return the header cards that say which reference was used: R_DQ, CRDS_CTX, CRDS_VER, and S_DQINIT."""
    header = fits.Header()
    used = record.outcome == "selected"
    header["S_DQINIT"] = ("COMPLETE" if used else "SKIPPED", "data-quality initialisation")
    value = f"crds://{record.name}" if used else record.name
    header[f"R_{record.reference_type.upper()}"[:MAX_CARD_NAME]] = (value, "reference file")
    if record.context:
        header["CRDS_CTX"] = (record.context, "CRDS context")
        header["CRDS_VER"] = (record.crds_version, "version of crds")
    return header
