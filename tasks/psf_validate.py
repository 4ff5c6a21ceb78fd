"""Test of a PSF model on the stars that it has not seen."""

import math
from typing import Annotated

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.images import read_ccd_image
from tasks.archive.planes import read_plane
from tasks.archive.psfex import read_psf
from tasks.archive.sources import read_sources
from tasks.archive.tables import read_table, write_table
from tasks.products.columns import PSF_RESIDUALS, STARS
from tasks.products.config import StageConfig, StampSize
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.images import CcdImage
from tasks.products.psf import PsfModel
from tasks.products.sources import SourceList
from tasks.science.geometry import local_jacobian
from tasks.science.psf_residuals import measure_residuals, summarise_residuals
from tasks.science.star_stamps import cut_stars
from tasks.stage import stage


class PsfValidateConfig(StageConfig):
    """Settings of the test of PSF models."""

    stamp_size: StampSize = 51
    """Side of the stamps in pixels, odd."""

    accuracy: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Relative error of the model that is part of the variance in chi2."""


def validate_psf(
    image: CcdImage,
    mask: NDArray[np.uint32],
    sources: SourceList,
    stars: Table,
    model: PsfModel,
    config: PsfValidateConfig,
) -> Table:
    """Measure the reserved stars of a CCD and its PSF model at their positions.

    Parameters
    ----------
    image
        CCD in ADU, not background-subtracted; not changed.
    mask
        Lensing mask, shape (ny, nx); a pixel with any bit is masked.
    sources
        Background, segmentation and variance scale.
    stars
        Columns of ``tasks.products.columns.STARS``; the reserved ones are measured.
    model
        PSF model of the CCD.
    config
        Settings.

    Returns
    -------
    Table
        Columns of ``tasks.products.columns.PSF_RESIDUALS``, one row per reserved star; empty if there is none.
    """
    reserved = stars[np.asarray(stars["reserved"])]
    stamps = cut_stars(image, mask, sources, reserved, size=config.stamp_size)
    jacobian = local_jacobian(image.wcs, stamps.x, stamps.y)
    return measure_residuals(reserved, stamps, model, jacobian, gain=image.photometry.gain, accuracy=config.accuracy)


def residuals_summary(table: Table) -> dict[str, SummaryValue]:
    """Return the numbers of a residual table; those that no star gives are left out."""
    statistics = summarise_residuals(table)
    numbers = {name: value for name, value in vars(statistics).items() if math.isfinite(value)}
    return {"n_stars": len(table), **{name: round(value, 6) for name, value in numbers.items()}}


@stage(name="psf_validate")
def validate_psf_task(
    image: ProductRef,
    mask: ProductRef,
    sources: ProductRef,
    stars: ProductRef,
    psf: ProductRef,
    config: PsfValidateConfig,
    store: DataStore,
) -> ProductRef:
    """Read a CCD, its stars and its PSF model, measure the residuals, store them."""
    ccd, plane, chosen = read_ccd_image(store, image), read_plane(store, mask, "MASK"), read_table(store, stars, STARS)
    table = validate_psf(ccd, plane, read_sources(store, sources), chosen, read_psf(store, psf), config)
    key, summary = keys.ccd(ccd.id, "psf_residuals.fits"), residuals_summary(table)
    return write_table(store, key, table, PSF_RESIDUALS, subject=ccd.id, summary=summary)
