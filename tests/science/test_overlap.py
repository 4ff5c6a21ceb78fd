"""Areas of quadrilaterals in pixels, against polygons that are cut in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.science.overlap import (
    AREA,
    COLUMN,
    LEFT_LOWER,
    LEFT_UPPER,
    LOWER_X,
    LOWER_Y,
    N_POSITIONS,
    N_SHARES,
    RIGHT_LOWER,
    RIGHT_UPPER,
    ROW,
    RUN,
    UPPER_X,
    UPPER_Y,
    WIDE,
    share_in_four,
)
from tasks.science.wide_overlap import N_CORNERS, N_NINE, areas_in_column, share_boxes, share_column

HALF = 0.4


def clipped(polygon, axis, limit, keep_below):
    """The part of a polygon on one side of a line that is parallel to an axis (Sutherland & Hodgman 1974)."""
    kept = []
    for here, there in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        inside_here = here[axis] <= limit if keep_below else here[axis] >= limit
        inside_there = there[axis] <= limit if keep_below else there[axis] >= limit
        if inside_here:
            kept.append(here)
        if inside_here != inside_there:
            t = (limit - here[axis]) / (there[axis] - here[axis])
            kept.append(tuple(a + t * (b - a) for a, b in zip(here, there, strict=True)))
    return kept


def shoelace(polygon):
    return 0.5 * sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True))


def area_in_pixel(corners, column, row):
    # products of coordinates are the more exact the smaller they are
    polygon = [(float(x - column), float(y - row)) for x, y in corners]
    for axis in range(2):
        for limit, keep_below in ((-0.5, False), (0.5, True)):
            polygon = clipped(polygon, axis, limit, keep_below) if polygon else []
    return shoelace(polygon) if polygon else 0.0


def parallelogram(x, y, angle, size, shear, flip):
    """Corners of a drop, in the order of the engine: upper left, upper right, lower right, lower left."""
    square = size * np.array([(-0.5, 0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, -0.5)])
    square[:, 0] += shear * square[:, 1]
    if flip:
        square[:, 0] *= -1
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return square @ rotation.T + (x, y)


drops = st.builds(
    parallelogram,
    st.floats(3, 4),
    st.floats(5, 6),
    # right angles and what rounding makes of them are where edges meet the lines of the grid
    st.one_of(st.floats(-4, 4), st.sampled_from([0.0, 1e-12, -1e-9, np.pi / 2, np.pi, np.pi / 4])),
    st.floats(0.05, 3.5),
    st.floats(-0.5, 0.5),
    st.booleans(),
)


def engine_areas(corners):
    """Areas of the columns and rows 0 to 9 of the grid, shape (10, 10), column first."""
    areas, space = np.full((10, 11), np.nan), np.zeros(N_CORNERS)
    space[5::RUN] = corners.T.ravel()
    for column in range(10):
        areas_in_column(space, 5, column, 0, 10, areas[column])
    return areas[:, :10]


@settings(max_examples=60, deadline=None)
@given(drops)
def test_areas_of_pixels_are_those_of_the_cut_polygon(corners):
    areas = engine_areas(corners)
    # the engine's corners go clockwise, for which the shoelace formula is negative
    truth = np.array([[-area_in_pixel(corners, column, row) for row in range(10)] for column in range(10)])
    np.testing.assert_allclose(areas, truth, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(drops)
def test_areas_of_all_pixels_add_up_to_the_area(corners):
    assert engine_areas(corners).sum() == pytest.approx(-shoelace([tuple(c) for c in corners]), abs=1e-12)


def grid_positions(angle, scale, origin, flip=1.0):
    """Positions above and below a run of pixels on a grid that is turned and scaled."""
    positions = np.zeros(N_POSITIONS)
    i = np.arange(-1, RUN + 1)
    for slot_x, slot_y, up in ((UPPER_X, UPPER_Y, HALF), (LOWER_X, LOWER_Y, -HALF)):
        positions[slot_x : slot_x + RUN + 2] = origin[0] + scale * (np.cos(angle) * i - flip * np.sin(angle) * up)
        positions[slot_y : slot_y + RUN + 2] = origin[1] + scale * (np.sin(angle) * i + flip * np.cos(angle) * up)
    return positions


def drop_corners(positions, k):
    rest = 1 - HALF
    return np.array(
        [
            (
                rest * positions[x + k + 1] + HALF * positions[x + side],
                rest * positions[y + k + 1] + HALF * positions[y + side],
            )
            for x, y, side in (
                (UPPER_X, UPPER_Y, k),
                (UPPER_X, UPPER_Y, k + 2),
                (LOWER_X, LOWER_Y, k + 2),
                (LOWER_X, LOWER_Y, k),
            )
        ]
    )


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.026, 0.6, np.pi / 4, np.pi / 2, 2.5])
@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_shares_in_four_pixels(angle, flip):
    positions, shares = grid_positions(angle, 1.15, (40.3, 50.1), flip), np.full(N_SHARES, np.nan)
    share_in_four(positions, 0, RUN, HALF, shares)
    n_narrow = 0
    for k in range(RUN):
        corners = drop_corners(positions, k)
        low, high = np.floor(corners.min(axis=0) + 0.5), np.floor(corners.max(axis=0) + 0.5)
        assert (shares[COLUMN + k], shares[ROW + k]) == tuple(low)
        area = -shoelace([tuple(corner) for corner in corners - low])
        pixel_area = abs(area) / (4 * HALF**2)
        assert shares[AREA + k] == pytest.approx(pixel_area, abs=1e-12)
        assert shares[WIDE + k] == np.clip((high - low).max() - 1, 0, 2)
        if shares[WIDE + k]:
            continue
        n_narrow += 1
        for slot, column, row in (
            (LEFT_LOWER, 0, 0),
            (RIGHT_LOWER, 1, 0),
            (LEFT_UPPER, 0, 1),
            (RIGHT_UPPER, 1, 1),
        ):
            truth = -area_in_pixel(corners, low[0] + column, low[1] + row) / area
            assert shares[slot + k] == pytest.approx(truth, abs=1e-12)
    assert n_narrow > 0


def test_what_only_touches_a_pixel_has_no_share_in_it():
    # every drop lies in one pixel, and the edges of every second one on the lines of the grid
    positions, shares = grid_positions(0.0, 1.25, (10.0, 20.0)), np.full(N_SHARES, np.nan)
    share_in_four(positions, 0, 1, HALF, shares)
    found = [shares[slot] for slot in (LEFT_LOWER, RIGHT_LOWER, LEFT_UPPER, RIGHT_UPPER)]
    assert found == [1.0, 0.0, 0.0, 0.0]
    turned, exact = grid_positions(np.pi / 2, 1.25, (10.0, 20.0)), np.full(N_SHARES, np.nan)
    share_in_four(turned, 0, 1, HALF, exact)
    # rounding must not make an area of a line either
    assert sorted(exact[[LEFT_LOWER, RIGHT_LOWER, LEFT_UPPER, RIGHT_UPPER]]) == [0.0, 0.0, 0.0, pytest.approx(1.0)]


def test_a_part_of_a_run_is_shared_alike():
    positions = grid_positions(0.3, 0.9, (5.0, 8.0))
    whole, part = np.full(N_SHARES, np.nan), np.full(N_SHARES, np.nan)
    share_in_four(positions, 0, RUN, HALF, whole)
    share_in_four(positions, 7, 30, HALF, part)
    slots = np.arange(0, N_SHARES, N_SHARES // 8)[:, None]
    inside, outside = slots + np.arange(7, 30), slots + np.r_[0:7, 30:RUN]
    np.testing.assert_array_equal(part[inside], whole[inside])
    assert np.isnan(part[outside]).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(drops, min_size=1, max_size=RUN))
def test_shares_in_three_columns_and_rows(several):
    corners, nine = np.zeros(N_CORNERS), np.full(N_NINE, np.nan)
    lows = [np.floor(each.min(axis=0) + 0.5) for each in several]
    for i, (each, low) in enumerate(zip(several, lows, strict=True)):
        corners[i::RUN] = (each - low).T.ravel()
    for column in range(3):
        share_column(corners, len(several), column, nine)
    for i, (each, low) in enumerate(zip(several, lows, strict=True)):
        if (each.max(axis=0) - low > 2.5).any():
            continue
        area = shoelace([tuple(corner) for corner in each - low])
        truth = [area_in_pixel(each, low[0] + column, low[1] + row) / area for column in range(3) for row in range(3)]
        np.testing.assert_allclose(nine[i::RUN], truth, atol=1e-11)


@pytest.mark.parametrize("reach", [0.0, 0.2, 0.5, 0.7, 1.4])
def test_shares_of_boxes(reach):
    rng = np.random.default_rng(2)
    x, y = rng.uniform(5, 9, (2, RUN))
    x[0], y[0], x[1] = 6.5, 7.0, 6.5 + reach
    positions, shares = np.zeros(N_POSITIONS), np.full(N_SHARES, np.nan)
    positions[UPPER_X + 1 : UPPER_X + 1 + RUN] = x
    positions[UPPER_Y + 1 : UPPER_Y + 1 + RUN] = y
    share_boxes(positions, RUN, reach, 2.0, shares)
    for k in range(RUN):
        column, row = np.floor(x[k] - reach + 0.5), np.floor(y[k] - reach + 0.5)
        if shares[WIDE + k]:
            assert max(x[k] + reach - column, y[k] + reach - row) > 1.5
            continue
        box = [
            (x[k] + dx, y[k] + dy) for dx, dy in ((-reach, -reach), (reach, -reach), (reach, reach), (-reach, reach))
        ]
        assert (shares[COLUMN + k], shares[ROW + k]) == (column, row)
        for side, slot in enumerate((LEFT_LOWER, RIGHT_LOWER, LEFT_UPPER, RIGHT_UPPER)):
            truth = area_in_pixel(box, column + side % 2, row + side // 2) if reach else float(side == 0)
            assert shares[slot + k] == pytest.approx(2 * truth, abs=1e-12)
