"""Simulate with GalSim, recover with the engine: shapes, shear, errors, masks, flags, and the same bits every time."""

from dataclasses import replace

import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tasks.errors import ConfigError, ShapeMismatchError
from tasks.science.metacal import METACAL_TYPES, EpochStamp, MetacalOptions, MetacalShapes, ShapeFlag, measure_metacal
from tasks.science.response import mean_shear

SIZE = 51
MIDDLE = (SIZE - 1) / 2
SQUARE = 0.187 * np.eye(2)
# a quarter-turned, slightly skewed detector, and one whose columns run east
TURNED = 0.187 * np.array([[0.03, 1.01], [-0.98, 0.02]])
MIRRORED = 0.187 * np.array([[0.9, 0.45], [0.43, -0.92]])
PSF = galsim.Moffat(beta=3.0, fwhm=0.65).shear(g1=0.05, g2=-0.03)


def epoch(galaxy, psf, jacobian, *, offset=(0.0, 0.0), sigma=1e-6, rng=None) -> EpochStamp:
    """One noisy stamp; ``offset`` is (row, column) from the middle."""
    (dv_drow, dv_dcol), (du_drow, du_dcol) = jacobian
    wcs = galsim.JacobianWCS(du_dcol, du_drow, dv_dcol, dv_drow)
    shape = {"nx": SIZE, "ny": SIZE, "wcs": wcs, "dtype": float}
    image = galsim.Convolve(galaxy, psf).drawImage(offset=offset[::-1], **shape).array
    if rng is not None:
        image = image + rng.normal(scale=sigma, size=image.shape)
    return EpochStamp(
        image=image,
        psf=psf.drawImage(**shape).array,
        weight=np.full(image.shape, sigma**-2),
        mask=np.zeros(image.shape, dtype=bool),
        noise_sigma=sigma,
        center=(MIDDLE + offset[0], MIDDLE + offset[1]),
        jacobian=np.asarray(jacobian),
    )


def ring_pairs(n_pairs, shear, jacobians, *, signal_to_noise, seed):
    """Exponential disks in pairs turned by 90 degrees, sheared, one epoch for every Jacobian."""
    rng = np.random.default_rng(seed)
    objects = []
    for _ in range(n_pairs):
        radius, g = rng.uniform(0.3, 0.6), min(abs(rng.normal(0, 0.25)), 0.6)
        angle = rng.uniform(0, 180) * galsim.degrees
        for turn in (0, 90):
            galaxy = galsim.Exponential(half_light_radius=radius, flux=1000.0)
            galaxy = galaxy.shear(g=g, beta=angle + turn * galsim.degrees).shear(g1=shear[0], g2=shear[1])
            offsets = rng.uniform(-0.5, 0.5, (len(jacobians), 2))
            clean = [epoch(galaxy, PSF, j, offset=o) for j, o in zip(jacobians, offsets, strict=True)]
            sigma = np.sqrt(np.mean([np.sum(e.image**2) for e in clean])) / signal_to_noise
            objects.append(
                [
                    replace(e, image=e.image + rng.normal(scale=sigma, size=e.image.shape), noise_sigma=sigma)
                    for e in clean
                ]
            )
    return objects


def generators(n, seed=0):
    return [np.random.default_rng([seed, i]) for i in range(n)]


def assert_same(first: MetacalShapes, second: MetacalShapes, rows=slice(None)):
    for name, values in vars(first).items():
        if name != "types":
            np.testing.assert_array_equal(values[rows], getattr(second, name), err_msg=name)


@pytest.fixture(scope="module")
def faint_objects():
    """Objects of signal to noise 20 with 1, 3 and 0 epochs."""
    one = ring_pairs(3, (0.0, 0.0), [SQUARE], signal_to_noise=20, seed=1)
    three = ring_pairs(3, (0.0, 0.0), [SQUARE, TURNED, MIRRORED], signal_to_noise=12, seed=2)
    return [*one[:3], *three, [], *one[3:]]


@pytest.mark.parametrize("jacobian", [SQUARE, TURNED, MIRRORED], ids=["square", "turned", "mirrored"])
def test_a_gaussian_galaxy_has_the_parameters_it_was_drawn_with(jacobian):
    galaxy = galsim.Gaussian(sigma=0.4, flux=500.0).shear(g1=0.2, g2=-0.1)
    options = MetacalOptions(fixnoise=False, shape_prior_sigma=0.0, center_prior_pixels=0.0)

    shapes = measure_metacal([[epoch(galaxy, PSF, jacobian, offset=(0.3, -0.2))]], generators(1), options=options)

    round_size = 2 * 0.4**2
    assert shapes.g[0, 0] == pytest.approx([0.2, -0.1], abs=2e-4)
    # shear keeps the area: T grows by (1 + g²) / (1 - g²)
    assert shapes.T[0, 0] == pytest.approx(round_size * 1.05 / 0.95, rel=1e-3)
    assert shapes.flux[0, 0] == pytest.approx(500.0, rel=1e-3)
    assert not shapes.flags.any()


def test_sheared_types_see_the_galaxy_sheared():
    galaxy = galsim.Gaussian(sigma=0.4, flux=500.0).shear(g1=0.1, g2=0.2)
    options = MetacalOptions(fixnoise=False, shape_prior_sigma=0.0)

    shapes = measure_metacal([[epoch(galaxy, PSF, TURNED)]], generators(1), options=options)

    before = galsim.Shear(g1=0.1, g2=0.2)
    for k, (g1, g2) in enumerate([(0, 0), (0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)]):
        expected = galsim.Shear(g1=g1, g2=g2) + before
        assert shapes.g[0, k] == pytest.approx([expected.g1, expected.g2], abs=3e-4), METACAL_TYPES[k]


@pytest.mark.parametrize(
    ("jacobians", "n_pairs", "target"),
    [([SQUARE], 100, "gauss"), ([SQUARE], 100, "azgauss"), ([SQUARE, TURNED, MIRRORED], 50, "gauss")],
    ids=["one epoch", "one epoch, azgauss", "three epochs"],
)
def test_shear_is_recovered(jacobians, n_pairs, target):
    shear = np.array([0.02, -0.015])
    objects = ring_pairs(n_pairs, shear, jacobians, signal_to_noise=10000, seed=11)

    shapes = measure_metacal(objects, generators(len(objects)), options=MetacalOptions(target=target))

    assert not shapes.flags.any()
    measured = mean_shear(
        shapes.g, np.ones(shapes.flags.shape, dtype=bool), step=0.01, groups=np.repeat(np.arange(n_pairs), 2)
    )
    m = measured.g / shear - 1
    m_error = measured.error / np.abs(shear)
    # metacalibration itself is right to the square of the shear
    assert np.all(m_error < 3e-3), m_error
    assert np.all(np.abs(m) < 3 * m_error + 1e-3), (m, m_error)
    assert shapes.g_psf[0] == pytest.approx([0.0483, -0.029], abs=5e-4)


def test_g2_has_the_sign_of_the_sky():
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"], header["CRPIX1"], header["CRPIX2"] = 210.0, 56.0, 300.0, -200.0
    # north is 30 degrees from up, east to the left, pixels not square
    angle = np.radians(30)
    matrix = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([0.18, 0.2]) / 3600
    for (i, j), value in np.ndenumerate(matrix):
        header[f"CD{i + 1}_{j + 1}"] = value
    wcs = WCS(header)
    galaxy = galsim.Gaussian(sigma=0.5, flux=100.0).shear(g1=0.1, g2=0.25)
    psf = galsim.Gaussian(fwhm=0.7)
    local = galsim.AstropyWCS(wcs=wcs).local(galsim.PositionD(101.0, 151.0))
    image = galsim.Convolve(galaxy, psf).drawImage(nx=SIZE, ny=SIZE, wcs=local, dtype=float).array
    psf_image = psf.drawImage(nx=SIZE, ny=SIZE, wcs=local, dtype=float).array

    # u grows to the west, v to the north, both along great circles: FITS pixel (101, 151) is (100, 150) from 0
    ra, dec = wcs.all_pix2world([100, 100, 101], [150, 151, 150], 0)
    u, v = -(ra[1:] - ra[0]) * np.cos(np.radians(dec[0])) * 3600, (dec[1:] - dec[0]) * 3600
    stamp = EpochStamp(
        image, psf_image, np.ones(image.shape), np.zeros(image.shape, bool), 1e-4, (MIDDLE, MIDDLE), np.array([v, u])
    )

    shapes = measure_metacal([[stamp]], generators(1), options=MetacalOptions(shape_prior_sigma=0.0))

    assert shapes.g[0, 0] == pytest.approx([0.1, 0.25], abs=1e-3)


def test_the_result_depends_neither_on_grouping_nor_on_threads(faint_objects):
    together = measure_metacal(faint_objects, generators(len(faint_objects)))

    threaded = measure_metacal(faint_objects, generators(len(faint_objects)), threads=3)
    assert_same(together, threaded)
    alone = [measure_metacal([o], [rng]) for o, rng in zip(faint_objects, generators(len(faint_objects)), strict=True)]
    assert_same(together, MetacalShapes.concatenate(alone))
    backwards = measure_metacal(faint_objects[::-1], generators(len(faint_objects))[::-1])
    assert_same(together, backwards, slice(None, None, -1))


def test_an_object_without_epochs_is_flagged_and_nan(faint_objects):
    shapes = measure_metacal(faint_objects, generators(len(faint_objects)))

    empty = faint_objects.index([])
    assert np.all(shapes.flags[empty] == ShapeFlag.NO_ATTEMPT | ShapeFlag.NO_EPOCH)
    assert np.isnan(shapes.g[empty]).all()
    assert np.array_equal(shapes.n_epoch, [len(epochs) for epochs in faint_objects])
    measured = np.arange(len(faint_objects)) != empty
    assert not shapes.flags[measured].any()


def test_errors_are_the_scatter_of_repeated_measurements():
    galaxy = galsim.Exponential(half_light_radius=0.5, flux=1000.0).shear(g1=0.1, g2=0.1)
    clean = epoch(galaxy, PSF, SQUARE)
    sigma = np.sqrt(np.sum(clean.image**2)) / 60
    rng = np.random.default_rng(5)
    n = 300
    objects = [
        [replace(clean, image=clean.image + rng.normal(scale=sigma, size=clean.image.shape), noise_sigma=sigma)]
        for _ in range(n)
    ]

    shapes = measure_metacal(objects, generators(n))

    # the scatter of 300 is known to 4 %
    for name in ("g", "T", "flux"):
        scatter, error = getattr(shapes, name).std(axis=0), getattr(shapes, f"{name}_err").mean(axis=0)
        np.testing.assert_allclose(error, scatter, rtol=0.16, err_msg=name)


def test_a_noise_field_cancels_what_shear_does_to_noise():
    clean = epoch(galsim.Gaussian(sigma=0.3, flux=1000.0), galsim.Gaussian(fwhm=0.7), SQUARE)
    sigma = np.sqrt(np.sum(clean.image**2)) / 15
    rng = np.random.default_rng(3)
    n = 400
    objects = [
        [replace(clean, image=clean.image + rng.normal(scale=sigma, size=clean.image.shape), noise_sigma=sigma)]
        for _ in range(n)
    ]
    options = MetacalOptions(shape_prior_sigma=0.2)

    with_field = measure_metacal(objects, generators(n), options=options)
    without = measure_metacal(objects, generators(n), options=replace(options, fixnoise=False))

    def response(shapes):
        return np.mean(shapes.g[:, 1, 0] - shapes.g[:, 2, 0] + shapes.g[:, 3, 1] - shapes.g[:, 4, 1]) / 0.04

    assert not with_field.flags.any()
    # sheared noise looks like sheared galaxies: without the field it feigns a response
    assert response(without) > response(with_field) + 0.02


def test_the_noise_field_counts_as_noise():
    galaxy = galsim.Exponential(half_light_radius=0.5, flux=1000.0)
    stamp = replace(epoch(galaxy, PSF, SQUARE), noise_sigma=1.0)

    with_field = measure_metacal([[stamp]], generators(1))
    without = measure_metacal([[stamp]], generators(1), options=MetacalOptions(fixnoise=False))

    assert with_field.s2n[0, 0] == pytest.approx(without.s2n[0, 0] / np.sqrt(2), rel=0.05)


def masked_column(stamp: EpochStamp, column: int, value: float = np.nan) -> EpochStamp:
    mask = stamp.mask.copy()
    mask[:, column] = True
    image = np.where(mask, value, stamp.image)
    return replace(stamp, image=image, mask=mask)


def test_a_dead_column_away_from_the_core_hardly_matters():
    galaxy = galsim.Exponential(half_light_radius=0.4, flux=1000.0).shear(g1=0.2, g2=0.1)
    stamp = epoch(galaxy, PSF, SQUARE, offset=(0.2, -0.3), sigma=1e-3)

    whole = measure_metacal([[stamp]], generators(1))
    masked = measure_metacal([[masked_column(stamp, 29)]], generators(1))

    assert masked.n_epoch[0] == 1
    np.testing.assert_allclose(masked.g, whole.g, atol=3e-3)
    np.testing.assert_allclose(masked.flux, whole.flux, rtol=3e-3)


def test_epochs_with_masked_cores_or_too_many_masked_pixels_are_dropped_and_counted():
    galaxy = galsim.Exponential(half_light_radius=0.4, flux=1000.0)
    good = epoch(galaxy, PSF, SQUARE, sigma=1e-3)
    core = masked_column(good, 26)
    half_masked = replace(good, weight=np.where(np.arange(SIZE) > 32, 0.0, good.weight))
    no_noise = replace(good, noise_sigma=np.nan)
    no_psf = replace(good, psf=np.zeros_like(good.psf))

    shapes = measure_metacal(
        [[core, good, half_masked, no_noise, no_psf], [core], [half_masked, no_psf]], generators(3)
    )

    assert shapes.n_epoch.tolist() == [1, 0, 0]
    assert shapes.n_masked_core.tolist() == [1, 1, 0]
    assert shapes.n_masked_fraction.tolist() == [1, 0, 1]
    assert shapes.n_bad_epoch.tolist() == [2, 0, 1]
    assert not shapes.flags[0].any()
    assert np.all(shapes.flags[1:] & ShapeFlag.NO_EPOCH)
    only_good = measure_metacal([[good]], generators(1))
    np.testing.assert_array_equal(only_good.g[0], shapes.g[0])


def test_pixels_of_a_neighbour_are_replaced_and_do_not_drop_the_epoch():
    galaxy = galsim.Exponential(half_light_radius=0.4, flux=1000.0).shear(g1=0.2, g2=0.1)
    stamp = epoch(galaxy, PSF, SQUARE, sigma=1e-3)
    theirs = np.broadcast_to(np.arange(SIZE) > MIDDLE + 8, stamp.image.shape)
    blended = replace(stamp, image=stamp.image + 500.0 * theirs, neighbours=theirs)

    alone = measure_metacal([[stamp]], generators(1))
    shapes = measure_metacal([[blended]], generators(1))
    ignored = measure_metacal([[replace(blended, neighbours=None)]], generators(1))

    assert shapes.n_epoch[0] == 1
    np.testing.assert_allclose(shapes.g, alone.g, atol=5e-3)
    assert abs(ignored.T[0, 0] / alone.T[0, 0] - 1) > 0.5


def test_a_hole_in_place_of_a_galaxy_has_no_positive_flux():
    stamp = epoch(galsim.Gaussian(sigma=0.4, flux=100.0), PSF, SQUARE, sigma=0.01)

    shapes = measure_metacal([[replace(stamp, image=-stamp.image)]], generators(1))

    # how a fit to nothing fails is up to rounding; that it fails is not
    failed = ShapeFlag.NONPOS_FLUX | ShapeFlag.MAXITER | ShapeFlag.SINGULAR | ShapeFlag.NONFINITE
    assert np.all(shapes.flags[0] & failed)


def test_pure_noise_never_fails_without_a_flag():
    rng = np.random.default_rng(8)
    stamp = epoch(galsim.Gaussian(sigma=0.4, flux=100.0), PSF, SQUARE, sigma=1.0)
    objects = [[replace(stamp, image=rng.normal(size=stamp.image.shape))] for _ in range(20)]

    shapes = measure_metacal(objects, generators(20))

    clean = shapes.flags == 0
    assert np.all(np.isfinite(shapes.g[clean]))
    assert np.all(np.isfinite(shapes.g_err[clean]))
    assert np.all(shapes.flux[clean] > 0)


def test_a_psf_that_never_falls_is_flagged():
    stamp = epoch(galsim.Gaussian(sigma=0.4, flux=100.0), PSF, SQUARE, sigma=0.01)
    point = np.zeros((SIZE, SIZE))
    point[SIZE // 2, SIZE // 2] = 1.0

    shapes = measure_metacal([[replace(stamp, psf=point)]], generators(1))

    assert np.all(shapes.flags[0] == ShapeFlag.NO_ATTEMPT | ShapeFlag.BAD_PSF)


def test_inputs_are_not_changed():
    stamp = masked_column(epoch(galsim.Gaussian(sigma=0.4, flux=100.0), PSF, SQUARE, sigma=0.01), 40, value=3.0)
    before = {name: np.copy(value) for name, value in vars(stamp).items() if isinstance(value, np.ndarray)}

    measure_metacal([[stamp]], generators(1))

    for name, value in before.items():
        np.testing.assert_array_equal(getattr(stamp, name), value)


def test_mistakes_of_the_caller_are_named():
    stamp = epoch(galsim.Gaussian(sigma=0.4, flux=100.0), PSF, SQUARE, sigma=0.01)

    with pytest.raises(ShapeMismatchError, match="There are 2 objects but 1 random generators"):
        measure_metacal([[stamp], [stamp]], generators(1))
    with pytest.raises(ShapeMismatchError, match=r"shapes \(51, 51\) \(image\), \(51, 50\) \(weight\)"):
        measure_metacal([[replace(stamp, weight=stamp.weight[:, 1:])]], generators(1))
    with pytest.raises(ConfigError, match=r"The metacalibration step is 0\.5; it must be a small shear"):
        MetacalOptions(step=0.5)
    with pytest.raises(ConfigError, match="target 'moffat' is unknown; use 'gauss' or 'azgauss'"):
        MetacalOptions(target="moffat")
