"""The sample of a shear measurement: its cuts, its jackknife groups, and its estimate."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tasks.products.shear import ShearEstimate
from tasks.science.metacal import METACAL_TYPES
from tasks.science.response import mean_shear
from tasks.science.sphere import ARCSEC_PER_DEGREE


def cuts_by_type(
    catalog: Table, *, min_s2n: float, min_size_ratio: float, min_epochs: int, exclude_masked: bool
) -> dict[str, NDArray[np.bool_]]:
    """Return who passes each cut, as each type's own measurement judges it.

    Parameters
    ----------
    catalog
        Columns of ``SURVEY_CATALOG``; not changed.
    min_s2n
        Lowest signal to noise.
    min_size_ratio
        Lowest size T before the PSF in units of the PSF's.
    min_epochs
        Fewest epochs that a shape was measured on.
    exclude_masked
        Whether objects whose centre is masked are left out.

    Returns
    -------
    dict
        By name of the cut, shape (n, 5): noshear, 1p, 1m, 2p, 2m. Cuts on what does not depend on shear are the same
        for all five.
    """

    def by_type(name: str) -> NDArray[np.float64]:
        return np.stack([np.asarray(catalog[f"{name}_{kind}"], np.float64) for kind in METACAL_TYPES], axis=1)

    def for_all(cut: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.repeat(cut[:, None], len(METACAL_TYPES), axis=1)

    size_limit = min_size_ratio * np.asarray(catalog["t_psf"], np.float64)
    return {
        # an object must have all five shapes, or it would drop out of one and feign a response
        "flags": for_all(np.asarray(catalog["shape_flags"]) == 0),
        "mask": for_all((np.asarray(catalog["mask"]) == 0) | (not exclude_masked)),
        "epochs": for_all(np.asarray(catalog["n_epoch_used"]) >= min_epochs),
        "s2n": by_type("s2n") > min_s2n,
        "size": by_type("t") > size_limit[:, None],
    }


def sky_patches(ra: NDArray[np.float64], dec: NDArray[np.float64], *, side_arcsec: float) -> NDArray[np.int64]:
    """Return the number of the patch of sky that each position lies in.

    Patches are rows of constant declination, divided so that their width on the sky is the same in every row.

    Parameters
    ----------
    ra, dec
        ICRS degrees, shape (n,).
    side_arcsec
        Side of a patch.

    Returns
    -------
    NDArray[np.int64]
        Labels, shape (n,), from 0 by declination and right ascension.
    """
    row = np.floor(np.asarray(dec) * ARCSEC_PER_DEGREE / side_arcsec)
    cosine = np.cos(np.radians((row + 0.5) * side_arcsec / ARCSEC_PER_DEGREE))
    column = np.floor(np.asarray(ra) * cosine * ARCSEC_PER_DEGREE / side_arcsec)
    labels = np.unique(np.stack([row, column], axis=1), axis=0, return_inverse=True)[1]
    return labels.ravel().astype(np.int64)


def estimate_shear(
    catalog: Table, weights: NDArray[np.bool_], groups: NDArray[np.int64] | None = None
) -> ShearEstimate:
    """Return the response-corrected mean shear of a sample.

    Parameters
    ----------
    catalog
        Columns of ``SURVEY_CATALOG``; at least one row.
    weights
        Who is selected by each type, shape (n, 5).
    groups
        Labels of the jackknife groups, shape (n,); every object by itself if None.

    Returns
    -------
    ShearEstimate
        Shear, errors and responses.

    Raises
    ------
    DataError
        If a type selects nothing, or there are fewer than two groups.
    """
    shapes = np.empty((len(catalog), len(METACAL_TYPES), 2))
    for k, kind in enumerate(METACAL_TYPES):
        shapes[:, k, 0], shapes[:, k, 1] = catalog[f"g1_{kind}"], catalog[f"g2_{kind}"]
    result = mean_shear(shapes, weights, step=float(catalog["metacal_step"][0]), groups=groups)
    return ShearEstimate(
        g1=float(result.g[0]),
        g1_error=float(result.error[0]),
        g2=float(result.g[1]),
        g2_error=float(result.error[1]),
        shear_response=result.response.shear.tolist(),
        selection_response=result.response.selection.tolist(),
        n_objects=len(catalog),
        n_selected=result.n_objects,
        n_groups=result.n_groups,
    )
