"""Data-quality references and CCD images in the store, and what products say of the reference that was used.

The bytes of references are read by `tasks.archive.reference_bytes`, which needs no store; its names are here too.
"""

from __future__ import annotations

from collections import ChainMap

import numpy as np
from astropy.io import fits

from blocks.store import DataStore
from tasks.archive.fits_files import get_bytes, get_hdu, open_fits
from tasks.archive.flag_planes import read_window
from tasks.archive.reference_bytes import check_reference_bytes, parse_dq_reference
from tasks.errors import BadFileError
from tasks.products.detector import DetectorImage, DQReference
from tasks.products.identity import CcdId, ProductRef
from tasks.products.references import ReferenceRecord

__all__ = [
    "check_reference_bytes",
    "parse_dq_reference",
    "read_detector_image",
    "read_dq_reference",
    "read_reference_keywords",
    "read_window",
    "reference_cards",
]

MAX_CARD_NAME = 8


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
