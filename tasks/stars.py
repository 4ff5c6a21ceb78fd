"""Choice of the stars that the PSF model is made from, and of those that test it."""

from typing import Annotated

import numpy as np
from astropy.table import Table
from pydantic import Field, field_validator

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.sources import read_sources
from tasks.archive.tables import write_table
from tasks.errors import ConfigError, TooFewStarsError
from tasks.products.columns import SOURCES, STARS
from tasks.products.config import StageConfig
from tasks.products.dq import MaskFlag, MaskName
from tasks.products.identity import CcdId, ProductRef, SummaryValue
from tasks.science.selection import parse_selection
from tasks.science.stellar_locus import reserve_stars, select_locus
from tasks.stage import stage


class StarsConfig(StageConfig):
    """Settings of star selection; conditions are in the selection language, on the columns of the source table."""

    preselection: str = "mag_auto < 21 and 1.6 < fwhm < 8 and flags == 0"
    """Bright, compact sources; the mode of their FWHM is the size of a star."""

    selection: str = "18 < mag_auto < 22 and snr_win > 20 and flags == 0"
    """What a star must fulfil beside its size."""

    locus_half_width_px: Annotated[float, Field(gt=0, le=5)] = 0.2
    """Largest difference of the FWHM of a star from that mode, in pixels."""

    excluded_mask: tuple[MaskName, ...] = ("HALO", "BORDER", "MESSIER", "NGC", "SATURATED", "SPIKE", "MISSING")
    """Bits of the lensing mask that no star may have; single bad pixels are masked in the fit instead."""

    reserved_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the stars that is kept out of the PSF model to test it."""

    min_stars: Annotated[int, Field(ge=1)] = 1
    """Fewest stars, reserved ones included, with which a CCD stands; the PSF model has a limit of its own."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the survey; which stars are reserved follows from it and the name of the CCD."""

    @field_validator("preselection", "selection")
    @classmethod
    def _is_a_selection(cls, text: str) -> str:
        try:
            parse_selection(text, [column.name for column in SOURCES.columns if not column.shape])
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return text


def select_stars(sources: Table, ccd: CcdId, config: StarsConfig) -> tuple[Table, float]:
    """Choose the stars of a CCD and reserve some of them.

    Parameters
    ----------
    sources
        Columns of ``tasks.products.columns.SOURCES``; not changed.
    ccd
        The CCD, which decides with the seed which stars are reserved.
    config
        Settings.

    Returns
    -------
    tuple
        Columns of ``tasks.products.columns.STARS`` in the order of the sources; and the FWHM of the locus in pixels.

    Raises
    ------
    TooFewStarsError
        If there are fewer stars than the settings ask for.
    """
    locus = select_locus(
        sources,
        preselection=config.preselection,
        selection=config.selection,
        half_width_px=config.locus_half_width_px,
        excluded_bits=int(np.bitwise_or.reduce([int(MaskFlag[name]) for name in config.excluded_mask], initial=0)),
    )
    stars = sources[locus.chosen]
    if len(stars) < config.min_stars:
        raise TooFewStarsError(
            f"CCD {ccd.ccd} of exposure {ccd.exposure} has {len(stars)} stars among {len(sources)} sources; star "
            f"selection needs {config.min_stars}. Check its magnitude limits and locus (FWHM {locus.fwhm:.2f} pixels)."
        )
    table = Table({name: np.asarray(stars[name]) for name in STARS.names if name != "reserved"})
    x, y = np.asarray(table["x_win"]), np.asarray(table["y_win"])
    table["reserved"] = reserve_stars(x, y, fraction=config.reserved_fraction, ccd=ccd, seed=config.seed)
    return table, locus.fwhm


def ccd_of(product: ProductRef) -> CcdId:
    """Return the CCD that a product is about."""
    exposure, _, number = product.subject.rpartition("-")
    return CcdId(exposure=exposure, ccd=int(number))


def stars_summary(stars: Table, fwhm: float) -> dict[str, SummaryValue]:
    """Return the numbers of a star table."""
    return {
        "n_stars": len(stars),
        "n_reserved": int(np.count_nonzero(stars["reserved"])),
        "fwhm_px": round(fwhm, 4),
    }


@stage(name="stars")
def select_stars_task(image: ProductRef, sources: ProductRef, config: StarsConfig, store: DataStore) -> ProductRef:
    """Read the sources of a CCD, choose the stars, store them."""
    ccd = ccd_of(image)
    stars, fwhm = select_stars(read_sources(store, sources).table, ccd, config)
    key, summary = keys.ccd(ccd, "stars.fits"), stars_summary(stars, fwhm)
    return write_table(store, key, stars, STARS, subject=ccd, summary=summary)
