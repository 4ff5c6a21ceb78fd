import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from tasks.products.footprint import TileFootprint
from tasks.science.matching import home_tile, inside_footprint, match_sky, resolve_duplicates


def test_separations_of_pairs_agree_with_astropy():
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 50), rng.uniform(-89, 89, 50)
    ra2, dec2 = ra + rng.normal(0, 1e-5, 50), dec + rng.normal(0, 1e-5, 50)
    match = match_sky(ra, dec, ra2, dec2, tolerance_arcsec=5.0)
    truth = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(ra2, dec2, unit="deg")).arcsec
    assert len(match.first) == 50
    np.testing.assert_allclose(match.separation, truth, rtol=1e-6, atol=1e-9)


def test_every_object_is_found_again_in_another_order():
    rng = np.random.default_rng(2)
    ra, dec = rng.uniform(359.9, 360.1, 500) % 360, rng.uniform(60, 60.1, 500)
    order = rng.permutation(500)
    match = match_sky(ra, dec, ra[order], dec[order] + 1e-6, tolerance_arcsec=0.5)
    assert len(match.first) == 500
    np.testing.assert_array_equal(order[match.second], match.first)
    np.testing.assert_allclose(match.separation, 3.6e-3, rtol=1e-4)


def test_the_nearest_pair_wins_and_the_next_best_gets_what_is_left():
    arcsec = 1 / 3600
    dec1, dec2 = np.array([0.0, 1.0]) * arcsec, np.array([0.9, 1.8]) * arcsec
    match = match_sky(np.zeros(2), dec1, np.zeros(2), dec2, tolerance_arcsec=2.0)
    # 1.0 takes 0.9; 0.0 is left with 1.8, which nobody else wants
    assert dict(zip(match.first.tolist(), match.second.tolist(), strict=True)) == {1: 0, 0: 1}


def test_no_object_is_matched_twice():
    rng = np.random.default_rng(3)
    ra1, dec1 = rng.uniform(10, 10.002, 300), rng.uniform(0, 0.002, 300)
    ra2, dec2 = rng.uniform(10, 10.002, 200), rng.uniform(0, 0.002, 200)
    forth = match_sky(ra1, dec1, ra2, dec2, tolerance_arcsec=2.0)
    back = match_sky(ra2, dec2, ra1, dec1, tolerance_arcsec=2.0)
    assert len(set(forth.first)) == len(set(forth.second)) == len(forth.first)
    assert {*zip(forth.first, forth.second, strict=True)} == {*zip(back.second, back.first, strict=True)}
    assert (forth.separation <= 2.0).all()


def test_pairs_beyond_the_tolerance_do_not_match():
    assert len(match_sky([0.0], [0.0], [0.0], [1.01 / 3600], tolerance_arcsec=1.0).first) == 0
    assert len(match_sky([0.0], [0.0], [0.0], [0.99 / 3600], tolerance_arcsec=1.0).first) == 1


def test_an_empty_list_matches_nothing():
    assert len(match_sky(np.empty(0), np.empty(0), [0.0], [0.0], tolerance_arcsec=1.0).first) == 0


def test_a_position_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="positions to match must be finite"):
        match_sky([np.nan], [0.0], [0.0], [0.0], tolerance_arcsec=1.0)


def test_a_tolerance_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"must be positive, not 0\.0 arcsec"):
        match_sky([0.0], [0.0], [0.0], [0.0], tolerance_arcsec=0.0)


WEST = TileFootprint(10.0, 0.0, 180.0, 180.0)
EAST = TileFootprint(10.08, 0.0, 180.0, 180.0)


def test_footprints_are_squares_on_the_sky_also_at_high_declination():
    tile = TileFootprint(0.0, 60.0, 900.0, 900.0)
    ra, dec = np.array([0.49, 0.51, 359.51, 0.0, 180.0]), np.array([60.0, 60.0, 60.0, 60.26, -60.0])
    assert inside_footprint(tile, ra, dec).tolist() == [True, False, True, False, False]


def test_every_covered_position_has_one_home_and_ties_go_to_the_first_tile():
    dec = np.array([-0.06, 0.0, 0.001, 0.08, 0.2])
    tiles = [TileFootprint(10.0, -0.04, 180.0, 180.0), TileFootprint(10.0, 0.04, 180.0, 180.0)]
    assert home_tile(np.full(5, 10.0), dec, tiles).tolist() == [0, 0, 1, 1, -1]
    assert home_tile(np.full(5, 10.0), dec, tiles[::-1]).tolist() == [1, 0, 0, 0, -1]


def test_a_nearer_tile_that_does_not_cover_the_position_is_not_its_home():
    wide, small = TileFootprint(10.0, 0.0, 400.0, 400.0), TileFootprint(10.1, 0.0, 10.0, 10.0)
    assert home_tile(np.array([10.08]), np.array([0.0]), [wide, small]).tolist() == [0]


def resolve(ra, tile, **settings):
    settings = {"tolerance_arcsec": 0.5, "keep_unmatched": False} | settings
    return resolve_duplicates(np.array(ra), np.zeros(len(ra)), np.array(tile, dtype=int), [WEST, EAST], **settings)


def test_of_two_detections_the_one_in_its_home_tile_is_kept():
    found = resolve([10.03, 10.03, 10.05, 10.05], [0, 1, 0, 1])
    assert found.primary.tolist() == [True, False, False, True]
    assert found.duplicate.tolist() == [False, True, True, False]
    assert found.group.tolist() == [0, 0, 2, 2]


def test_an_object_that_straddles_the_border_is_neither_lost_nor_doubled():
    shift = 0.1 / 3600
    for sign in (+1, -1):
        found = resolve([10.04 + sign * shift, 10.04 - sign * shift], [0, 1])
        assert found.primary.sum() == 1


def test_a_detection_outside_its_unique_area_without_counterpart_is_dropped_or_kept_as_asked():
    assert resolve([10.045], [0]).primary.tolist() == [False]
    assert not resolve([10.045], [0]).duplicate.any()
    assert resolve([10.045], [0], keep_unmatched=True).primary.tolist() == [True]


def test_neighbours_within_one_tile_are_never_duplicates_of_each_other():
    found = resolve([10.0, 10.0 + 0.2 / 3600], [0, 0])
    assert found.primary.all()


def test_the_order_of_detections_does_not_change_which_are_kept():
    rng = np.random.default_rng(4)
    ra, dec = rng.uniform(9.96, 10.12, 400), rng.uniform(-0.04, 0.04, 400)
    tile = np.concatenate([np.zeros(400, int), np.ones(400, int)])
    ra, dec = np.tile(ra, 2), np.tile(dec, 2)
    inside = np.where(tile == 0, inside_footprint(WEST, ra, dec), inside_footprint(EAST, ra, dec))
    ra, dec, tile = ra[inside], dec[inside], tile[inside]
    settings = {"tolerance_arcsec": 0.5, "keep_unmatched": False}
    kept = resolve_duplicates(ra, dec, tile, [WEST, EAST], **settings).primary
    order = rng.permutation(len(ra))
    shuffled = resolve_duplicates(ra[order], dec[order], tile[order], [WEST, EAST], **settings).primary
    np.testing.assert_array_equal(shuffled, kept[order])
    assert kept.sum() == 400


def test_no_detections_at_all_are_resolved_to_none():
    assert len(resolve([], []).primary) == 0
