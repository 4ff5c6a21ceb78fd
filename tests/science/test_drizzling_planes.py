"""What the drizzle engine makes of many images and threads, and settings that cannot be."""

from dataclasses import replace

import numpy as np
import pytest
from drizzle_cases import (
    EVERYTHING,
    N_VARIANCES,
    OUT_SHAPE,
    SHAPE,
    assert_equal_planes,
    exposure,
    full_image,
    listed_image,
    mapping,
    planes,
)

from tasks.science.band_merge import PIECE
from tasks.science.band_threads import BAND_ROWS
from tasks.science.drizzling import DrizzleImage, Drizzler
from tasks.science.pixel_map import PixelMap, make_pixel_map


def shifted_map(dx, dy, shape=SHAPE):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return PixelMap.from_positions(np.stack([x + dx, y + dy], axis=-1))


@pytest.mark.parametrize("kernel", ["square", "gaussian", "lanczos3"])
@pytest.mark.parametrize("angle", [2.0, 88.0])
def test_the_number_of_threads_changes_no_byte(kernel, angle):
    def to_output(x, y):
        turn = np.deg2rad(angle)
        return 205 + np.cos(turn) * x - np.sin(turn) * y, 20 + np.sin(turn) * x + np.cos(turn) * y

    shape = (4 * BAND_ROWS + 9, 370)
    data, weight, variances, dq = exposure(1, (200, 150))
    pixel_map = make_pixel_map(to_output, data.shape, shape)
    image = DrizzleImage(
        data, weight, pixel_map, variances=variances, error=variances[1], dq=dq, exposure_time=1.0, scale_ratio=1.0
    )
    outputs = []
    for n_threads in (1, 2, 5):
        out = Drizzler(shape, kernel=kernel, n_threads=n_threads, **EVERYTHING)
        counts = [out.add(image), out.add(replace(image, level=0.3))]
        assert counts[0] == counts[1] > 0.8 * data.size
        outputs.append(out)
    for out in outputs[1:]:
        assert_equal_planes(outputs[0], out)


@pytest.mark.parametrize("width", [*range(PIECE - 1, PIECE + 6), 2 * PIECE])
def test_what_is_cut_off_beside_the_output_changes_nothing_of_it(width):
    shape = (30, 2 * PIECE + 40)
    data, weight, variances, dq = exposure(7, shape)
    pixel_map = make_pixel_map(lambda x, y: (x - 8.3 + 0.1 * y, y + 3.4 - 0.02 * x), shape, shape)
    image = DrizzleImage(data, weight, pixel_map, variances=variances, error=variances[1], dq=dq, exposure_time=1.0)
    whole, part = Drizzler(shape, **EVERYTHING), Drizzler((shape[0], width), **EVERYTHING)
    for out in (whole, part):
        out.add(image)
        out.add(replace(image, level=0.3))
    assert np.count_nonzero(part.weight[:, -1]) > 10
    for name, plane in planes(part).items():
        np.testing.assert_array_equal(plane, planes(whole)[name][..., :width], err_msg=name)


def test_planes_are_whole_after_every_image():
    images = [full_image(seed, 4.0 * seed) for seed in range(3)]
    together = Drizzler(OUT_SHAPE, fill_value=np.nan, **EVERYTHING)
    for number, image in enumerate(images):
        together.add(image)
        again = Drizzler(OUT_SHAPE, fill_value=np.nan, **EVERYTHING)
        for earlier in images[: number + 1]:
            again.add(earlier)
        assert_equal_planes(together, again)
        covered = together.weight > 0
        assert np.isfinite(together.data[covered]).all()
        assert np.isnan(together.data[~covered]).all()
        assert np.isnan(together.averaged_variances[:, ~covered]).all()


def test_every_image_sets_its_own_context_bit():
    image = listed_image(mapping(), weight=np.ones(SHAPE, np.float32))
    out = Drizzler(OUT_SHAPE, variances=N_VARIANCES)
    assert out.context.shape == (1, *OUT_SHAPE)
    for _ in range(65):
        out.add(image)
    covered = out.weight > 0
    assert out.context.dtype == np.int32
    assert out.context.shape == (3, *OUT_SHAPE)
    # the bit of number 31 is the sign
    np.testing.assert_array_equal(out.context[0], np.where(covered, -1, 0))
    np.testing.assert_array_equal(out.context[1], np.where(covered, -1, 0))
    np.testing.assert_array_equal(out.context[2], np.where(covered, 1, 0))


def test_numbers_of_images_may_be_given():
    image = listed_image(mapping())
    out = Drizzler(OUT_SHAPE, variances=N_VARIANCES, n_images=70)
    out.add(image, number=32)
    assert out.n_images == 33
    assert out.context.shape == (2, *OUT_SHAPE)
    assert set(np.unique(out.context[0])) == {0}
    assert set(np.unique(out.context[1])) == {0, 1}
    out.add(image, number=3)
    assert set(np.unique(out.context[0])) == {0, 8}


def test_an_image_beside_the_output_lands_nowhere_and_is_counted():
    image = listed_image(mapping())
    out = Drizzler(OUT_SHAPE, **EVERYTHING)
    before = {name: plane.copy() for name, plane in planes(out).items()}
    for dx, dy in ((500, 0), (-71.2, 0), (0, 111), (0, -300)):
        assert out.add(replace(image, pixel_map=shifted_map(dx, dy))) == 0
    assert out.add(replace(image, weight=np.zeros(SHAPE, np.float32))) == 0
    for name, plane in planes(out).items():
        np.testing.assert_array_equal(plane, before[name])
    assert out.n_images == 5


def test_exposure_time_is_summed_where_images_contribute():
    first, second = full_image(0, 3.0), full_image(1, 40.0)
    out = Drizzler(OUT_SHAPE, **EVERYTHING)
    out.add(first)
    out.add(replace(second, exposure_time=5.5))
    np.testing.assert_array_equal(out.exposure_time, 60 * (out.context[0] & 1) + 5.5 * (out.context[0] >> 1))
    assert set(np.unique(out.exposure_time)) == {0, 5.5, 60, 65.5}


def test_planes_that_are_not_asked_for_are_not_made():
    out = Drizzler(OUT_SHAPE, context=False)
    out.add(replace(listed_image(mapping()), variances=()))
    assert out.context is None
    assert out.averaged_variances is out.propagated_variances is out.error is out.dq is out.exposure_time is None
    assert out.weight.max() > 0


def test_tiny_values_do_not_overflow():
    """Fluxes of 1e-13, as those in MJy are: weights are 1e26, and their squares beyond single precision."""
    image = full_image()
    small = replace(
        image,
        data=image.data * np.float32(1e-13),
        weight=image.weight * np.float32(1e26),
        variances=tuple(v * np.float32(1e-26) for v in image.variances),
    )
    outputs = [Drizzler(OUT_SHAPE, **EVERYTHING) for _ in range(2)]
    for out, each in zip(outputs, (image, small), strict=True):
        out.add(each)
        out.add(each)
    for name, factor in (("data", 1e-13), ("averaged_variances", 1e-26), ("propagated_variances", 1e-26)):
        expected = getattr(outputs[0], name) * factor
        np.testing.assert_allclose(getattr(outputs[1], name), expected, rtol=3e-6, atol=1e-7 * factor)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2)])
@pytest.mark.parametrize("kernel", ["square", "lanczos2"])
def test_images_of_few_pixels(kernel, shape):
    def to_output(x, y):
        return 15.3 + 0.98 * x - 0.2 * y, 6.1 + 0.2 * x + 0.98 * y

    ones = np.ones(shape, np.float32)
    ours = Drizzler((60, 60), kernel=kernel, pixfrac=1.0)
    assert ours.add(DrizzleImage(2 * ones, 3 * ones, make_pixel_map(to_output, shape, (60, 60)), scale_ratio=1.0)) > 0
    assert ours.weight.sum() == pytest.approx(3 * ones.size, rel=1e-6 if kernel == "square" else 0.03)
    solid = ours.weight > 0.1
    np.testing.assert_allclose(ours.data[solid], 2.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kernel": "cubic"}, "Kernel 'cubic' is not supported; kernels are square, gaussian"),
        ({"pixfrac": 0.0}, "pixfrac is 0.0; it must be above 0 and at most 2"),
        ({"pixfrac": np.nan}, "pixfrac is nan; it must be above 0 and at most 2"),
        ({"shape": (0, 9)}, r"output has the shape \(0, 9\); both numbers must be positive"),
        ({"variances": 9}, "9 variance planes were asked for; at most 5"),
        ({"variances": 2, "weight_plane": 2}, "Variance plane 2 cannot give the weights: there are 2"),
        ({"n_threads": 0}, "n_threads is 0; it must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Drizzler(**({"shape": OUT_SHAPE} | settings))
