"""Stage ``dq_init``: give a detector image its data-quality flags, with the static ones of its reference."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike

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
from tasks.products.config import StageConfig
from tasks.products.detector import DetectorImage, DQReference
from tasks.products.dq import DQName
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.references import ReferenceRecord
from tasks.science.static_flags import lay_flags
from tasks.stage import stage

logger = logging.getLogger("shearline.dq_init")


class DQInitConfig(StageConfig):
    """Settings of data-quality initialisation."""

    ignored_flags: tuple[DQName, ...] = ()
    """Flags of the reference that are not copied to the image."""


def initialize_dq(
    image: DetectorImage, reference: DQReference | None, config: DQInitConfig, user_dq: ArrayLike | None = None
) -> DetectorImage:
    """Give an image its DQ arrays and the static flags of its detector.

    Flags are combined with bitwise OR, so flags that the image already carries are kept and running twice changes
    nothing. The flags of the reference are renumbered to the standard table by name; what has no standard name is left
    out and told in the warnings of the result. DO_NOT_USE holds for every group of a ramp too, as in JWST.

    Parameters
    ----------
    image
        Science data of shape (ny, nx), or (nints, ngroups, ny, nx) for ramps; the values are not read. Ramps of the
        fine guidance sensor for guiding have no flags of their groups. Ramps of superstripes have them, and flags of
        their pixels for every stripe.
    reference
        Static flags, usually of the full detector; the window of a subarray, or the lines of its stripes, are cut from
        it. If none applies, the arrays are created without static flags.
    config
        Which flags to leave out.
    user_dq
        Further flags of the user in the standard numbering, any type of whole numbers, of the shape of the pixel flags;
        not used if no reference applies.

    Returns
    -------
    DetectorImage
        A copy with ``pixeldq`` of shape (ny, nx), of superstripes (nstripes, ny, nx), uint32, and for ramps ``groupdq``
        of shape (nints, ngroups, ny, nx), uint8. The input is not changed; the copy shares its data.

    Raises
    ------
    ReferenceMismatchError
        If the window of the image reaches outside the reference.
    ShapeMismatchError
        If the user's flags have another shape.
    BadFileError
        If the user's flags are none, or the keywords of stripes contradict each other.
    """
    return lay_flags(image, reference, ignored_flags=config.ignored_flags, user_dq=user_dq)


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
