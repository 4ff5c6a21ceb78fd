import numpy as np
import pytest

from tasks.science.cutouts import cut, nearest_pixel, positions_in_other_frame, sample_nearest, stamp_start


@pytest.fixture
def ramp():
    rows, cols = np.mgrid[0:20, 0:30]
    return (100.0 * rows + cols).astype(np.float32)


def test_halves_round_up_so_that_whole_pixel_shifts_move_stamps_by_whole_pixels():
    positions = np.array([-1.5, -0.5, 0.5, 1.5, 2.5, 2.49])
    assert nearest_pixel(positions).tolist() == [-1, 0, 1, 2, 3, 2]
    assert (nearest_pixel(positions + 7) == nearest_pixel(positions) + 7).all()


def test_the_central_pixel_of_a_stamp_contains_the_position():
    assert stamp_start(np.array([10.4, 10.6]), 5).tolist() == [8, 9]


@pytest.mark.parametrize("size", [0, -3, 4])
def test_a_stamp_without_a_central_pixel_is_refused(size):
    with pytest.raises(ValueError, match=f"must be odd and positive, not {size}"):
        stamp_start(np.array([1.0]), size)


def test_stamps_inside_are_slices_of_the_image(ramp):
    stamps = cut(ramp, np.array([2, 7]), np.array([3, 20]), 5)
    assert stamps.dtype == ramp.dtype
    np.testing.assert_array_equal(stamps[0], ramp[2:7, 3:8])
    np.testing.assert_array_equal(stamps[1], ramp[7:12, 20:25])


def test_a_stamp_over_each_edge_is_filled_and_never_wrapped(ramp):
    corners = cut(ramp, np.array([-2, 17]), np.array([-1, 28]), 5, fill=-7)
    expected = np.full((2, 5, 5), -7, np.float32)
    expected[0, 2:, 1:] = ramp[:3, :4]
    expected[1, :3, :2] = ramp[17:, 28:]
    np.testing.assert_array_equal(corners, expected)


@pytest.mark.parametrize(("row", "col"), [(-5, 3), (20, 3), (3, -5), (3, 30), (-1000, 99999)])
def test_a_stamp_wholly_outside_is_all_fill(ramp, row, col):
    assert (cut(ramp, np.array([row]), np.array([col]), 5, fill=9) == 9).all()


def test_cutting_copies(ramp):
    before = ramp.copy()
    cut(ramp, np.array([2]), np.array([3]), 5)[:] = -1
    np.testing.assert_array_equal(ramp, before)


def test_sampling_takes_the_pixel_that_contains_the_position(ramp):
    rows, cols = np.array([[0.0, 3.4], [3.5, -0.6]]), np.array([[0.0, 29.49], [29.5, 4.0]])
    np.testing.assert_array_equal(sample_nearest(ramp, rows, cols, fill=-1), [[0.0, 329.0], [-1.0, -1.0]])


def test_frames_that_differ_by_a_shift_map_pixel_to_pixel():
    jacobian = np.array([[[0.2, 0.0], [0.0, -0.2]]])
    rows, cols = positions_in_other_frame(
        5, np.array([2.25]), np.array([1.75]), jacobian, np.array([102.25]), np.array([51.75]), jacobian
    )
    np.testing.assert_allclose(rows[0, :, 0], 100 + np.arange(5))
    np.testing.assert_allclose(cols[0, 0, :], 50 + np.arange(5))


def test_frames_that_differ_by_a_rotation_and_a_scale_agree_on_the_sky():
    angle, scale = 0.3, 1.7
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    here, there = 0.187 * np.array([[1.0, 0.0], [0.0, -1.0]]), 0.187 * scale * rotation
    rows, cols = positions_in_other_frame(
        7, np.array([3.2]), np.array([2.9]), here[None], np.array([40.0]), np.array([60.0]), there[None]
    )
    grid = np.stack(np.mgrid[0:7, 0:7].astype(float))
    sky_here = np.einsum("ij,jyx->iyx", here, grid - np.array([3.2, 2.9])[:, None, None])
    sky_there = np.einsum("ij,jyx->iyx", there, np.stack([rows[0] - 40.0, cols[0] - 60.0]))
    np.testing.assert_allclose(sky_there, sky_here, atol=1e-12)
