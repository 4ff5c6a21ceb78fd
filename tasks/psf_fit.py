"""PSF model of a CCD: an image per term of a polynomial in the position, fitted to its stars."""

from typing import Annotated

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.images import read_ccd_image
from tasks.archive.planes import read_plane
from tasks.archive.psfex import write_psf
from tasks.archive.sources import read_sources
from tasks.archive.tables import read_table
from tasks.products.columns import STARS
from tasks.products.config import StageConfig, StampSize
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.images import CcdImage
from tasks.products.psf import PsfModel
from tasks.products.sources import SourceList
from tasks.science.pixel_psf import EDGE, PsfFitSettings, fit_psf
from tasks.science.star_stamps import cut_stars
from tasks.stage import stage


class PsfFitConfig(StageConfig):
    """Settings of the PSF model."""

    stamp_size: StampSize = 51
    """Side of the model in pixels, odd."""

    degree: Annotated[int, Field(ge=0, le=5)] = 2
    """Degree of the polynomial in the position."""

    min_stars: Annotated[int, Field(ge=1)] = 20
    """Fewest usable stars with which the model stands."""

    iterations: Annotated[int, Field(ge=1, le=50)] = 6
    """Rounds of refitting fluxes and centres, filling masked pixels and leaving out stars that do not fit."""

    clip_sigma: Annotated[float, Field(gt=0)] = 5.0
    """Stars whose chi2 is further above the median than this, in robust standard deviations, are left out."""

    pixel_clip_sigma: Annotated[float, Field(gt=0)] = 7.0
    """Pixels further from the model than this, in standard deviations, are masked."""

    accuracy: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Relative error of the model that limits the weight of bright stars."""

    wing_start_fwhm: Annotated[float, Field(gt=0)] = 2.0
    """Radius in units of the FWHM beyond which the model is smoothed."""

    min_fwhm_px: Annotated[float, Field(gt=0)] = 2.0
    """Stars narrower than this are undersampled, which is an error."""


def fit_psf_model(
    image: CcdImage, mask: NDArray[np.uint32], sources: SourceList, stars: Table, config: PsfFitConfig
) -> PsfModel:
    """Fit the PSF model of a CCD to its stars, without the reserved ones.

    Parameters
    ----------
    image
        CCD in ADU, not background-subtracted; not changed.
    mask
        Lensing mask, shape (ny, nx); a pixel with any bit is masked.
    sources
        Background, segmentation and variance scale.
    stars
        Columns of ``tasks.products.columns.STARS``.
    config
        Settings.

    Returns
    -------
    PsfModel
        The model.

    Raises
    ------
    TooFewStarsError
        If too few stars are usable: "CCD 10 of exposure 2113737 has 7 usable stars; the PSF model needs 20."
    DataError
        If the stars are undersampled.
    """
    training = stars[~np.asarray(stars["reserved"])]
    settings = config.model_dump()
    size = settings.pop("stamp_size")
    return fit_psf(
        cut_stars(image, mask, sources, training, size=size + 2 * EDGE),
        ccd=image.id,
        shape=(image.sci.shape[0], image.sci.shape[1]),
        gain=image.photometry.gain,
        fwhm_px=float(np.median(training["fwhm"])) if len(training) else np.nan,
        settings=PsfFitSettings(size=size, **settings),
    )


def psf_summary(model: PsfModel) -> dict[str, SummaryValue]:
    """Return the numbers of a PSF model."""
    return {
        "n_loaded": model.n_loaded,
        "n_accepted": model.n_accepted,
        "chi2": round(model.chi2, 4),
        "fwhm_px": round(model.fwhm, 4),
    }


@stage(name="psf_fit")
def fit_psf_task(
    image: ProductRef, mask: ProductRef, sources: ProductRef, stars: ProductRef, config: PsfFitConfig, store: DataStore
) -> ProductRef:
    """Read a CCD and its stars, fit the PSF model, store it."""
    ccd, plane = read_ccd_image(store, image), read_plane(store, mask, "MASK")
    model = fit_psf_model(ccd, plane, read_sources(store, sources), read_table(store, stars, STARS), config)
    return write_psf(store, keys.ccd(ccd.id, "psf.psf"), model, psf_summary(model))
