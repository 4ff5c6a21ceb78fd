"""The psf_interp stage: one PSF for every source and CCD, and a named bit where there is none."""

from dataclasses import replace

import galsim
import numpy as np
import pytest
from astropy.table import Table
from filled_tables import filled
from pydantic import ValidationError

from blocks.store import DataStore
from tasks.archive.psfex import write_psf
from tasks.archive.tables import empty_table, read_table, write_table
from tasks.products.columns import EPOCH_PSF, EPOCHS
from tasks.products.identity import CcdId, CcdProducts, ProductRef
from tasks.products.psf import PsfFlag, PsfModel
from tasks.psf_interp import PsfInterpConfig, interpolate_psf, interpolate_psf_task
from tasks.science.moments import adaptive_moments

SCALE = 0.187
FIRST, SECOND = CcdId(exposure="2113737", ccd=10), CcdId(exposure="2113738", ccd=3)
PLACEHOLDER = ProductRef(key="a", sha256="0" * 64, size=1)


def make_model(ccd: CcdId, g1: float = 0.05, g2: float = 0.02, **changes: object) -> PsfModel:
    """A PSF that grows along x."""
    small, large = (galsim.Moffat(beta=3.0, fwhm=fwhm).shear(g1=g1, g2=g2) for fwhm in (3.6, 4.0))
    images = [star.drawImage(nx=51, ny=51, scale=1.0).array for star in (small, large)]
    fields: dict[str, object] = {
        "subject": str(ccd), "coefficients": np.array([images[0], images[1] - images[0], 0 * images[0]], np.float32),
        "degree": 1, "x0": 0.0, "x_scale": 1000.0, "y0": 0.0, "y_scale": 1000.0,
        "n_loaded": 40, "n_accepted": 38, "chi2": 1.0, "fwhm": 3.7,
    }  # fmt: skip
    return PsfModel(**{**fields, **changes})  # type: ignore[arg-type]


def make_epochs() -> Table:
    """Three sources; CCD 3 of the second exposure is turned by half a turn, as those of half of a camera are."""
    return filled(
        EPOCHS,
        5,
        number=[1, 1, 2, 3, 3],
        exposure=["2113737", "2113738", "2113737", "2113737", "2113738"],
        ccd=[10, 3, 10, 10, 3],
        x=[0.0, 1000.0, 1000.0, 500.0, 0.0],
        y=[10.0, 20.0, 30.0, 40.0, 50.0],
        dudx=[SCALE, -SCALE, SCALE, SCALE, -SCALE],
        dvdy=[SCALE, -SCALE, SCALE, SCALE, -SCALE],
    )


def both() -> dict[CcdId, PsfModel]:
    return {FIRST: make_model(FIRST), SECOND: make_model(SECOND)}


def test_every_epoch_has_the_psf_of_its_ccd_at_its_place() -> None:
    table = interpolate_psf(make_epochs(), both(), PsfInterpConfig())
    shape = adaptive_moments(table["psf"])

    assert tuple(table.colnames) == EPOCH_PSF.names
    assert table["number"].tolist() == [1, 1, 2, 3, 3]
    assert table["ccd"].tolist() == [10, 3, 10, 10, 3]
    assert not table["flags"].any()
    assert table["psf"].dtype == np.float32
    np.testing.assert_allclose(table["psf"].sum(axis=(1, 2)), 1.0, atol=1e-6)
    np.testing.assert_allclose([shape.x, shape.y], 25.0, atol=1e-4)
    np.testing.assert_allclose(table["sigma_px"], shape.sigma, rtol=1e-6)
    assert table["sigma_px"][0] == table["sigma_px"][4] < table["sigma_px"][3] < table["sigma_px"][2]


def test_shapes_are_those_of_the_sky() -> None:
    epochs = make_epochs()
    epochs["dudx"][2] *= -1.0
    table = interpolate_psf(epochs, both(), PsfInterpConfig())

    np.testing.assert_allclose(table["g1"], 0.05, atol=0.01)
    # half a turn changes no shape; a mirror changes the sign of g2
    np.testing.assert_allclose(table["g2"], [0.02, 0.02, -0.02, 0.02, 0.02], atol=0.005)
    modulus2 = table["g1"] ** 2 + table["g2"] ** 2
    expected = 2.0 * (SCALE * table["sigma_px"]) ** 2 * (1 + modulus2) / (1 - modulus2)
    np.testing.assert_allclose(table["t"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"n_accepted": 19}, PsfFlag.TOO_FEW_STARS),
        ({"chi2": 2.1}, PsfFlag.BAD_CHI2),
        ({"chi2": np.nan}, PsfFlag.BAD_CHI2),
        ({"chi2": 9.0, "n_accepted": 3}, PsfFlag.BAD_CHI2 | PsfFlag.TOO_FEW_STARS),
        ({"coefficients": np.zeros((3, 51, 51), np.float32)}, PsfFlag.NO_SHAPE),
        (None, PsfFlag.NO_MODEL),
    ],
)
def test_an_epoch_without_a_good_psf_is_flagged_and_not_dropped(
    changes: dict[str, object] | None, flag: PsfFlag
) -> None:
    models = both()
    if changes is None:
        del models[SECOND]
    else:
        models[SECOND] = replace(models[SECOND], **changes)  # type: ignore[arg-type]
    table = interpolate_psf(make_epochs(), models, PsfInterpConfig())

    assert table["flags"].tolist() == [0, flag, 0, 0, flag]
    assert not table["psf"][[1, 4]].any()
    for name in ("g1", "g2", "t", "sigma_px"):
        assert np.isnan(table[name][[1, 4]]).all()
        assert np.isfinite(table[name][[0, 2, 3]]).all()


def test_a_psf_does_not_depend_on_the_other_sources() -> None:
    together = interpolate_psf(make_epochs(), both(), PsfInterpConfig())
    alone = interpolate_psf(make_epochs()[3:4], both(), PsfInterpConfig())

    np.testing.assert_array_equal(together["psf"][3], alone["psf"][0])
    assert together["g1"][3] == alone["g1"][0]


def test_no_epochs_give_an_empty_table() -> None:
    table = interpolate_psf(empty_table(EPOCHS), both(), PsfInterpConfig(stamp_size=31))

    assert len(table) == 0
    assert table["psf"].shape == (0, 31, 31)


def test_the_stage_stores_one_row_per_epoch(store: DataStore) -> None:
    epochs = write_table(store, "tiles/210.296/epochs.fits", make_epochs(), EPOCHS, subject="210.296")
    models = {**both(), SECOND: make_model(SECOND, chi2=3.0)}
    names = ("image", "dq", "mask", "sources", "stars", "residuals")
    ccds = [
        CcdProducts(ccd=ccd, psf=write_psf(store, f"{ccd}.psf", model), **dict.fromkeys(names, PLACEHOLDER))
        for ccd, model in models.items()
    ]
    ref = interpolate_psf_task.fn(epochs, ccds, PsfInterpConfig(), store)
    table = read_table(store, ref, EPOCH_PSF)

    assert ref.key == "tiles/210.296/psf.fits"
    assert ref.subject == "210.296"
    assert ref.summary["n_epochs"] == len(table) == 5
    assert (ref.summary["n_good"], ref.summary["n_bad_chi2"], ref.summary["n_too_few_stars"]) == (3, 2, 0)
    assert table["psf"].shape == (5, 51, 51)
    assert table["exposure"].tolist() == make_epochs()["exposure"].tolist()


def test_an_even_size_is_refused_before_any_work() -> None:
    with pytest.raises(ValidationError, match="must be odd, so that a stamp has a central pixel, not 50"):
        PsfInterpConfig(stamp_size=50)
