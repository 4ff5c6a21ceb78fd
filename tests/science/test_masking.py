import numpy as np
import pytest
from astropy.wcs import WCS

from tasks.errors import BadFileError
from tasks.products.dq import DQFlag, MaskFlag
from tasks.science.masking import (
    DeepSkyObjects,
    StarLaw,
    border_mask,
    combine_masks,
    deep_sky_mask,
    flagged_mask,
    halo_template,
    load_messier,
    masked_fractions,
    missing_mask,
    polygon_mask,
    spike_template,
    star_mask,
    weight_mask,
)
from tasks.science.starlists import make_star_list, parse_gsc_text

SCALE = 0.187


def tan(shape=(400, 600), scale=SCALE, ra=150.0, dec=30.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5, shape[0] / 2 + 0.5]
    wcs.wcs.cd = np.diag([-scale, scale]) / 3600
    wcs.wcs.set()
    return wcs


def stars_at(wcs, x, y, mag):
    ra, dec = wcs.all_pix2world(np.atleast_1d(x), np.atleast_1d(y), 0)
    return make_star_list(ra, dec, np.atleast_1d(mag))


HALO = StarLaw(halo_template(), 0.05, 13.0)
SPIKE = StarLaw(spike_template(), 0.3, 18.0)


def test_a_square_holds_the_pixels_whose_centres_it_holds():
    plane = polygon_mask((10, 12), np.array([[1.5, 2.5], [4.5, 2.5], [4.5, 5.5], [1.5, 5.5]]))

    expected = np.zeros((10, 12), bool)
    expected[3:6, 2:5] = True
    assert np.array_equal(plane, expected)


def test_polygons_that_share_an_edge_share_no_pixel():
    left = polygon_mask((10, 10), np.array([[0.0, 0], [5, 0], [5, 9], [0, 9]]))
    right = polygon_mask((10, 10), np.array([[5.0, 0], [9, 0], [9, 9], [5, 9]]))

    assert not (left & right).any()
    assert (left | right).sum() == left.sum() + right.sum() == 81


def test_a_polygon_is_filled_by_the_even_odd_rule_whatever_its_shape():
    rng = np.random.default_rng(1)
    vertices = rng.uniform(-10, 60, (9, 2))
    y, x = np.mgrid[:50, :50]
    inside = np.zeros((50, 50), bool)
    for (x1, y1), (x2, y2) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        with np.errstate(divide="ignore"):
            crossed = ((y1 <= y) != (y2 <= y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        inside ^= crossed

    assert np.array_equal(polygon_mask((50, 50), vertices), inside)


def test_a_polygon_outside_the_image_masks_nothing():
    assert not polygon_mask((10, 10), np.array([[20.0, 20], [30, 20], [30, 30]])).any()


def test_the_halo_of_a_star_of_magnitude_13_8_is_a_disc_of_269_pixels():
    shape = (700, 700)
    wcs = tan(shape)
    bright = StarLaw(halo_template(), 0.05, 14.0)

    plane = star_mask(shape, wcs, stars_at(wcs, 340.0, 350.0, 13.8), bright)

    y, x = np.nonzero(plane)
    assert plane.sum() == pytest.approx(np.pi * 269**2, rel=0.01)
    assert (x.mean(), y.mean()) == pytest.approx((345.5, 348.7), abs=0.1)


def test_brighter_stars_have_larger_halos_and_faint_ones_none():
    shape = (900, 900)
    wcs = tan(shape)
    areas = [star_mask(shape, wcs, stars_at(wcs, 450.0, 450.0, mag), HALO).sum() for mag in (9.8, 12.9, 13.0)]

    assert areas[0] == pytest.approx(np.pi * (269 * 1.2) ** 2, rel=0.01)
    assert areas[0] > areas[1] > 0
    assert areas[2] == 0


def test_templates_keep_their_size_on_the_sky():
    masked = []
    for scale in (0.187, 0.374):
        wcs = tan((400, 400), scale)
        masked.append(star_mask((400, 400), wcs, stars_at(wcs, 200.0, 200.0, 15.0), SPIKE).sum() * scale**2)

    assert masked[0] == pytest.approx(masked[1], rel=0.03)


def test_spikes_shrink_with_magnitude_and_never_turn_round():
    mags = np.array([12.0, 13.8, 16.0, 17.13, 17.2, 17.9, 18.0, 25.0])

    scale = SPIKE.scale(mags)

    assert scale[:2] == pytest.approx([1.54, 1.0])
    assert (np.diff(scale) <= 0).all()
    assert (scale[4:] == 0).all()


def test_the_arms_of_the_spikes_have_their_lengths():
    shape = (501, 501)
    wcs = tan(shape)

    plane = star_mask(shape, wcs, stars_at(wcs, 250.0, 250.0, 13.8), SPIKE)

    x, y = np.flatnonzero(plane[250]) - 250, np.flatnonzero(plane[:, 250]) - 250
    assert (x.min(), x.max()) == pytest.approx((-190, 189), abs=1)
    assert (y.min(), y.max()) == pytest.approx((-155, 188), abs=1)
    assert not plane[350, 350]


def test_spikes_can_be_turned():
    template = spike_template(arms_arcsec=(30.0, 30.0, 30.0, 30.0), angle_deg=45.0)

    far = template[np.hypot(*template.T) > 29]
    assert np.abs(np.abs(far[:, 0]) - np.abs(far[:, 1])).max() < 1.2


def test_a_star_beside_the_image_still_masks_its_corner():
    shape = (400, 600)
    wcs = tan(shape)

    plane = star_mask(shape, wcs, stars_at(wcs, -100.0, 200.0, 11.0), HALO)

    assert plane[200, 0]
    assert not plane[200, -1]


def test_stars_anywhere_on_the_sky_do_no_harm():
    rng = np.random.default_rng(2)
    stars = make_star_list(rng.uniform(0, 360, 500), rng.uniform(-90, 0, 500), rng.uniform(5, 17, 500))

    assert not star_mask((400, 600), tan(), stars, SPIKE).any()


def test_a_small_object_inside_the_image_is_masked():
    # the old rule looked at the corners only, and missed objects smaller than the CCD
    wcs = tan()
    ra, dec = wcs.all_pix2world([300.0], [200.0], 0)

    plane = deep_sky_mask((400, 600), wcs, DeepSkyObjects(ra, dec, np.array([0.1])))

    assert plane.sum() == pytest.approx(np.pi * (6 / SCALE) ** 2, rel=0.01)
    y, x = np.nonzero(plane)
    assert (x.mean(), y.mean()) == pytest.approx((300, 200), abs=0.05)


def test_the_disc_of_an_object_outside_reaches_in():
    wcs = tan()
    objects = DeepSkyObjects(np.array([150.0]), np.array([31.0]), np.array([60.0]))

    assert deep_sky_mask((400, 600), wcs, objects)[-1, 300]
    assert not deep_sky_mask((400, 600), wcs, objects, size_plus=-0.1).any()


def test_the_messier_list_is_whole():
    messier = load_messier()

    assert messier.ra.shape == (110,)
    assert (messier.size_arcmin > 0).all()
    assert deep_sky_mask((100, 100), tan((100, 100), ra=10.68, dec=41.27), messier).all()
    assert not deep_sky_mask((100, 100), tan((100, 100), ra=150.0, dec=2.2), messier).any()


@pytest.mark.parametrize(("width", "masked"), [(0, 0), (1, 28), (2, 48), (3, 60), (99, 60)])
def test_a_border_is_masked_on_all_sides(width, masked):
    assert border_mask((6, 10), width).sum() == masked


def test_planes_are_combined_by_or():
    one, two = np.array([[True, True, False]]), np.array([[False, True, False]])

    mask = combine_masks({MaskFlag.BORDER: one, MaskFlag.SPIKE: two})

    assert mask.tolist() == [[4, 132, 0]]
    assert mask.dtype == np.uint16
    assert masked_fractions(mask) == {"masked": 0.66667, "border": 0.66667, "spike": 0.33333}


def test_bad_data_is_what_it_says():
    assert missing_mask(np.array([[0, 1, np.nan, -1]], np.float32)).tolist() == [[True, False, True, False]]
    weight = np.array([[0, 1, np.nan, -1, np.inf]], np.float32)
    assert weight_mask(weight).tolist() == [[True, False, True, True, True]]
    dq = np.array([[DQFlag.GOOD, DQFlag.DEAD, DQFlag.DEAD | DQFlag.HOT, DQFlag.WARM]], np.uint32)
    assert flagged_mask(dq, ["HOT", "DEAD"]).tolist() == [[False, True, True, False]]
    assert not flagged_mask(dq, []).any()


GSC = """\
# GSC2.2 query
#
#
#GSC2-id       RA(J2000)  Dec(J2000)  Fmag  Jmag  Vmag  Nmag  Clas
S1  150.00000  30.00000  12.0  14.0  ---  ---  0
S2  150.10000  30.10000  ---  ---  ---  ---  0
S3  150.20000  30.20000  nan  nan  11.5  nan  0
S4  150.30000  30.30000  12.0  12.0  12.0  12.0  3
# 4 matches
"""


def test_a_star_list_gives_the_mean_of_the_known_magnitudes():
    stars = parse_gsc_text(GSC)

    assert stars.ra.tolist() == [150.0, 150.2]
    # a NaN is a missing magnitude: the star keeps its mask
    assert stars.mag.tolist() == [13.0, 11.5]


def test_an_empty_star_list_has_no_star():
    assert len(parse_gsc_text(GSC.split("S1")[0])) == 0


def test_other_texts_are_refused():
    with pytest.raises(BadFileError, match=r"star\.cat has no column RA\(J2000\), .* it is not a GSC2 list"):
        parse_gsc_text("hello\n", "star.cat")
    with pytest.raises(BadFileError, match="line 6 has 3 columns, its header names 8"):
        parse_gsc_text(GSC.replace("S2  150.10000  30.10000  ---  ---  ---  ---  0", "S2 150.1 30.1"))


def test_stars_without_a_magnitude_are_left_out():
    stars = make_star_list([1.0, 2.0, 3.0], [1.0, np.nan, 3.0], np.ma.array([1.0, 2.0, 3.0], mask=[0, 0, 1]))

    assert stars.ra.tolist() == [1.0]
