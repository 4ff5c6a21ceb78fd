"""What stands in for masked pixels, and which pixels belong to a neighbour."""

import math

import numpy as np
import pytest

from tasks.errors import ShapeMismatchError
from tasks.science.pixelmask import fill_masked, masked_radius, uberseg

SHAPE = (15, 17)
CENTER = (7.0, 8.0)


def grid():
    rows, cols = np.indices(SHAPE).astype(float)
    return rows, cols


def test_a_dead_column_is_bridged_by_the_cubic_that_the_image_is():
    rows, cols = grid()
    image = 2.0 + 0.3 * cols - 0.02 * cols**2 + 0.001 * cols**3 + rows
    bad = np.zeros(SHAPE, bool)
    bad[:, 5] = True
    bad[:, 10:12] = True

    filled = fill_masked(np.where(bad, np.nan, image), bad, CENTER, 1.0, np.random.default_rng(0))

    np.testing.assert_allclose(filled, image, rtol=1e-10)


def test_the_narrower_direction_is_bridged():
    rows, _ = grid()
    image = np.where(rows > 7, 100.0, rows)
    bad = np.zeros(SHAPE, bool)
    bad[3, 2:9] = True

    filled = fill_masked(image, bad, CENTER, 1.0, np.random.default_rng(0))

    np.testing.assert_allclose(filled[3], 3.0)


def test_a_single_pixel_takes_the_mean_of_both_directions():
    image = np.zeros(SHAPE)
    image[5] = 6.0
    bad = np.zeros(SHAPE, bool)
    bad[5, 5] = True

    filled = fill_masked(image, bad, CENTER, 1.0, np.random.default_rng(0))

    # 6 along the row, 0 along the column
    assert filled[5, 5] == pytest.approx(3.0)


def test_a_wide_hole_is_filled_from_the_other_side_of_the_object():
    rows, cols = grid()
    image = np.exp(-0.5 * ((rows - 7) ** 2 / 9 + (cols - 8) ** 2 / 4 + (rows - 7) * (cols - 8) / 9))
    bad = np.zeros(SHAPE, bool)
    bad[10:, 10:] = True

    filled = fill_masked(np.where(bad, 1e6, image), bad, CENTER, 1.0, np.random.default_rng(0))

    np.testing.assert_allclose(filled, image, atol=1e-12)


def test_where_nothing_is_known_there_is_noise_of_the_generator():
    bad = np.ones((40, 40), bool)

    filled = fill_masked(np.zeros((40, 40)), bad, (20.0, 20.0), 3.0, np.random.default_rng(1))
    again = fill_masked(np.ones((40, 40)), bad, (20.0, 20.0), 3.0, np.random.default_rng(1))

    assert filled.std() == pytest.approx(3.0, rel=0.1)
    np.testing.assert_array_equal(filled, again)


def test_good_pixels_and_the_input_stay_as_they_are():
    rng = np.random.default_rng(2)
    image = rng.normal(size=SHAPE).astype(np.float32)
    bad = rng.uniform(size=SHAPE) < 0.2
    before = image.copy()

    filled = fill_masked(image, bad, CENTER, 1.0, rng)

    np.testing.assert_array_equal(filled[~bad], image[~bad])
    np.testing.assert_array_equal(image, before)
    assert np.isfinite(filled).all()


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"The image has shape \(15, 17\) but its mask \(3, 3\)"):
        fill_masked(np.zeros(SHAPE), np.zeros((3, 3), bool), CENTER, 1.0, np.random.default_rng(0))


def test_the_masked_radius_is_the_distance_to_the_nearest_masked_pixel():
    bad = np.zeros(SHAPE, bool)
    assert masked_radius(bad, CENTER) == math.inf
    bad[10, 12] = bad[0, 0] = True
    assert masked_radius(bad, CENTER) == pytest.approx(5.0)


def test_pixels_go_to_the_nearest_segment():
    segmentation = np.zeros((1, 9), np.int32)
    segmentation[0, 1], segmentation[0, 7] = 4, 9

    # pixel 4 is as near to one as to the other and stays
    assert uberseg(segmentation, 4, (0.0, 1.0)).tolist() == [[False] * 5 + [True] * 4]
    assert uberseg(segmentation, 9, (0.0, 7.0)).tolist() == [[True] * 4 + [False] * 5]


def test_uberseg_is_what_brute_force_finds():
    rng = np.random.default_rng(3)
    segmentation = np.where(rng.uniform(size=SHAPE) < 0.05, rng.integers(1, 4, SHAPE), 0).astype(np.int32)
    rows, cols = np.indices(SHAPE)

    def distance(member):
        r, c = np.nonzero(member)
        return ((rows[..., None] - r) ** 2 + (cols[..., None] - c) ** 2).min(axis=-1)

    expected = distance((segmentation > 0) & (segmentation != 2)) < distance(segmentation == 2)
    np.testing.assert_array_equal(uberseg(segmentation, 2, CENTER), expected)


def test_an_object_without_a_segment_stands_at_its_centre():
    segmentation = np.zeros((1, 9), np.int32)
    segmentation[0, 7] = 9

    assert uberseg(segmentation, 4, (0.2, 0.9)).tolist() == [[False] * 5 + [True] * 4]


def test_without_neighbours_nothing_is_masked():
    assert not uberseg(np.full(SHAPE, 4, np.int32), 4, CENTER).any()
