"""The spread model against its published values, GalSim and noise."""

import galsim
import numpy as np
import pytest

from tasks.products.psf import SpreadFlag
from tasks.science.spread import FWHM_PER_SIGMA, measure_spread, spread_templates

SIZE, SCALE = 51, 0.186
GOLDEN = {
    1.5: (0.00164, 0.00495, 0.00819, 0.01312, 0.01946),
    1.7: (0.00133, 0.00419, 0.00719, 0.01201, 0.01861),
    2.0: (0.00100, 0.00332, 0.00595, 0.01052, 0.01733),
}
HALF_LIGHT_ARCSEC = (0.1, 0.2, 0.3, 0.5, 1.0)


def draw(profile: galsim.GSObject) -> np.ndarray:
    return profile.drawImage(nx=SIZE, ny=SIZE, scale=SCALE, dtype=np.float64).array


@pytest.mark.parametrize("sigma", GOLDEN)
def test_disks_have_the_measured_values(sigma: float) -> None:
    psf = galsim.Gaussian(sigma=sigma * SCALE)
    stamps = np.array([draw(galsim.Convolve(galsim.Exponential(half_light_radius=r), psf)) for r in HALF_LIGHT_ARCSEC])
    model, _, flags = measure_spread(stamps, np.ones_like(stamps), np.full(5, sigma))

    assert not flags.any()
    np.testing.assert_allclose(model, GOLDEN[sigma], atol=6e-6)


def test_a_star_has_none() -> None:
    stars = np.array([draw(galsim.Gaussian(sigma=sigma * SCALE)) for sigma in (1.2, 1.713, 2.519)])
    model, _, _ = measure_spread(stars, np.ones_like(stars), np.array([1.2, 1.713, 2.519]))

    np.testing.assert_allclose(model, 0.0, atol=1e-7)


def test_between_the_nodes_the_templates_are_those_of_galsim() -> None:
    sigma = np.array([0.777, 1.33, 1.713, 3.141])
    found = spread_templates(sigma, SIZE)
    for k, one in enumerate(sigma * SCALE):
        star = galsim.Gaussian(sigma=one)
        disk = galsim.Exponential(scale_radius=FWHM_PER_SIGMA * one / 16)

        np.testing.assert_allclose(found[k, 0], draw(star), atol=5e-5 * found[k, 0].max())
        np.testing.assert_allclose(found[k, 1], draw(galsim.Convolve(disk, star)), atol=5e-5 * found[k, 1].max())


def test_a_moffat_star_needs_the_size_of_its_moments() -> None:
    star = draw(galsim.Moffat(beta=3.5, fwhm=0.7))
    sigma = galsim.hsm.FindAdaptiveMom(galsim.Image(star, scale=1.0)).moments_sigma
    wrong = 0.7 / SCALE / FWHM_PER_SIGMA
    model, _, _ = measure_spread(np.array([star, star]), np.ones((2, SIZE, SIZE)), np.array([sigma, wrong]))

    assert abs(model[0]) < 5e-4
    assert model[1] == pytest.approx(0.0027, abs=5e-4)


def test_the_error_is_the_scatter() -> None:
    noise, n = 0.001, 400
    galaxy = draw(galsim.Convolve(galsim.Exponential(half_light_radius=0.3), galsim.Gaussian(sigma=1.7 * SCALE)))
    stamps = galaxy + np.random.default_rng(3).normal(scale=noise, size=(n, SIZE, SIZE))
    model, error, flags = measure_spread(stamps, np.full(stamps.shape, noise**-2), np.full(n, 1.7))

    assert not flags.any()
    assert np.std(model) == pytest.approx(np.median(error), rel=0.12)
    assert abs(np.mean(model) - 0.00719) < 4.0 * np.std(model) / np.sqrt(n)


def test_the_place_of_a_star_within_its_pixel_does_not_matter() -> None:
    dx, dy = np.array([0.0, 0.5, -0.3]), np.array([0.0, -0.5, 0.2])
    star = galsim.Gaussian(sigma=1.7 * SCALE)
    stamps = np.array([draw(star.shift(a * SCALE, b * SCALE)) for a, b in zip(dx, dy, strict=True)])
    model, _, _ = measure_spread(stamps, np.ones_like(stamps), np.full(3, 1.7), dx=dx, dy=dy)

    np.testing.assert_allclose(model, 0.0, atol=1e-6)


def test_masked_pixels_do_not_matter() -> None:
    star = draw(galsim.Gaussian(sigma=1.7 * SCALE))
    stamps, weight = np.array([star, star]), np.ones((2, SIZE, SIZE))
    weight[1, :, 28] = 0.0
    stamps[1, :, 28] = np.nan
    model, _, flags = measure_spread(stamps, weight, np.array([1.7, 1.7]))

    assert not flags.any()
    assert model[1] == pytest.approx(0.0, abs=1e-7)


def test_what_cannot_be_measured_is_flagged_and_nan() -> None:
    stamps = np.stack([np.ones((SIZE, SIZE)), np.ones((SIZE, SIZE)), np.ones((SIZE, SIZE)), -np.ones((SIZE, SIZE))])
    weight = np.ones_like(stamps)
    weight[2] = 0.0
    model, error, flags = measure_spread(stamps, weight, np.array([np.nan, -1.0, 1.7, 1.7]))

    assert flags.tolist() == [SpreadFlag.NO_PSF, SpreadFlag.NO_PSF, SpreadFlag.NO_PIXELS, SpreadFlag.NO_FLUX]
    assert np.isnan(model).all()
    assert np.isnan(error).all()


def test_a_source_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(5)
    stamps = rng.normal(size=(6, SIZE, SIZE)) + 10 * draw(galsim.Gaussian(sigma=1.7 * SCALE))
    weight, sigma = np.ones_like(stamps), rng.uniform(1.2, 2.4, 6)
    together, alone = measure_spread(stamps, weight, sigma), measure_spread(stamps[3:4], weight[3:4], sigma[3:4])

    assert together[0][3] == alone[0][0]
    assert together[1][3] == alone[1][0]
