"""The psf_fit stage on a simulated CCD."""

import numpy as np
import pytest
from pydantic import ValidationError
from star_field import SHAPE, Products, draw_psf, make_ccd, process

from blocks.store import DataStore
from tasks.archive.planes import write_plane
from tasks.archive.psfex import read_psf
from tasks.archive.sources import read_sources
from tasks.archive.tables import read_table
from tasks.errors import DataError, ShapeMismatchError, TooFewStarsError
from tasks.products.columns import STARS
from tasks.psf_fit import PsfFitConfig, fit_psf_model, fit_psf_task
from tasks.science.moments import adaptive_moments
from tasks.science.psf import evaluate_psf
from tasks.science.star_stamps import cut_stars


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Products:
    return process(DataStore(root=str(tmp_path_factory.mktemp("store")), collection="test"))


def test_the_psf_of_the_ccd_is_found(products: Products) -> None:
    ref = products.fit()
    model = read_psf(products.store, ref)
    x, y = np.random.default_rng(3).uniform(60, 640, (2, 40))
    found = adaptive_moments(evaluate_psf(model, x, y))
    truth = adaptive_moments(np.array([draw_psf(*position) for position in zip(x, y, strict=True)]))

    assert ref.key == "exposures/2113737/ccd-10/psf.psf"
    assert abs(np.mean((found.sigma / truth.sigma) ** 2 - 1.0)) < 5e-3
    assert np.sqrt(np.mean((found.g1 - truth.g1) ** 2)) < 3e-3
    assert np.sqrt(np.mean((found.g2 - truth.g2) ** 2)) < 3e-3
    assert ref.summary["n_accepted"] == model.n_accepted >= 30
    assert ref.summary["chi2"] == pytest.approx(1.0, abs=0.2)


def test_reserved_stars_are_not_used(products: Products) -> None:
    stars = read_table(products.store, products.stars, STARS)

    assert products.fit().summary["n_loaded"] == np.count_nonzero(~stars["reserved"])


def test_running_twice_gives_the_same_bytes(products: Products) -> None:
    assert products.fit().sha256 == products.fit().sha256


def test_too_few_stars_are_an_error(products: Products) -> None:
    with pytest.raises(
        TooFewStarsError, match=r"CCD 10 of exposure 2113737 has 3\d usable stars; the PSF model needs 60\."
    ):
        products.fit(min_stars=60)


def test_three_stars_on_a_ccd_are_an_error(store: DataStore) -> None:
    with pytest.raises(
        TooFewStarsError, match=r"CCD 10 of exposure 2113737 has 3 usable stars; the PSF model needs 20\."
    ):
        process(store, n_side=2, reserved_fraction=0.25).fit()


def test_a_ccd_with_reserved_stars_only_is_the_same_error(store: DataStore) -> None:
    with pytest.raises(TooFewStarsError, match="has 0 usable stars"):
        process(store, n_side=1, reserved_fraction=0.9).fit()


def test_undersampled_stars_are_an_error(products: Products) -> None:
    with pytest.raises(DataError, match=r"have a FWHM of 3\.\d\d pixels; a PSF model on pixels needs at least 5\."):
        products.fit(min_fwhm_px=5.0)


@pytest.mark.parametrize("settings", [{"stamp_size": 50}, {"degree": -1}, {"stampsize": 51}])
def test_wrong_settings_are_refused_before_any_work(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"odd|greater than or equal to 0|Extra inputs"):
        PsfFitConfig(**settings)  # type: ignore[arg-type]


def test_a_mask_of_another_shape_is_an_error(products: Products) -> None:
    mask = write_plane(products.store, "other.fits", np.zeros((9, 9), np.uint16), "MASK", subject="2113737-10")
    with pytest.raises(ShapeMismatchError, match=r"an image of shape \(720, 700\), a mask of \(9, 9\)"):
        fit_psf_task.fn(products.image, mask, products.sources, products.stars, PsfFitConfig(), products.store)


def test_stamps_of_stars_know_their_neighbours_and_bad_pixels(products: Products) -> None:
    ccd, mask = make_ccd()
    sources = read_sources(products.store, products.sources)
    stars = read_table(products.store, products.stars, STARS)
    stamps = cut_stars(ccd, mask.astype(np.uint32), sources, stars, size=251)
    star = int(np.argmin(np.abs(stars["x_win"] - 255) + np.abs(stars["y_win"] - 360)))
    row, column = (int(np.floor(stars[name][star] + 0.5)) - 125 for name in ("y_win", "x_win"))
    own = sources.segmentation == stars["number"][star]
    other = (sources.segmentation != 0) & ~own
    window = np.s_[row : row + 251, column : column + 251]

    assert stamps.bad[star][:, 255 - column].all()
    assert stamps.bad[star][other[window]].all()
    assert not stamps.bad[star][own[window] & (mask[window] == 0)].any()
    assert stamps.bad[star].sum() > np.count_nonzero(other[window] | (mask[window] != 0))
    assert (stamps.data[star][stamps.bad[star]] == 0.0).all()
    assert stamps.variance[star] == pytest.approx(1000.0 / 1.6 + (5.0 / 1.6) ** 2, rel=0.1)
    sky = stamps.data[star][~stamps.bad[star] & (sources.segmentation[window] == 0)]
    assert abs(np.median(sky)) < 5.0


def test_stars_at_the_edge_have_masked_pixels_outside(products: Products) -> None:
    ccd, mask = make_ccd()
    stars = read_table(products.store, products.stars, STARS)[:1]
    stars["x_win"], stars["y_win"] = -3.0, float(SHAPE[0] - 1)
    stamps = cut_stars(ccd, mask.astype(np.uint32), read_sources(products.store, products.sources), stars, size=51)

    assert stamps.bad[0, :, :28].all()
    assert stamps.bad[0, 26:].all()


def test_the_inputs_are_not_changed(products: Products) -> None:
    ccd, mask = make_ccd()
    plane, sci = mask.astype(np.uint32), ccd.sci.copy()
    sources, stars = read_sources(products.store, products.sources), read_table(products.store, products.stars, STARS)
    before = sources.segmentation.copy(), stars.copy()
    fit_psf_model(ccd, plane, sources, stars, PsfFitConfig())

    np.testing.assert_array_equal(ccd.sci, sci)
    np.testing.assert_array_equal(plane, mask)
    np.testing.assert_array_equal(sources.segmentation, before[0])
    assert (stars["x_win"] == before[1]["x_win"]).all()
