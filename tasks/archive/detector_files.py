"""Files of single detectors as the observatories write them: JWST ramps, images and guider exposures; Liger and IRIS.

Reading looks at headers and flags only: the science values are a view of the file that loads nothing. Writing copies
every HDU that does not change byte for byte, without decoding it.

========  =======================================  =====================================================
family    science HDU and axes                     flags
========  =======================================  =====================================================
jwst      ``SCI`` (nints, ngroups, ny, nx)         ``PIXELDQ`` and ``GROUPDQ``; guiders and images ``DQ``
liger     ``DATA`` (ny, nx, ngroups, nreads)       the same, ``GROUPDQ`` in the axes of the data
========  =======================================  =====================================================

A file is of the family ``liger`` if INSTRUME is Liger or IRIS, unless SUBSIZE1 and SUBSIZE2 fit the last two axes of a
ramp and not the first two.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from tasks.archive.fits_scan import Hdu, scan_hdus
from tasks.archive.flag_planes import read_flags, read_stripes, read_whole, read_window, read_with_astropy
from tasks.errors import BadFileError, MissingProductError
from tasks.products.detector import RAMP_DIMENSIONS, DetectorImage
from tasks.products.windows import Window

Family = Literal["jwst", "liger"]
Source = Path | bytes

SCIENCE_NAMES = ("SCI", "DATA")
LIGER_INSTRUMENTS = frozenset({"LIGER", "IRIS"})
GUIDER_TYPES = frozenset({"FGS_ID-IMAGE", "FGS_ID-STACK", "FGS_ACQ1", "FGS_ACQ2", "FGS_TRACK", "FGS_FINEGUIDE"})
LIGER_TO_RAMP = (3, 2, 0, 1)
"""Axes (ny, nx, ngroups, nreads) in the order of a ramp (nreads, ngroups, ny, nx)."""
RAMP_TO_LIGER = (2, 3, 1, 0)
BROKEN = (OSError, ValueError, TypeError, KeyError, EOFError, fits.VerifyError, zlib.error)
NOT_FITS = {
    b"version https://git-lfs": "it is a git-LFS pointer; run `git lfs pull`",
    b"\x1f\x8b": "it is compressed with gzip; uncompress it",
}


@dataclass(frozen=True)
class DetectorFile:
    """A file of one detector: its image, its header, and where its HDUs are."""

    source: Source
    """Path, or the bytes themselves."""
    image: DetectorImage
    """Axes in the order of a ramp. ``data`` are a view of the file in its byte order, without its scaling, unless they
    are compressed."""
    keywords: dict[str, str]
    """Header values of the science HDU, and of the primary one for what it lacks, as texts."""
    family: Family
    hdus: tuple[Hdu, ...]
    science: int
    """Number of the science HDU."""


def read_detector_file(source: str | Path | bytes, subject: str = "") -> DetectorFile:
    """Return what data-quality initialisation needs of a file: shapes, flags, window and keywords.

    Parameters
    ----------
    source
        Path of a FITS file, or its bytes.
    subject
        How messages call it; the name of the file if empty.

    Raises
    ------
    MissingProductError
        If there is no such file.
    BadFileError
        If it is not a FITS file of a detector, or truncated.
    MissingKeywordError
        If its header describes its window or its stripes in part only.
    ShapeMismatchError
        If its flags or its window do not have the shape of its science data.
    """
    where = source if isinstance(source, bytes) else Path(source)
    subject = subject or (where.name if isinstance(where, Path) else "The image")
    with open_source(where) as handle, warnings.catch_warnings():
        # astropy says of a truncated file as a warning what its reader then fails of
        warnings.simplefilter("ignore", AstropyWarning)
        size = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        _refuse_other_formats(handle.read(64), size, subject)
        handle.seek(0)
        try:
            return _read(scan_hdus(handle, size), handle, where, subject)
        except BROKEN as error:
            raise BadFileError(
                f"{subject} ({size} bytes) cannot be read as FITS: {error}. It may be truncated; copy it again."
            ) from error


def open_source(source: Source) -> BinaryIO:
    """Open a file or bytes for reading.

    Raises
    ------
    MissingProductError
        If there is no such file.
    """
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return source.open("rb", buffering=0)
    except OSError as error:
        raise MissingProductError(f"{source} cannot be opened: {error.strerror}; correct its name.") from error


def _refuse_other_formats(start: bytes, size: int, subject: str) -> None:
    reason = next(
        (said for magic, said in NOT_FITS.items() if start.startswith(magic)), "it does not begin with SIMPLE"
    )
    if not start.startswith(b"SIMPLE"):
        raise BadFileError(f"{subject} ({size} bytes) is not a FITS file: {reason}.")


def _read(hdus: tuple[Hdu, ...], handle: BinaryIO, source: Source, subject: str) -> DetectorFile:
    science = _find_science(hdus, subject)
    header = ChainMap(science.header, hdus[0].header)
    data = _view_data(science, handle, source)
    family = _family(header, data.shape, subject)
    guider = str(header.get("EXP_TYPE", "")).strip().upper() in GUIDER_TYPES
    turned = family == "liger" and data.ndim == RAMP_DIMENSIONS
    ramp = data.transpose(LIGER_TO_RAMP) if turned else data
    pixel_name, group_name = flag_names(ramp.ndim == RAMP_DIMENSIONS and not guider)
    by_name = {hdu.name: hdu for hdu in reversed(hdus) if hdu.is_image}
    pixels, groups = by_name.get(pixel_name), by_name.get(group_name)
    group_flags = None if groups is None else _read_groups(groups, handle, subject)
    if group_flags is not None and turned and group_flags.ndim == RAMP_DIMENSIONS:
        group_flags = group_flags.transpose(LIGER_TO_RAMP)
    image = DetectorImage(
        data=ramp,
        pixeldq=None if pixels is None else read_flags(pixels, handle, subject),
        groupdq=group_flags,
        window=_window(header, ramp.shape[-2:], family, subject),
        subject=subject,
        guider=guider,
        stripes=read_stripes(header, subject),
    )
    keywords = {key: _text(value) for key, value in header.items()}
    return DetectorFile(source, image, keywords, family, hdus, science.number)


def flag_names(has_group_flags: bool) -> tuple[str, str]:
    """Return the names of the HDUs with the flags of the pixels and of the groups; the latter is empty without them."""
    return ("PIXELDQ", "GROUPDQ") if has_group_flags else ("DQ", "")


def _find_science(hdus: tuple[Hdu, ...], subject: str) -> Hdu:
    found = [hdu for hdu in hdus if hdu.name in SCIENCE_NAMES and hdu.is_image and hdu.shape]
    if not found and hdus[0].shape:
        found = [hdus[0]]
    if len(found) != 1:
        present = ", ".join(f"{hdu.number} {hdu.name}".strip() for hdu in hdus)
        wrong = "no image HDU SCI or DATA" if not found else f"{len(found)} HDUs SCI or DATA"
        raise BadFileError(f"{subject} has {wrong} where a file of one detector has one; it has {present}.")
    return found[0]


def _view_data(hdu: Hdu, handle: BinaryIO, source: Source) -> NDArray[np.generic]:
    """Return the science values without loading them, unless they are compressed."""
    if hdu.is_compressed:
        return np.asarray(read_with_astropy(hdu, handle))
    bits, shape = int(hdu.header["BITPIX"]), hdu.shape
    dtype = np.dtype("u1" if bits == 8 else f">{'f' if bits < 0 else 'i'}{abs(bits) // 8}")
    if isinstance(source, bytes):
        return np.frombuffer(source, dtype, int(np.prod(shape)), hdu.data_start).reshape(shape)
    return np.memmap(source, dtype, "r", hdu.data_start, shape)


def _family(header: Mapping[str, Any], shape: tuple[int, ...], subject: str) -> Family:
    if str(header.get("INSTRUME", "")).strip().upper() not in LIGER_INSTRUMENTS:
        return "jwst"
    size = read_whole(header, "SUBSIZE2", subject), read_whole(header, "SUBSIZE1", subject)
    told_otherwise = len(shape) == RAMP_DIMENSIONS and size == shape[-2:] and size != shape[:2]
    return "jwst" if told_otherwise else "liger"


def _window(header: Mapping[str, Any], shape: tuple[int, ...], family: Family, subject: str) -> Window | None:
    # Liger and IRIS: the name decides, and the keywords of a full frame may hold anything
    if family == "liger" and str(header.get("SUBARRAY", "")).strip().upper() == "FULL":
        return None
    return read_window(header, shape, subject)


def _read_groups(hdu: Hdu, handle: BinaryIO, subject: str) -> NDArray[np.uint8]:
    if hdu.header["BITPIX"] == 8 and not hdu.is_compressed and hdu.header.get("BZERO", 0) == 0:
        groups = np.empty(hdu.shape, np.uint8)
        handle.seek(hdu.data_start)
        if handle.readinto(groups.reshape(-1).data) != groups.nbytes:  # type: ignore[attr-defined]
            raise EOFError(f"the file ends inside the HDU {hdu.name}")
        return groups
    flags = read_flags(hdu, handle, subject)
    if int(flags.max(initial=0)) > np.iinfo(np.uint8).max:
        raise BadFileError(
            f"{subject} has the flag value {int(flags.max())} in {hdu.name}, but flags of groups have 8 bits; "
            "correct them."
        )
    return flags.astype(np.uint8)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    return "" if value is None else str(value)
