"""Drizzled tiles keep the flux and the place of stars, and bad pixels never reach them."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tasks.errors import ShapeMismatchError
from tasks.science.geometry import pixel_area_arcsec2, pixel_to_sky, sky_to_pixel, tile_wcs
from tasks.science.resampling import (
    BAND_ROWS,
    CoaddBuilder,
    ResamplingInput,
    contributing_inputs,
    make_pixel_map,
    resample,
)
from tasks.science.sphere import tangent_plane

CENTRE = (213.7, 54.1)
TILE_SIZE = 300
SCALE = 0.187
TILE_WCS = tile_wcs(*CENTRE, size_px=TILE_SIZE, pixel_scale_arcsec=SCALE)
TILE_SHAPE = (TILE_SIZE, TILE_SIZE)


def make_wcs(x0=200.0, y0=180.0, *, angle_deg=2.0, scale=SCALE):
    """TPV coordinates of a CCD whose pixel area changes by some per cent from one end to the other."""
    header = fits.Header()
    angle, step = np.radians(angle_deg), scale / 3600
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CRVAL1"], header["CRVAL2"] = CENTRE
    header["CRPIX1"], header["CRPIX2"] = x0, y0
    header["CD1_1"], header["CD1_2"] = -step * np.cos(angle), step * np.sin(angle)
    header["CD2_1"], header["CD2_2"] = step * np.sin(angle), step * np.cos(angle)
    for axis, sign in ((1, 1), (2, -1)):
        header[f"PV{axis}_1"] = 1.0
        header[f"PV{axis}_4"] = sign * 1.2
        header[f"PV{axis}_5"] = 0.5
        header[f"PV{axis}_7"] = 40.0
    return WCS(header)


def star_positions():
    """Stars on a grid of 8.5 arcsec, each off its node by some random part of a pixel and more."""
    grid_u, grid_v = np.meshgrid(np.arange(-2, 3), np.arange(-2, 3))
    u, v = 8.5 * np.stack([grid_u.ravel(), grid_v.ravel()]) + np.random.default_rng(11).uniform(-0.5, 0.5, (2, 25))
    ra = CENTRE[0] - u / 3600 / np.cos(np.radians(CENTRE[1]))
    return ra, CENTRE[1] + v / 3600


def draw_stars(wcs, shape, ra, dec, *, flux=1e4, sigma_arcsec=0.35):
    """Flux per pixel of round Gaussians on the sky: surface brightness times the area of each pixel."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    sky = pixel_to_sky(wcs, x, y)
    area = pixel_area_arcsec2(wcs, x.ravel(), y.ravel()).reshape(shape)
    image = np.zeros(shape)
    for one_ra, one_dec in zip(ra, dec, strict=True):
        u, v = tangent_plane(*sky, one_ra, one_dec)
        image += np.exp(-0.5 * (u**2 + v**2) / sigma_arcsec**2)
    return (image * area * flux / (2 * np.pi * sigma_arcsec**2)).astype(np.float32)


def measure(image, x, y, half=16):
    """Flux and centroid in a stamp around a position."""
    column, row = round(x), round(y)
    stamp = image[row - half : row + half + 1, column - half : column + half + 1].astype(float)
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1]
    total = stamp.sum()
    return total, column + (stamp * dx).sum() / total, row + (stamp * dy).sum() / total


def make_ccd(wcs, shape=(360, 400), *, weight=1.0, stars=True, value=0.0, dq=None):
    flux = draw_stars(wcs, shape, *star_positions()) if stars else np.full(shape, value, np.float32)
    return ResamplingInput(flux, np.full(shape, weight, np.float32), wcs, dq)


@pytest.fixture(scope="module")
def ccds():
    dithers = [(200.0, 180.0, 2.0), (213.3, 171.8, -1.0), (188.6, 190.1, 180.7)]
    return [
        make_ccd(make_wcs(x0, y0, angle_deg=angle), weight=w)
        for (x0, y0, angle), w in zip(dithers, (1, 2, 0.5), strict=True)
    ]


def stars_on_tile():
    x, y, _ = sky_to_pixel(TILE_WCS, *star_positions(), TILE_SHAPE)
    return list(zip(x, y, strict=True))


def test_the_coarse_pixel_map_is_exact_to_a_millionth_of_a_pixel():
    wcs = make_wcs()
    pixel_map = make_pixel_map(wcs, (360, 400), TILE_WCS, TILE_SHAPE)
    rows = np.arange(pixel_map.window.y_min, pixel_map.window.y_max, 7)
    positions, area = pixel_map.evaluate(rows)
    columns = np.arange(pixel_map.window.x_min, pixel_map.window.x_max)
    y, x = np.meshgrid(rows.astype(float), columns.astype(float), indexing="ij")
    exact = np.stack(TILE_WCS.all_world2pix(*pixel_to_sky(wcs, x, y), 0), axis=-1)
    assert np.abs(positions - exact).max() < 1e-6
    ratio = pixel_area_arcsec2(wcs, x.ravel(), y.ravel()) / SCALE**2
    np.testing.assert_allclose(area.ravel(), ratio, rtol=2e-6)
    assert area.max() / area.min() > 1.02


def test_flux_and_place_of_stars_are_kept_under_distortion(ccds):
    builder = CoaddBuilder(TILE_SHAPE, len(ccds))
    for number, ccd in enumerate(ccds):
        builder.add(number, resample(ccd, TILE_WCS, TILE_SHAPE))
    planes = builder.finish()
    for x, y in stars_on_tile():
        flux, found_x, found_y = measure(planes.sci, x, y)
        assert flux == pytest.approx(1e4, rel=1e-4)
        assert np.hypot(found_x - x, found_y - y) * SCALE < 2e-3


@pytest.mark.parametrize("ccd_scale", [0.12, 0.26])
def test_flux_is_kept_when_pixels_of_ccd_and_tile_differ_in_size(ccd_scale):
    ccd = make_ccd(make_wcs(250.0, 250.0, scale=ccd_scale), (500, 500))
    image = resample(ccd, TILE_WCS, TILE_SHAPE)
    plane = np.zeros(TILE_SHAPE, np.float32)
    plane[image.window.slices] = image.sci
    for x, y in stars_on_tile():
        assert measure(plane, x, y)[0] == pytest.approx(1e4, rel=2e-4)


# drops smaller than pixels beat with the grid of the tile: with one exposure only the flux times the weight is kept
@pytest.mark.parametrize(
    ("kernel", "pixfrac", "error"), [("square", 1.0, 1e-4), ("turbo", 1.0, 5e-3), ("square", 0.8, 2e-2)]
)
def test_every_kernel_keeps_the_flux(ccds, kernel, pixfrac, error):
    image = resample(ccds[0], TILE_WCS, TILE_SHAPE, kernel=kernel, pixfrac=pixfrac)
    plane = np.zeros(TILE_SHAPE, np.float32)
    plane[image.window.slices] = image.sci
    for x, y in stars_on_tile():
        assert measure(plane, x, y)[0] == pytest.approx(1e4, rel=error)


def test_the_weight_is_the_inverse_variance_that_noise_has_on_large_scales():
    rng = np.random.default_rng(5)
    wcs, sigma = make_wcs(angle_deg=20.0), 3.0
    noise = rng.normal(0, sigma, (360, 400)).astype(np.float32)
    image = resample(ResamplingInput(noise, np.full_like(noise, sigma**-2), wcs), TILE_WCS, TILE_SHAPE)
    inner = (slice(20, 260), slice(20, 260))
    blocks = image.sci[inner].reshape(12, 20, 12, 20).sum(axis=(1, 3))
    expected = (1 / image.weight[inner]).reshape(12, 20, 12, 20).sum(axis=(1, 3))
    assert np.mean(blocks**2 / expected) == pytest.approx(1.0, abs=0.3)
    assert np.var(image.sci[inner]) == pytest.approx(image.variance[inner].mean(), rel=0.03)
    assert image.variance[inner].mean() < 0.8 * (1 / image.weight[inner]).mean()


def test_masked_pixels_never_reach_the_tile(ccds):
    clean = resample(ccds[0], TILE_WCS, TILE_SHAPE)
    flux, weight = ccds[0].flux.copy(), ccds[0].weight.copy()
    flux[100:110, :], weight[100:110, :] = np.nan, 0
    flux[200, 150] = np.inf
    weight[220, 170] = np.nan
    flux[230, 170], weight[230, 170] = 1e30, 0
    image = resample(ResamplingInput(flux, weight, ccds[0].wcs), TILE_WCS, TILE_SHAPE)
    for plane in (image.sci, image.weight, image.variance):
        assert np.isfinite(plane).all()
    assert np.abs(image.sci).max() <= np.abs(clean.sci).max() * 1.001
    assert (image.sci[image.weight == 0] == 0).all()
    assert (image.weight == 0).sum() > (clean.weight == 0).sum()


def test_flags_of_contributing_pixels_are_joined():
    dq = np.zeros((360, 400), np.uint32)
    dq[180, 200], dq[182, 200] = 1 << 31, 4
    ccd = make_ccd(make_wcs(), stars=False, value=1.0, dq=dq)
    ccd.weight[182, 200] = 0
    image = resample(ccd, TILE_WCS, TILE_SHAPE)
    assert np.bitwise_or.reduce(image.dq.ravel()) == np.uint32(1 << 31)
    assert 1 <= (image.dq > 0).sum() <= 9


def test_a_ccd_beside_the_tile_adds_nothing():
    assert resample(make_ccd(make_wcs(3000.0, 180.0), stars=False), TILE_WCS, TILE_SHAPE) is None
    assert resample(make_ccd(make_wcs(), stars=False, weight=0.0), TILE_WCS, TILE_SHAPE) is None


def test_a_tile_smaller_than_the_steps_of_the_pixel_map_is_still_found():
    tiny = tile_wcs(*CENTRE, size_px=5, pixel_scale_arcsec=SCALE)
    image = resample(make_ccd(make_wcs(), stars=False, value=2.0), tiny, (5, 5))
    assert (image.weight > 0).all()


def test_bands_leave_no_seam():
    wcs = make_wcs(200.0, 300.0, angle_deg=0.0)
    shape = (600, 400)
    assert shape[0] > 2 * BAND_ROWS
    rng = np.random.default_rng(9)
    flux = rng.normal(size=shape).astype(np.float32)
    tall_tile = tile_wcs(*CENTRE, size_px=700, pixel_scale_arcsec=SCALE)
    whole = resample(ResamplingInput(flux, np.ones(shape, np.float32), wcs), tall_tile, (700, 700))
    upper = np.ones(shape, np.float32)
    upper[:100] = 0
    part = resample(ResamplingInput(flux, upper, wcs), tall_tile, (700, 700))
    # far from the cut the two agree to the bit though their bands hold different pixels
    far = part.weight[whole.sci.shape[0] // 2 :]
    np.testing.assert_array_equal(far, whole.weight[whole.sci.shape[0] // 2 :])
    constant = resample(make_ccd(wcs, shape, stars=False, value=1.0), tall_tile, (700, 700))
    seam = constant.weight[40:-40, 60:-60]
    assert seam.max() / seam.min() < 1.3


def test_the_thirty_third_input_has_bit_zero_of_the_second_plane():
    builder = CoaddBuilder(TILE_SHAPE, 33)
    one = resample(make_ccd(make_wcs(), stars=False, value=1.0), TILE_WCS, TILE_SHAPE)
    for number in (0, 31, 32):
        builder.add(number, one)
    context = builder.finish().context
    assert context.dtype == np.int32
    assert context.shape == (2, *TILE_SHAPE)
    middle = (TILE_SIZE // 2, TILE_SIZE // 2)
    assert context[0][middle] == np.int32(1 - 2**31)
    assert context[1][middle] == 1
    assert contributing_inputs(context, *middle) == (0, 31, 32)


def test_one_more_input_than_announced_is_refused():
    builder = CoaddBuilder(TILE_SHAPE, 1)
    one = resample(make_ccd(make_wcs(), stars=False), TILE_WCS, TILE_SHAPE)
    with pytest.raises(ValueError, match="input 1 was added to a tile of 1 inputs"):
        builder.add(1, one)


def test_inputs_are_averaged_by_inverse_variance():
    builder = CoaddBuilder(TILE_SHAPE, 2)
    wcs = tile_wcs(*CENTRE, size_px=TILE_SIZE, pixel_scale_arcsec=SCALE)
    for number, (value, weight) in enumerate([(1.0, 3.0), (5.0, 1.0)]):
        ccd = make_ccd(wcs, TILE_SHAPE, stars=False, value=value, weight=weight)
        builder.add(number, resample(ccd, TILE_WCS, TILE_SHAPE))
    planes = builder.finish()
    np.testing.assert_allclose(planes.sci[2:-2, 2:-2], 2.0, rtol=1e-5)
    np.testing.assert_allclose(planes.weight[2:-2, 2:-2], 4.0, rtol=1e-5)
    np.testing.assert_allclose(planes.variance[2:-2, 2:-2], 0.25, rtol=1e-4)


def test_two_runs_give_the_same_bits(ccds):
    first, second = (resample(ccds[1], TILE_WCS, TILE_SHAPE) for _ in range(2))
    np.testing.assert_array_equal(first.sci, second.sci)
    np.testing.assert_array_equal(first.weight, second.weight)


def test_planes_of_other_shapes_are_refused():
    ccd = ResamplingInput(np.zeros((4, 4), np.float32), np.zeros((4, 5), np.float32), make_wcs())
    with pytest.raises(ShapeMismatchError, match=r"have the shapes \[\(4, 4\), \(4, 5\)\]; they must agree"):
        resample(ccd, TILE_WCS, TILE_SHAPE)
