"""The psf_validate stage: reserved stars against the model."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from star_field import Products, make_ccd, process, psf_shape

from blocks.store import DataStore
from tasks.archive.psfex import read_psf, write_psf
from tasks.archive.sources import read_sources
from tasks.archive.tables import read_table, write_table
from tasks.products.columns import PSF_RESIDUALS, STARS
from tasks.products.identity import ProductRef
from tasks.psf_validate import PsfValidateConfig, residuals_summary, validate_psf
from tasks.science.moments import MomentsFlag


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Products, ProductRef]:
    products = process(DataStore(root=str(tmp_path_factory.mktemp("store")), collection="test"))
    return products, products.fit()


def test_the_model_agrees_with_stars_that_it_has_not_seen(fitted: tuple[Products, ProductRef]) -> None:
    products, psf = fitted
    ref = products.validate(psf)
    table = read_table(products.store, ref, PSF_RESIDUALS)
    stars = read_table(products.store, products.stars, STARS)

    assert ref.key == "exposures/2113737/ccd-10/psf_residuals.fits"
    assert table["number"].tolist() == stars["number"][stars["reserved"]].tolist()
    assert ref.summary["n_stars"] == len(table)
    assert 6 <= int(ref.summary["n_good"]) <= len(table)
    assert ref.summary["de_rms"] < 0.01
    assert abs(float(ref.summary["dtt_mean"])) < 0.015
    assert np.nanmedian(table["chi2"]) == pytest.approx(1.0, abs=0.15)


def test_shapes_are_those_of_the_sky(fitted: tuple[Products, ProductRef]) -> None:
    """North is up and u grows to the West, to the right: the frame of the pixels is that of the sky."""
    products, psf = fitted
    table = read_table(products.store, products.validate(psf), PSF_RESIDUALS)
    for row in table[table["flags_psf"] == 0]:
        _, g1, g2 = psf_shape(row["x_win"], row["y_win"])

        # the round pixel makes a PSF rounder, and a Gaussian weight sees the core
        assert row["g1_psf"] == pytest.approx(g1, abs=0.01)
        assert row["g2_psf"] == pytest.approx(g2, abs=0.01)
        assert row["t_psf"] == pytest.approx(2.0 * (row["sigma_psf"] * 0.187) ** 2, rel=0.01)


def test_a_wrong_model_is_noticed(fitted: tuple[Products, ProductRef]) -> None:
    products, psf = fitted
    model = read_psf(products.store, psf)
    squeezed = replace(model, coefficients=np.ascontiguousarray(model.coefficients.transpose(0, 2, 1)))
    summary = products.validate(write_psf(products.store, "wrong.psf", squeezed)).summary

    assert summary["de_rms"] > 0.02
    assert summary["de1_mean"] == pytest.approx(2 * 0.03, abs=0.01)


def test_a_star_with_a_masked_core_is_flagged_and_nan(fitted: tuple[Products, ProductRef]) -> None:
    products, psf = fitted
    stars = read_table(products.store, products.stars, STARS)
    star = stars[stars["reserved"]][0]
    ccd, mask = make_ccd()
    plane = mask.astype(np.uint32)
    plane[int(star["y_win"]) + 2, int(star["x_win"])] = 1
    sources = read_sources(products.store, products.sources)
    table = validate_psf(ccd, plane, sources, stars, read_psf(products.store, psf), PsfValidateConfig())

    assert table["flags_star"][0] == MomentsFlag.MASKED
    assert np.isnan([table[name][0] for name in ("g1_star", "g2_star", "t_star", "sigma_star")]).all()
    assert np.isfinite(table["g1_psf"][0])
    assert residuals_summary(table)["n_good"] == np.count_nonzero(table["flags_star"] == 0)


def test_without_reserved_stars_there_is_an_empty_table(fitted: tuple[Products, ProductRef]) -> None:
    products, psf = fitted
    stars = read_table(products.store, products.stars, STARS)
    stars["reserved"] = False
    ref = products.validate(psf, write_table(products.store, "stars.fits", stars, STARS, subject="2113737-10"))

    assert len(read_table(products.store, ref, PSF_RESIDUALS)) == 0
    assert ref.summary == {"n_stars": 0, "n_good": 0}


def test_running_twice_gives_the_same_bytes(fitted: tuple[Products, ProductRef]) -> None:
    products, psf = fitted

    assert products.validate(psf).sha256 == products.validate(psf).sha256


def test_an_even_size_is_refused_before_any_work() -> None:
    with pytest.raises(ValidationError, match="must be odd, so that a stamp has a central pixel, not 50"):
        PsfValidateConfig(stamp_size=50)
