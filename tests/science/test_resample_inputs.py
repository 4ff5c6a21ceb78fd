"""What a model may hold, and which of its pixels take part."""

import logging

import numpy as np
import pytest
from resample_stack import (
    SHAPE,
    VARIANCES,
    FrameWCS,
    inner,
    make_model,
    noisy_model,
    output_grid,
    sip_wcs,
    stack,
    tan_wcs,
)

from tasks.science.resample import Resample


def test_inputs_are_not_changed():
    model = noisy_model(FrameWCS(sip_wcs()), level=1.0)
    before = {name: np.copy(value) for name, value in model.items() if isinstance(value, np.ndarray)}
    grid = output_grid()
    grid["wcs"] = FrameWCS(grid["wcs"])
    resample = Resample(grid, propagate_dq=True, compute_err="driz_err", good_bits=None)
    resample.add_model(model)
    resample.finalize()
    for name, value in before.items():
        np.testing.assert_array_equal(model[name], value)
    assert grid["wcs"].bounding_box is not None


def test_arrays_of_any_number_type_and_byte_order_are_taken():
    big_endian = {name: make_model()[name].astype(">f4") for name in ("data", *VARIANCES)}
    out = stack(make_model(**big_endian | {"dq": np.zeros(SHAPE, ">i4")}))
    expected = stack(make_model(dq=np.zeros(SHAPE, np.uint8), data=np.full(SHAPE, 2, np.int16)))
    for name in ("data", "wht", *VARIANCES):
        np.testing.assert_array_equal(out[name], expected[name])


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64])
def test_the_highest_flag_of_a_signed_type_is_a_flag(dtype):
    highest = np.iinfo(dtype).bits - 1
    dq = np.full(SHAPE, np.iinfo(dtype).min, dtype)
    if highest > 31:
        with pytest.raises(TypeError, match="flags beyond bit 31"):
            stack(make_model(dq=dq), good_bits=None, propagate_dq=True, enable_var=False)
    else:
        out = stack(make_model(dq=dq), good_bits=None, propagate_dq=True, enable_var=False)
        assert (out["dq"] == 1 << highest).all()


def test_masked_pixels_of_a_masked_array_do_not_count():
    data = np.ma.masked_equal(np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE), 20 * SHAPE[1] + 20)
    out = stack(make_model(data=data), enable_var=False)
    assert out["wht"][20, 20] == pytest.approx(0, abs=1e-3)
    assert out["wht"][21, 20] == pytest.approx(10, rel=1e-4)


@pytest.mark.parametrize(("subtracted", "value"), [(False, 0.5), (True, 2.0), (None, 0.5)])
def test_the_background_is_subtracted_unless_it_is_gone(subtracted, value):
    out = stack(make_model(level=1.5, subtracted=subtracted), enable_var=False)
    np.testing.assert_allclose(inner(out["data"]), value, rtol=1e-5)
    assert out["level"] is None
    assert out["subtracted"] is False


BRIGHT = np.full(SHAPE, 1e8 + 3)


@pytest.mark.parametrize("data", [BRIGHT, BRIGHT.astype(np.int32), np.ma.masked_less(BRIGHT, 0)])
def test_a_faint_signal_on_a_bright_sky_keeps_its_digits(data):
    out = stack(make_model(data=data, level=1e8), enable_var=False)
    np.testing.assert_allclose(inner(out["data"]), 3.0, rtol=1e-5)


def test_pixels_that_are_not_finite_never_spoil_the_output():
    model = noisy_model(sip_wcs())
    model["data"][10, 10], model["data"][11, 12] = np.nan, np.inf
    model["err"][30, 30] = np.nan
    model["var_flat"][20, 20], model["var_flat"][25, 25] = np.nan, -1.0
    model["var_rnoise"][22, 30], model["var_rnoise"][24, 30], model["var_rnoise"][5, 5] = np.nan, 0.0, -3.0
    out = stack(model, make_model(sip_wcs()), compute_err="driz_err")
    assert np.isfinite(out["data"]).all()
    assert np.isfinite(out["wht"]).all()
    assert np.isfinite(out["err"]).all()
    covered = out["wht"] > 0
    for name in VARIANCES:
        # the second exposure covers the holes of the first
        assert np.isfinite(out[name][covered]).all(), name


def test_a_pixel_of_unknown_variance_gives_its_value_but_no_variance():
    model = make_model()
    model["var_flat"][20, 20] = np.nan
    out = stack(model)
    assert out["data"][20, 20] == pytest.approx(2.0)
    assert np.isnan(out["var_flat"][20, 20])
    assert out["var_poisson"][20, 20] == pytest.approx(0.3, rel=1e-5)


def test_good_bits_choose_the_pixels_that_count():
    dq = np.zeros(SHAPE, np.uint32)
    dq[20, 20], dq[20, 30], dq[30, 20] = 4, 8, 12
    cases = {0: [0, 0, 0], 4: [1, 0, 0], "4,8": [1, 1, 1], "~4": [0, 1, 0], None: [1, 1, 1], "": [1, 1, 1]}
    for good_bits, expected in cases.items():
        out = stack(make_model(dq=dq), good_bits=good_bits, enable_var=False)
        weights = out["wht"][[20, 20, 30], [20, 30, 20]]
        # a pixel on its own grid takes no more than a rounding error from its neighbours
        np.testing.assert_allclose(weights, np.multiply(expected, 10.0), atol=1e-3, err_msg=str(good_bits))


def test_flags_of_contributing_pixels_are_kept():
    dq = np.zeros(SHAPE, np.uint32)
    dq[20, 20], dq[20, 30] = 4, 8
    out = stack(make_model(tan_wcs(shift=(0.5, 0.0)), dq=dq), good_bits=4, propagate_dq=True)
    assert out["dq"].dtype == np.uint32
    assert np.bitwise_or.reduce(out["dq"].ravel()) == 4
    assert 2 <= (out["dq"] == 4).sum() <= 6
    assert stack(make_model(dq=dq))["dq"] is None


def test_without_read_noise_all_pixels_weigh_the_same(caplog):
    with caplog.at_level(logging.WARNING):
        out = stack(make_model(var_rnoise=None), make_model(var_rnoise=np.zeros((0, 0)), var_flat=0.6))
    np.testing.assert_allclose(inner(out["wht"]), 2.0, rtol=1e-5)
    np.testing.assert_allclose(inner(out["var_flat"]), (0.2 + 0.6) / 4, rtol=1e-5)
    assert np.isnan(out["var_rnoise"]).all()
    assert "The model 'exposure.fits' has no 'var_rnoise': all of its pixels have weight 1." in caplog.messages


def test_the_sky_variance_may_weigh_without_read_noise():
    model = make_model(var_sky=0.25)
    del model["var_rnoise"]
    np.testing.assert_allclose(inner(stack(model, weight_type="ivm-sky", enable_var=False)["wht"]), 4.0, rtol=1e-5)
    del model["var_sky"]
    np.testing.assert_allclose(inner(stack(model, weight_type="ivm-sky", enable_var=False)["wht"]), 1.0, rtol=1e-5)


def test_the_exposure_time_is_the_weight_where_there_is_no_measurement_time():
    for model, weight in ((make_model(), 90.0), (make_model(measurement_time=None), 100.0)):
        np.testing.assert_allclose(inner(stack(model, weight_type="exptime")["wht"]), weight, rtol=1e-5)
