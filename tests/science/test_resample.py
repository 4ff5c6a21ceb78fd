"""The numbers of Resample: planes, weights, variances, times; against formulas, the drizzle package and real noise."""

import logging

import numpy as np
import pytest
from drizzle.resample import Drizzle
from resample_stack import CENTRE, SCALE, SHAPE, FrameWCS, inner, make_model, sip_wcs, tan_wcs, tpv_wcs

from tasks.science.resample import Resample

VARIANCES = ("var_rnoise", "var_flat", "var_poisson")


def output(ratio=1.0, margin=0, **changes):
    """An output grid that an exposure fits on."""
    shape = tuple(round((side + margin) / ratio) for side in SHAPE)
    return {"wcs": tan_wcs(shape, scale=SCALE * ratio, **changes), "pixel_scale": SCALE * ratio}


def stack(*models, ratio=1.0, margin=0, **settings):
    resample = Resample(output(ratio, margin), **settings)
    for model in models:
        resample.add_model(model)
    resample.finalize()
    return resample.output_model


def noisy_model(wcs, seed=0, **changes):
    """A model whose planes all differ from pixel to pixel, with some bad pixels."""
    rng = np.random.default_rng(seed)
    planes = {name: rng.uniform(0.5, 2.0, SHAPE).astype(np.float32) for name in ("err", *VARIANCES)}
    dq = (rng.uniform(size=SHAPE) < 0.03).astype(np.uint32)
    return make_model(wcs, rng.normal(3.0, 1.0, SHAPE).astype(np.float32), dq=dq, **planes) | changes


def test_pixels_on_their_own_grid_stay_as_they_are():
    model = noisy_model(tan_wcs(), level=1.5)
    out = stack(model, compute_err="from_var")
    good = model["dq"] == 0
    np.testing.assert_allclose(out["data"][good], model["data"][good] - 1.5, atol=2e-5)
    np.testing.assert_allclose(out["wht"][good], 1 / model["var_rnoise"][good], rtol=2e-5)
    np.testing.assert_allclose(out["var_flat"][good], model["var_flat"][good], rtol=2e-5)
    # no more than rounding errors come from the neighbours
    assert out["wht"][~good].max() < 1e-4


@pytest.mark.parametrize(
    ("ratio", "weight", "read_noise", "error"),
    [(0.5, 2.5, 0.4, 1.549), (1.0, 10, 0.1, 0.7746), (2.0, 40, 0.025, 0.3873)],
)
def test_a_constant_image_on_finer_and_coarser_pixels(ratio, weight, read_noise, error):
    out = stack(make_model(), ratio=ratio, compute_err="from_var")
    # stcal 1.20 gives these numbers
    expected = {"data": 2, "wht": weight, "var_rnoise": read_noise, "err": error}
    for name, value in expected.items():
        np.testing.assert_allclose(inner(out[name]), value, rtol=2e-4, err_msg=name)
    assert out["pixel_scale_ratio"] == pytest.approx(ratio)


def test_drizzled_errors_are_scaled_with_the_pixels_and_the_fill_value_is_not():
    out = stack(make_model(), ratio=2.0, margin=20, compute_err="driz_err", fillval=7.0, enable_var=False)
    np.testing.assert_allclose(inner(out["err"], 8), 0.5, rtol=1e-6)
    assert out["err"][0, 0] == out["data"][0, 0] == 7.0
    assert "var_flat" not in out


def exact_positions(wcs, target):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    return np.stack(target.all_world2pix(*wcs.all_pix2world(x, y, 0), 0), axis=-1)


def drizzled(values, model, target, shape, out=None, ratio=1.0):
    """What the drizzle package makes of one plane, with the weights of stcal."""
    out = Drizzle(kernel="square", fillval="nan", out_shape=shape) if out is None else out
    weight = np.where(model["dq"] == 0, 1 / model["var_rnoise"], 0).astype(np.float32)
    positions = exact_positions(model["wcs"], target)
    out.add_image(values, 1.0, positions, weight_map=weight, pixfrac=0.8, pixel_scale_ratio=ratio)
    return out


@pytest.mark.parametrize("make", [tan_wcs, sip_wcs, tpv_wcs])
def test_a_stack_is_that_of_the_drizzle_package_with_stcals_variances(make):
    ratio = 0.6
    grid = output(ratio, margin=24, angle_deg=5.0)
    wcses = [make(shift=(dx, dy), angle_deg=angle) for dx, dy, angle in ((0, 0, 0), (3.3, -2.1, 2), (-4.7, 1.9, 180))]
    models = [noisy_model(wcs, seed, group_id=str(seed)) for seed, wcs in enumerate(wcses)]
    resample = Resample(grid, n_input_models=3, pixfrac=0.8, fillval="nan", compute_err="driz_err")
    data, error, sums, weights = None, None, np.zeros((3, *grid["wcs"].array_shape)), 0
    for model in models:
        resample.add_model(model)
        data = drizzled(model["data"], model, grid["wcs"], grid["wcs"].array_shape, data)
        error = drizzled(model["err"], model, grid["wcs"], grid["wcs"].array_shape, error)
        parts = [
            drizzled(np.sqrt(model[name]), model, grid["wcs"], grid["wcs"].array_shape).out_img.astype(float) ** 2
            for name in VARIANCES
        ]
        weight = np.where(np.isnan(parts[0]), 0, 1 / parts[0])
        sums += np.nan_to_num(parts * weight**2)
        weights += weight
    resample.finalize()
    out = resample.output_model
    np.testing.assert_array_equal(out["con"], data.out_ctx)
    np.testing.assert_allclose(out["data"], data.out_img, atol=3e-5)
    np.testing.assert_allclose(out["wht"], data.out_wht, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(out["err"], error.out_img / ratio, atol=3e-5)
    for name, expected in zip(VARIANCES, sums, strict=True):
        covered = data.out_wht > 0.01
        np.testing.assert_array_equal(np.isnan(out[name]), weights == 0)
        scaled = expected[covered] / weights[covered] ** 2 / ratio**2
        np.testing.assert_allclose(out[name][covered], scaled, rtol=5e-5)


@pytest.mark.parametrize("kernel", ["square", "turbo", "point", "gaussian", "lanczos3"])
@pytest.mark.filterwarnings("ignore:.*does not conserve flux", "ignore:Kernel .* is not a flux-conserving")
def test_every_kernel_is_that_of_the_drizzle_package(kernel):
    model = noisy_model(sip_wcs(shift=(0.3, 0.2), angle_deg=3.0))
    grid = output(1.2, margin=16)
    resample = Resample(grid, kernel=kernel, enable_var=False)
    resample.add_model(model)
    out = Drizzle(kernel=kernel, fillval="0", out_shape=grid["wcs"].array_shape)
    weight = np.where(model["dq"] == 0, 1 / model["var_rnoise"], 0).astype(np.float32)
    positions = exact_positions(model["wcs"], grid["wcs"])
    out.add_image(model["data"], 1.0, positions, weight_map=weight, pixel_scale_ratio=resample.pixel_scale_ratio)
    np.testing.assert_allclose(resample.output_model["wht"], out.out_wht, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(resample.output_model["data"], out.out_img, atol=5e-5)


def test_an_output_that_cuts_through_an_exposure_has_the_pixels_of_a_larger_one():
    model = noisy_model(sip_wcs(shift=(0.3, 0.2), angle_deg=3.0))
    small, large = (stack(model, ratio=0.8, margin=margin) for margin in (-16, 16))
    # drizzle leaves out some of the pixels whose centres are beside the output
    for name in ("data", "wht", *VARIANCES):
        np.testing.assert_allclose(small[name], large[name][20:-20, 20:-20], rtol=2e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("weight_type", ["ivm", "ivm-sky", "exptime"])
def test_the_weighted_flux_is_conserved(weight_type):
    model = noisy_model(sip_wcs(), var_sky=np.full(SHAPE, 0.5, np.float32))
    resample = Resample(output(0.7, margin=20), weight_type=weight_type, pixfrac=0.9)
    resample.add_model(model)
    out = resample.output_model
    weight = {"ivm": 1 / model["var_rnoise"], "ivm-sky": np.full(SHAPE, 2.0), "exptime": np.full(SHAPE, 90.0)}[
        weight_type
    ]
    expected = (model["data"] * weight)[model["dq"] == 0].sum(dtype=float)
    assert np.sum(out["data"] * out["wht"], dtype=float) == pytest.approx(expected, rel=1e-6)


def test_the_exposure_time_is_the_weight_where_there_is_no_measurement_time():
    for model, weight in ((make_model(), 90.0), (make_model(measurement_time=None), 100.0)):
        np.testing.assert_allclose(inner(stack(model, weight_type="exptime")["wht"]), weight, rtol=1e-5)


def test_the_variance_of_exposures_weighted_by_time():
    models = [make_model(measurement_time=time, var_flat=value) for time, value in ((10.0, 1.0), (30.0, 2.0))]
    out = stack(*models, weight_type="exptime")
    np.testing.assert_allclose(inner(out["var_flat"]), (1.0 * 10**2 + 2.0 * 30**2) / 40**2, rtol=2e-5)


def test_the_thirty_third_and_the_sixty_fifth_input_open_planes_of_the_context():
    resample = Resample(output(), n_input_models=33, enable_var=False)
    # a model beside the output uses up its number, too
    beside = make_model(tan_wcs(shift=(4000.0, 0.0)))
    for number in range(65):
        resample.add_model(make_model() if number in (0, 31, 32, 64) else beside)
    context = resample.output_model["con"]
    assert context.shape == (3, *SHAPE)
    assert context.dtype == np.int32
    assert context[:, 20, 20].tolist() == [1 - 2**31, 1, 1]


def test_the_result_does_not_depend_on_the_number_of_threads():
    models = [noisy_model(sip_wcs(shift=(seed, -seed), angle_deg=seed), seed) for seed in range(3)]
    one, three = (
        stack(*models, ratio=0.3, n_threads=n, compute_err="driz_err", propagate_dq=True, good_bits=1) for n in (1, 3)
    )
    for name in ("data", "wht", "con", "dq", "err", *VARIANCES):
        assert one[name].tobytes() == three[name].tobytes(), name


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


@pytest.mark.parametrize(("subtracted", "value"), [(False, 0.5), (True, 2.0), (None, 0.5)])
def test_the_background_is_subtracted_unless_it_is_gone(subtracted, value):
    out = stack(make_model(level=1.5, subtracted=subtracted), enable_var=False)
    np.testing.assert_allclose(inner(out["data"]), value, rtol=1e-5)
    assert out["level"] is None
    assert out["subtracted"] is False


def test_a_faint_signal_on_a_bright_sky_keeps_its_digits():
    out = stack(make_model(data=np.full(SHAPE, 1e8 + 0.25), level=1e8), enable_var=False)
    np.testing.assert_allclose(inner(out["data"]), 0.25, rtol=1e-5)


def test_the_smallest_fluxes_have_variances():
    faint = {name: 1e-13**2 * (number + 1) for number, name in enumerate(VARIANCES)}
    out = stack(make_model(data=1e-13, **faint), make_model(data=1e-13, **faint), compute_err="from_var")
    np.testing.assert_allclose(inner(out["data"]), 1e-13, rtol=1e-5)
    np.testing.assert_allclose(inner(out["var_poisson"]), 3e-26 / 2, rtol=1e-4)
    np.testing.assert_allclose(inner(out["err"]), np.sqrt(6e-26 / 2), rtol=1e-4)


@pytest.mark.parametrize(
    ("fillval", "expected"),
    [(0.0, 0.0), (-7, -7.0), (" 3.5 ", 3.5), ("nan", np.nan), ("INDEF", np.nan), ("", np.nan), (None, np.nan)],
)
def test_pixels_without_data_have_the_fill_value(fillval, expected):
    resample = Resample(output(margin=20), fillval=fillval, enable_var=False)
    resample.add_model(make_model())
    np.testing.assert_equal(float(resample.output_model["data"][0, 0]), expected)
    assert resample.output_model["fillval"] == fillval


def test_times_are_summed_once_for_each_group():
    one = make_model()
    second_of_one = make_model(end_time=60_000.7, start_time=59_999.9)
    two = make_model(group_id="visit_2", exposure_time=50.0, measurement_time=40.0, duration=55.0, start_time=60_001.0)
    resample = Resample(output(), enable_var=False)
    for model in (one, second_of_one, two):
        resample.add_model(model)
    resample.finalize()
    assert resample.group_ids == ["visit_1", "visit_2"]
    expected = {
        "pointings": 2,
        "exposure_time": 150.0,
        "measurement_time": 130.0,
        "duration": 165.0,
        "elapsed_exposure_time": 165.0,
        "start_time": 59_999.9,
        "end_time": 60_000.7,
    }
    assert {name: resample.output_model[name] for name in expected} == expected


def test_the_measurement_time_is_known_only_if_all_groups_have_one():
    unknown = make_model(group_id="visit_2", measurement_time=None, duration=None, start_time=None, end_time=None)
    for models in ((make_model(), unknown), (unknown, make_model())):
        out = stack(*models, enable_var=False)
        assert out["measurement_time"] is None
        assert out["exposure_time"] == 200.0
        assert out["duration"] == 110.0
        assert out["start_time"] == 60_000.0


def test_a_model_beside_the_output_counts_for_nothing(caplog):
    beside = make_model(tan_wcs(shift=(4000.0, 0.0)), group_id="visit_0", filename="beside.fits")
    flagged = make_model(group_id="visit_3", dq=np.ones(SHAPE, np.uint32))
    with caplog.at_level(logging.WARNING):
        out = stack(beside, make_model(), flagged)
    assert out["pointings"] == 1
    assert out["exposure_time"] == 100.0
    assert out["con"][0, 20, 20] == 2
    assert "No pixel of 'beside.fits' contributes to the output." in caplog.messages


def test_an_output_that_nothing_reached_is_empty():
    out = stack(make_model(tan_wcs(shift=(4000.0, 0.0))), compute_err="from_var")
    assert out["pointings"] == 0
    assert out["start_time"] is None
    assert not out["wht"].any()
    assert np.isnan(out["err"]).all()


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


def test_an_error_from_variances_needs_variances_whatever_was_asked():
    resample = Resample(output(), enable_var=False, compute_err="from_var")
    assert resample.enable_var
    resample.add_model(make_model())
    resample.finalize()
    np.testing.assert_allclose(inner(resample.output_model["err"]), np.sqrt(0.6), rtol=1e-5)


def test_reset_begins_anew_and_leaves_the_former_output():
    resample = Resample(output())
    resample.add_model(make_model(pixelarea_steradians=1e-10))
    resample.finalize()
    former = resample.output_model
    kept = former["data"].copy()
    resample.reset_arrays(n_input_models=40)
    assert (resample.group_ids, resample.pixel_scale_ratio, resample.is_finalized()) == ([], None, False)
    resample.add_model(make_model(data=5.0))
    resample.finalize()
    out = resample.output_model
    assert (out["pointings"], out["exposure_time"]) == (1, 100.0)
    assert out["pixel_scale_ratio"] == pytest.approx(1.0)
    assert out["con"][0, 20, 20] == 1
    np.testing.assert_allclose(inner(out["data"]), 5.0)
    np.testing.assert_array_equal(former["data"], kept)


def test_reset_forgets_models_before_the_end_too():
    resample = Resample(output())
    resample.add_model(make_model())
    resample.reset_arrays()
    assert resample.output_model["data"] is None
    with pytest.raises(RuntimeError, match="No model has been added, so there is nothing to finalize"):
        resample.finalize()


def test_finalizing_twice_changes_nothing_and_adding_afterwards_is_an_error():
    resample = Resample(output(2.0), compute_err="driz_err")
    resample.add_model(make_model())
    resample.finalize()
    error = resample.output_model["err"].copy()
    resample.finalize()
    np.testing.assert_array_equal(resample.output_model["err"], error)
    with pytest.raises(RuntimeError, match="The output is finalized, and no model can be added; call reset_arrays"):
        resample.add_model(make_model())


def test_planes_are_there_after_every_model():
    resample = Resample(output(), compute_err="driz_err", propagate_dq=True)
    assert resample.output_model["data"] is None
    for n_models in (1, 2):
        resample.add_model(make_model(group_id=n_models))
        assert resample.output_model["wht"][20, 20] == pytest.approx(10.0 * n_models, rel=1e-5)
        assert resample.output_model["con"][0, 20, 20] == 2**n_models - 1
        assert resample.output_model["pointings"] == n_models
        assert resample.output_model["err"][20, 20] == pytest.approx(1.0)


def test_a_model_that_is_refused_changes_nothing():
    resample = Resample(output())
    resample.add_model(make_model())
    before = {name: np.copy(resample.output_model[name]) for name in ("data", "wht", "con")}
    with pytest.raises(ValueError, match="exposure_time"):
        resample.add_model(make_model(group_id="visit_2", exposure_time=0.0))
    with pytest.raises(ValueError, match="shape"):
        resample.add_model(make_model(group_id="visit_2", var_flat=np.ones((3, 3))))
    for name, plane in before.items():
        np.testing.assert_array_equal(resample.output_model[name], plane)
    resample.add_model(make_model(group_id="visit_2"))
    resample.finalize()
    assert resample.output_model["pointings"] == 2
    assert resample.output_model["con"][0, 20, 20] == 3


def test_inputs_are_not_changed():
    model = noisy_model(FrameWCS(sip_wcs()), level=1.0)
    before = {name: np.copy(value) for name, value in model.items() if isinstance(value, np.ndarray)}
    grid = output()
    grid["wcs"] = FrameWCS(grid["wcs"])
    resample = Resample(grid, propagate_dq=True, compute_err="driz_err", good_bits=None)
    resample.add_model(model)
    resample.finalize()
    for name, value in before.items():
        np.testing.assert_array_equal(model[name], value)
    assert grid["wcs"].bounding_box is not None


def test_gwcs_and_fits_give_the_same_planes():
    fits = stack(noisy_model(sip_wcs(angle_deg=3.0)), pixfrac=0.9)
    grid = output()
    grid["wcs"] = FrameWCS(grid["wcs"])
    resample = Resample(grid, pixfrac=0.9)
    resample.add_model(noisy_model(FrameWCS(sip_wcs(angle_deg=3.0))))
    resample.finalize()
    for name in ("data", "wht", "con", *VARIANCES):
        np.testing.assert_allclose(resample.output_model[name], fits[name], atol=2e-4, err_msg=name)


def test_arrays_of_any_number_type_and_byte_order_are_taken():
    big_endian = {name: make_model()[name].astype(">f4") for name in ("data", *VARIANCES)}
    out = stack(make_model(**big_endian | {"dq": np.zeros(SHAPE, ">i4")}))
    expected = stack(make_model(dq=np.zeros(SHAPE, np.uint8), data=np.full(SHAPE, 2, np.int16)))
    for name in ("data", "wht", *VARIANCES):
        np.testing.assert_array_equal(out[name], expected[name])


def test_masked_pixels_of_a_masked_array_do_not_count():
    data = np.ma.masked_equal(np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE), 20 * SHAPE[1] + 20)
    out = stack(make_model(data=data), enable_var=False)
    assert out["wht"][20, 20] == pytest.approx(0, abs=1e-3)
    assert out["wht"][21, 20] == pytest.approx(10, rel=1e-4)


def test_the_scale_of_the_output_is_measured_if_it_is_not_given():
    grid = {"wcs": tan_wcs(scale=0.3)}
    resample = Resample(grid)
    assert resample.output_pixel_scale == pytest.approx(0.3, rel=1e-6)
    resample.add_model(make_model(pixelarea_steradians=None))
    assert resample.pixel_scale_ratio == pytest.approx(1.5, rel=1e-6)
    assert resample.output_model["pixelarea_arcsecsq"] == pytest.approx(0.09, rel=1e-6)
    assert resample.output_model["pixelarea_steradians"] == pytest.approx((0.3 / 206264.806) ** 2, rel=1e-6)


def test_a_ratio_that_is_given_is_kept():
    resample = Resample(output() | {"pixel_scale_ratio": 0.5})
    resample.add_model(make_model())
    resample.finalize()
    assert resample.output_model["pixel_scale_ratio"] == 0.5
    np.testing.assert_allclose(inner(resample.output_model["var_flat"]), 0.8, rtol=1e-5)


def test_the_shape_of_the_output_may_come_from_its_bounding_box():
    wcs = FrameWCS(tan_wcs())
    wcs.array_shape = None
    assert Resample({"wcs": wcs, "pixel_scale": SCALE}).output_array_shape == SHAPE
    assert wcs.array_shape == SHAPE


def spectral_wcs(shape=SHAPE, scale=SCALE):
    return FrameWCS(tan_wcs(shape, scale=scale), axes_type=("SPATIAL", "SPATIAL", "SPECTRAL"))


@pytest.mark.parametrize(("unit", "factor"), [("MJy", 2.0), ("MJy/sr", 1.0), (None, 1.0)])
def test_spectra_keep_their_flux_density(unit, factor):
    resample = Resample({"wcs": spectral_wcs(), "pixel_scale": SCALE, "pixel_scale_ratio": 0.5}, compute_err="driz_err")
    resample.add_model(make_model(spectral_wcs(), bunit_data=unit))
    resample.finalize()
    out = resample.output_model
    np.testing.assert_allclose(inner(out["data"]), 2.0 * factor, rtol=1e-5)
    # one axis only is on the sky: the variance follows the ratio, not its inverse square
    np.testing.assert_allclose(inner(out["var_flat"]), 0.2 * factor**2 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(inner(out["err"]), factor * np.sqrt(0.5), rtol=1e-5)


@pytest.mark.parametrize("compute_err", ["from_var", "driz_err"])
def test_the_signal_to_noise_ratio_of_a_source_does_not_depend_on_the_pixels(compute_err):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    source = 50 * np.exp(-0.5 * ((x - 25.5) ** 2 + (y - 21.5) ** 2) / 5.0**2)
    found = []
    for ratio in (0.4, 1.0, 1.6):
        out = stack(make_model(data=source), ratio=ratio, compute_err=compute_err)
        v, u = (np.indices(out["data"].shape) + 0.5) * ratio - 0.5
        aperture = np.hypot(u - 25.5, v - 21.5) < 13.0
        noise = np.sqrt(np.sum(out["err"][aperture].astype(float) ** 2))
        found.append(out["data"][aperture].sum(dtype=float) / noise)
    np.testing.assert_allclose(found, found[1], rtol=0.015)


@pytest.mark.parametrize("ratio", [0.7, 1.3])
def test_both_rules_of_variance_are_those_of_real_noise(ratio):
    rng = np.random.default_rng(8)
    wcses = [tan_wcs(shift=shift, angle_deg=angle) for shift, angle in (((0.3, 0.4), 10.0), ((-0.2, 0.1), 35.0))]
    sigmas, margin, squares, sums = (1.0, 1.5), round(10 / ratio), 0.0, []
    for _ in range(40):
        models = [
            make_model(wcs, rng.normal(0, sigma, SHAPE), **dict.fromkeys(VARIANCES, sigma**2))
            for wcs, sigma in zip(wcses, sigmas, strict=True)
        ]
        resample = Resample(output(ratio), pixfrac=0.9, enable_var=False)
        for model in models:
            resample.add_model(model)
        noise = inner(resample.output_model["data"], margin).astype(float)
        squares += noise**2 / 40
        sums += [quarter.sum() for half in np.array_split(noise, 2) for quarter in np.array_split(half, 2, axis=1)]
    rules = {rule: stack(*models, ratio=ratio, pixfrac=0.9, variance_rule=rule) for rule in ("averaged", "propagated")}
    variances = {rule: inner(out["var_rnoise"], margin).astype(float) for rule, out in rules.items()}
    assert squares.mean() == pytest.approx(variances["propagated"].mean(), rel=0.05)
    # 160 sums: their variance is known to 11 per cent
    assert np.mean(np.square(sums)) == pytest.approx(variances["averaged"].sum() / 4, rel=0.3)
    assert variances["propagated"].mean() < 0.6 * variances["averaged"].mean()


def test_a_star_keeps_its_place():
    ra, dec = CENTRE[0] + 0.0003, CENTRE[1] - 0.0002
    models = []
    for shift, angle in (((0.0, 0.0), 0.0), ((2.3, -1.7), 40.0), ((-1.1, 3.2), 170.0)):
        wcs = sip_wcs(shift=shift, angle_deg=angle)
        x, y = wcs.all_world2pix(ra, dec, 0)
        v, u = np.indices(SHAPE)
        models.append(make_model(wcs, 1000 * np.exp(-0.5 * ((u - x) ** 2 + (v - y) ** 2) / 2.0**2)))
    out = stack(*models, ratio=0.8)
    x, y = output(0.8)["wcs"].all_world2pix(ra, dec, 0)
    v, u = np.indices(out["data"].shape)
    weight = out["data"] * (np.hypot(u - x, v - y) < 14)
    offset = np.hypot((weight * u).sum() / weight.sum() - x, (weight * v).sum() / weight.sum() - y)
    # milliarcseconds: of 0.2 arcsec pixels
    assert offset * SCALE * 0.8 * 1000 < 2.0
