"""What the drizzle engine does with values that are not there, arrays of any kind, and images that cannot be."""

from dataclasses import replace

import numpy as np
import pytest
from drizzle_cases import (
    EVERYTHING,
    N_VARIANCES,
    OUT_SHAPE,
    SHAPE,
    assert_equal_planes,
    full_image,
    listed_image,
    mapping,
)

from tasks.science.drizzling import Drizzler
from tasks.science.pixel_map import PixelMap


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


def test_an_image_without_an_error_leaves_the_mean_of_the_others():
    images = [full_image(seed, 4.0 * seed) for seed in range(3)]
    with_error, lacking = (Drizzler(OUT_SHAPE, variances=N_VARIANCES, error=True) for _ in range(2))
    for image in images[1:]:
        with_error.add(image)
    for image in (replace(images[0], error=None), *images[1:]):
        lacking.add(image)
    np.testing.assert_allclose(lacking.error, with_error.error, rtol=1e-6)


def test_without_the_variance_that_gives_the_weights_nothing_is_averaged():
    image = full_image()
    out = Drizzler(OUT_SHAPE, **EVERYTHING)
    assert out.add(replace(image, variances=(None, *image.variances[1:]))) > 0
    assert np.isnan(out.averaged_variances).all()
    given = Drizzler(OUT_SHAPE, **EVERYTHING)
    given.add(replace(image, variances=(None, *image.variances[1:]), variance_weight=1.0))
    assert np.isnan(given.averaged_variances[0]).all()
    assert np.isfinite(given.averaged_variances[1][given.weight > 0]).all()


@pytest.mark.parametrize("nowhere", [np.nan, np.inf, -1e300, 1e17])
def test_pixels_without_a_position_are_left_out(nowhere):
    image = listed_image(mapping())
    listed = image.pixel_map.dense()
    listed[:, 30:] = nowhere
    kept = np.where(np.arange(70) < 30, image.weight, 0).astype(np.float32)
    for kernel in ("turbo", "gaussian", "lanczos2"):
        out, half = (Drizzler(OUT_SHAPE, kernel=kernel, **EVERYTHING) for _ in range(2))
        out.add(replace(image, pixel_map=PixelMap.from_positions(listed)))
        half.add(replace(image, weight=kept))
        assert_equal_planes(out, half)
    square = Drizzler(OUT_SHAPE, **EVERYTHING)
    square.add(replace(image, pixel_map=PixelMap.from_positions(listed)))
    # a square needs its neighbours
    assert square.weight.sum(dtype=float) == pytest.approx(image.weight[:, :29].sum(dtype=float), rel=1e-6)


def test_a_map_of_scattered_pixels_is_used():
    """No two of them are neighbours, so that their size is not known."""
    y, x = np.mgrid[:60, :70].astype(float)
    apart = (x % 4 == 0) & (y % 4 == 0)
    listed = np.where(apart[..., None], np.stack([x + 20, y + 20], axis=-1), np.nan)
    image = replace(full_image(weight=np.ones(SHAPE, np.float32)), pixel_map=PixelMap.from_positions(listed))
    out = Drizzler(OUT_SHAPE, kernel="point", **EVERYTHING)
    assert out.add(replace(image, scale_ratio=None)) == np.count_nonzero(apart)
    turbo = Drizzler(OUT_SHAPE, kernel="turbo", **EVERYTHING)
    with pytest.raises(ValueError, match="The scale ratio of an image must be positive and finite, not nan"):
        turbo.add(replace(image, scale_ratio=None))
    assert turbo.add(image) > 0


def test_arrays_of_any_layout_are_read():
    image = full_image()
    error = image.error.copy()
    error.flags.writeable = False
    plain, other = Drizzler(OUT_SHAPE, **EVERYTHING), Drizzler(OUT_SHAPE, **EVERYTHING)
    plain.add(image)
    other.add(
        replace(
            image,
            data=image.data.astype(">f4"),
            weight=np.asfortranarray(image.weight),
            variances=tuple(v.astype(np.float64) for v in image.variances),
            error=error,
            dq=image.dq.astype(">u4"),
        )
    )
    assert_equal_planes(plain, other)


def test_what_is_masked_is_not_used():
    image = full_image()
    hidden = np.zeros(SHAPE, bool)
    hidden[20:23, 30] = True
    outputs = []
    for masked in (np.ma.array(image.data, mask=hidden), np.where(hidden, np.nan, image.data).astype(np.float32)):
        out = Drizzler(OUT_SHAPE, **EVERYTHING)
        out.add(replace(image, data=masked))
        outputs.append(out)
    assert_equal_planes(*outputs)


def test_the_sign_of_a_flag_is_a_flag():
    image = full_image(dq=np.full(SHAPE, -0x8000, np.int16))
    out = Drizzler(OUT_SHAPE, **EVERYTHING)
    out.add(image)
    assert set(np.unique(out.dq)) == {0, 0x8000}


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
        ({"level": np.nan}, ValueError, "The level of an image must be finite, not nan"),
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
