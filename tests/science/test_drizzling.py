"""The drizzle engine against the `drizzle` package: values, weights, context, flags and variances of every kernel."""

from dataclasses import replace

import numpy as np
import pytest
from drizzle_cases import (
    N_VARIANCES,
    OUT_SHAPE,
    SHAPE,
    drizzled,
    exposure,
    listed_image,
    mapping,
)

from tasks.science.drizzling import KERNELS, DrizzleImage, Drizzler
from tasks.science.overlap import RUN
from tasks.science.pixel_map import PixelMap, make_pixel_map

LARGE = (300, 310)


def assert_same_image(ours, theirs, rtol=3e-6):
    """Values where they are well determined, to the rounding of sums in single precision."""
    scale = np.abs(theirs.out_wht).max()
    np.testing.assert_allclose(ours.weight, theirs.out_wht, rtol=rtol, atol=rtol * scale * 0.1)
    solid = np.abs(theirs.out_wht) > 1e-2 * scale
    np.testing.assert_allclose(ours.data[solid], theirs.out_img[solid], rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(ours.context, theirs.out_ctx)


@pytest.mark.parametrize("pixfrac", [0.3, 0.8, 1.0, 1.6])
@pytest.mark.parametrize("angle_deg", [0.0, 3.0, 45.0, 90.0, 200.0])
def test_square_drops_are_those_of_drizzle(angle_deg, pixfrac):
    images = [
        listed_image(mapping(angle_deg + turn, scale, flip=flip), seed)
        for seed, (turn, scale, flip) in enumerate([(0.0, 1.0, False), (2.0, 0.97, True)])
    ]
    ours = Drizzler(OUT_SHAPE, pixfrac=pixfrac, variances=N_VARIANCES)
    counts = [ours.add(image) for image in images]
    theirs = drizzled(images, pixfrac=pixfrac)
    assert_same_image(ours, theirs)
    assert counts == [np.count_nonzero(theirs.out_ctx[0] & bit) for bit in (1, 2)]


@pytest.mark.parametrize("kernel", ["square", "point"])
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "splines"])
@pytest.mark.parametrize("angle_deg", [0.4, 37.0, 90.0])
def test_rows_longer_than_a_run_are_those_of_drizzle(angle_deg, listed, kernel):
    shape, out_shape, turn = (40, 2 * RUN + 9), (560, 570), np.deg2rad(angle_deg)

    def to_output(x, y):
        u, v = x - 260.3, y - 20.4
        u = u + 1e-5 * u * v
        return 285.2 + np.cos(turn) * u - np.sin(turn) * v, 280.1 + np.sin(turn) * u + np.cos(turn) * v

    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    exact = PixelMap.from_positions(np.stack(to_output(x, y), axis=-1))
    pixel_map = exact if listed else make_pixel_map(to_output, shape, out_shape)
    data, weight, _, dq = exposure(3, shape)
    image = DrizzleImage(data, weight, pixel_map, dq=dq, scale_ratio=1.0)
    ours = Drizzler(out_shape, kernel=kernel, pixfrac=0.8, dq=True)
    ours.add(image)
    theirs = drizzled([image], kernel=kernel, pixfrac=0.8, out_shape=out_shape)
    assert_same_image(ours, theirs)
    np.testing.assert_array_equal(ours.dq, theirs.out_dq)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("scale", "pixfrac"), [(0.5, 0.7), (1.0, 0.8), (1.7, 1.0), (3.1, 0.5)])
def test_drops_of_any_size_are_those_of_drizzle(kernel, scale, pixfrac):
    if kernel.startswith("lanczos"):
        pixfrac = 1.0
    to_output = mapping(12.0, scale, offset=(118.2, 120.4))
    image = listed_image(to_output, scale_ratio=1 / scale)
    ours = Drizzler(LARGE, kernel=kernel, pixfrac=pixfrac, variances=N_VARIANCES, dq=True)
    ours.add(image)
    theirs = drizzled([image], kernel=kernel, pixfrac=pixfrac, out_shape=LARGE)
    assert_same_image(ours, theirs)
    np.testing.assert_array_equal(ours.dq, theirs.out_dq)


def test_a_drop_of_no_size_is_a_point():
    image = listed_image(mapping())
    small, point = Drizzler(OUT_SHAPE, pixfrac=0.0005, variances=3), Drizzler(OUT_SHAPE, kernel="point", variances=3)
    small.add(image)
    point.add(image)
    np.testing.assert_array_equal(small.weight, point.weight)


@pytest.mark.parametrize("kernel", ["square", "turbo", "gaussian", "lanczos3"])
def test_propagated_variances_have_the_squares_of_the_coefficients(kernel):
    images = [listed_image(mapping(angle), seed) for seed, angle in enumerate((3.0, -8.0))]
    ours = Drizzler(OUT_SHAPE, kernel=kernel, pixfrac=1.0, variances=N_VARIANCES, averaged=False, propagated=True)
    for image in images:
        ours.add(image)
    theirs = drizzled(images, kernel=kernel, with_variances=True)
    assert ours.averaged_variances is None
    solid = np.abs(theirs.out_wht) > 1e-2 * theirs.out_wht.max()
    for found, expected in zip(ours.propagated_variances, theirs.out_img2, strict=True):
        np.testing.assert_allclose(found[solid], expected[solid], rtol=2e-5)
        assert np.isnan(found[theirs.out_wht == 0]).all()


def test_propagated_variances_are_those_of_repeated_exposures():
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:20, :20].astype(float)
    maps = [PixelMap.from_positions(np.stack([x + dx, y + 0.1 * x], axis=-1)) for dx in (0.3, 1.9)]
    variances = rng.uniform(0.5, 3, (2, 20, 20)).astype(np.float32)
    weights = rng.uniform(0.5, 2, (2, 20, 20)).astype(np.float32)

    def coadded(noise):
        out = Drizzler((24, 24), pixfrac=0.9, variances=1, averaged=False, propagated=True)
        for pixel_map, data, weight, variance in zip(maps, noise, weights, variances, strict=True):
            out.add(image_of(data, weight, pixel_map, (variance,)))
        return out

    trials = np.array([coadded(rng.normal(0, np.sqrt(variances))).data[4:16, 4:16] for _ in range(400)])
    stated = coadded(np.zeros((2, 20, 20))).propagated_variances[0, 4:16, 4:16]
    ratio = trials.var(axis=0) / stated
    # a variance from 400 trials scatters by 7 %, the mean of 144 by less than 1 %, with which neighbours are correlated
    assert np.abs(ratio - 1).max() < 0.35
    assert ratio.mean() == pytest.approx(1.0, abs=0.03)


def image_of(data, weight, pixel_map, variances):
    return DrizzleImage(data.astype(np.float32), weight, pixel_map, variances=variances)


def averaged_by_hand(images, weight_of, pixfrac):
    """stcal's combination of variances, from one drizzle of the errors of each image."""
    shape = (N_VARIANCES, *OUT_SHAPE)
    sums, totals = np.zeros(shape), np.zeros(shape)
    for number, image in enumerate(images):
        each = []
        for k in range(N_VARIANCES):
            if image.variances[k] is None:
                each.append(np.full(OUT_SHAPE, np.nan))
                continue
            out = drizzled([image], pixfrac=pixfrac, plane=lambda i, k=k: np.sqrt(i.variances[k]), fillval="nan")
            each.append(out.out_img.astype(float) ** 2)
        weight = weight_of(number, each)
        for k in range(N_VARIANCES):
            used = np.isfinite(each[k]) & (weight > 0) & np.isfinite(weight)
            sums[k][used] += (each[k] * weight**2)[used]
            totals[k][used] += weight[used]
    with np.errstate(invalid="ignore"):
        return sums / totals**2


def test_averaged_variances_are_those_of_stcal():
    images = [listed_image(mapping(angle), seed) for seed, angle in enumerate((3.0, -8.0, 33.0))]
    ours = Drizzler(OUT_SHAPE, pixfrac=0.8, variances=N_VARIANCES)
    for image in images:
        ours.add(image)
    with np.errstate(divide="ignore"):
        expected = averaged_by_hand(images, lambda _, each: 1 / each[0], 0.8)
    np.testing.assert_allclose(ours.averaged_variances, expected, rtol=3e-6)


def test_averaged_variances_with_given_weights():
    times = (10.0, 40.0)
    images = [listed_image(mapping(5.0 * n), n, variance_weight=times[n]) for n in range(2)]
    ours = Drizzler(OUT_SHAPE, pixfrac=0.8, variances=N_VARIANCES)
    for image in images:
        ours.add(image)
    expected = averaged_by_hand(images, lambda number, _: np.full(OUT_SHAPE, times[number]), 0.8)
    np.testing.assert_allclose(ours.averaged_variances, expected, rtol=3e-6)


def test_any_variance_may_give_the_weights():
    images = [listed_image(mapping(5.0 * n), n) for n in range(2)]
    ours = Drizzler(OUT_SHAPE, pixfrac=0.8, variances=N_VARIANCES, weight_plane=2)
    for image in images:
        ours.add(image)
    with np.errstate(divide="ignore"):
        expected = averaged_by_hand(images, lambda _, each: 1 / each[2], 0.8)
    np.testing.assert_allclose(ours.averaged_variances, expected, rtol=3e-6)


def test_the_error_is_averaged_like_the_values():
    images = [listed_image(mapping(4.0 * n), n, error=np.sqrt(exposure(n)[2][1])) for n in range(2)]
    ours = Drizzler(OUT_SHAPE, pixfrac=0.8, variances=N_VARIANCES, error=True, fill_value=np.nan)
    for image in images:
        ours.add(image)
    theirs = drizzled(images, pixfrac=0.8, plane=lambda image: image.error, fillval="nan")
    np.testing.assert_allclose(ours.error, theirs.out_img, rtol=2e-6)


def test_level_and_scale_are_applied_first():
    to_output = mapping()
    data, weight, variances, _ = exposure()
    ours = Drizzler(OUT_SHAPE, variances=N_VARIANCES)
    ours.add(listed_image(to_output, level=0.7, scale=1.5))
    shifted = (data - np.float32(0.7)) * np.float32(1.5)
    plain = Drizzler(OUT_SHAPE, variances=N_VARIANCES)
    plain.add(listed_image(to_output, data=shifted, variances=tuple(v * np.float32(2.25) for v in variances)))
    np.testing.assert_array_equal(ours.data, plain.data)
    np.testing.assert_array_equal(ours.weight, plain.weight)
    np.testing.assert_allclose(ours.averaged_variances, plain.averaged_variances, rtol=1e-6)
    assert weight.min() == 0


@pytest.mark.parametrize("kernel", ["square", "turbo", "point"])
def test_flux_is_conserved(kernel):
    image = listed_image(mapping(20.0, 0.9), scale_ratio=0.9**-1)
    ours = Drizzler(OUT_SHAPE, kernel=kernel, pixfrac=0.8, variances=N_VARIANCES)
    ours.add(image)
    given = (image.data.astype(float) * image.weight).sum()
    assert (ours.data.astype(float) * ours.weight).sum() == pytest.approx(given, rel=1e-6)
    if kernel != "turbo":
        # its drops have the mean size everywhere
        assert ours.weight.sum(dtype=float) == pytest.approx(image.weight.sum(dtype=float), rel=1e-6)


@pytest.mark.parametrize("kernel", ["square", "turbo"])
def test_flux_is_conserved_where_distortion_changes_the_size_of_pixels(kernel):
    to_output = mapping(20.0, 1.4, distortion=20.0, offset=(60, 60))
    rng = np.random.default_rng(3)
    flux, variance = np.zeros(SHAPE, np.float32), rng.uniform(1, 2, SHAPE).astype(np.float32)
    for y, x in ((8, 9), (30, 35), (50, 62)):
        flux[y - 2 : y + 3, x - 2 : x + 3] = rng.uniform(1, 10, (5, 5))
    found = make_pixel_map(to_output, SHAPE, LARGE)
    areas = found.area(*np.meshgrid(np.arange(70.0), np.arange(60.0)))
    assert areas.max() / areas.min() > 1.2
    ours = Drizzler(LARGE, kernel=kernel, pixfrac=1.0, variances=1, averaged=False, propagated=True)
    ours.add(DrizzleImage(flux, 1 / variance, found, variances=(variance,), holds_flux=True))
    stars = ours.data
    for y, x in ((8, 9), (30, 35), (50, 62)):
        centre = [int(np.round(each)) for each in found(np.array(x), np.array(y))]
        box = stars[centre[1] - 9 : centre[1] + 10, centre[0] - 9 : centre[0] + 10]
        truth = flux[y - 2 : y + 3, x - 2 : x + 3].sum()
        # a point per pixel falls on a grid of larger pixels unevenly, and others are weighted across the edge of the
        # star
        assert box.sum() == pytest.approx(truth, rel=0.2 if kernel != "square" else 0.02)
    if kernel == "square":
        # the weight is the inverse variance of flux per output pixel: the input's, times the area of its pixels
        x, y = np.array([30.0, 45.0]), np.array([22.0, 40.0])
        column, row = (np.round(each).astype(int) for each in found(x, y))
        nearby = np.array([ours.weight[r - 2 : r + 3, c - 2 : c + 3].mean() for r, c in zip(row, column, strict=True)])
        np.testing.assert_allclose(nearby, found.area(x, y) * (1 / variance).mean(), rtol=0.2)


def test_splines_give_what_exact_positions_give():
    to_output = mapping(7.0)
    exact, splines = Drizzler(OUT_SHAPE, pixfrac=0.8, variances=3), Drizzler(OUT_SHAPE, pixfrac=0.8, variances=3)
    image = listed_image(to_output)
    exact.add(image)
    spline_map = make_pixel_map(to_output, SHAPE, OUT_SHAPE)
    assert spline_map.error_px < 1e-8
    splines.add(replace(image, pixel_map=spline_map))
    np.testing.assert_array_equal(splines.context, exact.context)
    solid = exact.weight > 1e-2
    np.testing.assert_allclose(splines.weight[solid], exact.weight[solid], rtol=1e-5)
    np.testing.assert_allclose(splines.data[solid], exact.data[solid], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", ["square", "turbo", "gaussian"])
def test_a_small_output_is_cut_from_a_large_one(kernel):
    to_output = mapping(30.0)
    image = listed_image(to_output)
    large = Drizzler(OUT_SHAPE, kernel=kernel, variances=N_VARIANCES)
    large.add(image)
    cut = (slice(37, 71), slice(41, 90))
    moved = image.pixel_map.dense() - (41, 37)
    small = Drizzler((34, 49), kernel=kernel, variances=N_VARIANCES)
    small.add(replace(image, pixel_map=PixelMap.from_positions(moved)))
    np.testing.assert_allclose(small.weight, large.weight[cut], rtol=1e-6)
    np.testing.assert_allclose(small.data, large.data[cut], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(small.averaged_variances, large.averaged_variances[(slice(None), *cut)], rtol=1e-5)
