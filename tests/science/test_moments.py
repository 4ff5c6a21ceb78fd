"""Adaptive moments against GalSim's hsm, and in the sky frame."""

import galsim
import numpy as np
import pytest

from tasks.errors import ShapeMismatchError
from tasks.science.moments import MomentsFlag, adaptive_moments, to_sky

SIZE = 51


def draw(profile: galsim.GSObject, noise: float = 0.0, seed: int = 1) -> np.ndarray:
    image = profile.drawImage(nx=SIZE, ny=SIZE, scale=1.0).array.astype(np.float64)
    return image + np.random.default_rng(seed).normal(scale=noise, size=image.shape) if noise else image


def stars(noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(7)
    stamps = []
    for k in range(24):
        g1, g2 = rng.uniform(-0.2, 0.2, 2)
        star = (
            galsim.Moffat(beta=3.0, fwhm=rng.uniform(2.5, 6.0)) if k % 2 else galsim.Gaussian(fwhm=rng.uniform(2.5, 6))
        )
        stamps.append(draw(star.shear(g1=g1, g2=g2).shift(*rng.uniform(-0.5, 0.5, 2)), noise, seed=k))
    return np.array(stamps)


@pytest.mark.parametrize("noise", [0.0, 2e-4])
def test_shapes_and_sizes_are_those_of_hsm(noise: float) -> None:
    stamps = stars(noise)
    found = adaptive_moments(stamps)

    assert not found.flag.any()
    for k, stamp in enumerate(stamps):
        hsm = galsim.hsm.FindAdaptiveMom(galsim.Image(stamp, scale=1.0))
        assert found.g1[k] == pytest.approx(hsm.observed_shape.g1, abs=1e-6)
        assert found.g2[k] == pytest.approx(hsm.observed_shape.g2, abs=1e-6)
        assert found.sigma[k] == pytest.approx(hsm.moments_sigma, rel=1e-6)
        assert found.flux[k] == pytest.approx(hsm.moments_amp, rel=1e-6)
        # GalSim counts the pixels from 1
        assert found.x[k] == pytest.approx(hsm.moments_centroid.x - 1.0, abs=1e-6)
        assert found.y[k] == pytest.approx(hsm.moments_centroid.y - 1.0, abs=1e-6)


def test_masked_pixels_are_left_out_as_hsm_leaves_them_out() -> None:
    stamp = draw(galsim.Moffat(beta=3.0, fwhm=4.0).shear(g1=0.1, g2=-0.05))
    mask = np.zeros(stamp.shape, np.bool_)
    mask[:, 33] = True
    damaged = np.where(mask, 1e5, stamp)
    found = adaptive_moments(damaged[None], mask[None])
    hsm = galsim.hsm.FindAdaptiveMom(
        galsim.Image(damaged, scale=1.0), badpix=galsim.Image(mask.astype(np.int32), scale=1.0)
    )

    assert found.flag[0] == 0
    assert found.g1[0] == pytest.approx(hsm.observed_shape.g1, abs=1e-6)
    assert found.sigma[0] == pytest.approx(hsm.moments_sigma, rel=1e-6)


def test_the_first_guess_does_not_matter() -> None:
    stamps = stars()
    small, large = adaptive_moments(stamps, guess_sigma=1.5), adaptive_moments(stamps, guess_sigma=7.0)

    np.testing.assert_allclose(small.g1, large.g1, atol=1e-7)
    np.testing.assert_allclose(small.sigma, large.sigma, rtol=1e-7)


@pytest.mark.parametrize(
    ("image", "flag"),
    [
        (np.full((SIZE, SIZE), -1.0), MomentsFlag.NO_FLUX),
        (np.zeros((SIZE, SIZE)), MomentsFlag.NO_FLUX),
        (np.full((SIZE, SIZE), np.nan), MomentsFlag.NO_PIXELS),
        (np.pad([[1.0]], SIZE // 2), MomentsFlag.LOST),
        (np.pad(np.ones((5, 5)), ((0, SIZE - 5), (0, SIZE - 5))), MomentsFlag.LOST),
    ],
)
def test_what_cannot_be_measured_is_flagged_and_nan(image: np.ndarray, flag: MomentsFlag) -> None:
    found = adaptive_moments(image[None])

    assert found.flag[0] & flag
    assert np.isnan([found.g1[0], found.g2[0], found.sigma[0], found.flux[0], found.x[0], found.y[0]]).all()


def test_a_wholly_masked_stamp_is_flagged() -> None:
    assert adaptive_moments(np.ones((1, 9, 9)), np.ones((1, 9, 9), np.bool_)).flag[0] == MomentsFlag.NO_PIXELS


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeMismatchError, match=r"shape \(1, 9, 9\) but their masks \(1, 8, 9\)"):
        adaptive_moments(np.ones((1, 9, 9)), np.ones((1, 8, 9), np.bool_))


def test_the_stamps_are_not_changed() -> None:
    stamps = stars()
    before = stamps.copy()
    adaptive_moments(stamps)

    np.testing.assert_array_equal(stamps, before)


def test_shapes_on_the_sky_do_not_depend_on_the_pixel_frame() -> None:
    """Draw one star through several coordinate systems; u grows to the West, as in GalSim's celestial frame."""
    star = galsim.Gaussian(fwhm=0.8).shear(g1=0.12, g2=-0.07)
    for matrix in ([[0.186, 0.0], [0.0, 0.186]], [[-0.186, 0.0], [0.0, 0.186]], [[0.01, 0.19], [-0.18, 0.02]]):
        (dudx, dudy), (dvdx, dvdy) = matrix
        wcs = galsim.JacobianWCS(dudx, dudy, dvdx, dvdy)
        image = star.drawImage(nx=SIZE, ny=SIZE, wcs=wcs, method="no_pixel").array.astype(np.float64)
        found = adaptive_moments(image[None])
        jacobian = np.array([[dvdy, dvdx], [dudy, dudx]])
        g1, g2, size = to_sky(found.g1, found.g2, found.sigma, jacobian)

        assert g1[0] == pytest.approx(0.12, abs=1e-5)
        assert g2[0] == pytest.approx(-0.07, abs=1e-5)
        sigma = 0.8 / np.sqrt(8.0 * np.log(2.0))
        modulus2 = 0.12**2 + 0.07**2
        assert size[0] == pytest.approx(2.0 * sigma**2 * (1.0 + modulus2) / (1.0 - modulus2), rel=1e-4)


def test_a_failed_measurement_stays_nan_on_the_sky() -> None:
    nan = np.full(3, np.nan)

    assert np.isnan(to_sky(nan, nan, nan, np.eye(2))).all()
