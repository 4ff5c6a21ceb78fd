"""The numbers of Resample: planes, weights and variances, against formulas and the drizzle package."""

import numpy as np
import pytest
from drizzle.resample import Drizzle
from resample_stack import (
    CENTRE,
    SCALE,
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
    tpv_wcs,
)

from tasks.science.resample import Resample


@pytest.mark.parametrize("centre", [CENTRE, (0.0, 0.0), (359.9999, 89.9999), (120.0, -90.0)])
def test_pixels_on_their_own_grid_stay_as_they_are(centre):
    wcs = tan_wcs(centre=centre)
    model = noisy_model(wcs, level=1.5, pixelarea_steradians=None)
    out = stack(model, grid={"wcs": wcs}, compute_err="from_var")
    assert out["pixel_scale_ratio"] == pytest.approx(1.0)
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
    err = np.ones(SHAPE)
    err[:10] = np.nan
    out = stack(make_model(err=err), ratio=2.0, margin=20, compute_err="driz_err", fillval=7.0, enable_var=False)
    np.testing.assert_allclose(out["err"][12:24, 8:-8], 0.5, rtol=1e-6)
    assert out["err"][0, 0] == out["data"][0, 0] == 7.0
    # these have a value, but no error
    assert (out["wht"][6:9, 8:-8] > 0).all()
    assert (out["err"][6:9, 8:-8] == 7.0).all()
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
    grid = output_grid(ratio, margin=24, angle_deg=5.0)
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
    grid = output_grid(1.2, margin=16)
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


def test_the_variance_of_exposures_weighted_by_time():
    models = [make_model(measurement_time=time, var_flat=value) for time, value in ((10.0, 1.0), (30.0, 2.0))]
    out = stack(*models, weight_type="exptime")
    np.testing.assert_allclose(inner(out["var_flat"]), (1.0 * 10**2 + 2.0 * 30**2) / 40**2, rtol=2e-5)


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
    resample = Resample(output_grid(margin=20), fillval=fillval, enable_var=False)
    resample.add_model(make_model())
    np.testing.assert_equal(float(resample.output_model["data"][0, 0]), expected)
    assert resample.output_model["fillval"] == fillval


def test_an_error_from_variances_needs_variances_whatever_was_asked():
    resample = Resample(output_grid(), enable_var=False, compute_err="from_var")
    assert resample.enable_var
    resample.add_model(make_model())
    resample.finalize()
    np.testing.assert_allclose(inner(resample.output_model["err"]), np.sqrt(0.6), rtol=1e-5)


def test_gwcs_and_fits_give_the_same_planes():
    fits = stack(noisy_model(sip_wcs(angle_deg=3.0)), pixfrac=0.9)
    grid = output_grid()
    grid["wcs"] = FrameWCS(grid["wcs"])
    resample = Resample(grid, pixfrac=0.9)
    resample.add_model(noisy_model(FrameWCS(sip_wcs(angle_deg=3.0))))
    resample.finalize()
    for name in ("data", "wht", "con", *VARIANCES):
        np.testing.assert_allclose(resample.output_model[name], fits[name], atol=2e-4, err_msg=name)


def test_the_scale_of_the_output_is_measured_if_it_is_not_given():
    grid = {"wcs": tan_wcs(scale=0.3)}
    resample = Resample(grid)
    assert resample.output_pixel_scale == pytest.approx(0.3, rel=1e-6)
    resample.add_model(make_model(pixelarea_steradians=None))
    assert resample.pixel_scale_ratio == pytest.approx(1.5, rel=1e-6)
    assert resample.output_model["pixelarea_arcsecsq"] == pytest.approx(0.09, rel=1e-6)
    assert resample.output_model["pixelarea_steradians"] == pytest.approx((0.3 / 206264.806) ** 2, rel=1e-6)


def test_a_ratio_that_is_given_is_kept():
    resample = Resample(output_grid() | {"pixel_scale_ratio": 0.5})
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


def test_propagated_variances_are_made_of_the_squared_coefficients_of_all_pixels():
    shape = (5, 6)
    wcses = [sip_wcs(shape, angle_deg=angle) for angle in (10.0, 35.0)]
    models = [noisy_model(wcs, number, shape=shape) for number, wcs in enumerate(wcses)]
    models[0]["dq"][2, 3] = 1
    grid = {"wcs": tan_wcs((9, 8), scale=0.8 * SCALE), "pixel_scale": 0.8 * SCALE}
    expected = np.zeros((9, 8))
    for number, model in enumerate(models):
        for place in np.ndindex(shape):
            impulses = [one | {"data": np.zeros(shape, np.float32)} for one in models]
            impulses[number]["data"][place] = 1.0
            # the output is linear in its inputs: this is the coefficient of one pixel
            coefficient = stack(*impulses, grid=grid, pixfrac=0.9, enable_var=False)["data"].astype(float)
            expected += coefficient**2 * model["var_flat"][place]
    out = stack(*models, grid=grid, pixfrac=0.9, variance_rule="propagated")
    covered = out["wht"] > 0
    np.testing.assert_allclose(out["var_flat"][covered], expected[covered], rtol=1e-5)
    assert np.isnan(out["var_flat"][~covered]).all()
    assert 10 < covered.sum() < covered.size
