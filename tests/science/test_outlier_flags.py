"""A pixel is flagged if it is further from its model than noise, interpolation and seeing explain."""

import numpy as np
import pytest
from scipy import ndimage

from tasks.errors import ConfigError, ShapeMismatchError
from tasks.products.dq import DQFlag
from tasks.science.outlier_flags import GROUND, OUTLIER_FLAGS, Thresholds, flag_deviations


def test_the_threshold_is_derivative_and_noise_in_two_passes():
    data = np.zeros((9, 9), np.float32)
    data[4, 4], data[4, 5], data[4, 6], data[1, 1] = 6.0, 4.5, 4.5, 4.5
    flags = flag_deviations(data, np.zeros_like(data), np.ones_like(data), Thresholds())
    # 4.5 sigma counts beside a pixel of 6 sigma, not further on and not alone
    assert np.argwhere(flags).tolist() == [[4, 4], [4, 5]]
    assert flags.dtype == np.uint32
    assert flags[4, 4] == DQFlag.OUTLIER | DQFlag.DO_NOT_USE
    # a model that rises by 1 per column allows 1.2 more in the first pass: 5 + 1.2 > 6
    steep = np.broadcast_to(np.arange(9, dtype=np.float32), (9, 9))
    assert not flag_deviations(data + steep, steep, np.ones_like(data), Thresholds()).any()
    assert flag_deviations(data + steep, steep, np.ones_like(data), Thresholds(scale=(0.9, 0.4))).any()


def test_flags_are_those_of_the_rule_written_out_in_arrays():
    rng = np.random.default_rng(8)
    model, weight = rng.normal(0, 3, (40, 50)), rng.uniform(0.5, 2, (40, 50)).astype(np.float32)
    data = (model + rng.normal(0, 4, model.shape)).astype(np.float32)
    model = model.astype(np.float32)
    model[10:12, 20:23] = np.nan
    padded = np.pad(model, 1, mode="edge").astype(float)
    sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    steepest = np.nanmax(np.nan_to_num([np.abs(side - model) for side in sides]), axis=0)
    deviation, noise = np.abs(data - model.astype(float)), np.sqrt(1 / weight.astype(float))
    first, second = (deviation > scale * steepest + snr * noise for snr, scale in ((2.0, 0.5), (1.5, 0.3)))
    expected = ndimage.maximum_filter(first, 3, mode="nearest") & second
    flags = flag_deviations(data, model, weight, Thresholds(snr=(2.0, 1.5), scale=(0.5, 0.3)))
    np.testing.assert_array_equal(flags > 0, expected)
    assert 100 < expected.sum() < second.sum()


def test_negative_deviations_count_and_photon_noise_is_that_of_the_model():
    model = np.full((5, 5), 100.0, np.float32)
    data = model.copy()
    data[2, 2] -= 30
    weight = np.ones_like(data)
    assert flag_deviations(data, model, weight, Thresholds()).any()
    # with 4 electrons per unit the noise is sqrt(1 + 100 / 4) = 5.1
    assert flag_deviations(data, model, weight, Thresholds(), gain=4.0).any()
    assert not flag_deviations(data + 6, model, weight, Thresholds(), gain=4.0).any()


def test_unknown_and_masked_pixels_are_not_judged():
    data, model, weight = np.full((6, 6), 50, np.float32), np.zeros((6, 6), np.float32), np.ones((6, 6), np.float32)
    data[0, 0], model[1, 1], weight[2, 2], weight[3, 3], weight[4, 4] = np.nan, np.nan, 0, np.nan, np.inf
    mask = np.zeros((6, 6), bool)
    mask[5, 5] = True
    for masked in (
        (np.ma.array(data, mask=mask), model, weight),
        (data, np.ma.array(model, mask=mask), weight),
        (data, model, np.ma.array(weight, mask=mask)),
    ):
        flags = flag_deviations(*masked, Thresholds())
        assert np.argwhere(flags == 0).tolist() == [[n, n] for n in range(6)]


@pytest.mark.parametrize(("radius", "n_pixels"), [(0.9, 1), (1.0, 5), (1.5, 9), (2.9, 25)])
def test_outliers_grow_by_a_radius(radius, n_pixels):
    data, nothing = np.zeros((9, 9), np.float32), np.zeros((9, 9), np.float32)
    data[4, 4] = 100
    flags = flag_deviations(data, nothing, nothing + 1, Thresholds(grow_px=radius))
    y, x = np.nonzero(flags)
    assert len(y) == n_pixels
    assert np.hypot(y - 4, x - 4).max() <= radius
    np.testing.assert_array_equal(np.unique(flags[flags > 0]), [OUTLIER_FLAGS])
    assert not flag_deviations(nothing, nothing, nothing + 1, Thresholds(grow_px=radius)).any()


def test_what_is_allowed_for_seeing_raises_the_threshold():
    model, one = np.full((5, 5), 100, np.float32), np.ones((5, 5), np.float32)
    data, scatter = model.copy(), np.full((5, 5), np.nan, np.float32)
    data[1, 1], data[3, 3], scatter[3, 3] = 134, 140, 2
    assert np.argwhere(flag_deviations(data, model, one, Thresholds(share=0.28))).tolist() == [[1, 1], [3, 3]]
    assert np.argwhere(flag_deviations(data, model, one, Thresholds(share=0.3))).tolist() == [[3, 3]]
    assert not flag_deviations(data, model, one, GROUND, scatter=scatter).any()
    assert np.argwhere(flag_deviations(data, model, one, GROUND, scatter=scatter - 1)).tolist() == [[3, 3]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"snr": (5.0, np.nan)}, "The snr of outlier rejection is 5.0, nan; give two numbers from 0 up"),
        ({"scale": (-1.0, 0.7)}, "The scale of outlier rejection is -1.0, 0.7; give two numbers from 0 up"),
        ({"share": -0.1}, "The share of outlier rejection is -0.1; give a number from 0 up"),
        ({"scatter": np.nan}, "The scatter of outlier rejection is nan; give a number from 0 up"),
        ({"grow_px": -1}, "Outliers are to grow by -1 pixels; give a number from 0 to 100"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Thresholds(**settings)


def test_planes_and_gains_that_do_not_fit_are_refused():
    small, large = np.zeros((4, 4), np.float32), np.zeros((4, 5), np.float32)
    message = r"must have one shape; theirs are data \(4, 4\), model \(4, 5\), weight \(4, 4\)"
    with pytest.raises(ShapeMismatchError, match=message):
        flag_deviations(small, large, small, Thresholds())
    with pytest.raises(ShapeMismatchError, match=r"weight \(4, 4\), scatter \(4, 5\)"):
        flag_deviations(small, small, small, GROUND, scatter=large)
    with pytest.raises(ConfigError, match=r"The gain is 0\.0 electrons per unit; it must be positive, or None"):
        flag_deviations(small, small, small, Thresholds(), gain=0.0)
