"""The course of a stack: models one by one, times and groups, the end, and a new beginning."""

import logging

import numpy as np
import pytest
from resample_stack import SHAPE, inner, make_model, output_grid, stack, tan_wcs

from tasks.science.resample import Resample


def test_times_are_summed_once_for_each_group():
    one = make_model()
    second_of_one = make_model(end_time=60_000.7, start_time=59_999.9)
    two = make_model(group_id="visit_2", exposure_time=50.0, measurement_time=40.0, duration=55.0, start_time=60_001.0)
    resample = Resample(output_grid(), enable_var=False)
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


def test_reset_begins_anew_and_leaves_the_former_output():
    resample = Resample(output_grid())
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
    resample = Resample(output_grid())
    resample.add_model(make_model())
    resample.reset_arrays()
    assert resample.output_model["data"] is None
    with pytest.raises(RuntimeError, match="No model has been added, so there is nothing to finalize"):
        resample.finalize()


@pytest.mark.parametrize("when", ["before", "after"])
def test_variances_are_completed_once(when):
    resample = Resample(output_grid(2.0))
    resample.add_model(make_model())
    if when == "after":
        resample.finalize()
    with pytest.raises(RuntimeError, match="finalize completes the variances, once; call that"):
        resample.finalize_resample_variance(resample.output_model)
    resample.finalize()
    np.testing.assert_allclose(inner(resample.output_model["var_flat"]), 0.2 / 4, rtol=1e-4)


def test_finalizing_twice_changes_nothing_and_adding_afterwards_is_an_error():
    resample = Resample(output_grid(2.0), compute_err="driz_err")
    resample.add_model(make_model())
    resample.finalize()
    error = resample.output_model["err"].copy()
    resample.finalize()
    np.testing.assert_array_equal(resample.output_model["err"], error)
    with pytest.raises(RuntimeError, match="The output is finalized, and no model can be added; call reset_arrays"):
        resample.add_model(make_model())


def test_planes_are_there_after_every_model():
    resample = Resample(output_grid(), compute_err="driz_err", propagate_dq=True)
    assert resample.output_model["data"] is None
    for n_models in (1, 2):
        resample.add_model(make_model(group_id=n_models))
        assert resample.output_model["wht"][20, 20] == pytest.approx(10.0 * n_models, rel=1e-5)
        assert resample.output_model["con"][0, 20, 20] == 2**n_models - 1
        assert resample.output_model["pointings"] == n_models
        assert resample.output_model["err"][20, 20] == pytest.approx(1.0)


def test_a_model_that_is_refused_changes_nothing():
    resample = Resample(output_grid())
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
