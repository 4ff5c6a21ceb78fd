"""Mean shear of the survey, corrected by the response of shapes and selection."""

from statistics import fmean
from typing import Annotated

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.documents import write_document
from tasks.archive.tables import read_table
from tasks.errors import DataError
from tasks.products.columns import SURVEY_CATALOG, TRUTH_GALAXIES
from tasks.products.config import StageConfig
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.shear import SurveyShear, TileShear, TruthComparison
from tasks.science.matching import match_sky
from tasks.science.shear_sample import cuts_by_type, estimate_shear, sky_patches
from tasks.stage import stage


class MeanShearConfig(StageConfig):
    """Settings of the mean shear; cuts on sheared quantities are repeated on every sheared type."""

    min_s2n: Annotated[float, Field(ge=0)] = 10.0
    """Lowest signal to noise."""

    min_size_ratio: float = 0.5
    """Lowest size T before the PSF, in units of the PSF's T: leaves stars and what the PSF hides out."""

    exclude_masked: bool = True
    """Leave out objects whose centre is masked in the tile."""

    min_epochs: Annotated[int, Field(ge=1)] = 1
    """Fewest epochs that a shape was measured on."""

    patch_arcsec: Annotated[float, Field(ge=0)] = 0.0
    """Side of the patches of sky that the jackknife leaves out; 0 leaves out one object at a time."""

    min_objects: Annotated[int, Field(ge=2)] = 10
    """Fewest selected objects for a mean shear; tiles with fewer have none of their own."""

    truth_arcsec: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Objects nearer than this to a true galaxy of a simulated survey are that galaxy."""


def measure_mean_shear(catalog: Table, truth: Table | None, config: MeanShearConfig) -> SurveyShear:
    """Measure the mean shear of a survey and of its tiles.

    Each type's own signal to noise, size and flags decide over its weight, so that the response of the selection is
    part of the correction (Sheldon & Huff 2017, section 4).

    Parameters
    ----------
    catalog
        Columns of ``SURVEY_CATALOG``; not changed.
    truth
        Columns of ``TRUTH_GALAXIES``, if the survey is simulated.
    config
        Settings.

    Returns
    -------
    SurveyShear
        Shear, response and numbers.

    Raises
    ------
    DataError
        If fewer objects pass the cuts than the minimum.
    """
    cuts = cuts_by_type(
        catalog,
        min_s2n=config.min_s2n,
        min_size_ratio=config.min_size_ratio,
        min_epochs=config.min_epochs,
        exclude_masked=config.exclude_masked,
    )
    weights = np.logical_and.reduce(list(cuts.values()))
    passed = {name: int(cut[:, 0].sum()) for name, cut in cuts.items()} | {"all": int(weights[:, 0].sum())}
    if passed["all"] < config.min_objects:
        listed = ", ".join(f"{name} {count}" for name, count in passed.items())
        raise DataError(
            f"Of {len(catalog)} objects {passed['all']} pass the cuts of the mean shear ({listed}); it needs "
            f"{config.min_objects}."
        )
    side = config.patch_arcsec
    groups = sky_patches(catalog["ra_win"], catalog["dec_win"], side_arcsec=side) if side else np.arange(len(catalog))
    tiles = []
    for name in np.unique(np.asarray(catalog["tile_id"])):
        rows = np.flatnonzero(np.asarray(catalog["tile_id"]) == name)
        if (weights[rows].sum(axis=0) >= config.min_objects).all() and len(np.unique(groups[rows])) > 1:
            found = estimate_shear(catalog[rows], weights[rows], groups[rows])
            tiles.append(TileShear(tile=str(name), **found.model_dump()))
    return SurveyShear(
        survey=estimate_shear(catalog, weights, groups),
        tiles=tuple(tiles),
        selected_by_cut=passed,
        truth=None if truth is None else compare_with_truth(catalog, weights, truth, config.truth_arcsec),
    )


def compare_with_truth(
    catalog: Table, weights: NDArray[np.bool_], truth: Table, tolerance_arcsec: float
) -> TruthComparison:
    """Measure the shear of the objects that are true galaxies, with the noise of their pairs cancelled.

    The error follows from leaving out whole pairs: two galaxies of equal profile, rotated by 90 degrees, whose
    intrinsic shapes add up to nothing.
    """
    match = match_sky(
        catalog["ra_win"], catalog["dec_win"], truth["ra"], truth["dec"], tolerance_arcsec=tolerance_arcsec
    )
    chosen = weights[match.first][:, 0]
    if not chosen.any():
        raise DataError(f"None of {len(match.first)} objects that are true galaxies passes the cuts of the mean shear.")
    used = match.second[chosen]
    return TruthComparison(
        # fmean adds without rounding: a constant shear comes back as it was put in
        g1=fmean(truth["g1"][used]),
        g2=fmean(truth["g2"][used]),
        recovered=estimate_shear(
            catalog[match.first], weights[match.first], np.asarray(truth["pair_id"], np.int64)[match.second]
        ),
        n_true=len(truth),
        n_matched=len(match.first),
    )


@stage(name="mean_shear", subject=lambda _: "survey")
def measure_mean_shear_task(
    catalog: ProductRef, truth: ProductRef | None, config: MeanShearConfig, store: DataStore, raw: DataStore
) -> ProductRef:
    """Read the catalogue of the survey and the truth of the raw store, measure the mean shear, store the document."""
    galaxies = None if truth is None else read_table(raw, truth, TRUTH_GALAXIES)
    shear = measure_mean_shear(read_table(store, catalog, SURVEY_CATALOG), galaxies, config)
    names = ("g1", "g1_error", "g2", "g2_error", "n_selected")
    summary: dict[str, SummaryValue] = {name: getattr(shear.survey, name) for name in names}
    return write_document(store, keys.SURVEY_SHEAR, shear, subject="survey", summary=summary)
