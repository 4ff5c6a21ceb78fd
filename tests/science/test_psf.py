"""The PSF model: evaluation, and a fit to simulated stars against stars that it has not seen."""

from dataclasses import replace

import galsim
import numpy as np
import pytest

from tasks.errors import DataError, ShapeMismatchError, TooFewStarsError
from tasks.products.identity import CcdId
from tasks.products.psf import PsfModel
from tasks.science.moments import adaptive_moments
from tasks.science.pixel_psf import EDGE, PsfFitSettings, fit_psf
from tasks.science.psf import evaluate_psf, full_width, polynomial_terms, shift_images
from tasks.science.psf_wings import WingSmoother
from tasks.science.star_stamps import StarStamps

CCD = CcdId(exposure="2113737", ccd=10)
SHAPE = (1024, 1024)
SIZE = 51
CUT = SIZE + 2 * EDGE
GAIN, VARIANCE, FWHM = 1.6, 100.0, 3.75


def true_psf(x: float, y: float, dx: float = 0.0, dy: float = 0.0, size: int = SIZE, scale: float = 1.0) -> np.ndarray:
    """A Moffat profile whose size and shape vary over the CCD, with the response of a pixel."""
    u, v = x / 512.0 - 1.0, y / 512.0 - 1.0
    moffat = galsim.Moffat(beta=3.0, fwhm=3.7 * (1.0 + 0.03 * u + 0.02 * v * v - 0.015 * u * v))
    moffat = moffat.shear(g1=0.02 + 0.015 * u - 0.01 * v * v, g2=-0.01 + 0.012 * v + 0.01 * u * v)
    fine = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-4)
    effective = galsim.Convolve(moffat.shift(dx, dy), galsim.Pixel(1.0), gsparams=fine)
    return effective.drawImage(nx=size, ny=size, scale=scale, method="no_pixel").array.astype(np.float64)


def make_stars(n: int, seed: int, *, snr: tuple[float, float] = (60.0, 800.0), bad_columns: bool = False) -> StarStamps:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(20, 1004, (2, n))
    snrs = np.exp(rng.uniform(*np.log(snr), n))
    data, bad = np.zeros((n, CUT, CUT)), np.zeros((n, CUT, CUT), np.bool_)
    for k in range(n):
        psf = true_psf(x[k], y[k], x[k] - np.floor(x[k] + 0.5), y[k] - np.floor(y[k] + 0.5), CUT)
        star = psf * snrs[k] * np.sqrt(VARIANCE / np.sum(psf**2))
        data[k] = star + rng.normal(size=star.shape) * np.sqrt(VARIANCE + star / GAIN)
        if bad_columns and k % 3 == 0:
            bad[k, :, CUT // 2 + rng.choice([-12, -7, -4, 3, 5, 9])] = True
    jitter = rng.normal(size=(2, n)) * 2.0 / snrs
    return StarStamps(np.where(bad, 0.0, data), bad, np.full(n, VARIANCE), x + jitter[0], y + jitter[1])


def fit(stars: StarStamps, **settings: object) -> PsfModel:
    chosen = PsfFitSettings(**settings)  # type: ignore[arg-type]
    return fit_psf(stars, ccd=CCD, shape=SHAPE, gain=GAIN, fwhm_px=FWHM, settings=chosen)


def residuals(model: PsfModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Size and shape of the model against the truth where there was no star."""
    x, y = np.random.default_rng(99).uniform(20, 1004, (2, 60))
    found = adaptive_moments(evaluate_psf(model, x, y))
    truth = adaptive_moments(np.array([true_psf(*position) for position in zip(x, y, strict=True)]))
    return (found.sigma / truth.sigma) ** 2 - 1.0, found.g1 - truth.g1, found.g2 - truth.g2


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@pytest.mark.parametrize(("bad_columns", "limit"), [(False, 3.5e-3), (True, 6e-3)])
def test_the_model_is_right_where_there_was_no_star(bad_columns: bool, limit: float) -> None:
    runs = [residuals(fit(make_stars(40, seed, bad_columns=bad_columns))) for seed in range(3)]
    sizes, e1, e2 = (np.concatenate(part) for part in zip(*runs, strict=True))

    assert abs(np.mean(sizes)) < 5e-3
    assert max(rms(e1), rms(e2)) < limit


def test_bright_stars_give_the_shape_to_three_in_ten_thousand() -> None:
    size, e1, e2 = residuals(fit(make_stars(40, 1, snr=(20000.0, 30000.0))))

    assert rms(size) < 2e-3
    assert max(rms(e1), rms(e2)) < 5e-4


def test_the_wings_are_those_of_the_profile_and_not_noise() -> None:
    psf = evaluate_psf(fit(make_stars(40, 2)), np.array([512.0]), np.array([512.0]))[0]
    truth = true_psf(512.0, 512.0)
    offset = np.arange(SIZE) - SIZE // 2
    wing = np.hypot(offset[:, None], offset[None, :]) > 12

    assert psf.min() >= 0.0
    assert abs(psf[wing].sum() - truth[wing].sum()) < 4e-3
    assert np.std(psf[wing] - truth[wing]) < 5e-6


def test_a_cosmic_ray_and_a_blended_star_do_no_harm() -> None:
    stars = make_stars(40, 3, snr=(300.0, 800.0))
    clean = fit(stars)
    data = stars.data.copy()
    data[5, 20:26, 44] += 3000.0
    data[9] += 0.6 * np.roll(data[9], (4, 3), axis=(0, 1))
    model = fit(replace(stars, data=data))
    before, after = residuals(clean), residuals(model)

    assert model.n_accepted < model.n_loaded == 40
    assert rms(after[0] - before[0]) < 4e-3
    assert rms(after[1] - before[1]) < 2e-3


def test_too_few_stars_are_an_error() -> None:
    with pytest.raises(
        TooFewStarsError, match=r"CCD 10 of exposure 2113737 has 7 usable stars; the PSF model needs 20\."
    ):
        fit(make_stars(7, 4))


def test_stars_without_their_peak_are_not_usable() -> None:
    stars = make_stars(21, 5)
    stars.bad[:2, CUT // 2, :] = True

    with pytest.raises(TooFewStarsError, match="has 19 usable stars"):
        fit(stars)


def test_no_star_at_all_is_the_same_error() -> None:
    with pytest.raises(TooFewStarsError, match="has 0 usable stars"):
        fit(make_stars(3, 4).keep(np.zeros(3, np.bool_)))


def test_undersampled_stars_are_an_error() -> None:
    with pytest.raises(DataError, match=r"have a FWHM of 1\.40 pixels; a PSF model on pixels needs at least 2\."):
        fit_psf(make_stars(21, 1), ccd=CCD, shape=SHAPE, gain=GAIN, fwhm_px=1.4, settings=PsfFitSettings())


def test_the_fit_is_the_same_every_time_and_changes_nothing() -> None:
    stars = make_stars(25, 6, bad_columns=True)
    data, bad = stars.data.copy(), stars.bad.copy()
    first, second = fit(stars), fit(stars)

    np.testing.assert_array_equal(first.coefficients, second.coefficients)
    np.testing.assert_array_equal(stars.data, data)
    np.testing.assert_array_equal(stars.bad, bad)


def test_the_model_says_how_it_was_made() -> None:
    model = fit(make_stars(30, 7))

    assert (model.subject, model.n_loaded, model.degree) == ("2113737-10", 30, 2)
    assert model.coefficients.shape == (6, SIZE, SIZE)
    assert model.chi2 == pytest.approx(1.0, abs=0.15)
    assert model.fwhm == pytest.approx(full_width(true_psf(512.0, 512.0)), rel=0.02)


def test_terms_are_in_the_order_of_psfex() -> None:
    terms = polynomial_terms(np.array([2.0]), np.array([3.0]), 2)

    assert terms.tolist() == [[1.0, 2.0, 4.0, 3.0, 6.0, 9.0]]


def test_a_shift_is_exact_and_keeps_the_flux() -> None:
    image, dx, dy = true_psf(512.0, 512.0), np.array([0.37]), np.array([-0.21])
    moved = shift_images(image[None], dx, dy)

    np.testing.assert_allclose(moved[0], true_psf(512.0, 512.0, 0.37, -0.21), atol=5e-4 * image.max())
    np.testing.assert_allclose(shift_images(moved, -dx, -dy)[0, 3:-3, 3:-3], image[3:-3, 3:-3], atol=2e-6)


def make_model(image: np.ndarray, **changes: object) -> PsfModel:
    fields: dict[str, object] = {
        "subject": "2113737-10", "coefficients": image[None].astype(np.float32), "degree": 0,
        "x0": 0.0, "x_scale": 1.0, "y0": 0.0, "y_scale": 1.0,
        "n_loaded": 30, "n_accepted": 30, "chi2": 1.0, "fwhm": 3.7,
    }  # fmt: skip
    return PsfModel(**{**fields, **changes})  # type: ignore[arg-type]


def test_evaluation_centres_and_normalises() -> None:
    model = make_model(7.0 * true_psf(512.0, 512.0, 0.3, -0.4, 63))
    psf = evaluate_psf(model, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    moments = adaptive_moments(psf)

    assert psf.dtype == np.float32
    np.testing.assert_allclose(psf.sum(axis=(1, 2)), 1.0, atol=1e-6)
    np.testing.assert_allclose([moments.x, moments.y], 25.0, atol=1e-4)
    np.testing.assert_allclose(psf[0], true_psf(512.0, 512.0) / true_psf(512.0, 512.0).sum(), atol=5e-4 * psf.max())


@pytest.mark.parametrize(("sampling", "size"), [(0.5, 127), (0.73, 85), (1.0, 40)])
def test_models_of_other_samplings_and_sizes_are_brought_to_the_pixels(sampling: float, size: int) -> None:
    # GalSim centres an even image between pixels, PSFEx on pixel n / 2
    centre = 0.5 if size % 2 == 0 else 0.0
    image = true_psf(512.0, 512.0, centre, centre, size=size, scale=sampling)
    psf = evaluate_psf(make_model(image, sampling=sampling), np.array([0.0]), np.array([0.0]), size=31)[0]
    truth = true_psf(512.0, 512.0, size=31)

    np.testing.assert_allclose(psf, truth / truth.sum(), atol=1e-3 * psf.max())


def test_a_model_without_flux_gives_zeros() -> None:
    assert not evaluate_psf(make_model(np.zeros((51, 51))), np.array([0.0]), np.array([0.0])).any()


@pytest.mark.parametrize("size", [50, 0, -3])
def test_an_even_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"its size must be odd and positive, not {size}"):
        evaluate_psf(make_model(np.ones((51, 51))), np.array([0.0]), np.array([0.0]), size=size)


def test_a_model_needs_one_image_per_term() -> None:
    with pytest.raises(ShapeMismatchError, match=r"shape \(1, 51, 51\); a polynomial of degree 1 needs 3 images"):
        make_model(np.ones((51, 51)), degree=1)


def test_wings_follow_a_smooth_profile_and_spikes() -> None:
    offset = np.arange(63) - 31.0
    radius = np.maximum(np.hypot(offset[:, None], offset[None, :]), 1.0)
    angle = np.arctan2(offset[:, None], offset[None, :])
    image = radius**-4.5 * (1.0 + 0.3 * np.cos(4 * angle))
    noise = np.random.default_rng(2).normal(scale=1e-6, size=image.shape)
    smooth = WingSmoother(63, 8.0).smooth((image + noise)[None])[0]
    wing = (radius > 11.0) & (radius < 31.0)

    assert rms((smooth - image)[wing]) < 0.3 * rms(noise[wing])
    np.testing.assert_array_equal(smooth[radius < 8.0], (image + noise)[radius < 8.0])


def test_stamps_without_room_for_wings_are_left_as_they_are() -> None:
    image = np.ones((1, 21, 21))

    np.testing.assert_array_equal(WingSmoother(21, 9.0).smooth(image), image)
