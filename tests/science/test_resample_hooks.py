"""What subclasses of Resample may change, as those of the archive pipelines do."""

import inspect

import numpy as np
import pytest
from astropy.nddata.bitmask import BitFlagNameMap
from resample_stack import SCALE, SHAPE, FrameWCS, inner, make_model, sip_wcs, tan_wcs

from tasks.science.resample import Resample

OUTPUT = {"wcs": tan_wcs(scale=0.15), "pixel_scale": 0.15}


def run(kind, *models, output=None, **settings):
    resample = kind(OUTPUT if output is None else output, **settings)
    for model in models:
        resample.add_model(model)
    resample.finalize()
    return resample


def exact_positions(wcs):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    return np.stack(OUTPUT["wcs"].all_world2pix(*wcs.all_pix2world(x, y, 0), 0), axis=-1)


class Recording(Resample):
    def add_model_hook(self, **arguments):
        self.seen = arguments


def test_the_hook_is_told_where_each_pixel_went():
    model = make_model(sip_wcs(), level=0.5)
    model["dq"][3, 4] = 1
    seen = run(Recording, model).seen
    names = ["model", "pixmap", "pixel_scale_ratio", "iscale", "weight_map", "xmin", "xmax", "ymin", "ymax"]
    assert list(seen) == names
    assert seen["model"] is model
    np.testing.assert_allclose(seen["pixmap"], exact_positions(sip_wcs()), atol=2e-6)
    assert seen["pixel_scale_ratio"] == pytest.approx(0.75)
    assert seen["iscale"] == 1.0
    assert seen["weight_map"][3, 4] == 0
    assert seen["weight_map"][4, 4] == np.float32(10)
    assert [seen[name] for name in ("xmin", "xmax", "ymin", "ymax")] == [0, SHAPE[1] - 1, 0, SHAPE[0] - 1]


def test_the_hook_hears_of_pixels_and_models_off_the_output_too():
    half_on = tan_wcs(shift=(40.0, 0.0))
    np.testing.assert_allclose(run(Recording, make_model(half_on)).seen["pixmap"], exact_positions(half_on), atol=2e-6)
    beside = run(Recording, make_model(tan_wcs(shift=(900.0, 0.0)))).seen["pixmap"]
    assert beside[..., 0].max() < -100
    box = FrameWCS(tan_wcs(), bounding_box=((4.5, 40.2), (2.2, 30.7)))
    seen = run(Recording, make_model(box)).seen
    assert [seen[name] for name in ("xmin", "xmax", "ymin", "ymax")] == [5, 40, 2, 31]
    assert np.isfinite(seen["pixmap"][..., 0]).sum() == 36 * 28


def test_a_hook_of_the_older_interface_is_called_without_the_ratio():
    class Older(Resample):
        def add_model_hook(self, model, pixmap, iscale, weight_map, xmin, xmax, ymin, ymax):
            self.seen = (pixmap.shape, iscale, weight_map.shape, xmin, xmax, ymin, ymax)

    assert run(Older, make_model()).seen == ((*SHAPE, 2), 1.0, SHAPE, 0, 51, 0, 43)


def test_no_positions_are_listed_for_a_hook_that_is_not_there():
    asked, listed = FrameWCS(sip_wcs((300, 320))), FrameWCS(sip_wcs((300, 320)))
    run(Resample, make_model(asked, shape=(300, 320)))
    run(Recording, make_model(listed, shape=(300, 320)))
    assert asked.pixels_asked_for < 300 * 320 / 8
    assert listed.pixels_asked_for > asked.pixels_asked_for


def test_variances_may_be_resampled_by_a_subclass():
    class Doubled(Resample):
        calls = 0

        def resample_variance_arrays(self, model, **arguments):
            self.calls += 1
            super().resample_variance_arrays(model | {"var_flat": 2 * model["var_flat"]}, **arguments)

    models = [make_model(sip_wcs(shift=(number, 0)), var_flat=0.2 + number) for number in range(2)]
    apart, together = run(Doubled, *models), run(Resample, *models)
    assert apart.calls == 2
    # positions of single pixels and splines differ by less than 1e-6 pixels
    np.testing.assert_allclose(apart.output_model["var_flat"], 2 * together.output_model["var_flat"], rtol=2e-4)
    np.testing.assert_allclose(apart.output_model["var_rnoise"], together.output_model["var_rnoise"], rtol=2e-4)
    np.testing.assert_array_equal(apart.output_model["data"], together.output_model["data"])


def test_variances_are_not_counted_twice():
    resample = Resample(OUTPUT)
    with pytest.raises(
        RuntimeError, match="add_model resamples the variances already; override resample_variance_arrays"
    ):
        resample.resample_variance_arrays(make_model(), np.zeros((*SHAPE, 2)), 1.0, 1.0, None, 0, 51, 0, 43)


def test_a_subclass_may_say_how_large_pixels_are():
    class Nominal(Resample):
        def get_input_model_pixel_area(self, model, prefer_mean=True):
            assert not prefer_mean
            return (0.3 / 206264.80624709636) ** 2

    assert run(Nominal, make_model()).pixel_scale_ratio == pytest.approx(0.5)


def test_the_pixel_area_is_the_mean_or_the_nominal_one(caplog):
    resample = Resample(OUTPUT)
    model = make_model(sip_wcs(), pixelarea_steradians=3e-12)
    mean = resample.get_input_model_pixel_area(model)
    assert mean == pytest.approx((SCALE / 206264.806) ** 2, rel=0.05)
    assert resample.get_input_model_pixel_area(model, prefer_mean=False) == 3e-12
    assert resample.get_input_model_pixel_area(model | {"pixelarea_steradians": None}, prefer_mean=False) == mean
    # what stcal documents and does not do: the nominal area where there is no mean
    nowhere = FrameWCS(tan_wcs(), bounding_box=((60.0, 70.0), (0.0, 1.0)))
    assert resample.get_input_model_pixel_area(model | {"wcs": nowhere}) == 3e-12
    assert resample.get_input_model_pixel_area(model | {"wcs": nowhere, "pixelarea_steradians": 0.0}) is None
    assert "The pixel area of model 'exposure.fits' is not known." in caplog.messages
    assert resample.get_output_model_pixel_area({"wcs": tan_wcs()}) == pytest.approx(
        (SCALE / 206264.806) ** 2, rel=1e-6
    )


def test_without_any_pixel_area_variances_are_not_scaled():
    class Unknown(Resample):
        def get_input_model_pixel_area(self, model, prefer_mean=True):
            return None

    out = run(Unknown, make_model()).output_model
    assert out["pixel_scale_ratio"] is None
    np.testing.assert_allclose(inner(out["var_flat"]), 0.2, rtol=1e-5)


def test_a_subclass_chooses_its_variances():
    class Roman(Resample):
        variance_array_names = ("var_sky", "var_rnoise")
        error_from_variances = ("var_sky",)
        output_array_types = Resample.output_array_types | {"var_sky": np.float64, "wht": np.float64}

    out = run(Roman, make_model(var_sky=0.4), compute_err="from_var").output_model
    assert "var_flat" not in out
    assert {name: out[name].dtype.name for name in ("var_sky", "var_rnoise", "wht", "con", "data", "err")} == {
        "var_sky": "float64",
        "var_rnoise": "float32",
        "wht": "float64",
        "con": "int32",
        "data": "float32",
        "err": "float32",
    }
    np.testing.assert_allclose(inner(out["err"]) ** 2, 0.4 / 0.75**2, rtol=1e-4)
    np.testing.assert_allclose(inner(out["var_rnoise"]), 0.1 / 0.75**2, rtol=1e-4)


def test_without_read_noise_among_the_variances_exposures_weigh_the_same():
    class NoReadNoise(Resample):
        variance_array_names = ("var_flat",)

    out = run(
        NoReadNoise, make_model(), make_model(var_flat=0.6, var_rnoise=0.2), output={"wcs": tan_wcs()}
    ).output_model
    np.testing.assert_allclose(inner(out["var_flat"]), (0.2 + 0.6) / 4, rtol=1e-5)


def test_flags_have_the_names_of_the_subclass():
    class Flags(BitFlagNameMap):
        JUMP_DET = 4

    class Named(Resample):
        dq_flag_name_map = Flags

    model = make_model(tan_wcs(), dq=np.full(SHAPE, 4))
    assert run(Named, model, good_bits="JUMP_DET").output_model["wht"].any()
    late = Resample(OUTPUT, good_bits="JUMP_DET", enable_var=False)
    late.dq_flag_name_map = {"JUMP_DET": 4}
    late.add_model(model)
    assert late.output_model["wht"].any()


def test_a_subclass_may_add_to_the_output_and_to_the_times():
    class Extended(Resample):
        def create_output_model(self):
            return super().create_output_model() | {"filters": []}

        def init_time_counters(self):
            super().init_time_counters()
            self.n_groups = 0

        def update_time(self, model):
            super().update_time(model)
            self.n_groups += 1
            self.output_model["filters"].append(model["filter"])

        def finalize_time_info(self):
            super().finalize_time_info()
            self.output_model["mean_time"] = self.output_model["exposure_time"] / self.n_groups

    models = [make_model(filter=name, group_id=group) for name, group in (("F1", 1), ("F2", 2), ("F3", 2))]
    resample = run(Extended, *models)
    assert resample.output_model["filters"] == ["F1", "F2"]
    assert resample.output_model["mean_time"] == 100.0
    # a group that is counted already is not counted again
    resample.reset_arrays()
    assert resample.n_groups == 0


def test_a_subclass_may_check_models_and_outputs():
    class Strict(Resample):
        def check_output_wcs(self, output_wcs, estimate_output_shape=True):
            super().check_output_wcs(output_wcs, estimate_output_shape=estimate_output_shape)
            self.checked = output_wcs

        def validate_input_model(self, model):
            super().validate_input_model(model)
            if "filter" not in model:
                raise KeyError("no filter")

    resample = Strict(OUTPUT)
    assert resample.checked is OUTPUT["wcs"]
    with pytest.raises(KeyError, match="no filter"):
        resample.add_model(make_model())


POSITIONS = "model pixmap pixel_scale_ratio iscale weight_map xmin xmax ymin ymax"
METHODS = {
    "add_model": "model",
    "add_model_hook": POSITIONS,
    "check_output_wcs": "output_wcs estimate_output_shape",
    "create_output_model": "",
    "finalize": "",
    "finalize_resample_variance": "output_model",
    "finalize_time_info": "",
    "get_input_model_pixel_area": "model prefer_mean",
    "get_output_model_pixel_area": "model",
    "init_time_counters": "",
    "init_variance_arrays": "",
    "is_finalized": "",
    "resample_variance_arrays": POSITIONS,
    "reset_arrays": "n_input_models",
    "update_time": "model",
    "validate_input_model": "model",
}


def test_methods_and_settings_have_the_names_and_the_order_of_stcal():
    found = {name: list(inspect.signature(getattr(Resample, name)).parameters)[1:] for name in METHODS}
    assert found == {name: text.split() for name, text in METHODS.items()}
    settings = {key: one.default for key, one in inspect.signature(Resample).parameters.items()}
    # in this order, and with these defaults
    assert list(settings.items())[1:13] == [
        ("n_input_models", None), ("pixfrac", 1.0), ("kernel", "square"), ("fillval", 0.0), ("weight_type", "ivm"),
        ("good_bits", 0), ("enable_ctx", True), ("enable_var", True), ("compute_err", None), ("propagate_dq", False),
        ("pixmap_stepsize", 1), ("pixmap_order", 1),
    ]  # fmt: skip


def test_what_is_documented_is_there():
    resample = Resample(OUTPUT, n_input_models=2, compute_err="driz_err", propagate_dq=True)
    attributes = {
        "compute_err": "driz_err",
        "enable_ctx": True,
        "enable_var": True,
        "propagate_dq": True,
        "group_ids": [],
        "output_array_shape": SHAPE,
        "output_pixel_scale": 0.15,
        "output_wcs": OUTPUT["wcs"],
        "pixel_scale_ratio": None,
        "dq_flag_name_map": None,
        "error_from_variances": None,
        "variance_array_names": ["var_rnoise", "var_flat", "var_poisson"],
        "pixfrac": 1.0,
        "kernel": "square",
        "weight_type": "ivm",
    }
    assert {name: getattr(resample, name) for name in attributes} == attributes
    resample.add_model(make_model())
    assert resample.is_finalized() is False
    resample.finalize()
    assert resample.is_finalized() is True
    keys = "wcs data wht con dq pixfrac kernel fillval weight_type pixelarea_steradians pixelarea_arcsecsq err"
    keys += " pixel_scale_ratio pointings exposure_time measurement_time start_time end_time duration level subtracted"
    keys += " elapsed_exposure_time var_rnoise var_flat var_poisson"
    assert set(resample.output_model) == set(keys.split())
    bare = Resample(OUTPUT, enable_ctx=False, enable_var=False)
    bare.add_model(make_model())
    assert bare.output_model["con"] is None
    assert "err" not in bare.output_model
