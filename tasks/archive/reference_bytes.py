"""Data-quality references: from the bytes of a FITS file to flags, their definitions, and the window that they cover.

A reference has an HDU ``DQ`` of whole numbers and, if it numbers its bits in its own way, a table ``DQ_DEF`` with the
columns VALUE and NAME. No store is needed.
"""

from __future__ import annotations

import io
import warnings
from collections import ChainMap
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from tasks.archive.fits_scan import Hdu, read_table, scan_hdus
from tasks.archive.flag_planes import read_flags, read_window, read_with_astropy
from tasks.errors import BadFileError, PointerFileError, TruncatedFileError
from tasks.products.detector import DQReference, FlagDefinition

LFS_POINTER = b"version https://git-lfs"
FITS_START = b"SIMPLE"
FITS_BLOCK = 2880
PEEK = 64


def check_reference_bytes(data: bytes, name: str) -> None:
    """Refuse what is not the reference file itself: pointers of git-LFS, empty files, truncated FITS files.

    CRDS hands these out as good references, since it looks at names only.

    Raises
    ------
    BadFileError
        If the file cannot be the reference.
    """
    check_reference_start(data[:PEEK], len(data), name)


def check_reference_start(start: bytes, size: int, name: str) -> None:
    """Refuse what `check_reference_bytes` refuses, by the first 64 bytes of the file and its size."""
    if start.startswith(LFS_POINTER):
        raise PointerFileError(
            f"Reference {name} is a git-LFS pointer of {size} bytes and not the file itself; "
            "run `git lfs pull` in the CRDS cache."
        )
    if not size:
        raise TruncatedFileError(f"Reference {name} is empty; copy it into the CRDS cache again.")
    if name.endswith(".fits"):
        if not start.startswith(FITS_START):
            raise BadFileError(f"Reference {name} is not a FITS file: it begins with {start[:16]!r}.")
        if size % FITS_BLOCK:
            raise TruncatedFileError(
                f"Reference {name} is truncated: its {size} bytes are not a multiple of {FITS_BLOCK}; "
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
    return _read_reference(io.BytesIO(data), len(data), name)


def read_dq_reference_file(path: str | Path) -> DQReference:
    """Return the flags of a DQ reference in a file, as `parse_dq_reference` does; only what is needed is read.

    Raises
    ------
    BadFileError
        If there is no such file, or as `parse_dq_reference`.
    """
    path = Path(path)
    try:
        handle = path.open("rb", buffering=0)
    except OSError as error:
        raise BadFileError(f"Reference {path} cannot be opened: {error.strerror}; correct its name.") from error
    with handle:
        size = path.stat().st_size
        check_reference_start(handle.read(PEEK), size, path.name)
        handle.seek(0)
        return _read_reference(handle, size, path.name)


def read_user_flags(path: str | Path) -> NDArray[np.uint32]:
    """Return the flags of the first image in a user's file; they are those of the standard table.

    Raises
    ------
    BadFileError
        If there is no such file, no image in it, or it holds what no flag can be.
    """
    path = Path(path)
    subject = f"The file of the user's flags {path}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            with path.open("rb", buffering=0) as handle:
                images = [hdu for hdu in scan_hdus(handle, path.stat().st_size) if hdu.is_image and hdu.shape]
                if not images:
                    raise BadFileError(f"{subject} holds no image; give it one of the shape of the pixel flags.")
                return read_flags(images[0], handle, subject)
        except (OSError, ValueError, TypeError, EOFError, fits.VerifyError) as error:
            raise BadFileError(
                f"{subject} cannot be read as FITS: {error}; correct its name or copy it again."
            ) from error


def _read_reference(handle: BinaryIO, size: int, name: str) -> DQReference:
    with warnings.catch_warnings():
        # astropy says of a truncated file as a warning what its reader then fails of
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            return _reference_of(scan_hdus(handle, size), handle, name)
        except (OSError, ValueError, TypeError, EOFError, fits.VerifyError) as error:
            raise BadFileError(
                f"Reference {name} ({size} bytes) cannot be read as FITS: {error}. It may be truncated; "
                "copy it into the CRDS cache again."
            ) from error


def _reference_of(hdus: Sequence[Hdu], handle: BinaryIO, name: str) -> DQReference:
    by_name = {hdu.name: hdu for hdu in reversed(hdus)}
    hdu = by_name.get("DQ")
    if hdu is None:
        present = ", ".join(f"{hdu.number} {hdu.name}".strip() for hdu in hdus)
        raise BadFileError(f"Reference {name} has no HDU DQ; it has {present}.")
    if not hdu.is_image or len(hdu.shape) != 2:
        raise BadFileError(f"The HDU DQ of reference {name} is not an image of two dimensions.")
    definitions = _definitions_of(by_name.get("DQ_DEF"), handle, name)
    plane = read_flags(hdu, handle, f"Reference {name}")
    window = read_window(ChainMap(hdu.header, hdus[0].header), plane.shape, f"Reference {name}")
    return DQReference(plane, definitions, window, name)


def _definitions_of(hdu: Hdu | None, handle: BinaryIO, name: str) -> tuple[FlagDefinition, ...] | None:
    """Return the definitions of the bits; none if the file has no table, or one without rows, as JWST has it."""
    if hdu is None:
        return None
    table = read_table(handle, hdu)
    if table is None:
        read = read_with_astropy(hdu, handle)
        table = {column.upper(): read[column] for column in getattr(read, "names", None) or []}
    missing = {"VALUE", "NAME"} - set(table)
    if missing:
        raise BadFileError(f"The table DQ_DEF of reference {name} has no column {' and '.join(sorted(missing))}.")
    pairs = zip(table["VALUE"].tolist(), table["NAME"].tolist(), strict=True)
    return tuple(FlagDefinition(int(value), _name(flag)) for value, flag in pairs) or None


def _name(flag: bytes | str | list[str]) -> str:
    return (flag.decode("ascii", "replace") if isinstance(flag, bytes) else "".join(flag)).strip()
