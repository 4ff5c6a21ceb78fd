"""What Resample refuses, and how it says so."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy.wcs import WCS
from resample_stack import SHAPE, FrameWCS, make_model, tan_wcs

from tasks.science.resample import Resample, UnsupportedWCSError
from tasks.science.resample_inputs import REQUIRED_KEYS
from tasks.science.resample_settings import total_memory

OUTPUT = {"wcs": tan_wcs(), "pixel_scale": 0.2}


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"kernel": "circle"}, ValueError, "Kernel 'circle' is not supported; the kernels are square, gaussian, point"),
        ({"kernel": None}, ValueError, "Kernel None is not supported"),
        ({"pixfrac": -0.5}, ValueError, "pixfrac is -0.5; it must be the drop's size in pixels, from 0 to 2"),
        ({"pixfrac": float("nan")}, ValueError, "pixfrac is nan"),
        ({"pixfrac": "1"}, ValueError, "pixfrac is '1'"),
        ({"fillval": "empty"}, ValueError, "fillval is 'empty'; it must be a number, the text of one, 'INDEF' or None"),
        ({"fillval": [0]}, ValueError, r"fillval is \[0\]"),
        ({"weight_type": "ivm-foo"}, ValueError, "weight_type is 'ivm-foo'; it must be one of 'ivm', 'ivm-sky', 'expt"),
        ({"weight_type": None}, ValueError, "weight_type is None; it must be one of"),
        (
            {"compute_err": "drizzle"},
            ValueError,
            "compute_err is 'drizzle'; it must be one of 'from_var', 'driz_err', N",
        ),
        ({"good_bits": "4+8,2"}, ValueError, "mixes separators"),
        ({"good_bits": 1.5}, TypeError, "good_bits must be a whole number"),
        ({"pixmap_stepsize": 0}, ValueError, "pixmap_stepsize is 0; it must be a whole number of pixels, 1 or more"),
        ({"pixmap_stepsize": 2.5}, ValueError, "pixmap_stepsize is 2.5"),
        ({"pixmap_order": 2}, ValueError, "pixmap_order is 2; it must be one of 1, 3"),
        (
            {"variance_rule": "stcal"},
            ValueError,
            "variance_rule is 'stcal'; it must be one of 'averaged', 'propagated'",
        ),
        ({"memory_limit_gib": 0}, ValueError, "The memory_limit_gib of the output is 0; it must be a number above 0"),
        ({"n_threads": 0}, ValueError, "n_threads is 0; it must be a whole number, 1 or more"),
        ({"n_input_models": 0}, ValueError, "n_input_models is 0; it must be a whole number, 1 or more"),
        (
            {"memory_limit_gib": 1e-6},
            MemoryError,
            "An output of 52 x 44 pixels needs 7.7e-05 GiB of memory, and 1e-06 GiB",
        ),
    ],
)
def test_settings_that_cannot_work_are_named_at_once(settings, error, sentence):
    with pytest.raises(error) as caught:
        Resample(OUTPUT, **settings)
    assert caught.match(sentence)


def shapeless():
    wcs = tan_wcs()
    wcs.pixel_shape = None
    return wcs


def axes(*kinds):
    return FrameWCS(tan_wcs(), axes_type=kinds)


@pytest.mark.parametrize(
    ("output", "error", "sentence"),
    [
        (None, ValueError, "output_wcs must be given: a dictionary with the key 'wcs'"),
        (tan_wcs(), TypeError, "output_wcs is a WCS; it must be a dictionary with the key 'wcs'"),
        ({"pixel_scale": 0.2}, ValueError, "output_wcs has no 'wcs'; it must hold the coordinate system of the output"),
        ({"wcs": "TAN"}, TypeError, "The WCS of the output is a str without 'output_frame'"),
        (
            {"wcs": WCS(naxis=3)},
            UnsupportedWCSError,
            "The imaging WCS of the output has 3 coordinate axes, 0 of them on",
        ),
        ({"wcs": axes("SPATIAL")}, RuntimeError, "The imaging WCS of the output has 1 coordinate axes; it must have 2"),
        ({"wcs": axes("SPATIAL", "SPECTRAL")}, RuntimeError, "The spectral WCS of the output has 2 coordinate axes"),
        ({"wcs": shapeless()}, ValueError, "The size of the output is not known: set 'array_shape' or 'bounding_box'"),
        (
            {"wcs": tan_wcs((0, 40))},
            ValueError,
            r"The output has shape \(0, 40\); both sides must be at least one pixel",
        ),
        (
            {"wcs": tan_wcs(), "pixel_scale": -1},
            ValueError,
            "The pixel_scale of the output is -1; it must be a number ab",
        ),
        ({"wcs": tan_wcs(), "pixel_scale": 0}, ValueError, "The pixel_scale of the output is 0"),
        ({"wcs": tan_wcs(), "pixel_scale_ratio": "1"}, ValueError, "The pixel_scale_ratio of the output is '1'"),
        (
            {"wcs": tan_wcs((1, 40))},
            ValueError,
            "The pixel scale of the output cannot be measured: .* Give 'pixel_scale'",
        ),
    ],
)
def test_outputs_that_cannot_be_are_named(output, error, sentence):
    with pytest.raises(error) as caught:
        Resample(output)
    assert caught.match(sentence)


def test_an_output_of_a_million_pixels_a_side_is_refused_with_the_memory_that_it_needs():
    huge = {"wcs": tan_wcs((1_000_000, 1_000_000)), "pixel_scale": 0.2}
    # data, weight, 2 context planes, two planes for each of 3 variances, and the error, of 4 bytes
    sentence = (
        r"An output of 1000000 x 1000000 pixels needs 40,978\.2 GiB of memory, and [\d,.]+ GiB may be used: make it"
    )
    with pytest.raises(MemoryError, match=sentence):
        Resample(huge, n_input_models=40, compute_err="from_var")
    assert 1e8 < total_memory() < 1e15


def test_kernels_that_lose_flux_warn():
    with pytest.warns(UserWarning, match="The kernel 'gaussian' does not conserve flux"):
        Resample(OUTPUT, kernel="gaussian")


def test_errors_from_variances_that_are_not_resampled_are_refused():
    class Wrong(Resample):
        error_from_variances = ("var_rnoise", "var_sky")

    with pytest.raises(
        ValueError, match=r"error_from_variances names 'var_sky'; variance_array_names has only 'var_rnoise'"
    ):
        Wrong(OUTPUT, compute_err="from_var")
    Wrong.error_from_variances = ()
    with pytest.raises(ValueError, match="error_from_variances names nothing; variance_array_names has only"):
        Wrong(OUTPUT, compute_err="from_var")


@pytest.mark.parametrize("key", [*REQUIRED_KEYS, "var_rnoise", "var_flat", "var_poisson", "err"])
def test_a_missing_key_is_named_with_its_model(key):
    model = make_model()
    del model[key]
    name = "model 1" if key == "filename" else "'exposure.fits'"
    with pytest.raises(KeyError) as caught:
        Resample(OUTPUT, compute_err="driz_err").add_model(model)
    assert str(caught.value) == f"The model {name} has no key '{key}'."


def test_the_read_noise_is_needed_for_weights_without_variances():
    model = make_model()
    for key in ("var_rnoise", "var_flat", "var_poisson"):
        del model[key]
    with pytest.raises(KeyError, match=r"^The model 'exposure.fits' has no key 'var_rnoise'\.$"):
        Resample(OUTPUT, enable_var=False).add_model(model)
    Resample(OUTPUT, enable_var=False, weight_type="exptime").add_model(model)


def test_a_spectrum_needs_its_unit():
    spectral = axes("SPATIAL", "SPATIAL", "SPECTRAL")
    resample = Resample({"wcs": spectral, "pixel_scale": 0.2})
    with pytest.raises(KeyError, match=r"The model 'exposure.fits' has no key 'bunit_data'"):
        resample.add_model(make_model(spectral))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"data": np.zeros(7)}, RuntimeError, r"The data of 'exposure.fits' have shape \(7,\); they must be an image"),
        ({"data": np.zeros((2, *SHAPE))}, RuntimeError, r"have shape \(2, 44, 52\)"),
        (
            {"data": np.zeros((0, 5))},
            RuntimeError,
            r"have shape \(0, 5\); they must be an image with at least one pixel",
        ),
        (
            {"data": None},
            TypeError,
            "The 'data' of 'exposure.fits' has type object; it must be an array of real numbers",
        ),
        ({"data": np.zeros(SHAPE, complex)}, TypeError, "The 'data' of 'exposure.fits' has type complex128"),
        (
            {"dq": None},
            TypeError,
            r"The 'dq' of 'exposure.fits' has type object; flags are whole numbers \(good_bits=None",
        ),
        ({"dq": np.zeros(SHAPE)}, TypeError, "The 'dq' of 'exposure.fits' has type float64; flags are whole numbers"),
        (
            {"dq": np.zeros((3, 4), int)},
            ValueError,
            r"The 'dq' of 'exposure.fits' has shape \(3, 4\), its data \(44, 52\)",
        ),
        ({"dq": np.full(SHAPE, 1 << 40)}, TypeError, "The 'dq' of 'exposure.fits' has flags beyond bit 31"),
        ({"var_flat": np.ones((3, 4))}, ValueError, r"The 'var_flat' of 'exposure.fits' has shape \(3, 4\), its data"),
        ({"var_rnoise": np.ones((44, 51))}, ValueError, r"The 'var_rnoise' of 'exposure.fits' has shape \(44, 51\)"),
        ({"err": np.ones((1, *SHAPE))}, ValueError, r"The 'err' of 'exposure.fits' has shape \(1, 44, 52\)"),
        ({"err": None}, ValueError, "The model 'exposure.fits' has no 'err' array; compute_err='driz_err' needs one"),
        (
            {"exposure_time": 0.0},
            ValueError,
            "The exposure_time of 'exposure.fits' is 0.0; it must be a number of seconds",
        ),
        ({"exposure_time": -5}, ValueError, "The exposure_time of 'exposure.fits' is -5"),
        ({"exposure_time": None}, ValueError, "The exposure_time of 'exposure.fits' is None"),
        ({"exposure_time": np.nan}, ValueError, "The exposure_time of 'exposure.fits' is nan"),
        ({"measurement_time": 0.0}, ValueError, "The measurement_time of 'exposure.fits' is 0.0; .* above 0"),
        (
            {"duration": "110"},
            ValueError,
            "The duration of 'exposure.fits' is '110'; it must be a number of seconds, 0 or",
        ),
        (
            {"level": np.inf},
            ValueError,
            "The background level of 'exposure.fits' is inf; it must be a finite number or N",
        ),
        (
            {"pixelarea_steradians": "1"},
            TypeError,
            "The pixelarea_steradians of 'exposure.fits' is '1'; it must be a num",
        ),
        ({"wcs": "TAN"}, TypeError, "The WCS of 'exposure.fits' is a str without 'output_frame'"),
        (
            {"wcs": axes("SPATIAL", "SPATIAL", "SPECTRAL"), "bunit_data": "Jy"},
            RuntimeError,
            "has 3 coordinate axes, that",
        ),
        (
            {"wcs": tan_wcs(centre=(33.7, -54.1))},
            ValueError,
            "No pixel of 'exposure.fits' has a position on the output",
        ),
    ],
)
def test_models_that_cannot_be_are_named(changes, error, sentence):
    resample = Resample(OUTPUT, compute_err="driz_err", weight_type="exptime", propagate_dq=True)
    with pytest.raises(error) as caught:
        resample.add_model(make_model(**changes))
    assert caught.match(sentence)
    assert resample.output_model["data"] is None


def test_times_that_cannot_be_compared_are_named():
    resample = Resample(OUTPUT)
    resample.add_model(make_model())
    sentence = "The end_time of 'exposure.fits' is 'noon', which cannot be compared with 60000.1 of an earlier model"
    with pytest.raises(TypeError, match=sentence):
        resample.add_model(make_model(end_time="noon"))
    assert resample.output_model["con"].max() == 1


def test_what_is_not_used_need_not_be_right():
    resample = Resample(OUTPUT, enable_var=False, good_bits=None)
    resample.add_model(
        make_model(dq=None, err="none", var_flat=np.ones(3), measurement_time=0.0, level=np.nan, subtracted=1)
    )
    assert resample.output_model["wht"].any()


def test_a_model_without_a_name_is_numbered():
    resample = Resample(OUTPUT)
    resample.add_model(make_model())
    with pytest.raises(RuntimeError, match=r"The data of model 2 have shape"):
        resample.add_model(make_model(filename=" ", data=np.zeros(3)))
    with pytest.raises(TypeError, match=r"A model must be a dictionary; model 2 is a SimpleNamespace"):
        resample.add_model(SimpleNamespace(data=1))


def test_too_many_variances_are_refused():
    class Many(Resample):
        variance_array_names = tuple(f"var_{number}" for number in range(9))

    with pytest.raises(ValueError, match="9 variance planes were asked for"):
        Many(OUTPUT)
