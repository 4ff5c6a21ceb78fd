"""What exposures have in a pixel becomes one value that a cosmic ray, or two, do not spoil."""

import numpy as np
import pytest

from tasks.errors import ConfigError
from tasks.science.outlier_model import BandStack, CombineSettings


def test_scatter_is_that_of_most_exposures_without_their_noise():
    def scatter(values):
        stack, here = BandStack((1, 1)), (slice(0, 1), slice(0, 1))
        for value in values:
            stack.push(np.full((1, 1), value, np.float32), np.ones((1, 1), np.float32), 0.0, here)
        return stack.combine(CombineSettings(), scatter=True).scatter[0, 0]

    # the median absolute deviation of 0, 10, 20, 30, 40 is 10, and twice the noise is taken off
    assert scatter([40, 0, 20, 10, 30]) == pytest.approx(1.4826 * 10 - 2, rel=1e-4)
    # one exposure with a ray is no scatter, and of two nobody knows
    assert scatter([0.5, 900, 0, 1]) == 0
    assert scatter([0, 900]) == 0


def combine(values, settings=None, *, sigma=1.0, per_electron=0.0):
    """Stack numbers that the exposures have in the one pixel of a band."""
    stack = BandStack((1, 1))
    for value in values:
        plane = np.full((1, 1), value, np.float32)
        stack.push(plane, np.full_like(plane, sigma**2), per_electron, (slice(0, 1), slice(0, 1)))
    return stack.combine(settings or CombineSettings()).data[0, 0]


@pytest.mark.parametrize(
    ("values", "combination", "expected"),
    [
        ([], "median", np.nan),
        ([3.0], "median", np.nan),
        ([np.nan, 3.0], "median", np.nan),
        # half the difference has the noise 1 / sqrt(2), four times which is 2.83
        ([1.0, 6.6], "median", 3.8),
        ([1.0, 6.7], "median", 1.0),
        ([6.7, np.nan, 1.0], "median", 1.0),
        ([1.0, 60.0, 50.0], "median", 50.0),
        ([1.0, 60.0, 50.0], "minmed", 1.0),
        ([1.0, 4.9, 5.0], "minmed", 4.9),
        ([5.0, 1.0, 2.0, 90.0], "median", 3.5),
        ([5.0, 1.0, 2.0, 90.0], "minmed", 3.5),
    ],
)  # fmt: skip
def test_the_clean_value_is_the_median_or_a_much_lower_minimum(values, combination, expected):
    clean = combine(values, CombineSettings(combination=combination))
    np.testing.assert_allclose(clean, expected, rtol=1e-6)


def test_photon_noise_of_stars_is_no_reason_for_the_minimum():
    assert combine([1000.0, 1020.0]) == 1000
    # four electrons per unit: the noise of half the difference is sqrt((1 + 1010 / 4) / 2) = 11
    assert combine([1000.0, 1020.0], per_electron=0.25) == 1010


def test_seeing_is_no_reason_for_the_minimum():
    stack = BandStack((1, 1))
    for value in (1000, 1800):
        stack.push(np.full((1, 1), value, np.float32), np.ones((1, 1), np.float32), 0.0, (slice(0, 1), slice(0, 1)))
    # the mean is 1400, and 400 above the minimum
    assert [stack.combine(CombineSettings(), share=share).data[0, 0] for share in (0.28, 0.29)] == [1000, 1400]


def test_beside_a_pixel_whose_minimum_is_taken_less_is_needed():
    def clean(grow_px):
        stack, everywhere = BandStack((1, 4)), (slice(0, 1), slice(0, 4))
        for values in ([0, 0, 0, 0], [9, 5, 5, 0]):
            stack.push(np.array([values], np.float32), np.ones((1, 4), np.float32), 0.0, everywhere)
        return stack.combine(CombineSettings(grow_px=grow_px)).data.tolist()[0]

    assert clean(0) == [0, 2.5, 2.5, 0]
    assert clean(1) == [0, 0, 2.5, 0]


def test_a_band_holds_as_many_values_as_overlap_not_as_there_are_exposures():
    stack = BandStack((2, 60))
    for number in range(30):
        part = np.full((2, 4), number, np.float32)
        start = 2 * number if number < 29 else 56
        stack.push(part, np.ones_like(part), 0.0, (slice(0, 2), slice(start, start + 4)))
    assert len(stack._planes) == 3
    clean = stack.combine(CombineSettings()).data
    assert clean[0, 2:6].tolist() == [0.5, 0.5, 1.5, 1.5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"combination": "mean"}, "cannot be combined by 'mean'; choose median or minmed"),
        ({"few_exposures": 1}, "Few exposures are 1; give a number from 2 up"),
        ({"n_sigma": (4.0, np.inf)}, r"to be taken above \(4.0, inf\) sigma; give two numbers from 0 up"),
        ({"grow_px": 101}, "The minimum is to grow by 101 pixels; give a number from 0 to 100"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        CombineSettings(**settings)
