"""The PSF of every source of a tile on every CCD that saw it."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from astropy.table import Table
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.psfex import read_psf
from tasks.archive.tables import read_table, write_table
from tasks.products.columns import EPOCH_PSF, EPOCHS
from tasks.products.config import StageConfig, StampSize
from tasks.products.identity import CcdId, CcdProducts, ProductRef, SummaryValue, TileId
from tasks.products.psf import PsfFlag, PsfModel
from tasks.science.moments import adaptive_moments, to_sky
from tasks.science.psf import evaluate_psf
from tasks.stage import stage


class PsfInterpConfig(StageConfig):
    """Settings of PSF interpolation."""

    stamp_size: StampSize = 51
    """Side of the PSF images in pixels, odd."""

    max_chi2: Annotated[float, Field(gt=0)] = 2.0
    """Models with a larger chi2 are not used; the epochs of the CCD are flagged."""

    min_stars: Annotated[int, Field(ge=0)] = 20
    """Models from fewer stars are not used; the epochs of the CCD are flagged."""


def interpolate_psf(epochs: Table, models: Mapping[CcdId, PsfModel], config: PsfInterpConfig) -> Table:
    """Evaluate the PSF models at the sources.

    Parameters
    ----------
    epochs
        Columns of ``tasks.products.columns.EPOCHS``; not changed.
    models
        PSF model of every CCD; a CCD without one is flagged.
    config
        Settings.

    Returns
    -------
    Table
        Columns of ``tasks.products.columns.EPOCH_PSF``, one row for every row of ``epochs`` and in its order.
    """
    n, size = len(epochs), config.stamp_size
    psf, flags = np.zeros((n, size, size), np.float32), np.full(n, int(PsfFlag.NO_MODEL), np.int32)
    shapes = np.full((4, n), np.nan)
    exposures, ccds = np.asarray(epochs["exposure"]).astype(np.str_), np.asarray(epochs["ccd"])
    for ccd, model in models.items():
        rows = np.flatnonzero((exposures == ccd.exposure) & (ccds == ccd.ccd))
        flags[rows] = refusal(model, config)
        if rows.size == 0 or flags[rows[0]]:
            continue
        part = epochs[rows]
        images = evaluate_psf(model, np.asarray(part["x"]), np.asarray(part["y"]), size=size)
        moments = adaptive_moments(images, guess_sigma=2.0)
        good = rows[moments.flag == 0]
        flags[rows[moments.flag != 0]] = int(PsfFlag.NO_SHAPE)
        psf[good] = images[moments.flag == 0]
        rotation = [[part["dvdy"], part["dvdx"]], [part["dudy"], part["dudx"]]]
        jacobian = np.moveaxis(np.array(rotation, np.float64), -1, 0)
        shapes[:3, rows], shapes[3, rows] = to_sky(moments.g1, moments.g2, moments.sigma, jacobian), moments.sigma
    columns = {"number": epochs["number"], "exposure": exposures, "ccd": ccds, "psf": psf, "flags": flags}
    columns |= dict(zip(("g1", "g2", "t", "sigma_px"), shapes, strict=True))
    return Table({column.name: np.asarray(columns[column.name]).astype(column.dtype) for column in EPOCH_PSF.columns})


def refusal(model: PsfModel, config: PsfInterpConfig) -> int:
    """Return why a model is not used, as `PsfFlag` bits."""
    flag = PsfFlag.GOOD
    if model.n_accepted < config.min_stars:
        flag |= PsfFlag.TOO_FEW_STARS
    # NaN is refused, too
    if not model.chi2 <= config.max_chi2:
        flag |= PsfFlag.BAD_CHI2
    return int(flag)


def interpolation_summary(table: Table) -> dict[str, SummaryValue]:
    """Return the numbers of an interpolated table."""
    flags = np.asarray(table["flags"])
    refused = {f"n_{flag.name}".lower(): int(np.count_nonzero(flags & int(flag))) for flag in PsfFlag if flag}
    return {"n_epochs": len(table), "n_good": int(np.count_nonzero(flags == 0)), **refused}


@stage(name="psf_interp")
def interpolate_psf_task(
    epochs: ProductRef, ccds: Sequence[CcdProducts], config: PsfInterpConfig, store: DataStore
) -> ProductRef:
    """Read the epochs of a tile and the PSF models of its CCDs, evaluate them, store the PSFs."""
    models = {item.ccd: read_psf(store, item.psf) for item in ccds}
    table = interpolate_psf(read_table(store, epochs, EPOCHS), models, config)
    tile, summary = TileId(epochs.subject), interpolation_summary(table)
    return write_table(store, keys.tile(tile, "psf.fits"), table, EPOCH_PSF, subject=tile, summary=summary)
