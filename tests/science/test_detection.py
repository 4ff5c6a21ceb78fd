import galsim
import numpy as np
import pytest
from astropy.wcs import WCS
from photutils.segmentation import SegmentationImage, SourceCatalog
from scipy.spatial import cKDTree

from tasks.errors import NoGoodPixelsError, ShapeMismatchError
from tasks.products.columns import SOURCES
from tasks.products.dq import MaskFlag
from tasks.science.background import expand_mesh
from tasks.science.detection import DetectionSettings, detect_sources
from tasks.science.source_table import DEBLENDED, DISTURBED, INCOMPLETE, SATURATED, TRUNCATED
from tasks.science.window import core_fwhm

SCALE, SKY, GAIN, FWHM_PX = 0.187, 300.0, 1.5, 3.74
NOISE = np.sqrt(SKY / GAIN + 9)
PSF = galsim.Moffat(beta=3.5, fwhm=FWHM_PX)
SETTINGS = DetectionSettings()


def tan(shape):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 30.0]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5, shape[0] / 2 + 0.5]
    wcs.wcs.cd = np.diag([-SCALE, SCALE]) / 3600
    wcs.wcs.set()
    return wcs


def draw(shape, objects, noise_seed=None):
    """An image of (profile, x, y) on the sky level, with noise if a seed is given."""
    image = galsim.ImageF(shape[1], shape[0])
    for profile, x, y in objects:
        stamp = profile.drawImage(nx=81, ny=81, scale=1, offset=(x - int(x), y - int(y)))
        stamp.setCenter(int(x) + 1, int(y) + 1)
        bounds = stamp.bounds & image.bounds
        if bounds.isDefined():
            image[bounds] += stamp[bounds]
    array = image.array + SKY
    if noise_seed is not None:
        rng = np.random.default_rng(noise_seed)
        array = array + rng.normal(0, 1, shape) * np.sqrt(np.maximum(array, 0) / GAIN + 9)
    return array.astype(np.float32)


def detect(image, settings=SETTINGS, weight=None, mask=None, **options):
    options = {"gain": GAIN, "saturation": 1e6, "zero_point": 31.0} | options
    weight = np.full(image.shape, 1 / NOISE**2, np.float32) if weight is None else weight
    mask = np.zeros(image.shape, np.uint32) if mask is None else mask
    return detect_sources(image, weight, mask, wcs=tan(image.shape), settings=settings, **options)


def star(flux):
    return PSF.withFlux(flux)


@pytest.fixture(scope="module")
def field():
    """A field of stars and galaxies on a grid, so that none has a neighbour: truth and detection."""
    rng = np.random.default_rng(11)
    grid = np.arange(30, 700, 56)
    x, y = (axis.ravel() + rng.uniform(-5, 5, grid.size**2) for axis in np.meshgrid(grid, grid))
    flux = 10 ** rng.uniform(3.7, 5.5, x.size)
    is_star = rng.random(x.size) < 0.5
    profiles = [
        star(f) if s else galsim.Convolve(PSF, galsim.Exponential(half_light_radius=3).shear(g1=0.3)).withFlux(f)
        for f, s in zip(flux, is_star, strict=True)
    ]
    image = draw((700, 700), zip(profiles, x, y, strict=True), noise_seed=12)
    found = detect(image)
    distance, row = cKDTree(np.c_[found.table["x_win"], found.table["y_win"]]).query(np.c_[x, y])
    return {
        "x": x, "y": y, "flux": flux, "is_star": is_star, "image": image, "found": found, "distance": distance,
        "rows": found.table[row], "wcs": tan(image.shape),
    }  # fmt: skip


def test_every_bright_object_is_found_once_and_nothing_else(field):
    assert field["distance"].max() < 1.0
    assert len(field["found"].table) <= field["x"].size + 1


def test_the_table_has_the_columns_of_the_schema(field):
    table = field["found"].table

    assert tuple(table.colnames) == SOURCES.names
    for column in SOURCES.columns:
        assert table[column.name].dtype == np.dtype(column.dtype), column.name
    assert table["number"].tolist() == list(range(1, len(table) + 1))


def test_the_segmentation_map_is_the_one_of_the_table(field):
    found = field["found"]

    assert found.segmentation.dtype == np.int32
    assert np.bincount(found.segmentation.ravel())[1:].tolist() == found.table["isoarea"].tolist()
    _, first = np.unique(found.segmentation, return_index=True)
    assert (np.diff(first[1:]) > 0).all()


def test_bright_positions_are_right_to_a_hundredth_of_a_pixel(field):
    bright = field["is_star"] & (field["rows"]["snr_win"] > 100)

    for axis in "xy":
        offset = (field["rows"][f"{axis}_win"] - field[axis])[bright]
        assert bright.sum() > 20
        assert abs(offset.mean()) < 0.01
        assert offset.std() < 0.03


def test_position_errors_are_what_they_say(field):
    pull = (field["rows"]["x_win"] - field["x"]) / np.sqrt(field["rows"]["errx2_win"])

    assert 0.8 < pull.std() < 1.25
    assert (field["rows"]["flags_win"] == 0).all()


def test_noiseless_positions_have_no_pixel_phase():
    offsets = []
    for phase in np.linspace(0, 1, 9):
        image = draw((120, 120), [(star(1e5), 60 + phase, 58 + phase / 2)])
        rng = np.random.default_rng(1)
        row = detect(image + rng.normal(0, 0.01, image.shape).astype(np.float32)).table[0]
        offsets.append((row["x_win"] - 60 - phase, row["y_win"] - 58 - phase / 2))

    assert np.abs(offsets).max() < 2e-3


def test_sky_positions_belong_to_the_pixels(field):
    rows, wcs = field["rows"], field["wcs"]

    for ra, dec, x, y in (("ra", "dec", "x", "y"), ("ra_win", "dec_win", "x_win", "y_win")):
        back = wcs.all_world2pix(rows[ra], rows[dec], 0)
        assert np.allclose(back, (rows[x], rows[y]), atol=1e-6)


def test_kron_fluxes_hold_what_a_kron_ellipse_holds(field):
    # SExtractor's MAG_AUTO loses 2 to 3 % of such stars outside the ellipse
    ratio = (field["rows"]["flux_auto"] / field["flux"])[field["flux"] > 2e4]

    assert np.median(ratio) == pytest.approx(0.975, abs=0.015)
    assert ratio.std() < 0.02
    magnitudes = 31 - 2.5 * np.log10(field["rows"]["flux_auto"])
    assert np.allclose(field["rows"]["mag_auto"], magnitudes)


def test_flux_errors_are_what_they_say(field):
    rows = field["rows"]
    stars = field["is_star"] & (field["flux"] > 2e4)
    pull = (rows["flux_auto"] - 0.976 * field["flux"]) / rows["fluxerr_auto"]

    assert 0.5 < pull[stars].std() < 1.6
    assert np.allclose(rows["magerr_auto"], 1.0857 * rows["fluxerr_auto"] / rows["flux_auto"], rtol=1e-3)


def test_photometry_agrees_with_photutils(field):
    found, image = field["found"], field["image"]
    level = expand_mesh(found.background.level, image.shape, 64)
    error = np.sqrt(found.variance_scale * NOISE**2 + np.maximum(image - level, 0) / GAIN)
    filtered = galsim.Image(image - level, xmin=0, ymin=0).array
    reference = SourceCatalog(
        image - level, SegmentationImage(found.segmentation), convolved_data=filtered, error=error,
        kron_params=(2.5, 1.4, 0.0),
    )  # fmt: skip
    good = field["rows"]["number"] - 1
    circle, circle_error = reference.circular_photometry(2.5)

    assert np.median(field["rows"]["flux_auto"] / reference.kron_flux[good]) == pytest.approx(1, abs=0.005)
    assert np.median(field["rows"]["fluxerr_auto"] / reference.kron_flux_err[good]) == pytest.approx(1, abs=0.05)
    assert np.median(field["rows"]["flux_radius"] / reference.flux_radius(0.5)[good].value) == pytest.approx(
        1, abs=0.01
    )
    assert np.median(field["rows"]["flux_aper"][:, 0] / circle[good]) == pytest.approx(1, abs=0.005)
    assert np.median(field["rows"]["fluxerr_aper"][:, 0] / circle_error[good]) == pytest.approx(1, abs=0.02)


def test_the_stellar_locus_is_narrow_and_below_the_galaxies(field):
    fwhm, is_star = field["rows"]["fwhm"], field["is_star"] & (field["flux"] > 1e4)

    assert np.median(fwhm[is_star]) == pytest.approx(3.84, rel=0.04)
    assert fwhm[is_star].std() < 0.05
    galaxies = ~field["is_star"] & (field["flux"] > 1e4)
    assert fwhm[galaxies].min() > fwhm[is_star].max()
    assert np.allclose(field["rows"]["fwhm_world"] * 3600, fwhm * SCALE, rtol=1e-5)


def test_sheared_galaxies_are_elongated_along_x(field):
    rows = field["rows"][~field["is_star"] & (field["flux"] > 5e4)]

    assert (rows["x2_win"] > rows["y2_win"]).all()
    assert np.abs(np.sin(np.radians(rows["theta"]))).max() < 0.35
    assert np.allclose(rows["elongation"], rows["a"] / rows["b"], rtol=1e-5)
    assert np.allclose(rows["ellipticity"], 1 - rows["b"] / rows["a"], atol=1e-5)


@pytest.mark.parametrize("fwhm", [2.5, 4.0, 7.0])
def test_the_core_width_of_a_gaussian_is_exact(fwhm):
    y, x = np.mgrid[:61, :61]
    r2 = (x - 30.3) ** 2 + (y - 29.8) ** 2
    image = (1000 * np.exp(-4 * np.log(2) * r2 / fwhm**2)).astype(np.float32)
    nothing = np.zeros(image.shape, bool)

    width = core_fwhm(
        image, image, nothing, nothing.astype(np.int32), np.array([30.3]), np.array([29.8]), np.array([0.5 * fwhm])
    )

    assert width[0] == pytest.approx(fwhm, rel=1e-4)


def test_the_background_and_the_noise_are_measured(field):
    found = field["found"]

    assert np.median(found.background.level) == pytest.approx(SKY, abs=1)
    # the wings of 144 objects that are not clipped add 3 % to the noise
    assert found.variance_scale == pytest.approx(1, abs=0.1)
    assert np.median(found.table["threshold"]) == pytest.approx(1.5 * NOISE, rel=0.05)
    assert np.median(found.table["background"]) == pytest.approx(SKY, abs=1)


def test_weights_of_any_scale_give_the_same_sources(field):
    weight = np.full(field["image"].shape, 4.0, np.float32)

    found = detect(field["image"], weight=weight)

    assert np.array_equal(found.segmentation, field["found"].segmentation)
    assert found.variance_scale == pytest.approx(4.0 * NOISE**2 * field["found"].variance_scale, rel=1e-5)


def test_running_twice_gives_the_same_bits(field):
    again = detect(field["image"])

    assert again.segmentation.tobytes() == field["found"].segmentation.tobytes()
    for name in SOURCES.names:
        assert again.table[name].tobytes() == field["found"].table[name].tobytes(), name


def test_without_a_background_the_image_is_taken_as_it_is(field):
    settings = DetectionSettings(subtract_background=False)

    found = detect(field["image"] - np.float32(SKY), settings)

    assert (found.background.level == 0).all()
    assert len(found.table) == pytest.approx(len(field["found"].table), abs=1)


def test_empty_sky_has_no_source():
    found = detect(draw((200, 200), [], noise_seed=3), DetectionSettings(threshold_sigma=3))

    assert len(found.table) == 0
    assert tuple(found.table.colnames) == SOURCES.names
    assert found.table["flux_aper"].shape == (0, 1)
    assert not found.segmentation.any()


def test_false_detections_are_rare_at_the_default_threshold():
    found = detect(draw((600, 600), [], noise_seed=4))

    assert len(found.table) <= 10


def one_star(flux=1e5, x=60.0, y=60.0, seed=5, **options):
    image = draw((120, 120), [(star(flux), x, y)], noise_seed=seed)
    found = detect(image, **options)
    nearest = np.argmin(np.hypot(found.table["x"] - x, found.table["y"] - y))
    return found.table[nearest], found


def test_an_undisturbed_star_has_no_flag():
    row, _ = one_star()

    assert (row["flags"], row["flags_win"], row["imaflags"]) == (0, 0, 0)


def test_a_saturated_star_is_flagged_by_level_and_by_mask():
    assert one_star(saturation=1500.0)[0]["flags"] & SATURATED
    mask = np.zeros((120, 120), np.uint32)
    mask[60, 60] = MaskFlag.SATURATED
    row, _ = one_star(mask=mask)
    assert row["flags"] & SATURATED
    assert row["imaflags"] == MaskFlag.SATURATED


def test_a_star_at_the_edge_is_flagged():
    row, _ = one_star(x=1.0)

    assert row["flags"] & TRUNCATED
    assert row["flags"] & INCOMPLETE


def test_two_close_stars_are_deblended_and_flagged():
    image = draw((120, 120), [(star(1e5), 55, 60), (star(5e4), 64, 60)], noise_seed=6)

    found = detect(image)

    assert len(found.table) == 2
    assert (found.table["flags"] & DEBLENDED > 0).all()
    assert (found.table["flags"] & DISTURBED > 0).all()
    assert np.allclose(np.sort(found.table["x_win"]), [55, 64], atol=0.3)
    assert len(detect(image, DetectionSettings(deblend_levels=1)).table) == 1


def test_the_neighbour_does_not_add_to_the_flux():
    image = draw((120, 120), [(star(1e5), 50, 60), (star(1e5), 66, 60)], noise_seed=7)

    found = detect(image)

    assert found.table["flux_auto"] == pytest.approx(np.full(2, 0.98e5), rel=0.04)


def test_wings_are_not_taken_for_sources():
    profile = galsim.Moffat(beta=2.2, fwhm=FWHM_PX, flux=5e6)
    image = draw((200, 200), [(profile, 100, 100)], noise_seed=8)

    cleaned, raw = detect(image), detect(image, DetectionSettings(clean_exponent=0.0))

    assert len(raw.table) > len(cleaned.table) >= 1
    assert cleaned.table["number"].tolist() == list(range(1, len(cleaned.table) + 1))


def test_pixels_without_weight_are_never_part_of_a_source():
    weight = np.full((120, 120), 1 / NOISE**2, np.float32)
    weight[:, 61] = 0
    mask = np.where(weight == 0, np.uint32(MaskFlag.WEIGHT), np.uint32(0))

    row, found = one_star(weight=weight, mask=mask)

    assert not found.segmentation[:, 61].any()
    # the column is a hole in the isophote, and its flag is still seen
    assert row["imaflags"] == MaskFlag.WEIGHT
    assert row["flags"] & DISTURBED


def test_excluded_bits_of_the_mask_keep_pixels_out():
    image = draw((120, 120), [], noise_seed=9)
    image[40:44, 40:44] += 5000
    mask = np.zeros(image.shape, np.uint32)
    mask[38:46, 38:46] = MaskFlag.EXTERNAL

    assert len(detect(image, mask=mask).table) >= 1
    assert len(detect(image, DetectionSettings(excluded=MaskFlag.EXTERNAL), mask=mask).table) == 0


def test_pixels_that_are_not_finite_do_no_harm():
    image = draw((120, 120), [(star(1e5), 60, 60)], noise_seed=10)
    image[10:20] = np.nan
    image[100, 100] = np.inf

    row = detect(image).table[0]

    assert (row["x_win"], row["y_win"]) == pytest.approx((60, 60), abs=0.05)


def test_a_single_hot_row_of_pixels_has_a_finite_ellipse():
    image = draw((120, 120), [], noise_seed=13)
    image[50, 40:60] += 1e4

    table = detect(image).table

    row = table[np.argmax(table["isoarea"])]
    assert np.isfinite([row["a"], row["b"], row["flux_auto"], row["elongation"]]).all()
    assert row["a"] > 3 * row["b"]


def test_an_image_of_nan_is_refused():
    with pytest.raises(
        NoGoodPixelsError, match="None of the 900 pixels has a finite value, a positive weight and no mask"
    ):
        detect(np.full((30, 30), np.nan, np.float32))


def test_planes_of_different_shapes_are_refused():
    with pytest.raises(ShapeMismatchError, match=r"Image \(30, 30\), weight \(30, 31\) and mask \(30, 30\)"):
        detect(np.zeros((30, 30), np.float32), weight=np.ones((30, 31), np.float32))
