"""Windows of a detector."""

import numpy as np
import pytest

from tasks.errors import ReferenceMismatchError, ShapeMismatchError
from tasks.products.images import Window
from tasks.science.subarrays import cut_window, describe_window, window_inside

FULL = Window(0, 0, 12, 8)


def numbered_detector():
    y, x = np.mgrid[0:8, 0:12]
    return (100 * y + x).astype(np.uint32)


def test_a_window_is_cut_to_the_pixel():
    cut = cut_window(numbered_detector(), FULL, Window(3, 2, 7, 5), name="plane", subject="image")
    expected = [[203, 204, 205, 206], [303, 304, 305, 306], [403, 404, 405, 406]]
    np.testing.assert_array_equal(cut, expected)
    assert cut.dtype == np.uint32


def test_a_window_is_cut_from_a_plane_that_is_itself_a_window():
    plane = numbered_detector()[2:6, 3:9]
    cut = cut_window(plane, Window(3, 2, 9, 6), Window(4, 3, 6, 5), name="plane", subject="image")
    np.testing.assert_array_equal(cut, [[304, 305], [404, 405]])


def test_the_whole_detector_is_a_window_too():
    np.testing.assert_array_equal(
        cut_window(numbered_detector(), FULL, FULL, name="plane", subject="image"), numbered_detector()
    )


def test_the_cut_does_not_share_memory_with_the_plane():
    plane = numbered_detector()
    cut_window(plane, FULL, FULL, name="plane", subject="image")[:] = 0
    np.testing.assert_array_equal(plane, numbered_detector())


@pytest.mark.parametrize(
    "wanted", [Window(-1, 0, 3, 3), Window(0, -1, 3, 3), Window(9, 0, 13, 3), Window(0, 5, 3, 9)], ids=str
)
def test_a_window_that_reaches_outside_is_refused(wanted):
    with pytest.raises(ReferenceMismatchError, match=r"CCD 3 covers .* but mask\.fits covers only x 0\.\.11, y 0\.\.7"):
        cut_window(numbered_detector(), FULL, wanted, name="mask.fits", subject="CCD 3")
    assert window_inside(FULL, wanted) is None


def test_a_plane_of_another_shape_than_its_window_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"mask has shape \(8, 12\), but its window has shape \(8, 11\)"):
        cut_window(numbered_detector(), Window(0, 0, 11, 8), Window(0, 0, 2, 2), name="mask", subject="image")


def test_windows_are_described_with_both_ends():
    assert describe_window(Window(0, 466, 288, 690)) == "x 0..287, y 466..689"
