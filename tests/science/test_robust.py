import numpy as np
import pytest

from tasks.science.robust import clipped_statistics, mode, sigma_mad


def test_sigma_mad_is_the_standard_deviation_of_a_normal_sample_with_outliers():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(5, 2, 20000), np.full(200, 1e6), [np.nan, np.inf]])

    assert sigma_mad(values) == pytest.approx(2, rel=0.03)
    assert np.isnan(sigma_mad([np.nan]))


def test_clipping_finds_the_sky_below_bright_outliers():
    rng = np.random.default_rng(2)
    sky = rng.normal(1e5, 3, 20000)

    mean, median, sigma = clipped_statistics(np.concatenate([sky, np.full(300, 2e5)]))

    assert mean == pytest.approx(1e5, abs=0.1)
    assert median == pytest.approx(1e5, abs=0.1)
    assert sigma == pytest.approx(3 * 0.98658, rel=0.02)


def test_clipping_matches_its_definition():
    rng = np.random.default_rng(3)
    values = rng.standard_t(3, 999)
    kept = values
    for _ in range(20):
        kept = kept[np.abs(kept - np.median(kept)) <= 3 * kept.std()]

    assert clipped_statistics(values) == pytest.approx((kept.mean(), np.median(kept), kept.std()), rel=1e-12)


def test_clipping_nothing_and_one_value():
    assert np.isnan(clipped_statistics([])).all()
    assert clipped_statistics([7.0]) == (7.0, 7.0, 0.0)


def test_the_mode_of_a_skewed_sample_is_its_peak():
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(3.2, 0.05, 400), rng.uniform(3, 12, 600)])

    assert mode(values) == pytest.approx(3.2, abs=0.1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.full(50, 3.5), 3.5),  # constant
        (np.tile([3.4, 3.5, 3.5, 3.6], 50), 3.5),  # rounded to 0.1: all values lie on the edges of bins
        (np.float32(1) + np.arange(200) * np.finfo(np.float32).eps, 1.0),  # too close for bins
        (np.full(30, 1e300), 1e300),
        ([1.0, 2.0, 100.0], 2.0),  # few: the median
        ([4.0], 4.0),
    ],
)
def test_the_mode_survives_what_broke_the_old_one(values, expected):
    assert mode(values) == pytest.approx(expected, abs=0.051)


def test_the_mode_of_nothing_is_not_a_number():
    assert np.isnan(mode([np.nan]))


def test_the_mode_is_inside_the_sample_whatever_it_is():
    rng = np.random.default_rng(5)
    for n in range(1, 300, 7):
        values = np.round(rng.gamma(2, 1, n), rng.integers(0, 4))
        assert values.min() <= mode(values) <= values.max()
