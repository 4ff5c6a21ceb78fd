"""Tiles, footprints, positions and Jacobians, against independent formulas."""

import astropy.units as u
import galsim
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, NoConvergence

from tasks.errors import DataError, WCSError
from tasks.products.identity import TileId
from tasks.science.geometry import (
    TileGrid,
    image_footprint,
    local_jacobian,
    pixel_area_arcsec2,
    pixel_scale_arcsec,
    pixel_to_sky,
    sky_to_pixel,
    tile_wcs,
)
from tasks.science.sphere import bounding_circle, polygons_overlap, separation_deg, square_footprint, tangent_plane

SHAPE = (1024, 512)
SCALE = 0.187


def make_wcs(ra=213.7, dec=54.1, *, angle_deg=3.0, distortion=1.0):
    """TPV coordinates whose pixel size changes by several per cent over the CCD, far from the axis."""
    header = fits.Header()
    scale, angle = SCALE / 3600, np.radians(angle_deg)
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    header["CRPIX1"], header["CRPIX2"] = -2000.0, 3000.0
    header["CD1_1"], header["CD1_2"] = -scale * np.cos(angle), scale * np.sin(angle)
    header["CD2_1"], header["CD2_2"] = scale * np.sin(angle), scale * np.cos(angle)
    for axis in (1, 2):
        header[f"PV{axis}_1"] = 1.0
        header[f"PV{axis}_4"] = 0.02 * distortion
        header[f"PV{axis}_7"] = 0.3 * distortion
        header[f"PV{axis}_9"] = 0.3 * distortion
    return WCS(header)


# --- the grid ---------------------------------------------------------------------------------------------------------


def test_the_cfis_tile_of_the_tutorial_is_where_cfis_puts_it():
    ra, dec = TileGrid().centre(TileId("210.296"))
    assert dec == 58.0
    assert ra == pytest.approx(210 / 2 / np.cos(np.radians(58.0)))


@pytest.mark.parametrize("spacing", [0.5, 0.1, 0.03])
def test_every_centre_falls_in_its_own_tile(spacing):
    grid = TileGrid(spacing)
    rng = np.random.default_rng(1)
    columns, rows = grid.indices(rng.uniform(0, 360, 200), rng.uniform(-89, 89, 200))
    for column, row in zip(columns, rows, strict=True):
        tile = TileId(f"{column:03d}.{row:03d}")
        assert grid.tile_at(*grid.centre(tile)) == tile


def test_every_position_is_within_half_a_spacing_of_its_tile():
    grid, rng = TileGrid(), np.random.default_rng(2)
    ra, dec = rng.uniform(0, 360, 2000), rng.uniform(-80, 80, 2000)
    for one_ra, one_dec in zip(ra, dec, strict=True):
        centre_ra, centre_dec = grid.centre(grid.tile_at(one_ra, one_dec))
        east = (one_ra - centre_ra + 180) % 360 - 180
        assert abs(one_dec - centre_dec) <= 0.25 + 1e-9
        assert abs(east) * np.cos(np.radians(centre_dec)) <= 0.25 + 1e-9


def test_the_grid_closes_at_right_ascension_zero():
    grid = TileGrid()
    assert grid.tile_at(359.9, 0.0) == TileId("000.180")
    assert grid.tile_at(-0.1, 0.0) == TileId("000.180")
    assert grid.centre(TileId("000.180")) == (0.0, 0.0)


def test_the_pole_is_one_tile():
    assert TileGrid().tile_at(123.0, 90.0) == TileId("000.360")


@pytest.mark.parametrize("name", ["720.180", "000.361", "001.360"])
def test_a_tile_beyond_the_grid_is_refused(name):
    with pytest.raises(DataError, match=rf"Tile {name} is not on the grid of 0.5 degrees; check its name."):
        TileGrid().centre(TileId(name))


def test_a_grid_needs_a_spacing():
    with pytest.raises(ValueError, match="the spacing of tiles is 0"):
        TileGrid(0.0)


@pytest.mark.parametrize(("ra", "dec"), [(213.7, 54.1), (0.05, -20.0), (359.99, 10.0), (100.0, 89.6)])
def test_the_tiles_that_a_ccd_touches_hold_all_its_pixels(ra, dec):
    grid = TileGrid(0.1)
    outline = square_footprint(ra, dec, width_deg=0.23)
    touched = set(grid.tiles_touched(outline[:, 0], outline[:, 1], width_deg=0.11))
    inside = square_footprint(ra, dec, width_deg=0.2)
    found = {grid.tile_at(*point) for point in inside} | {grid.tile_at(ra, dec)}
    assert found <= touched
    assert len(touched) < 40


# --- sphere -----------------------------------------------------------------------------------------------------------


def test_distances_agree_with_astropy_from_milliarcseconds_to_the_antipode():
    ra, dec = np.array([10.0, 10.0, 10.0, 359.9]), np.array([20.0, 20.0 + 1e-7, -19.0, 0.0])
    expected = SkyCoord(ra * u.deg, dec * u.deg).separation(SkyCoord(190.0 * u.deg, -20.0 * u.deg)).deg
    np.testing.assert_allclose(separation_deg(ra, dec, 190.0, -20.0), expected, atol=2e-6)
    assert separation_deg(10.0, 20.0 + 1e-7, 10.0, 20.0) == pytest.approx(1e-7, rel=1e-6)


def test_the_tangent_plane_is_that_of_galsim():
    origin = galsim.CelestialCoord(10 * galsim.degrees, 40 * galsim.degrees)
    other = galsim.CelestialCoord(10.3 * galsim.degrees, 40.2 * galsim.degrees)
    expected = origin.project(other)
    found = tangent_plane(np.array([10.3]), np.array([40.2]), 10.0, 40.0)
    assert found[0][0] == pytest.approx(expected[0] / galsim.arcsec, rel=1e-10)
    assert found[1][0] == pytest.approx(expected[1] / galsim.arcsec, rel=1e-10)
    assert found[0][0] < 0


def test_polygons_overlap_across_right_ascension_zero():
    one = square_footprint(359.95, 10.0, width_deg=0.2)
    assert polygons_overlap(one, square_footprint(0.1, 10.0, width_deg=0.2))
    assert not polygons_overlap(one, square_footprint(0.3, 10.0, width_deg=0.2))


def test_a_polygon_inside_another_overlaps_it():
    assert polygons_overlap(square_footprint(50, 0, width_deg=1), square_footprint(50.1, 0.1, width_deg=0.01))
    assert polygons_overlap(square_footprint(50.1, 0.1, width_deg=0.01), square_footprint(50, 0, width_deg=1))


def test_squares_corner_to_corner_do_not_overlap_though_their_circles_do():
    one, other = square_footprint(50, 0, width_deg=1.0), square_footprint(51.02, 1.02, width_deg=1.0)
    assert not polygons_overlap(one, other)
    assert polygons_overlap(one, other, margin_arcsec=120)


def test_the_other_side_of_the_sky_does_not_overlap():
    one = square_footprint(50, 20, width_deg=1)
    assert not polygons_overlap(one, square_footprint(230, -20, width_deg=1))


def test_a_bounding_circle_holds_its_points():
    outline = square_footprint(0.0, 80.0, width_deg=2.0)
    ra, dec, radius = bounding_circle(outline[:, 0], outline[:, 1])
    assert (separation_deg(outline[:, 0], outline[:, 1], ra, dec) <= radius).all()
    assert radius == pytest.approx(np.sqrt(2.0), rel=1e-2)


# --- pixels -----------------------------------------------------------------------------------------------------------


def test_a_tile_is_centred_north_up_east_left():
    wcs = tile_wcs(30.0, 40.0, size_px=101, pixel_scale_arcsec=0.2)
    ra, dec = pixel_to_sky(wcs, np.array([50.0, 40.0, 50.0]), np.array([50.0, 50.0, 60.0]))
    assert (ra[0], dec[0]) == (pytest.approx(30.0, abs=1e-10), pytest.approx(40.0, abs=1e-10))
    assert ra[1] > ra[0]
    assert (dec[2] - dec[0]) * 3600 == pytest.approx(2.0, rel=1e-6)


def test_positions_survive_the_way_to_the_sky_and_back():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-0.5, SHAPE[1] - 0.5, 300), rng.uniform(-0.5, SHAPE[0] - 0.5, 300)
    wcs = make_wcs()
    back_x, back_y, found = sky_to_pixel(wcs, *pixel_to_sky(wcs, x, y), SHAPE)
    assert found.all()
    np.testing.assert_allclose(back_x, x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(back_y, y, rtol=0, atol=1e-6)


def test_places_all_over_the_sky_are_on_no_pixel_and_raise_nothing():
    rng = np.random.default_rng(4)
    ra = np.concatenate([rng.uniform(0, 360, 5000), [np.nan, 33.7, 213.7]])
    dec = np.concatenate([np.degrees(np.arcsin(rng.uniform(-1, 1, 5000))), [0.0, -54.1, np.inf]])
    wcs = make_wcs()
    x, y, found = sky_to_pixel(wcs, ra, dec, SHAPE)
    outline = image_footprint(wcs, SHAPE)
    centre = bounding_circle(outline[:, 0], outline[:, 1])
    near = np.isfinite(ra) & np.isfinite(dec)
    near[near] = separation_deg(ra[near], dec[near], *centre[:2]) < 2 * centre[2]
    assert not found[~near].any()
    assert np.isnan(x[~found]).all()
    assert np.isnan(y[~found]).all()


def test_a_folded_polynomial_puts_no_far_place_on_the_ccd():
    wcs = make_wcs(distortion=40.0)
    rng = np.random.default_rng(5)
    ra, dec = 213.7 + rng.uniform(-3, 3, 2000), 54.1 + rng.uniform(-2, 2, 2000)
    x, y, found = sky_to_pixel(wcs, ra, dec, SHAPE)
    back = pixel_to_sky(wcs, x[found], y[found])
    assert (separation_deg(*back, ra[found], dec[found]) * 3600 < 1e-3).all()


class StubbornWCS(WCS):
    """Gives up on all positions if one of them does not converge, as some versions of the library do."""

    def all_world2pix(self, *args, **kwargs):
        x, y = super().all_world2pix(*args, **kwargs)
        if np.any(np.asarray(x) > SHAPE[1]):
            raise NoConvergence("One or more positions failed to converge")
        return x, y


def test_one_position_that_fails_takes_no_other_with_it():
    wcs = StubbornWCS(make_wcs().to_header(relax=True))
    ra, dec = pixel_to_sky(wcs, np.array([100.0, SHAPE[1] + 5.0, 30.0]), np.array([200.0, 300.0, 40.0]))
    x, y, found = sky_to_pixel(wcs, ra, dec, SHAPE)
    assert found.tolist() == [True, False, True]
    np.testing.assert_allclose(x[found], [100.0, 30.0], atol=1e-6)
    assert np.isnan(y[1])


def test_an_image_that_is_partly_off_the_sky_is_refused():
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"], header["CRVAL1"], header["CRVAL2"] = "RA---SIN", "DEC--SIN", 10.0, 20.0
    header["CRPIX1"], header["CRPIX2"], header["CDELT1"], header["CDELT2"] = 50.0, 50.0, -1.0, 1.0
    with pytest.raises(WCSError, match="an image of 512 x 1024 pixels puts part of its outline off the sky"):
        image_footprint(WCS(header), SHAPE)


@pytest.mark.parametrize("angle", [0.0, 3.0, 181.0])
def test_the_jacobian_is_that_of_galsim(angle):
    wcs = make_wcs(angle_deg=angle)
    x, y = np.array([0.0, 300.0, 511.0]), np.array([1000.0, 20.0, 511.0])
    found = local_jacobian(wcs, x, y)
    reference = galsim.AstropyWCS(wcs=wcs, origin=galsim.PositionD(-1, -1))
    for row in range(3):
        jac = reference.jacobian(galsim.PositionD(x[row], y[row]))
        expected = [[jac.dvdy, jac.dvdx], [jac.dudy, jac.dudx]]
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=2e-6 * SCALE)


def test_north_up_east_left_has_u_and_v_along_x_and_y():
    wcs = tile_wcs(30.0, 40.0, size_px=100, pixel_scale_arcsec=0.2)
    (jacobian,) = local_jacobian(wcs, np.array([49.5]), np.array([49.5]))
    np.testing.assert_allclose(jacobian, [[0.2, 0.0], [0.0, 0.2]], atol=1e-9)
    assert pixel_scale_arcsec(wcs, np.array([49.5]), np.array([49.5]))[0] == pytest.approx(0.2, rel=1e-8)


def test_pixel_areas_add_up_to_the_area_of_the_image():
    wcs = make_wcs()
    y, x = np.mgrid[0 : SHAPE[0] : 8, 0 : SHAPE[1] : 8].astype(float)
    total = pixel_area_arcsec2(wcs, x.ravel() + 3.5, y.ravel() + 3.5).sum() * 64
    outline = image_footprint(wcs, SHAPE, points_per_edge=50)
    centre = bounding_circle(outline[:, 0], outline[:, 1])
    u_plane, v_plane = tangent_plane(outline[:, 0], outline[:, 1], *centre[:2])
    shoelace = 0.5 * abs(np.sum(u_plane * np.roll(v_plane, -1) - np.roll(u_plane, -1) * v_plane))
    assert total == pytest.approx(shoelace, rel=1e-5)
