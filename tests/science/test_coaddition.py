"""Drizzled tiles keep flux and place of stars, know their noise, and bad pixels never reach them."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from tasks.products.identity import CcdId
from tasks.products.images import CoaddInput, Photometry, Window
from tasks.science.ccd_flux import FluxRows
from tasks.science.coadd_planes import contributing_inputs, join_bands
from tasks.science.coaddition import Coaddition, band_height
from tasks.science.geometry import pixel_area_arcsec2, pixel_to_sky, sky_to_pixel, tile_wcs
from tasks.science.resample_wcs import map_between, pixel_frame
from tasks.science.sphere import tangent_plane
from tasks.science.tile_ccds import TileCcd
from tasks.science.tile_parts import place_ccd, read_ahead

CENTRE = (213.7, 54.1)
SIZE = 300
SCALE = 0.187
SHAPE = (360, 400)
GRID = tile_wcs(*CENTRE, size_px=SIZE, pixel_scale_arcsec=SCALE)
LIGHT = Photometry(1.5, 4.0, 6e4, 200.0, 30.0, 57000.0, "r")


def make_wcs(x0=200.0, y0=180.0, *, angle_deg=2.0, scale=SCALE):
    """TPV coordinates of a CCD whose pixel area changes by some per cent from one end to the other."""
    header = fits.Header()
    angle, step = np.radians(angle_deg), scale / 3600
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CRVAL1"], header["CRVAL2"] = CENTRE
    header["CRPIX1"], header["CRPIX2"] = x0, y0
    header["CD1_1"], header["CD1_2"] = -step * np.cos(angle), step * np.sin(angle)
    header["CD2_1"], header["CD2_2"] = step * np.sin(angle), step * np.cos(angle)
    for axis, sign in ((1, 1), (2, -1)):
        header[f"PV{axis}_1"], header[f"PV{axis}_4"] = 1.0, sign * 1.2
        header[f"PV{axis}_5"], header[f"PV{axis}_7"] = 0.5, 40.0
    return WCS(header)


def star_positions():
    """Stars on a grid of 8.5 arcsec, each off its node by some random part of a pixel and more."""
    grid_u, grid_v = np.meshgrid(np.arange(-2, 3), np.arange(-2, 3))
    u, v = 8.5 * np.stack([grid_u.ravel(), grid_v.ravel()]) + np.random.default_rng(11).uniform(-0.5, 0.5, (2, 25))
    return CENTRE[0] - u / 3600 / np.cos(np.radians(CENTRE[1])), CENTRE[1] + v / 3600


def draw_stars(wcs, shape, *, flux=1e4, sigma_arcsec=0.35):
    """Flux per pixel of round Gaussians on the sky: surface brightness times the area of each pixel."""
    image = np.zeros(shape)
    columns, rows, _ = sky_to_pixel(wcs, *star_positions(), shape)
    for column, row, ra, dec in zip(columns, rows, *star_positions(), strict=True):
        # beyond 7 sigma there is less than 1e-10 of a star
        y, x = np.mgrid[round(row) - 24 : round(row) + 25, round(column) - 24 : round(column) + 25]
        u, v = tangent_plane(*pixel_to_sky(wcs, x.astype(float), y.astype(float)), ra, dec)
        area = pixel_area_arcsec2(wcs, x.ravel(), y.ravel()).reshape(x.shape)
        image[y, x] += area * np.exp(-0.5 * (u**2 + v**2) / sigma_arcsec**2)
    return (image * flux / (2 * np.pi * sigma_arcsec**2)).astype(np.float32)


def place_on(tile, wcs, shape, size, bounds=None):
    """Where a CCD falls on a tile."""
    to_tile = map_between(pixel_frame(wcs, "a CCD"), pixel_frame(tile, "the tile"), "a CCD")
    return place_ccd(to_tile, shape, (size, size), bounds)


def make_ccd(wcs, flux, *, weight=1.0, dq=None, number=0, tile=GRID, size=SIZE):
    """A CCD in memory; a weight may be an array."""
    weight = np.broadcast_to(np.float32(weight), flux.shape).copy()
    with np.errstate(divide="ignore"):
        variance = 1 / weight
    dq = np.zeros(flux.shape, np.uint32) if dq is None else dq
    return TileCcd(
        CoaddInput(CcdId(exposure=f"{number}", ccd=0), LIGHT),
        wcs,
        place_on(tile, wcs, flux.shape, size),
        lambda rows: FluxRows(flux[rows], weight[rows], variance[rows], dq[rows]),
        6e4,
    )


def coadd(*ccds, **settings):
    return join_bands(Coaddition(ccds, GRID, (SIZE, SIZE), **settings).bands())


@pytest.fixture(scope="module")
def ccds():
    dithers = [(200.0, 180.0, 2.0, 1.0), (213.3, 171.8, -1.0, 2.0), (188.6, 190.1, 180.7, 0.5)]
    wcss = [make_wcs(x0, y0, angle_deg=angle) for x0, y0, angle, _ in dithers]
    return [
        make_ccd(wcs, draw_stars(wcs, SHAPE), weight=dither[3], number=number)
        for number, (wcs, dither) in enumerate(zip(wcss, dithers, strict=True))
    ]


def measure(image, x, y, half=16):
    """Flux and centroid in a stamp around a position."""
    column, row = round(x), round(y)
    stamp = image[row - half : row + half + 1, column - half : column + half + 1].astype(float)
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1]
    total = stamp.sum()
    return total, column + (stamp * dx).sum() / total, row + (stamp * dy).sum() / total


def stars_on_tile():
    x, y, _ = sky_to_pixel(GRID, *star_positions(), (SIZE, SIZE))
    return list(zip(x, y, strict=True))


def test_flux_and_place_of_stars_are_kept_under_distortion(ccds):
    image = coadd(*ccds).sci
    for x, y in stars_on_tile():
        flux, found_x, found_y = measure(image, x, y)
        assert flux == pytest.approx(1e4, rel=1e-4)
        assert np.hypot(found_x - x, found_y - y) * SCALE < 2e-3


def test_the_flux_of_a_field_is_kept_to_a_millionth(ccds):
    # all of the field is on the tile, so what the CCD holds is what the tile must hold
    for ccd in ccds:
        before = ccd.read(slice(0, SHAPE[0])).flux.sum(dtype=float)
        assert coadd(ccd).sci.sum(dtype=float) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("scale", [0.12, 0.26])
def test_flux_is_kept_when_pixels_of_ccd_and_tile_differ_in_size(scale):
    wcs = make_wcs(250.0, 250.0, scale=scale)
    image = coadd(make_ccd(wcs, draw_stars(wcs, (500, 500)))).sci
    for x, y in stars_on_tile():
        assert measure(image, x, y)[0] == pytest.approx(1e4, rel=2e-4)


# drops smaller than pixels beat with the grid of the tile: with one exposure only the flux times the weight is kept
@pytest.mark.parametrize(("kernel", "pixfrac", "error"), [("turbo", 1.0, 5e-3), ("square", 0.8, 2e-2)])
def test_every_kernel_keeps_the_flux(ccds, kernel, pixfrac, error):
    image = coadd(ccds[0], kernel=kernel, pixfrac=pixfrac).sci
    for x, y in stars_on_tile():
        assert measure(image, x, y)[0] == pytest.approx(1e4, rel=error)


def noise_fields(n=4, sigma=3.0):
    rng, made = np.random.default_rng(5), []
    for number in range(n):
        wcs = make_wcs(200 + 3.3 * number, 180 - 2.7 * number, angle_deg=20.0 * number)
        noise = rng.normal(0, sigma * (1 + number), SHAPE).astype(np.float32)
        made.append(make_ccd(wcs, noise, weight=(sigma * (1 + number)) ** -2, number=number))
    return made


def test_the_variance_is_that_of_pixels_and_the_weight_that_of_large_areas():
    planes = coadd(*noise_fields())
    inner = (slice(40, 260), slice(40, 260))
    sci, weight, variance = planes.sci[inner], planes.weight[inner], planes.variance[inner]
    # 48400 pixels, of which some four each know the same: their variance is known to some 1.5 per cent
    assert np.mean(sci**2 / variance) == pytest.approx(1.0, abs=0.05)
    blocks, expected = (plane.reshape(11, 20, 11, 20).sum(axis=(1, 3)) for plane in (sci, 1 / weight))
    assert np.mean(blocks**2 / expected) == pytest.approx(1.0, abs=0.35)
    assert variance.mean() < 0.8 * (1 / weight).mean()


def test_inputs_are_averaged_by_inverse_variance():
    shape = (SIZE, SIZE)
    ccds = [
        make_ccd(GRID, np.full(shape, value, np.float32), weight=weight, number=number)
        for number, (value, weight) in enumerate([(1.0, 3.0), (5.0, 1.0)])
    ]
    planes = coadd(*ccds)
    np.testing.assert_allclose(planes.sci[2:-2, 2:-2], 2.0, rtol=1e-5)
    np.testing.assert_allclose(planes.weight[2:-2, 2:-2], 4.0, rtol=1e-5)
    np.testing.assert_allclose(planes.variance[2:-2, 2:-2], 0.25, rtol=1e-4)
    assert np.array_equal(np.unique(planes.time), [400.0])


def test_masked_pixels_never_reach_the_tile(ccds):
    clean, wcs = coadd(ccds[0]), ccds[0].wcs
    flux, weight = ccds[0].read(slice(0, SHAPE[0])).flux.copy(), np.ones(SHAPE, np.float32)
    flux[100:110, :], weight[100:110, :] = np.nan, 0
    flux[200, 150] = np.inf
    weight[220, 170] = np.nan
    flux[230, 170], weight[230, 170] = 1e30, 0
    planes = coadd(make_ccd(wcs, flux, weight=weight))
    for plane in (planes.sci, planes.weight, planes.variance):
        assert np.isfinite(plane).all()
    assert np.abs(planes.sci).max() <= np.abs(clean.sci).max() * 1.001
    assert (planes.sci[planes.weight == 0] == 0).all()
    assert (planes.weight == 0).sum() > (clean.weight == 0).sum()


def test_bands_leave_no_seam_and_change_nothing_but_roundings(ccds):
    whole, cut = coadd(*ccds), coadd(*ccds, band_rows=64)
    covered = whole.weight > 0
    assert np.array_equal(covered, cut.weight > 0)
    assert np.array_equal(whole.context, cut.context)
    assert np.array_equal(whole.time, cut.time)
    np.testing.assert_allclose(cut.weight, whole.weight, rtol=2e-5)
    np.testing.assert_allclose(cut.sci, whole.sci, atol=2e-5 * whole.sci.max())
    np.testing.assert_allclose(cut.variance, whole.variance, rtol=2e-5)


def test_of_a_ccd_only_the_rows_that_reach_a_band_are_read(ccds):
    asked = []

    def read(rows):
        asked.append(rows)
        return ccds[0].read(rows)

    coadd(replace(ccds[0], read=read), band_rows=64)
    assert len(asked) == 5
    assert max(rows.stop - rows.start for rows in asked) < 64 + 2 * 32 + 40
    # every row of the CCD that is on the tile is in one of them
    place = ccds[0].place
    assert (asked[0].start, asked[-1].stop) == (place.window.y_min, place.window.y_max)
    assert all(after.start < before.stop for before, after in pairwise(asked))
    assert place.rows_reaching(5 * SIZE, 6 * SIZE) is None


def test_bits_of_the_context_go_to_ccds_as_they_first_contribute():
    top, bottom = np.zeros((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.float32)
    top[-50:], bottom[:50] = 1, 1
    one = np.ones((SIZE, SIZE), np.float32)
    ccds = [make_ccd(GRID, one, weight=top, number=0), make_ccd(GRID, one, weight=bottom, number=1)]
    work = Coaddition(ccds, GRID, (SIZE, SIZE), band_rows=64)
    planes = join_bands(work.bands())
    assert [ccd.exposure for ccd in work.metadata(SCALE).ccds] == ["1", "0"]
    assert contributing_inputs(planes.context, 100, 10) == (0,)
    assert contributing_inputs(planes.context, 100, 290) == (1,)
    assert work.n_covered == pytest.approx(100 * SIZE, abs=2 * SIZE)


def test_a_tile_smaller_than_the_steps_of_the_pixel_map_is_still_found():
    wcs, tiny = make_wcs(), tile_wcs(*CENTRE, size_px=5, pixel_scale_arcsec=SCALE)
    ccd = make_ccd(wcs, np.full(SHAPE, 2, np.float32), tile=tiny, size=5)
    assert (join_bands(Coaddition([ccd], tiny, (5, 5)).bands()).weight > 0).all()


@pytest.mark.parametrize("bounds", [Window(0, 100, 400, 101), Window(100, 0, 101, 360), Window(150, 150, 151, 151)])
def test_a_ccd_of_which_one_row_column_or_pixel_is_used_is_drizzled_like_any(bounds):
    wcs = make_wcs()
    ccd = make_ccd(wcs, np.full(SHAPE, 2, np.float32))
    planes = coadd(replace(ccd, place=place_on(GRID, wcs, SHAPE, SIZE, bounds)), band_rows=64)
    # each pixel of the CCD touches some two to nine of the tile
    assert 0 < np.count_nonzero(planes.weight) < 9 * bounds.shape[0] * bounds.shape[1]
    assert planes.weight.sum(dtype=float) == pytest.approx(np.prod(bounds.shape), rel=0.3)


@pytest.mark.parametrize("centre", [(0.0, 10.0), (359.9999, -40.0), (77.0, 90.0), (0.0, -90.0)])
def test_tiles_at_the_origin_of_right_ascension_and_at_the_poles_are_covered(centre):
    tile = tile_wcs(*centre, size_px=64, pixel_scale_arcsec=SCALE)
    beside = (centre[0] + 0.0006) % 360, centre[1] - np.copysign(0.0005, centre[1])
    wcs = tile_wcs(*beside, size_px=120, pixel_scale_arcsec=SCALE)
    ccd = make_ccd(wcs, np.full((120, 120), 2, np.float32), tile=tile, size=64)
    np.testing.assert_allclose(join_bands(Coaddition([ccd], tile, (64, 64)).bands()).sci, 2, rtol=1e-5)


def test_between_bands_little_is_kept_of_a_ccd():
    tile = tile_wcs(*CENTRE, size_px=4000, pixel_scale_arcsec=SCALE)
    place_on(tile, tile, (4000, 4000), 4000)
    tracemalloc.start()
    places = [place_on(tile, tile, (4000, 4000), 4000) for _ in range(3)]
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # the splines of one whole CCD would take 16 MB
    assert kept < 100_000 * len(places)


def test_bands_are_lower_if_the_context_planes_of_many_ccds_share_the_memory():
    assert [band_height(n) for n in (0, 40, 64, 65, 400, 100_000)] == [1024, 1024, 1024, 896, 384, 64]


def test_reading_is_one_item_ahead_and_an_error_comes_out_where_its_item_would():
    read, seen = [], []

    def read_item(item):
        read.append(item)
        if item == 3:
            raise OSError("the disk is gone")
        return -item

    def work():
        for item, result in read_ahead(range(9), read_item):
            seen.append((item, result, len(read)))

    with pytest.raises(OSError, match="the disk is gone"):
        work()
    assert [(item, result) for item, result, _ in seen] == [(0, 0), (1, -1), (2, -2)]
    assert len(read) <= 5
    assert all(n <= item + 2 for item, _, n in seen)
