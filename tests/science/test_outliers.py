"""Cosmic rays are found by comparing exposures, stars are left alone, and inputs stay as they are."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from astropy.wcs import Sip
from scipy.special import ndtr

from tasks.errors import ConfigError, ShapeMismatchError
from tasks.science.geometry import tile_wcs
from tasks.science.outliers import GROUND, CombineSettings, Exposure, OutlierSettings, clean_image, find_outliers

CENTRE, SCALE = (150.1, 2.2), 0.2
GRID_SIZE, SIZE = 230, 200
GRID = tile_wcs(*CENTRE, size_px=GRID_SIZE, pixel_scale_arcsec=SCALE)
SHAPE = (GRID_SIZE, GRID_SIZE)
SKY_NOISE, GAIN = 4.0, 2.0


@dataclass(frozen=True)
class Scene:
    """Exposures of one star field, and what is in them."""

    exposures: list[Exposure]
    stars: list[np.ndarray]
    """Flux of the stars in each pixel, without noise."""
    rays: list[np.ndarray]
    """Flux of cosmic rays in each pixel."""

    @property
    def readers(self):
        return [lambda e=e: e for e in self.exposures]

    def masks(self, settings=None):
        return list(find_outliers(self.readers, GRID, SHAPE, settings or OutlierSettings()))


def make_wcs(rng):
    wcs = tile_wcs(*CENTRE, size_px=SIZE, pixel_scale_arcsec=SCALE)
    angle = np.radians(rng.uniform(-3, 3))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = turn @ wcs.wcs.cd
    wcs.wcs.crpix = wcs.wcs.crpix + rng.uniform(-5, 5, 2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[2, 0], a[1, 1], b[0, 2] = 4e-5, -2e-5, 3e-5
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def draw_stars(wcs, ra, dec, flux, fwhm_px):
    """Gaussians integrated over pixels."""
    image, edge = np.zeros((SIZE, SIZE)), np.arange(SIZE + 1) - 0.5
    x, y = wcs.all_world2pix(ra, dec, 0)
    sigma = fwhm_px / 2.3548
    along_x, along_y = (np.diff(ndtr((edge - at[:, None]) / sigma), axis=1) for at in (x, y))
    for one, profile_x, profile_y in zip(flux, along_x, along_y, strict=True):
        image += one * np.outer(profile_y, profile_x)
    return image


def draw_rays(rng, count):
    """Straight trails of 1 to 8 pixels, each pixel far above the noise of the sky."""
    image = np.zeros((SIZE, SIZE))
    for _ in range(count):
        x, y, angle = *rng.uniform(2, SIZE - 3, 2), rng.uniform(0, np.pi)
        for step in range(rng.integers(1, 9)):
            column, row = round(x + step * np.cos(angle)), round(y + step * np.sin(angle))
            if 0 <= column < SIZE and 0 <= row < SIZE:
                image[row, column] = rng.uniform(30, 1000) * SKY_NOISE
    return image


def make_scene(*, n_exposures=5, fwhm_px=3.2, seeing=(1.0,), n_rays=25, n_stars=30, seed=3):
    # rays have numbers of their own: without them everything else is the same
    rng, ray_rng = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    half = 0.45 * SIZE * SCALE / 3600
    ra, dec = CENTRE[0] + rng.uniform(-half, half, n_stars), CENTRE[1] + rng.uniform(-half, half, n_stars)
    flux = 10 ** rng.uniform(2.5, 5.5, n_stars)
    exposures, stars, rays = [], [], []
    for number in range(n_exposures):
        wcs = make_wcs(rng)
        stars.append(draw_stars(wcs, ra, dec, flux, fwhm_px * seeing[number % len(seeing)]))
        rays.append(draw_rays(ray_rng, n_rays))
        noise = rng.normal(size=(SIZE, SIZE)) * np.sqrt(SKY_NOISE**2 + stars[-1] / GAIN)
        data = (stars[-1] + rays[-1] + noise).astype(np.float32)
        exposures.append(Exposure(data, np.full_like(data, SKY_NOISE**-2), wcs, GAIN))
    return Scene(exposures, stars, rays)


def rates(scene, masks):
    """Share of bright pixels of cosmic rays that are found, and of other pixels of stars that are flagged."""
    flagged = np.array(masks) > 0
    stars, rays = np.array(scene.stars), np.array(scene.rays)
    noise = np.sqrt(SKY_NOISE**2 + stars / GAIN)
    bright, star = rays > 10 * noise, (stars > SKY_NOISE) & (rays == 0)
    return flagged[bright].mean(), flagged[star].mean(), flagged[(stars < SKY_NOISE) & (rays == 0)].mean(), star.sum()


@pytest.fixture(scope="module")
def scene():
    return make_scene()


@pytest.mark.parametrize("fwhm_px", [1.7, 3.2])
def test_bright_cosmic_rays_are_found_and_stars_are_not(fwhm_px):
    scene = make_scene(fwhm_px=fwhm_px)
    found, stars, sky, _ = rates(scene, scene.masks())
    assert found >= 0.98
    assert stars <= 1e-4
    assert sky <= 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "gaussian"}, "The kernel of outlier rejection is 'gaussian'; it must be one of square"),
        ({"interpolation": "sinc"}, "The interpolation of outlier rejection is 'sinc'; it must be one of nearest"),
        ({"pixels_hold": "ADU"}, "The pixels_hold of outlier rejection is 'ADU'; it must be one of flux"),
        ({"maskpt": 70}, "has a maskpt of 70; it is a share, from 0 to 1"),
        ({"pixfrac": 1.5}, "has a pixfrac of 1.5; it must be above 0 and at most 1"),
        ({"pixfrac": 0}, "has a pixfrac of 0; it must be above 0 and at most 1"),
        ({"band_rows": 0}, "to work on 0 rows at a time; give at least one"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        OutlierSettings(**settings)


def test_an_exposure_whose_planes_do_not_fit_is_refused(scene):
    bad = replace(scene.exposures[1], weight=np.zeros((4, 5), np.float32))
    message = r"Exposure 1, counted from 0, has data of shape \(200, 200\) and weights of shape \(4, 5\)"
    with pytest.raises(ShapeMismatchError, match=message):
        next(find_outliers([scene.readers[0], lambda: bad], GRID, SHAPE))


def test_stars_are_left_alone_where_the_seeing_differs():
    scene = make_scene(fwhm_px=3.5, seeing=(0.85, 1.15, 1.0, 0.92, 1.08))
    found, stars, _, _ = rates(scene, scene.masks(OutlierSettings(thresholds=GROUND)))
    assert found >= 0.97
    assert stars <= 1e-4
    # the procedure of the space telescopes takes the cores of bright stars for rays
    assert rates(scene, scene.masks())[1] > 1e-2


def test_of_two_exposures_the_sharper_one_keeps_its_stars():
    scene = make_scene(n_exposures=2, fwhm_px=3.5, seeing=(0.85, 1.15), n_rays=0)
    stars = np.array(scene.stars)

    def lost(settings):
        return stars[np.array(scene.masks(settings)) > 0].sum() / stars.sum()

    # the wings of bright stars, but not the cores, which the minimum of the two would contradict
    assert lost(OutlierSettings(thresholds=GROUND)) < 0.03
    assert lost(OutlierSettings()) > 0.2


def test_two_exposures_are_enough():
    """Of two exposures the mean would carry half of every ray into both."""
    scene = make_scene(n_exposures=2)
    found, stars, sky, _ = rates(scene, scene.masks())
    assert found > 0.9
    assert stars < 1e-3
    assert sky < 1e-3


def test_minmed_finds_rays_that_cross_in_most_of_the_exposures():
    scene = make_scene(n_exposures=3, n_rays=0)
    for exposure, height in zip(scene.exposures[:2], (2000, 3000), strict=True):
        x, y = (round(float(at)) for at in exposure.wcs.all_world2pix(*GRID.all_pix2world(115.0, 120.0, 0), 0))
        exposure.data[y - 1 : y + 2, x - 1 : x + 2] += height
    plain, careful = (
        scene.masks(OutlierSettings(combine=CombineSettings(combination=name))) for name in ("median", "minmed")
    )
    assert sum((mask > 0).sum() for mask in plain[:2]) < 9
    assert sum((mask > 0).sum() for mask in careful[:2]) >= 18


def test_inputs_stay_as_they_are_and_bands_and_threads_change_nothing(scene):
    before = [(e.data.copy(), e.weight.copy()) for e in scene.exposures]
    whole = scene.masks()
    for settings, n_threads in ((OutlierSettings(band_rows=70), 1), (OutlierSettings(band_rows=33), 2)):
        parts = find_outliers(scene.readers, GRID, SHAPE, settings, n_threads=n_threads)
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_array_equal(one, other)
    for exposure, (data, weight) in zip(scene.exposures, before, strict=True):
        np.testing.assert_array_equal(exposure.data, data)
        np.testing.assert_array_equal(exposure.weight, weight)


def test_the_clean_image_has_the_flux_of_the_stars_and_no_rays(scene):
    clean = clean_image(scene.readers, GRID, SHAPE).data
    assert clean.dtype == np.float32
    free = clean_image(make_scene(n_rays=0).readers, GRID, SHAPE).data
    both = np.isfinite(clean) & np.isfinite(free)
    assert both.mean() > 0.6
    assert np.abs(clean - free)[both].max() < 60 * SKY_NOISE
    assert (np.abs(clean - free)[both] > 10 * SKY_NOISE).mean() < 1e-3


def flat_exposures(planes, gain=None):
    """Exposures on the pixels of a grid, with noise 1 per pixel."""
    wcs = tile_wcs(*CENTRE, size_px=len(planes[0]), pixel_scale_arcsec=SCALE)
    planes = [np.asarray(plane, np.float32) for plane in planes]
    return [lambda p=p: Exposure(p, np.ones_like(p), wcs, gain) for p in planes], wcs, planes[0].shape


def test_bands_know_what_the_rows_beside_them_decide():
    planes = np.zeros((3, 20, 20))
    # the median is that of two rays that cross; 3.5 sigma are enough beside 5 sigma
    planes[:2, 9, 5], planes[:2, 10, 5] = 5.0, 3.5
    planes[:2, 9, 15], planes[:2, 10, 15] = 3.5, 5.0
    readers = flat_exposures(planes)
    for band_rows in (20, 10):
        clean = clean_image(*readers, OutlierSettings(band_rows=band_rows)).data
        assert np.abs(clean[5:15, 3:18]).max() < 1e-3


@pytest.mark.parametrize("n_exposures", [2, 4])
def test_the_photon_noise_of_a_bright_source_is_allowed_for(n_exposures):
    rng, gain = np.random.default_rng(6), 0.5
    planes = 800 + rng.normal(0, np.sqrt(1 + 800 / gain), (n_exposures, 60, 60))
    readers = flat_exposures(planes, gain)
    assert np.nanmean(clean_image(*readers).data) == pytest.approx(800, abs=3)
    assert np.mean([mask > 0 for mask in find_outliers(*readers)]) < 1e-3
    # with the noise of the sky alone, the minimum is taken almost everywhere
    blind = [lambda read=read: replace(read(), gain=None) for read in readers[0]]
    assert np.nanmean(clean_image(blind, *readers[1:]).data) < 790
    assert np.mean([mask > 0 for mask in find_outliers(blind, *readers[1:])]) > 0.1


@pytest.mark.parametrize("pixels_hold", ["flux", "surface_brightness"])
def test_pixels_that_good_pixels_cover_too_little_have_no_value(pixels_hold):
    fine = tile_wcs(*CENTRE, size_px=40, pixel_scale_arcsec=SCALE)
    coarse = tile_wcs(*CENTRE, size_px=20, pixel_scale_arcsec=2 * SCALE)
    data, weight = np.full((40, 40), 3, np.float32), np.ones((40, 40), np.float32)
    # a bad column: half of what one column of the coarse grid sees
    weight[:, 14] = 0
    readers = [lambda: Exposure(data, weight, fine)] * 2

    def clean(maskpt):
        return clean_image(readers, coarse, (20, 20), OutlierSettings(maskpt=maskpt, pixels_hold=pixels_hold)).data

    per_pixel = 12 if pixels_hold == "flux" else 3
    np.testing.assert_allclose(clean(0.4), per_pixel, rtol=1e-5)
    for maskpt in (0.6, 0.99):
        assert np.isnan(clean(maskpt)[:, 7]).all()
        np.testing.assert_allclose(np.delete(clean(maskpt), 7, axis=1), per_pixel, rtol=1e-5)


class InParts:
    """An exposure that is read in rows."""

    def __init__(self, exposure):
        self.exposure, self.n_rows = exposure, 0

    def __call__(self):
        return self.rows(slice(0, SIZE))

    def reaching(self, band):
        y, x = (axis.ravel() for axis in np.mgrid[:SIZE, :SIZE])
        on_grid = GRID.all_world2pix(*self.exposure.wcs.all_pix2world(x, y, 0), 0)[1].reshape(SIZE, SIZE)
        near = np.flatnonzero(((on_grid > band.y_min - 4) & (on_grid < band.y_max + 3)).any(axis=1))
        return self.rows(slice(near[0], near[-1] + 1)) if near.size else None

    def rows(self, rows):
        self.n_rows += rows.stop - rows.start
        whole = self.exposure
        return Exposure(whole.data[rows], whole.weight[rows], whole.wcs.slice((rows, slice(None))), whole.gain)


def test_of_exposures_that_can_be_read_in_parts_no_more_is_read(scene):
    settings, told = OutlierSettings(band_rows=50), []
    parts = [InParts(exposure) for exposure in scene.exposures]
    clean = clean_image(parts, GRID, SHAPE, settings, tell=told.append).data
    assert all(SIZE < part.n_rows < 1.5 * SIZE for part in parts)
    whole = clean_image(scene.readers, GRID, SHAPE, settings).data
    # positions differ by rounding, and a pixel at the limit takes its minimum in one of the two
    assert np.isclose(clean, whole, rtol=1e-4, atol=0.02, equal_nan=True).mean() > 0.9999
    assert told[0] == "rows up to 50 of 230 of the clean image are done"
    masks = list(find_outliers(parts, GRID, SHAPE, settings))
    assert np.mean(np.array(masks) != np.array(scene.masks(settings))) < 1e-4


def test_exposures_are_read_one_at_a_time_and_only_where_they_reach(scene):
    calls = []

    def reader(number):
        def read():
            calls.append(number)
            return moved[number]

        return read

    # the first exposure lies below the middle of the grid, the second above
    moved = list(scene.exposures)
    for number, rows in ((0, slice(0, 90)), (1, slice(110, 200))):
        e = moved[number]
        wcs = e.wcs.slice((rows, slice(None)))
        moved[number] = replace(e, data=e.data[rows], weight=e.weight[rows], wcs=wcs)
    masks = find_outliers([reader(n) for n in range(5)], GRID, SHAPE, OutlierSettings(band_rows=58))
    next(masks)
    # four bands: all at first; then the lower one for two more rows of them
    assert calls.count(0) == 2 + 1
    assert calls.count(1) == 1 + 2
    assert calls.count(2) == 4
    assert len(list(masks)) == 4


def test_masked_pixels_are_those_without_weight(scene):
    # rays in one place of three of five exposures, which the clean image has only if they count
    spoilt = [replace(e, data=e.data.copy(), weight=e.weight.copy()) for e in scene.exposures]
    for exposure in spoilt[:3]:
        exposure.data[95:105, 95:105] = 1e5
    bad = np.zeros((SIZE, SIZE), bool)
    bad[95:105, 95:105] = True
    masked = [replace(e, data=np.ma.array(e.data, mask=bad)) for e in spoilt]
    for exposure in spoilt:
        exposure.weight[bad] = 0
    ours, theirs = (list(find_outliers([lambda e=e: e for e in es], GRID, SHAPE)) for es in (masked, spoilt))
    np.testing.assert_array_equal(ours, theirs)
    assert not np.array(ours)[:, bad].any()


def test_masked_values_and_places_seen_once_are_never_flagged(scene):
    first = scene.exposures[0]
    data, weight = first.data.copy(), first.weight.copy()
    data[50:60, 50:60], weight[50:60, 50:60] = 1e9, 0
    data[80, 80], data[90:95, 90], weight[100, 100] = np.nan, np.inf, np.nan
    spoilt = replace(first, data=data, weight=weight)
    masks = list(find_outliers([lambda: spoilt, *scene.readers[1:]], GRID, SHAPE))
    clean = scene.masks()
    assert not masks[0][50:60, 50:60].any()
    assert not masks[0][90:95, 90].any()
    assert masks[0][100, 100] == 0
    assert max((one != other).mean() for one, other in zip(masks, clean, strict=True)) < 1e-3
    (alone,) = find_outliers(scene.readers[:1], GRID, SHAPE)
    assert not alone.any()
    assert list(find_outliers([], GRID, SHAPE)) == []


def test_an_exposure_beside_the_grid_has_no_outliers(scene):
    away = replace(scene.exposures[0], wcs=tile_wcs(CENTRE[0] + 3, CENTRE[1], size_px=SIZE, pixel_scale_arcsec=SCALE))
    masks = list(find_outliers([*scene.readers[1:], lambda: away], GRID, SHAPE))
    assert masks[-1].shape == (SIZE, SIZE)
    assert not masks[-1].any()
    assert masks[0].any()


def test_surface_brightness_on_a_grid_of_other_pixels_works_as_well():
    scene = make_scene()
    grid = tile_wcs(*CENTRE, size_px=330, pixel_scale_arcsec=0.7 * SCALE)
    for pixels_hold in ("flux", "surface_brightness"):
        masks = list(find_outliers(scene.readers, grid, (330, 330), OutlierSettings(pixels_hold=pixels_hold)))
        found, stars, sky, _ = rates(scene, masks)
        assert found >= 0.98
        assert max(stars, sky) <= 1e-4
