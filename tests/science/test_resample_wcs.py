import math

import numpy as np
import pytest
from astropy.wcs import WCS
from resample_stack import CENTRE, SCALE, SHAPE, FrameWCS, sip_wcs, tan_wcs, tpv_wcs

from tasks.products.windows import Window
from tasks.science.geometry import pixel_area_arcsec2
from tasks.science.resample_area import mean_pixel_area, outline, solid_angle
from tasks.science.resample_errors import UnsupportedWCSError
from tasks.science.resample_maps import place_model, used_range, valid_window
from tasks.science.resample_wcs import bounds_of, check_axes, map_between, pixel_frame
from tasks.science.sphere import ARCSEC_PER_RADIAN

X, Y = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(SHAPE[1]), np.arange(SHAPE[0])))


def place(wcs, shape=SHAPE, output=None, *, step=1, order=1):
    frame = pixel_frame(tan_wcs(scale=0.15) if output is None else output, "the output")
    return place_model(pixel_frame(wcs, "a.fits"), shape, frame, frame.shape, "a.fits", step=step, order=order)


@pytest.mark.parametrize("make", [tan_wcs, sip_wcs, tpv_wcs])
def test_pixels_go_to_the_sky_and_back(make):
    frame = pixel_frame(make(angle_deg=30.0), "a.fits")
    x, y = frame.to_pixel(*frame.to_world(X, Y))
    # astropy's own inverse of SIP stops at 1e-4 pixels
    np.testing.assert_allclose(x, X, atol=3e-8)
    np.testing.assert_allclose(y, Y, atol=3e-8)


@pytest.mark.parametrize("make", [tan_wcs, sip_wcs, tpv_wcs])
def test_places_beside_an_image_are_never_on_it(make):
    frame = pixel_frame(make(), "a.fits")
    rng = np.random.default_rng(1)
    distance, angle = rng.uniform(0.01, 0.06, 20_000), rng.uniform(0, 2 * np.pi, 20_000)
    lon = CENTRE[0] + distance * np.cos(angle) / np.cos(np.radians(CENTRE[1]))
    lat = CENTRE[1] + distance * np.sin(angle)
    x, y = frame.to_pixel(lon, lat)
    # the inverse of a polynomial finds pixels for some places at ten times its size
    assert not ((x > -1) & (x < SHAPE[1]) & (y > -1) & (y < SHAPE[0])).any()
    behind = frame.to_pixel(np.array([CENTRE[0] - 180.0]), np.array([-CENTRE[1]]))
    assert np.isnan(behind).all()


def test_places_without_coordinates_do_not_spoil_the_others():
    frame = pixel_frame(sip_wcs(), "a.fits")
    lon, lat = frame.to_world(X, Y)
    lon[3], lat[7] = np.nan, np.inf
    x, y = frame.to_pixel(lon, lat)
    assert np.flatnonzero(np.isnan(x)).tolist() == [3, 7]
    np.testing.assert_allclose(np.delete(y, [3, 7]), np.delete(Y, [3, 7]), atol=3e-8)


def test_latitude_may_be_the_first_axis():
    swapped = tan_wcs().sub([2, 1])
    swapped.array_shape = SHAPE[::-1]
    lon, lat = pixel_frame(swapped, "a.fits").to_world(Y, X)
    expected = pixel_frame(tan_wcs(), "b.fits").to_world(X, Y)
    np.testing.assert_allclose([lon, lat], expected, rtol=1e-12)


def test_fits_and_gwcs_are_the_same_to_the_resampler():
    fits, frame = sip_wcs(), FrameWCS(sip_wcs())
    output = tan_wcs(scale=0.15)
    expected = place(fits, output=output).dense()
    np.testing.assert_allclose(place(frame, output=FrameWCS(output)).dense(), expected, atol=2e-6)
    np.testing.assert_allclose(place(frame, output=output).dense(), expected, atol=2e-6)
    assert np.isfinite(expected).all()


def test_the_bounding_box_of_an_input_cuts_and_that_of_the_output_does_not():
    output = FrameWCS(tan_wcs(scale=0.15), bounding_box=((10.0, 20.0), (10.0, 20.0)))
    wcs = FrameWCS(tan_wcs(), bounding_box=((2.7, 30.2), (4.0, 9.5)))
    placement = place(wcs, output=output)
    assert placement.limits == (3, 30, 4, 10)
    known = np.isfinite(placement.dense()).all(axis=-1)
    assert known[4:10, 3:31].all()
    assert known.sum() == 6 * 28
    assert output.bounding_box == ((10.0, 20.0), (10.0, 20.0))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (None, (0, 51, 0, 43)),
        (((-0.5, 51.5), (-0.5, 43.5)), (0, 51, 0, 43)),
        (((3.0, 100.0), (-7.0, 20.4)), (3, 51, 0, 20)),
        (((2.6, 10.4), (5.0, 5.2)), (3, 10, 5, 5)),
    ],
)
def test_the_used_range_is_the_bounding_box_in_whole_pixels(box, expected):
    assert used_range(SHAPE, box) == expected
    window = valid_window(SHAPE, box)
    assert (window.x_min, window.x_max - 1, window.y_min, window.y_max - 1) == expected


def test_a_bounding_box_beside_the_image_leaves_nothing():
    assert valid_window(SHAPE, ((60.0, 70.0), (0.0, 40.0))) is None
    wcs = FrameWCS(tan_wcs(), bounding_box=((60.0, 70.0), (0.0, 40.0)))
    with pytest.raises(ValueError, match=r"No pixel of a.fits has a position on the output: check the WCS of both"):
        place(wcs)


def test_bounding_boxes_are_read_however_they_are_written():
    class Box:
        def __iter__(self):
            return iter([(1, 2), (3, 4)])

        def bounding_box(self, order):
            assert order == "F"
            return ((3, 4), (1, 2))

    wcs = FrameWCS(tan_wcs(), bounding_box=Box())
    assert bounds_of(wcs) == ((3.0, 4.0), (1.0, 2.0))
    wcs.bounding_box = ((9.0, 1.0), (2.0, 8.0))
    assert bounds_of(wcs) == ((1.0, 9.0), (2.0, 8.0))
    wcs.bounding_box = ((-np.inf, np.inf), (2.0, np.inf))
    assert valid_window(SHAPE, bounds_of(wcs)) == Window(0, 2, SHAPE[1], SHAPE[0])
    assert used_range(SHAPE, bounds_of(wcs)) == (0, SHAPE[1] - 1, 2, SHAPE[0] - 1)
    fits = tan_wcs()
    assert bounds_of(fits) is None
    fits.pixel_bounds = [(-0.5, 10.5), (-0.5, 20.5)]
    assert bounds_of(fits) == ((-0.5, 10.5), (-0.5, 20.5))


def test_an_image_on_the_other_side_of_the_sky_is_an_error():
    behind = tan_wcs(centre=(CENTRE[0] + 180.0, -CENTRE[1]))
    with pytest.raises(ValueError, match=r"No pixel of a.fits has a position on the output"):
        place(behind)


def test_an_image_beside_the_output_has_positions_but_no_map():
    placement = place(tan_wcs(shift=(500.0, 0.0)))
    assert placement.pixel_map is None
    x = placement.dense()[..., 0]
    assert np.isfinite(x).all()
    assert x.max() < -100


def test_a_step_that_was_asked_for_is_kept():
    exact = place(sip_wcs()).dense()
    cubic, linear = (place(sip_wcs(), step=4, order=order).dense() for order in (3, 1))
    assert 0 < np.abs(cubic - exact).max() < 1e-4
    # the error of a straight line between nodes 4.7 pixels apart, with the second derivatives of the distortion
    assert 1e-3 < np.abs(linear - exact).max() < 1e-2
    asked = FrameWCS(sip_wcs())
    place(asked, step=4, order=1)
    assert asked.pixels_asked_for == 13 * 11


def test_a_step_beyond_the_image_is_a_tenth_of_it():
    far, tenth = (place(sip_wcs(), step=step, order=3).dense() for step in (10_000, SHAPE[0] // 10))
    np.testing.assert_array_equal(far, tenth)
    asked = FrameWCS(sip_wcs())
    place(asked, step=10_000, order=1)
    assert asked.pixels_asked_for == 10 * 10


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1)])
def test_images_of_one_row_or_one_pixel_have_places_whatever_the_step(shape, order):
    wcs = sip_wcs(shape, angle_deg=20.0)
    y, x = np.indices(shape).astype(float)
    expected = tan_wcs(scale=0.15).all_world2pix(*wcs.all_pix2world(x, y, 0), 0)
    for step in (1, 16):
        np.testing.assert_allclose(place(wcs, shape, step=step, order=order).dense(), np.stack(expected, -1), atol=2e-6)


def test_a_coarse_map_with_holes_is_worked_out_pixel_by_pixel():
    class Holed(FrameWCS):
        def pixel_to_world_values(self, x, y):
            lon, lat = super().pixel_to_world_values(x, y)
            return np.where(x > 40, np.nan, lon), lat

    dense = place(Holed(sip_wcs()), step=4, order=1).dense()
    np.testing.assert_allclose(dense[:, :41], place(sip_wcs()).dense()[:, :41], atol=2e-6)
    assert np.isnan(dense[:, 41:]).all()


def test_galactic_and_equatorial_images_are_not_mixed():
    galactic = tan_wcs()
    galactic.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    galactic.wcs.set()
    with pytest.raises(
        UnsupportedWCSError, match=r"longitude of a.fits is pos.galactic.lon, that of the output pos.eq"
    ):
        place(galactic)


def test_an_image_and_a_spectrum_are_not_mixed():
    spectral = FrameWCS(tan_wcs(), axes_type=("SPATIAL", "SPATIAL", "SPECTRAL"))
    message = "The WCS of a.fits has 2 coordinate axes, that of the output 3; they must agree"
    with pytest.raises(UnsupportedWCSError, match=message):
        map_between(pixel_frame(tan_wcs(), "a.fits"), pixel_frame(spectral, "the output"), "a.fits")


def test_only_images_and_spectra_are_outputs():
    check_axes(FrameWCS(tan_wcs(), axes_type=("SPATIAL", "SPATIAL", "SPECTRAL")), "the output")
    with pytest.raises(UnsupportedWCSError, match=r"imaging WCS of the output has 3 coordinate axes; it must have 2"):
        check_axes(FrameWCS(tan_wcs(), axes_type=("SPATIAL", "SPATIAL", "TIME")), "the output")
    with pytest.raises(UnsupportedWCSError, match=r"spectral WCS of the output has 2 coordinate axes; it must have 3"):
        check_axes(FrameWCS(tan_wcs(), axes_type=("SPATIAL", "SPECTRAL")), "the output")
    cube = WCS(naxis=4)
    cube.wcs.ctype = ["RA---TAN", "DEC--TAN", "FREQ", "STOKES"]
    with pytest.raises(UnsupportedWCSError, match=r"has 4 coordinate axes, 2 of them on the sky; it must have 2"):
        check_axes(cube, "the output")
    with pytest.raises(UnsupportedWCSError, match=r"has 2 coordinate axes, 0 of them on the sky"):
        check_axes(WCS(naxis=2), "the output")


def test_what_is_no_wcs_is_named():
    with pytest.raises(
        TypeError, match=r"The WCS of a.fits is a str without 'output_frame'; it must be an astropy.wcs"
    ):
        pixel_frame("WCS", "a.fits")


@pytest.mark.parametrize("make", [tan_wcs, sip_wcs, tpv_wcs])
def test_the_mean_pixel_area_is_the_mean_over_all_pixels(make):
    wcs = make()
    area = mean_pixel_area(pixel_frame(wcs, "a.fits")) * ARCSEC_PER_RADIAN**2
    centres = [(axis[:-1, :-1] + 0.5).ravel() for axis in (X.reshape(SHAPE), Y.reshape(SHAPE))]
    # the outline runs through the outermost pixels' centres; its straight pieces cut the curved edges
    assert area == pytest.approx(pixel_area_arcsec2(wcs, *centres).mean(), rel=1e-5)


def test_the_area_of_small_pixels_loses_no_digits():
    wcs = tan_wcs(scale=1e-4)
    area = mean_pixel_area(pixel_frame(wcs, "a.fits")) * ARCSEC_PER_RADIAN**2
    assert area == pytest.approx(1e-8, rel=1e-8)


def test_the_area_is_that_inside_the_bounding_box():
    box = ((10.0, 30.0), (5.0, 25.0))
    boxed = mean_pixel_area(pixel_frame(FrameWCS(sip_wcs(), bounding_box=box), "a.fits"))
    x, y, _ = outline(10, 29, 5, 24)
    assert boxed == pytest.approx(solid_angle(*sip_wcs().all_pix2world(x, y, 0)) / 19**2, rel=1e-12)
    assert boxed != mean_pixel_area(pixel_frame(sip_wcs(), "a.fits"))


def test_edges_off_the_sky_are_left_out_of_the_area():
    class Horizon(FrameWCS):
        def pixel_to_world_values(self, x, y):
            lon, lat = super().pixel_to_world_values(x, y)
            return np.where((x > 45) | (y < 3), np.nan, lon), lat

    area = mean_pixel_area(pixel_frame(Horizon(tan_wcs()), "a.fits")) * ARCSEC_PER_RADIAN**2
    assert area == pytest.approx(SCALE**2, rel=1e-6)
    nowhere = FrameWCS(tan_wcs(centre=(CENTRE[0], 54.1)), bounding_box=((60.0, 70.0), (0.0, 1.0)))
    assert mean_pixel_area(pixel_frame(nowhere, "a.fits")) is None


def test_an_area_needs_a_shape():
    wcs = tan_wcs()
    wcs.array_shape = None
    with pytest.raises(ValueError, match="The mean pixel area needs the shape of the image: set 'array_shape'"):
        mean_pixel_area(pixel_frame(wcs, "a.fits"))


def test_solid_angles_of_large_and_small_polygons():
    octant = solid_angle(np.array([0.0, 90.0, 0.0]), np.array([0.0, 0.0, 90.0]))
    assert octant == pytest.approx(math.pi / 2, rel=1e-14)
    circle = np.linspace(0, 360, 2000, endpoint=False)
    cap = solid_angle(circle, np.full(2000, 60.0))
    assert cap == pytest.approx(2 * math.pi * (1 - math.sin(math.radians(60))), rel=1e-5)
    assert solid_angle(circle[::-1], np.full(2000, 60.0)) == pytest.approx(cap, rel=1e-14)
