"""What the drizzle engine does with many images, threads, values that are not there, and input that cannot be."""

from dataclasses import replace

import numpy as np
import pytest
from drizzle_cases import N_VARIANCES, OUT_SHAPE, SHAPE, exposure, listed_image, mapping

from tasks.science.band_threads import BAND_ROWS
from tasks.science.drizzling import DrizzleImage, Drizzler
from tasks.science.pixel_map import PixelMap, make_pixel_map

EVERYTHING = {"variances": N_VARIANCES, "propagated": True, "error": True, "dq": True, "exposure_time": True}


def shifted_map(dx, dy, shape=SHAPE):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return PixelMap.from_positions(np.stack([x + dx, y + dy], axis=-1))


def full_image(seed=0, angle=3.0, **changes):
    return listed_image(mapping(angle), seed, error=np.sqrt(exposure(seed)[2][1]), exposure_time=60.0, **changes)


def planes(out):
    return {
        name: getattr(out, name)
        for name in ("data", "weight", "context", "averaged_variances", "propagated_variances", "error", "dq")
    } | {"exposure_time": out.exposure_time}


def assert_equal_planes(one, other):
    for name, plane in planes(one).items():
        np.testing.assert_array_equal(plane, planes(other)[name], err_msg=name)


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


@pytest.mark.parametrize("kernel", ["square", "turbo", "lanczos3"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_as_if_they_were_not_there(kernel, poison):
    image = full_image()
    bad = np.zeros(SHAPE, bool)
    bad[10:13, 20:22] = bad[0, 0] = bad[-1, 40] = True
    poisoned = replace(image, data=np.where(bad, poison, image.data).astype(np.float32))
    weightless = replace(image, weight=np.where(bad, 0, image.weight).astype(np.float32))
    outputs = []
    for each in (poisoned, weightless):
        out = Drizzler(OUT_SHAPE, kernel=kernel, **EVERYTHING)
        out.add(each)
        outputs.append(out)
    assert np.isfinite(outputs[0].data).all()
    assert_equal_planes(*outputs)


def test_weights_that_are_no_weights_are_as_if_they_were_0():
    image = full_image()
    weight = image.weight.copy()
    weight[5, 5], weight[6, 6], weight[7, 7] = np.nan, np.inf, -2.0
    zeroed = image.weight.copy()
    zeroed[5, 5] = zeroed[6, 6] = zeroed[7, 7] = 0
    outputs = []
    for each in (weight, zeroed):
        out = Drizzler(OUT_SHAPE, **EVERYTHING)
        out.add(replace(image, weight=each))
        outputs.append(out)
    assert_equal_planes(*outputs)


def test_what_pixels_without_weight_hold_is_never_seen():
    image = full_image()
    unused = image.weight == 0
    hidden = replace(
        image,
        data=np.where(unused, 1e30, image.data).astype(np.float32),
        variances=tuple(np.where(unused, np.nan, v).astype(np.float32) for v in image.variances),
        error=np.where(unused, np.nan, image.error).astype(np.float32),
        dq=np.where(unused, 0xFFFFFFFF, image.dq).astype(np.uint32),
    )
    outputs = []
    for each in (image, hidden):
        out = Drizzler(OUT_SHAPE, **EVERYTHING)
        out.add(each)
        outputs.append(out)
    assert_equal_planes(*outputs)


@pytest.mark.parametrize("unknown", [np.nan, np.inf, -1.0])
def test_an_unknown_variance_is_left_out_where_it_is(unknown):
    first, second = full_image(0, 3.0), full_image(1, -5.0)
    variances = list(second.variances)
    variances[1] = variances[1].copy()
    variances[1][20:24, 30:33] = unknown
    error = second.error.copy()
    error[20:24, 30:33] = np.nan
    affected = Drizzler(OUT_SHAPE, **EVERYTHING)
    affected.add(replace(second, weight=np.where(np.isnan(error), second.weight, 0).astype(np.float32)))
    touched = affected.weight > 0
    assert touched.any()

    alone, both, holed = (Drizzler(OUT_SHAPE, **EVERYTHING) for _ in range(3))
    alone.add(first)
    for out, other in ((both, second), (holed, replace(second, variances=tuple(variances), error=error))):
        out.add(first)
        out.add(other)
    np.testing.assert_array_equal(holed.data, both.data)
    np.testing.assert_array_equal(holed.averaged_variances[[0, 2]], both.averaged_variances[[0, 2]])
    for name in ("averaged_variances", "propagated_variances"):
        plane = getattr(holed, name)[1]
        np.testing.assert_allclose(plane[touched], getattr(alone, name)[1][touched], rtol=1e-6)
        np.testing.assert_allclose(plane[~touched], getattr(both, name)[1][~touched], rtol=1e-6)
    np.testing.assert_allclose(holed.error[touched], alone.error[touched], rtol=1e-6)
    np.testing.assert_allclose(holed.error[~touched], both.error[~touched], rtol=1e-6)


def test_an_image_without_a_variance_adds_nothing_to_it():
    first, second = full_image(0, 3.0), full_image(1, -5.0)
    lacking = replace(second, variances=(second.variances[0], None, second.variances[2]), error=None)
    alone, both = Drizzler(OUT_SHAPE, **EVERYTHING), Drizzler(OUT_SHAPE, **EVERYTHING)
    alone.add(first)
    for image in (first, lacking):
        both.add(image)
    np.testing.assert_allclose(both.averaged_variances[1], alone.averaged_variances[1], rtol=1e-6)
    np.testing.assert_allclose(both.propagated_variances[1], alone.propagated_variances[1], rtol=1e-6)
    np.testing.assert_allclose(both.error, alone.error, rtol=1e-6)
    assert not np.allclose(both.averaged_variances[0], alone.averaged_variances[0], equal_nan=True)
    only = Drizzler(OUT_SHAPE, **EVERYTHING)
    only.add(lacking)
    assert np.isnan(only.averaged_variances[1]).all()
    assert np.isnan(only.propagated_variances[1]).all()
    assert (only.error == 0).all()


def test_without_the_variance_that_gives_the_weights_nothing_is_averaged():
    image = full_image()
    out = Drizzler(OUT_SHAPE, **EVERYTHING)
    assert out.add(replace(image, variances=(None, *image.variances[1:]))) > 0
    assert np.isnan(out.averaged_variances).all()
    given = Drizzler(OUT_SHAPE, **EVERYTHING)
    given.add(replace(image, variances=(None, *image.variances[1:]), variance_weight=1.0))
    assert np.isnan(given.averaged_variances[0]).all()
    assert np.isfinite(given.averaged_variances[1][given.weight > 0]).all()


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


def test_pixels_without_a_position_are_left_out():
    image = listed_image(mapping())
    listed = image.pixel_map.dense()
    listed[:, 30:] = np.nan
    out = Drizzler(OUT_SHAPE, kernel="turbo", **EVERYTHING)
    out.add(replace(image, pixel_map=PixelMap.from_positions(listed)))
    half = Drizzler(OUT_SHAPE, kernel="turbo", **EVERYTHING)
    half.add(replace(image, weight=np.where(np.arange(70) < 30, image.weight, 0).astype(np.float32)))
    assert_equal_planes(out, half)
    square = Drizzler(OUT_SHAPE, **EVERYTHING)
    square.add(replace(image, pixel_map=PixelMap.from_positions(listed)))
    # a square needs its neighbours
    assert square.weight.sum(dtype=float) == pytest.approx(image.weight[:, :29].sum(dtype=float), rel=1e-6)


def test_exposure_time_is_summed_where_images_contribute():
    first, second = full_image(0, 3.0), full_image(1, 40.0)
    out = Drizzler(OUT_SHAPE, **EVERYTHING)
    out.add(first)
    out.add(replace(second, exposure_time=5.5))
    np.testing.assert_array_equal(out.exposure_time, 60 * (out.context[0] & 1) + 5.5 * (out.context[0] >> 1))
    assert set(np.unique(out.exposure_time)) == {0, 5.5, 60, 65.5}


def test_arrays_of_any_layout_are_read():
    image = full_image()
    plain, other = Drizzler(OUT_SHAPE, **EVERYTHING), Drizzler(OUT_SHAPE, **EVERYTHING)
    plain.add(image)
    other.add(
        replace(
            image,
            data=image.data.astype(">f4"),
            weight=np.asfortranarray(image.weight),
            variances=tuple(v.astype(np.float64) for v in image.variances),
            dq=image.dq.astype(">u4"),
        )
    )
    assert_equal_planes(plain, other)


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


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"variances": ()}, ValueError, "The image has 0 variances, the output 3"),
        (
            {"data": np.ones((3, 4))},
            ValueError,
            r"The data of an image has the shape \(3, 4\), its pixel map \(60, 70\)",
        ),
        ({"weight": np.ones((3, 4))}, ValueError, r"The weight of an image has the shape \(3, 4\)"),
        ({"variances": (None, np.ones((3, 4)), None)}, ValueError, r"The variance 1 of an image has the shape"),
        ({"error": np.ones((3, 4))}, ValueError, r"The error of an image has the shape \(3, 4\)"),
        ({"dq": np.ones((3, 4), np.uint32)}, ValueError, r"The flag plane of an image has the shape \(3, 4\)"),
        ({"dq": np.ones(SHAPE)}, TypeError, "Flags must be integers of at most 32 bits, not float64"),
        ({"dq": np.ones(SHAPE, np.int64)}, TypeError, "Flags must be integers of at most 32 bits, not int64"),
        ({"scale": 0.0}, ValueError, "The scale of an image must be positive and finite, not 0.0"),
        ({"scale_ratio": np.nan}, ValueError, "The scale ratio of an image must be positive and finite, not nan"),
    ],
)
def test_images_that_cannot_be_are_refused(changes, error, sentence):
    out = Drizzler(OUT_SHAPE, **EVERYTHING)
    with pytest.raises(error, match=sentence):
        out.add(replace(full_image(), **changes))
    assert out.n_images == 0
    with pytest.raises(ValueError, match="The number of an image is -1; numbers count from 0"):
        out.add(full_image(), number=-1)
