"""An image comes back to the pixels of an exposure as the drizzle package brings it, and better far from the origin."""

import numpy as np
import pytest
from drizzle.resample import blot_image
from scipy.ndimage import gaussian_filter

from tasks.errors import ConfigError, ShapeMismatchError
from tasks.science.blotting import blot, blot_to_wcs
from tasks.science.drizzling import DrizzleImage, Drizzler
from tasks.science.geometry import pixel_area_arcsec2, pixel_to_sky, tile_wcs
from tasks.science.interpolation import interpolate
from tasks.science.pixel_map import PixelMap, make_pixel_map

INTERPOLATIONS = ("nearest", "linear", "poly3", "poly5")
CENTRE, SCALE = (10.3, -33.0), 0.2
SHAPE = (70, 80)


def smooth_image(shape=(90, 100), seed=0):
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0).astype(np.float32)


def turned_positions(shape=SHAPE, *, degrees=4.0, start=(12.3, 4.6)):
    """Positions of an exposure that is turned against the image."""
    angle, (y, x) = np.radians(degrees), np.mgrid[: shape[0], : shape[1]].astype(float)
    return np.stack(
        [start[0] + x * np.cos(angle) - y * np.sin(angle), start[1] + x * np.sin(angle) + y * np.cos(angle)], axis=-1
    )


def turned_wcs(degrees=4.0):
    wcs = tile_wcs(*CENTRE, size_px=SHAPE[0], pixel_scale_arcsec=SCALE)
    angle = np.radians(degrees)
    wcs.wcs.cd = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ wcs.wcs.cd
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_interpolations_are_those_of_the_drizzle_package(interpolation):
    image, positions = smooth_image(), turned_positions()
    ours = blot(image, positions, interpolation=interpolation, pixels_hold="surface_brightness")
    theirs = blot_image(image, positions, interp=interpolation)
    assert ours.dtype == np.float32
    # at the edges drizzle extrapolates polynomials
    inside = (positions > 2).all(axis=-1) & (positions < (96, 86)).all(axis=-1)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=3e-6)


def test_positions_far_from_the_origin_are_exact():
    # a wave, of which the drizzle package's float32 positions, 5e-4 pixels off, miss 1e-4
    columns = np.arange(9000.0)
    image = np.tile(np.sin(columns / 3).astype(np.float32), (12, 1))
    x = np.linspace(8600, 8900, 777)
    positions = np.tile(np.stack([x, np.full_like(x, 6)], axis=-1), (2, 1, 1))
    exact = np.sin(x / 3)
    ours = blot(image, positions, pixels_hold="surface_brightness")
    assert np.abs(ours[0] - exact).max() < 1e-5
    assert np.abs(blot_image(image, positions, interp="poly5")[0] - exact).max() > 5e-5


def test_flux_is_scaled_by_the_area_of_the_pixels_and_surface_brightness_is_not():
    image = np.full((90, 100), 2.0, np.float32)
    # pixels of the exposure have 1.5 x 0.8 times the area of those of the image
    y, x = np.mgrid[:40, :40].astype(float)
    positions = np.stack([5 + 1.5 * x, 5 + 0.8 * y], axis=-1)
    np.testing.assert_allclose(blot(image, positions), 2.0 * 1.2, rtol=1e-6)
    np.testing.assert_allclose(blot(image, positions, pixels_hold="surface_brightness"), 2.0, rtol=1e-6)


def test_areas_are_exact_to_a_millionth_across_bands():
    y, x = np.mgrid[:150, :90].astype(float)
    positions = np.stack([x + 3e-4 * x**2, y + 3e-4 * y**2], axis=-1)
    area = blot(np.ones((170, 100), np.float32), positions)
    exact = (1 + 6e-4 * x) * (1 + 6e-4 * y)
    np.testing.assert_allclose(area, exact, rtol=1e-6)
    np.testing.assert_allclose(blot(np.ones((9, 9), np.float32), positions[:2, :9]), exact[:2, :9], rtol=1e-3)


def test_a_drizzled_exposure_comes_back():
    """There and back, a smooth image has the flux that it had in every pixel, but for some smoothing."""
    wcs, grid = turned_wcs(), tile_wcs(*CENTRE, size_px=110, pixel_scale_arcsec=0.7 * SCALE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    ra, dec = pixel_to_sky(wcs, x, y)
    data = (50 + 40 * np.cos((ra - CENTRE[0]) * 4e3) * np.sin((dec - CENTRE[1]) * 5e3)).astype(np.float32)
    data *= pixel_area_arcsec2(wcs, x.ravel(), y.ravel()).reshape(SHAPE).astype(np.float32)
    pixel_map = make_pixel_map(lambda x, y: grid.all_world2pix(*wcs.all_pix2world(x, y, 0), 0), SHAPE, (110, 110))
    drizzler = Drizzler((110, 110), fill_value=np.nan, context=False)
    drizzler.add(DrizzleImage(data, np.ones_like(data), pixel_map, holds_flux=True))
    back = blot(drizzler.data, pixel_map)
    known = np.isfinite(back)
    assert known.mean() > 0.6
    assert np.nanmax(np.abs(back - data)) < 0.02 * data.max()
    np.testing.assert_array_equal(blot_to_wcs(drizzler.data, grid, wcs, SHAPE), back)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_what_the_image_does_not_know_is_filled(interpolation):
    image = smooth_image()
    image[40:50, 40:60] = np.nan
    image[20, 20] = np.inf
    positions = turned_positions(start=(-10.0, -6.0))
    positions[30, 30] = np.nan
    back = blot(image, positions, interpolation=interpolation, pixels_hold="surface_brightness", fill_value=-99)
    nearest = np.floor(np.nan_to_num(positions, nan=-9) + 0.5).astype(int)
    inside = (nearest >= 0).all(axis=-1) & (nearest < (100, 90)).all(axis=-1)
    hole = inside & ~np.isfinite(image[tuple(np.clip(nearest[..., ::-1], 0, (89, 99)).transpose(2, 0, 1))])
    assert hole.sum() > 100
    assert (back[~inside] == -99).all()
    assert back[30, 30] == -99
    assert np.isfinite(back).all()
    # a position in a pixel of a hole has mostly neighbours there
    assert (back[hole] == -99).mean() > 0.9
    assert (back[inside & ~hole] != -99).mean() > 0.98


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_on_equal_grids_every_pixel_comes_back_as_it_is_even_beside_holes_and_edges(interpolation):
    image = smooth_image((20, 25))
    image[7, 8] = np.nan
    y, x = np.mgrid[:20, :25].astype(float)
    back = blot(image, np.stack([x, y], axis=-1), interpolation=interpolation)
    np.testing.assert_allclose(back, image, rtol=1e-6)


def test_threads_and_layout_of_the_input_change_nothing():
    image, positions = smooth_image((150, 120)), turned_positions((140, 100))
    one = blot(image, positions)
    np.testing.assert_array_equal(blot(image, positions, n_threads=3), one)
    np.testing.assert_array_equal(blot(np.asfortranarray(image.astype(">f8")), positions), one)
    np.testing.assert_array_equal(blot(image, PixelMap.from_positions(positions)), one)
    image.setflags(write=False)
    np.testing.assert_array_equal(blot(image, positions), one)
    # each further kind of array would be compiled for, which takes seconds
    assert len(interpolate.signatures) == 1


def test_masked_pixels_are_unknown():
    image, positions = smooth_image(), turned_positions()
    masked = np.ma.array(image, mask=np.random.default_rng(1).random(image.shape) < 0.1)
    np.testing.assert_array_equal(blot(masked, positions), blot(np.where(masked.mask, np.nan, image), positions))


def test_images_that_do_not_overlap_are_all_fill():
    image = smooth_image((50, 50))
    away = tile_wcs(CENTRE[0] + 1, CENTRE[1], size_px=50, pixel_scale_arcsec=SCALE)
    back = blot_to_wcs(image, away, turned_wcs(), SHAPE, fill_value=7)
    assert back.shape == SHAPE
    assert (back == 7).all()


def test_outside_the_bounds_of_its_coordinates_an_exposure_has_no_pixels():
    image, wcs = np.ones((110, 110), np.float32), turned_wcs()
    grid = tile_wcs(*CENTRE, size_px=110, pixel_scale_arcsec=SCALE)
    wcs.pixel_bounds = [(9.5, 40.5), (-0.5, 60.5)]
    back = blot_to_wcs(image, grid, wcs, SHAPE)
    assert np.isfinite(back[:61, 10:41]).all()
    assert np.isfinite(back).sum() == 61 * 31


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"interpolation": "sinc"}, ConfigError, "interpolation of a blot is 'sinc'; it must be one of nearest"),
        ({"pixels_hold": "counts"}, ConfigError, "pixels_hold of a blot is 'counts'; it must be one of flux, surface_"),
        ({"n_threads": 0}, ConfigError, "to be blotted by 0 threads; give at least one"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        blot(smooth_image(), turned_positions(), **settings)


def test_a_cube_is_refused():
    with pytest.raises(ShapeMismatchError, match=r"shape \(2, 3, 4\) cannot be blotted; it must have two axes"):
        blot(np.zeros((2, 3, 4), np.float32), turned_positions())
