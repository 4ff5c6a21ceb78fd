"""Stage ``dq_init``: give a detector image its data-quality flags, with the static ones of its reference."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.documents import read_document
from tasks.archive.dq_reference import (
    read_detector_image,
    read_dq_reference,
    read_reference_keywords,
    reference_cards,
)
from tasks.archive.planes import write_plane
from tasks.errors import ReferenceMismatchError
from tasks.products.config import StageConfig
from tasks.products.detector import DetectorImage, DQReference
from tasks.products.dq import DQFlag, DQName
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.images import Window
from tasks.products.references import ReferenceRecord
from tasks.science.dq_flags import clear_flags, translate_flags
from tasks.science.subarrays import cut_window, describe_window
from tasks.stage import stage

logger = logging.getLogger("shearline.dq_init")


class DQInitConfig(StageConfig):
    """Settings of data-quality initialisation."""

    ignored_flags: tuple[DQName, ...] = ()
    """Flags of the reference that are not copied to the image."""


def cut_reference(image: DetectorImage, reference: DQReference) -> NDArray[np.uint32]:
    """Return the part of a reference that the image covers, numbered as the file does, shape (ny, nx).

    An image that does not say which part of the detector it covers must have the shape of the reference.

    Raises
    ------
    ReferenceMismatchError
        If the image covers a part of the detector that the reference does not hold.
    """
    covered = reference.window or Window.full(reference.dq.shape)
    if image.window is None and image.shape != covered.shape:
        raise ReferenceMismatchError(
            f"{image.subject} has shape {image.shape} and no SUBSTRT1 and SUBSTRT2, but reference {reference.name} "
            f"covers {describe_window(covered)} of the detector; give the image these keywords or another reference."
        )
    return cut_window(
        reference.dq, covered, image.window or covered, name=f"reference {reference.name}", subject=image.subject
    )


def initialize_dq(image: DetectorImage, reference: DQReference | None, config: DQInitConfig) -> DetectorImage:
    """Give an image its DQ arrays and the static flags of its detector.

    Flags are combined with bitwise OR, so flags that the image already carries are kept and running twice changes
    nothing. The flags of the reference are renumbered to the standard table by name; what has no standard name is left
    out and told in the warnings of the result. DO_NOT_USE holds for every group of a ramp too, as in JWST.

    Parameters
    ----------
    image
        Science data of shape (ny, nx), or (nints, ngroups, ny, nx) for ramps; the values are not read.
    reference
        Static flags, usually of the full detector; the window of a subarray is cut from it. If none applies, the arrays
        are created without static flags.
    config
        Which flags to leave out.

    Returns
    -------
    DetectorImage
        A copy with ``pixeldq`` of shape (ny, nx), uint32, and for ramps ``groupdq`` of shape (nints, ngroups, ny, nx),
        uint8. The input is not changed.

    Raises
    ------
    ReferenceMismatchError
        If the window of the image reaches outside the reference.
    """
    pixeldq = image.flags.copy()
    groupdq = image.groupdq.copy() if image.groupdq is not None else None
    if image.is_ramp and groupdq is None:
        groupdq = np.zeros(image.data.shape, np.uint8)
    if reference is None:
        return replace(image, pixeldq=pixeldq, groupdq=groupdq)
    translated = translate_flags(cut_reference(image, reference), reference.definitions)
    static = clear_flags(translated.dq, config.ignored_flags)
    pixeldq |= static
    if groupdq is not None:
        groupdq |= (static & np.uint32(DQFlag.DO_NOT_USE)).astype(np.uint8)
    told = [f"{reference.name} defines {name}, which is no standard flag: ignored" for name in translated.unknown_names]
    if translated.undefined_bits:
        told.append(f"{reference.name} has bits without a definition ({translated.undefined_bits:#x}): ignored")
    return replace(image, pixeldq=pixeldq, groupdq=groupdq, warnings=tuple(dict.fromkeys((*image.warnings, *told))))


def summarize_dq(before: DetectorImage, after: DetectorImage, record: ReferenceRecord) -> dict[str, SummaryValue]:
    """Return the numbers for tables and reports: flagged pixels, how many of them are new, and what was done."""
    old, new = int(np.count_nonzero(before.flags)), int(np.count_nonzero(after.flags))
    done = "COMPLETE" if record.outcome == "selected" else "SKIPPED"
    return {"dq_init": done, "n_flagged": new, "n_new": new - old, "n_warnings": len(after.warnings)}


@stage(name="dq_init")
def initialize_dq_task(image: ProductRef, references: ProductRef, config: DQInitConfig, store: DataStore) -> ProductRef:
    """Read a CCD and its reference, initialise the DQ, store the plane."""
    ccd, _ = read_reference_keywords(store, image)
    record = read_document(store, references, ReferenceRecord)
    before = read_detector_image(store, image)
    after = initialize_dq(before, read_dq_reference(store, record), config)
    for warning in after.warnings:
        logger.warning("%s", warning)
    key, summary, header = keys.ccd(ccd, "dq.fits"), summarize_dq(before, after, record), reference_cards(record)
    return write_plane(store, key, after.flags, "DQ", subject=ccd, summary=summary, header=header)
