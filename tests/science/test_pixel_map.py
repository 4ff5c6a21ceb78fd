"""Pixel maps: exact to their stated error, within their bounds, and only of what can reach the output."""

import numpy as np
import pytest
from astropy.wcs import WCS, Sip

from tasks.products.windows import Window
from tasks.science.pixel_map import PixelMap, make_pixel_map

SHAPE = (300, 400)


def distorted(x, y, size=1.0):
    """A turned grid with distortion up to the fourth order."""
    u, v = (x - 200) / 200, (y - 150) / 200
    return (
        10 + 0.99 * x - 0.05 * y + size * (2 * u**2 - 1.5 * u * v + u**3 * v + 0.5 * v**4),
        20 + 0.05 * x + 1.01 * y + size * (v**2 - 2 * u * v**2 + 0.7 * u**4),
    )


def tan_sip():
    """To the pixels of a TAN image from those of one with SIP distortion, as a camera has it."""
    wcs = [WCS(naxis=2) for _ in range(2)]
    for each, name, angle in zip(wcs, ("-SIP", ""), (1.3, 0.0), strict=True):
        each.wcs.ctype = [f"RA---TAN{name}", f"DEC--TAN{name}"]
        each.wcs.crval, each.wcs.crpix = (213.7, 54.1), (200, 150)
        turn = np.deg2rad(angle)
        each.wcs.cd = 0.2 / 3600 * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    a, b = np.zeros((5, 5)), np.zeros((5, 5))
    a[2, 0], a[1, 2], b[0, 2], b[3, 0] = 2e-5, 1e-8, -1e-5, 2e-8
    wcs[0].sip = Sip(a, b, None, None, (200, 150))
    return lambda x, y: tuple(wcs[1].all_world2pix(*wcs[0].all_pix2world(x, y, 0), 0))


class Counting:
    """A function of places that remembers where it was asked."""

    def __init__(self, function):
        self.function, self.count, self.lowest, self.highest = function, 0, np.inf, -np.inf

    def __call__(self, x, y):
        self.count += x.size
        self.lowest, self.highest = min(self.lowest, x.min(), y.min()), max(self.highest, x.max(), y.max())
        return self.function(x, y)


def exact_positions(to_output, shape):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    return np.stack([np.reshape(each, shape) for each in to_output(x.ravel(), y.ravel())], axis=-1)


@pytest.mark.parametrize("to_output", [distorted, tan_sip()], ids=["polynomial", "sip"])
def test_the_error_is_at_most_the_stated_one(to_output):
    counting = Counting(to_output)
    found = make_pixel_map(counting, (1024, 1024), (1200, 1200))
    assert found.error_px <= 1e-6
    # far fewer places than pixels were asked for, at many of which the map is then right
    assert counting.count < 0.05 * 1024**2
    rng = np.random.default_rng(1)
    x, y = rng.uniform(found.window.x_min, found.window.x_max - 1, (2, 20000))
    error = np.hypot(*(a - b for a, b in zip(found(x, y), to_output(x, y), strict=True)))
    assert error.max() <= found.error_px
    exact = exact_positions(to_output, (1024, 1024))
    assert np.nanmax(np.abs(found.dense() - exact)) <= found.error_px


def test_nodes_are_made_denser_until_the_error_is_small():
    def wavy(x, y):
        return x + 0.3 * np.sin(x / 25), y + 0.2 * np.cos((x + y) / 30)

    coarse = make_pixel_map(wavy, SHAPE, SHAPE, tolerance_px=1e-2)
    fine = make_pixel_map(wavy, SHAPE, SHAPE, tolerance_px=1e-6)
    exact = exact_positions(wavy, SHAPE)
    assert 1e-6 < np.abs(coarse.dense() - exact).max() < 1e-2
    assert np.abs(fine.dense() - exact).max() < 1e-6


def test_a_rough_map_lists_every_pixel():
    def rough(x, y):
        return x + np.where(x > 77.5, 0.3, 0.0), y

    found = make_pixel_map(rough, (40, 100), (60, 120))
    assert found.error_px == 0
    np.testing.assert_array_equal(found.dense(), exact_positions(rough, (40, 100)))


def test_pixels_without_a_position_are_left_out():
    def in_a_circle(x, y):
        outside = np.hypot(x - 60, y - 50) > 40
        return np.where(outside, np.nan, x + 3), np.where(outside, np.nan, y + 4)

    found = make_pixel_map(in_a_circle, (100, 120), (200, 200))
    exact = exact_positions(in_a_circle, (100, 120))
    np.testing.assert_array_equal(found.dense(), exact)
    assert found.mean_area == pytest.approx(1.0)


def test_an_island_of_positions_is_found():
    def slit(x, y):
        outside = (np.abs(x - 208) > 20) | (np.abs(y - 207) > 9)
        return np.where(outside, np.nan, x - 150), np.where(outside, np.nan, y - 150)

    found = make_pixel_map(slit, (420, 420), (200, 200))
    np.testing.assert_array_equal(found.dense(), exact_positions(slit, (420, 420)))


def test_only_the_part_that_can_reach_the_output_is_mapped():
    counting = Counting(distorted)
    found = make_pixel_map(counting, (2000, 2000), (100, 120))
    exact = exact_positions(distorted, (2000, 2000))
    reaches = (exact[..., 0] > -4) & (exact[..., 0] < 123) & (exact[..., 1] > -4) & (exact[..., 1] < 103)
    rows, columns = np.flatnonzero(reaches.any(axis=1)), np.flatnonzero(reaches.any(axis=0))
    window = found.window
    assert window.y_min <= rows[0]
    assert window.x_min <= columns[0]
    assert window.y_max > rows[-1]
    assert window.x_max > columns[-1]
    assert window.shape[0] * window.shape[1] < 300**2
    dense = found.dense()
    assert np.isnan(dense[400:, 400:]).all()
    np.testing.assert_allclose(dense[window.slices], exact[window.slices], atol=1e-6)


def test_an_image_beside_the_output_has_no_map():
    assert make_pixel_map(lambda x, y: (x + 500, y), SHAPE, (100, 100)) is None
    assert make_pixel_map(lambda x, y: (x * np.nan, y), SHAPE, (100, 100)) is None


def test_an_output_smaller_than_the_search_step_is_found():
    found = make_pixel_map(lambda x, y: (x - 100, y - 130), SHAPE, (2, 3))
    assert found.window.contains(np.array([100.0, 102.0]), np.array([130.0, 131.0])).all()


def test_nothing_is_asked_outside_the_bounds():
    counting = Counting(distorted)
    bounds = Window(100, 100, 180, 170)
    found = make_pixel_map(counting, SHAPE, (500, 500), bounds=bounds)
    assert counting.lowest >= 100
    assert counting.highest <= 179
    assert found.bounds == bounds
    assert found.window == bounds
    dense = found.dense()
    np.testing.assert_allclose(dense[bounds.slices], exact_positions(distorted, SHAPE)[bounds.slices], atol=1e-6)
    dense[bounds.slices] = np.nan
    assert np.isnan(dense).all()
    assert np.isnan(found(np.array([99.4, 179.6]), np.array([120.0, 120.0]))).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_images_of_few_pixels_have_maps(shape):
    counting = Counting(distorted)
    found = make_pixel_map(counting, shape, (200, 200))
    # coordinate systems may end at the edges of pixels
    assert counting.lowest >= -0.5
    assert counting.highest <= max(shape) - 0.5
    np.testing.assert_allclose(found.dense(), exact_positions(distorted, shape), atol=1e-6)
    assert found.mean_area == pytest.approx(1.0, abs=0.05)


def test_areas_and_the_scale_ratio():
    found = make_pixel_map(lambda x, y: (2 * x + 0.5 * y, 3 * y), (50, 60), (300, 300))
    assert found.mean_area == pytest.approx(6.0)
    assert found.scale_ratio == pytest.approx(6**-0.5)
    curved = make_pixel_map(lambda x, y: (x + 1e-3 * x**2, y), (50, 60), (300, 300))
    x = np.array([0.0, 10.0, 59.0])
    np.testing.assert_allclose(curved.area(x, x * 0 + 25), 1 + 2e-3 * x, rtol=1e-9)


def test_a_list_of_positions_is_kept_and_interpolated():
    positions = exact_positions(distorted, (30, 40))
    found = PixelMap.from_positions(positions)
    np.testing.assert_array_equal(found.dense(), positions)
    x, y = found(np.array([3.0, 3.25, 39.2]), np.array([7.0, 7.5, 3.0]))
    assert x[0] == positions[7, 3, 0]
    assert y[0] == positions[7, 3, 1]
    between = 0.5 * (positions[7, 3:5] + positions[8, 3:5])
    np.testing.assert_allclose((x[1], y[1]), 0.75 * between[0] + 0.25 * between[1], rtol=1e-12)
    np.testing.assert_allclose(
        x[2], positions[3, 39, 0] + 0.2 * (positions[3, 39, 0] - positions[3, 38, 0]), rtol=1e-12
    )
    along_y, along_x = np.gradient(positions, axis=(0, 1))
    areas = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
    assert found.mean_area == pytest.approx(areas.mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: make_pixel_map(distorted, (0, 5), (9, 9)),
            r"input image has the shape \(0, 5\); both numbers must be",
        ),
        (lambda: make_pixel_map(distorted, (5, 5), (9, 0)), r"output has the shape \(9, 0\); both numbers must be"),
        (
            lambda: make_pixel_map(distorted, (5, 5), (9, 9), bounds=Window(2, 2, 6, 4)),
            r"bounds Window\(x_min=2.* are empty or reach outside an image of shape \(5, 5\)",
        ),
        (lambda: PixelMap.from_positions(np.zeros((4, 5))), r"shape \(ny, nx, 2\), not \(4, 5\)"),
        (lambda: PixelMap.from_positions(np.zeros((1, 5, 2))), r"at least 2 rows and 2 columns, not \(1, 5\)"),
    ],
)
def test_what_cannot_be_mapped_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
