"""The simulated survey: what is on the sky, what the camera does to it, and that its truth is the truth."""

from itertools import combinations

import galsim
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.errors import ConfigError, UnknownExposureError
from tasks.products.dq import DQFlag
from tasks.products.images import Photometry, Window
from tasks.products.raw_survey import RAW_FLAG_BAD, RAW_FLAG_COSMIC, RAW_FLAG_SATURATED
from tasks.products.simulated_survey import (
    CameraParameters,
    DefectParameters,
    FieldParameters,
    GalaxyParameters,
    PointingParameters,
    StarParameters,
    SurveyParameters,
)
from tasks.science.camera_model import dither_offsets_arcsec, local_jacobians
from tasks.science.detector_effects import add_cosmic_rays, bleed_along_columns, read_out
from tasks.science.profiles import galaxy_profile
from tasks.science.simulation import (
    build_survey,
    ccd_wcs,
    circle_around_ccd,
    draw_objects,
    simulate_ccd,
    simulate_exposure,
    stars_in_circle,
    static_defects,
    true_psf_stamp,
)
from tasks.science.sky_catalog import SparsePlane, draw_ellipticities, draw_magnitudes, make_galaxies

FIRST = "2113700"
SECOND = "2113701"

NO_STARS = StarParameters(density_arcmin2=0.0, n_bright=0)
NO_GALAXIES = GalaxyParameters(density_arcmin2=0.0)
NO_DEFECTS = DefectParameters(n_bad_columns=0, n_dead=0, n_hot=0, n_warm=0, n_cosmic_rays=0)
SMALL_CAMERA = CameraParameters(
    n_columns=2, n_rows=1, ccd_width_px=160, ccd_height_px=128, gap_arcsec=2.0, distortion_arcsec=0.3
)
SMALL_FIELD = FieldParameters(width_deg=0.012, height_deg=0.006)
SHORT_DITHERS = PointingParameters(n_per_pointing=2, dither_ra_arcsec=4.0, dither_dec_arcsec=3.0)


def small_survey(**changes):
    """Two exposures of two CCDs of 160 x 128 pixels, with six galaxies and about 15 stars."""
    settings = {
        "seed": 5,
        "field": SMALL_FIELD,
        "camera": SMALL_CAMERA,
        "pointing": SHORT_DITHERS,
        "galaxies": GalaxyParameters(density_arcmin2=24.0),
        "stars": StarParameters(density_arcmin2=30.0, n_bright=1, faint_magnitude=20.0),
    }
    return build_survey(SurveyParameters(**(settings | changes)))


def sky_offsets(wcs, x, y, ra, dec):
    """Offsets of pixels from a place on the sky in arcsec, towards West and North, by the coordinates alone."""
    pixel_ra, pixel_dec = wcs.all_pix2world(x, y, 0)
    return -(pixel_ra - ra) * np.cos(np.radians(dec)) * 3600.0, (pixel_dec - dec) * 3600.0


# --- the sky ----------------------------------------------------------------------------------------------------------


def test_members_of_a_pair_differ_by_a_rotation_of_90_degrees():
    galaxies = small_survey().galaxies
    first, second = slice(0, None, 2), slice(1, None, 2)

    assert len(galaxies) == 6
    assert galaxies.pair_id.tolist() == [1, 1, 2, 2, 3, 3]
    assert np.array_equal(galaxies.mag[first], galaxies.mag[second])
    assert np.array_equal(galaxies.half_light_radius[first], galaxies.half_light_radius[second])
    assert np.array_equal(galaxies.sersic_index[first], galaxies.sersic_index[second])
    angle = np.degrees(np.arctan2(galaxies.e2, galaxies.e1) / 2)
    assert np.allclose(np.abs(angle[first] - angle[second]), 90.0)
    assert np.allclose(np.hypot(galaxies.e1, galaxies.e2)[first], np.hypot(galaxies.e1, galaxies.e2)[second])


def test_objects_keep_their_distance():
    survey = small_survey(galaxies=GalaxyParameters(density_arcmin2=60.0, min_separation_arcsec=3.0))
    ra = np.concatenate([survey.galaxies.ra, survey.stars.ra])
    dec = np.concatenate([survey.galaxies.dec, survey.stars.dec])
    places = np.stack([ra * np.cos(np.radians(dec.mean())), dec], axis=1) * 3600.0

    assert min(np.hypot(*(a - b)) for a, b in combinations(places, 2)) > 2.99


def test_a_field_that_is_too_full_is_refused():
    with pytest.raises(ConfigError, match=r"Only \d+ of 52 simulated objects fit .* at least 9 arcsec apart"):
        small_survey(galaxies=GalaxyParameters(density_arcmin2=200.0, min_separation_arcsec=9.0))


def test_without_a_minimum_separation_objects_may_overlap():
    points = SparsePlane(0.0).throw(500, (1.0, 2.0), np.random.default_rng(0))

    assert np.abs(points).max(axis=0) == pytest.approx([1.0, 2.0], abs=0.02)


def test_counts_grow_with_magnitude_as_asked():
    rng = np.random.default_rng(1)
    magnitude = draw_magnitudes(200_000, 20.0, 24.0, 0.3, rng)
    bright, faint = np.count_nonzero(magnitude < 22.0), np.count_nonzero(magnitude >= 22.0)

    assert 20.0 <= magnitude.min() < 20.05
    assert 23.99 < magnitude.max() <= 24.0
    assert faint / bright == pytest.approx(10.0 ** (0.3 * 2.0), rel=0.03)
    assert draw_magnitudes(100_000, 20.0, 24.0, 0.0, rng).mean() == pytest.approx(22.0, abs=0.02)


def test_ellipticities_have_the_dispersion_asked_for_and_no_direction():
    e1, e2 = draw_ellipticities(100_000, 0.15, np.random.default_rng(2))

    assert e1.std() == pytest.approx(0.15, rel=0.02)
    assert e2.std() == pytest.approx(0.15, rel=0.02)
    assert abs(e1.mean()) < 0.002
    assert np.hypot(e1, e2).max() < 0.6
    assert not np.any(draw_ellipticities(3, 0.0, np.random.default_rng(2)))


def test_one_fraction_is_needed_for_each_sersic_index():
    galaxies = GalaxyParameters(sersic_indices=(1.0, 4.0), sersic_fractions=(1.0,))

    with pytest.raises(ConfigError, match="There are 2 Sérsic indices but 1 fractions"):
        make_galaxies(SparsePlane(1.0), SMALL_FIELD, galaxies, np.random.default_rng(0))


def test_another_seed_gives_another_sky():
    assert not np.array_equal(small_survey(seed=5).galaxies.ra, small_survey(seed=6).galaxies.ra)


def test_the_shear_of_the_settings_is_the_shear_of_every_galaxy():
    galaxies = small_survey(galaxies=GalaxyParameters(density_arcmin2=24.0, shear_g1=0.03, shear_g2=-0.02)).galaxies

    assert set(galaxies.g1) == {0.03}
    assert set(galaxies.g2) == {-0.02}


def test_a_star_catalogue_holds_the_bright_stars_around_the_ccd():
    survey = small_survey(stars=StarParameters(density_arcmin2=60.0, n_bright=2, catalog_limit=19.0))
    ra, dec, radius = circle_around_ccd(survey, FIRST, 0)
    near = stars_in_circle(survey, (ra, dec, radius))
    x, y = ccd_wcs(survey, FIRST, 0).all_world2pix(survey.stars.ra, survey.stars.dec, 0)
    on_ccd = (np.abs(x - 79.5) < 79) & (np.abs(y - 63.5) < 63) & (survey.stars.mag <= 19.0)

    assert radius == pytest.approx(0.187 * np.hypot(80, 64) / 60, rel=0.03)
    assert on_ccd.sum() >= 2
    assert set(np.flatnonzero(on_ccd)) <= set(near)
    assert (survey.stars.mag[near] <= 19.0).all()


# --- camera and coordinates -------------------------------------------------------------------------------------------


def test_dithers_change_sides_and_never_repeat():
    offsets = dither_offsets_arcsec(PointingParameters())

    assert offsets.shape == (6, 2)
    assert np.sign(offsets[:, 0]).tolist() == [-1, 1, -1, 1, -1, 1]
    assert min(abs(a - b) for a, b in combinations(np.abs(offsets[::2, 0]), 2)) > 3.0
    assert np.abs(offsets[:, 1]).max() <= 25.0


def test_several_pointings_share_the_field():
    pointing = PointingParameters(n_columns=2, n_rows=3, n_per_pointing=1, dither_ra_arcsec=0, dither_dec_arcsec=0)
    survey = small_survey(pointing=pointing, stars=NO_STARS)

    dec = sorted({round((pointing.dec - 30.0) / 0.006, 2) for pointing in survey.pointings})
    assert len(survey.exposures) == 6
    assert survey.exposures[-1] == "2113705"
    assert dec == pytest.approx([-0.33, 0.0, 0.33], abs=0.01)


def test_distortion_moves_the_corner_of_the_focal_plane_by_the_amount_asked_for():
    camera = CameraParameters(n_columns=1, n_rows=1, gap_arcsec=0.0, distortion_arcsec=2.0)
    survey = build_survey(SurveyParameters(camera=camera, stars=NO_STARS, galaxies=NO_GALAXIES))
    straight = build_survey(
        SurveyParameters(
            camera=camera.model_copy(update={"distortion_arcsec": 0.0}), stars=NO_STARS, galaxies=NO_GALAXIES
        )
    )
    ra, dec = ccd_wcs(survey, FIRST, 0).all_pix2world(-0.5, -0.5, 0)
    x, y = ccd_wcs(straight, FIRST, 0).all_world2pix(ra, dec, 0)

    assert np.hypot(x + 0.5, y + 0.5) * 0.187 == pytest.approx(2.0, rel=0.2)


def test_jacobians_are_the_derivatives_of_the_sky():
    survey = small_survey()
    wcs = ccd_wcs(survey, FIRST, 1)
    ra, dec = wcs.all_pix2world(40.0, 70.0, 0)
    du, dv = sky_offsets(wcs, np.array([41.0, 40.0]), np.array([70.0, 71.0]), ra, dec)
    jacobian = local_jacobians(wcs, np.array([40.0]), np.array([70.0]))[0]

    assert jacobian == pytest.approx(np.array([du, dv]), abs=1e-5)
    assert np.linalg.det(jacobian) > 0
    assert jacobian[0, 0] > 0.18


# --- light ------------------------------------------------------------------------------------------------------------


def test_stars_stand_where_the_coordinates_say():
    survey = small_survey(galaxies=NO_GALAXIES, stars=StarParameters(density_arcmin2=20.0, n_bright=0))
    n_seen = 0
    for exposure in survey.exposures:
        for ccd in range(2):
            image, wcs = draw_objects(survey, exposure, ccd), ccd_wcs(survey, exposure, ccd)
            for x, y in zip(*wcs.all_world2pix(survey.stars.ra, survey.stars.dec, 0), strict=True):
                if 20 < x < 139 and 20 < y < 107:
                    column, row = round(x), round(y)
                    stamp = galsim.Image(image[row - 12 : row + 13, column - 12 : column + 13].copy())
                    center = galsim.hsm.FindAdaptiveMom(stamp).moments_centroid
                    assert center.x - 13 + column == pytest.approx(x, abs=0.005)
                    assert center.y - 13 + row == pytest.approx(y, abs=0.005)
                    n_seen += 1
    assert n_seen >= 3


def test_flux_agrees_with_magnitude_and_zero_point():
    survey = small_survey(
        galaxies=NO_GALAXIES,
        stars=StarParameters(density_arcmin2=0.0, n_bright=1, brightest_magnitude=18.0, bright_magnitude=18.2),
        pointing=SHORT_DITHERS.model_copy(update={"dither_ra_arcsec": 0.0}),
        camera=SMALL_CAMERA.model_copy(update={"n_columns": 1, "ccd_height_px": 160}),
        seed=11,
    )
    zero_point = survey.pointing(FIRST).zero_point

    measured = zero_point - 2.5 * np.log10(draw_objects(survey, FIRST, 0).sum())

    assert measured == pytest.approx(survey.stars.mag[0], abs=0.01)


@pytest.mark.parametrize(("g1", "g2"), [(0.1, 0.0), (0.0, 0.1), (-0.1, 0.05)])
def test_shear_stretches_along_the_sky_as_the_convention_says(g1, g2):
    """Moments in right ascension and declination themselves: the sign does not depend on any Jacobian of ours."""
    survey = small_survey(
        stars=NO_STARS,
        galaxies=GalaxyParameters(
            density_arcmin2=12.0,
            ellipticity_rms=0.25,
            shear_g1=g1,
            shear_g2=g2,
            min_separation_arcsec=8.0,
            sersic_indices=(1.0,),
            sersic_fractions=(1.0,),
            size_at_22_arcsec=0.6,
        ),
        pointing=PointingParameters(
            n_per_pointing=1, dither_ra_arcsec=0, dither_dec_arcsec=0, rotation_deg=40.0, psf_ellipticity=0.0
        ),
        camera=CameraParameters(n_columns=1, n_rows=1, ccd_width_px=320, ccd_height_px=320, distortion_arcsec=1.0),
    )
    image, wcs = draw_objects(survey, FIRST, 0), ccd_wcs(survey, FIRST, 0)
    moments = []
    for ra, dec in zip(survey.galaxies.ra, survey.galaxies.dec, strict=True):
        x, y = (int(value) for value in np.rint(wcs.all_world2pix(ra, dec, 0)))
        rows, columns = np.mgrid[y - 24 : y + 25, x - 24 : x + 25]
        u, v = sky_offsets(wcs, columns, rows, ra, dec)
        light = image[rows, columns] * np.exp(-0.5 * (u**2 + v**2) / 0.6**2)
        light /= light.sum()
        moments.append([(light * (u**2 - v**2)).sum(), 2 * (light * u * v).sum(), (light * (u**2 + v**2)).sum()])
    difference, cross, size = np.mean(moments, axis=0)
    response = np.hypot(difference, cross) / size / np.hypot(g1, g2)

    assert len(survey.galaxies) >= 4
    assert 0.3 < response < 1.5
    assert difference / size == pytest.approx(response * g1, abs=0.012)
    assert cross / size == pytest.approx(response * g2, abs=0.012)


def test_galaxies_show_intrinsic_shape_and_shear_together():
    """The shear acts as in Seitz & Schneider (1997), eq. 3.2, so that pairs average to the shear."""
    settings = GalaxyParameters(density_arcmin2=80.0, min_separation_arcsec=1.0, shear_g1=0.04, shear_g2=-0.03)
    galaxies = small_survey(galaxies=settings, stars=NO_STARS).galaxies
    shear, measured = complex(0.04, -0.03), []
    for i in range(len(galaxies)):
        scale = float(galaxies.half_light_radius[i]) / 15
        image = galaxy_profile(galaxies, i).drawImage(nx=129, ny=129, scale=scale, method="no_pixel")
        shape = galsim.hsm.FindAdaptiveMom(image).observed_shape
        intrinsic = complex(galaxies.e1[i], galaxies.e2[i])
        expected = (intrinsic + shear) / (1 + shear.conjugate() * intrinsic)
        measured.append(complex(shape.g1, shape.g2))
        assert abs(measured[-1] - expected) < 0.01

    assert len(measured) >= 20
    assert np.mean(measured) == pytest.approx(shear, abs=0.004)


def test_the_psf_changes_over_the_ccd_and_between_exposures():
    survey = small_survey()
    here = true_psf_stamp(survey, FIRST, 0, 10.0, 10.0, size=31)
    there = true_psf_stamp(survey, FIRST, 1, 150.0, 120.0, size=31)
    later = true_psf_stamp(survey, SECOND, 0, 10.0, 10.0, size=31)

    assert here.shape == (31, 31)
    assert here.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.unravel_index(here.argmax(), here.shape) == (15, 15)
    assert np.abs(here - there).max() > 1e-4
    assert np.abs(here - later).max() > 1e-4


def test_the_psf_has_the_width_and_shear_of_its_truth():
    pointing = SHORT_DITHERS.model_copy(update={"rotation_deg": 0.0, "psf_ellipticity": 0.05})
    camera = SMALL_CAMERA.model_copy(update={"ccd_rotation_deg": 0.0, "distortion_arcsec": 0.0})
    survey = small_survey(pointing=pointing, camera=camera)
    zero = np.array([0.0])
    fwhm, g1, g2 = (float(value[0]) for value in survey.pointing(FIRST).psf.at(zero, zero))
    # the middle of the focal plane lies half a gap and half a CCD to the right of CCD 0
    stamp = true_psf_stamp(survey, FIRST, 0, 79.5 + 80 + 1.0 / 0.187, 63.5)
    shape = galsim.hsm.FindAdaptiveMom(galsim.Image(stamp, scale=0.187))
    model = galsim.Moffat(beta=3.5, fwhm=fwhm).shear(g1=g1, g2=g2).drawImage(nx=51, ny=51, scale=0.187)

    assert shape.moments_sigma == pytest.approx(galsim.hsm.FindAdaptiveMom(model).moments_sigma, rel=1e-3)
    assert shape.observed_shape.g1 == pytest.approx(g1, abs=0.15 * abs(g1) + 1e-4)
    assert shape.observed_shape.g2 == pytest.approx(g2, abs=0.15 * abs(g2) + 1e-4)


# --- detector ---------------------------------------------------------------------------------------------------------


def test_noise_is_that_of_sky_and_read_out_and_the_weight_says_so():
    survey = small_survey(stars=NO_STARS, galaxies=NO_GALAXIES, defects=NO_DEFECTS)
    ccd = simulate_ccd(survey, FIRST, 0)
    window = ccd.data_section.slices
    values, weight = ccd.adu[window].astype(float), ccd.weight[window]
    sky = survey.pointing(FIRST).sky_level

    assert values.mean() == pytest.approx(sky, rel=0.05)
    slope = np.linalg.lstsq(
        np.stack([np.ones(values.size), *(axis.ravel() for axis in np.indices(values.shape))], axis=1),
        values.ravel(),
        rcond=None,
    )[0]
    rows, columns = np.indices(values.shape)
    residual = values - (slope[0] + slope[1] * rows + slope[2] * columns)
    assert np.mean(residual**2 * weight) == pytest.approx(1.0, abs=4 * np.sqrt(2 / values.size))
    assert residual.var() == pytest.approx(sky / 1.6 + (5.0 / 1.6) ** 2, rel=0.05)


def test_the_sky_is_not_flat_and_not_subtracted():
    pointing = SHORT_DITHERS.model_copy(update={"sky_gradient": 0.3})
    survey = small_survey(pointing=pointing, stars=NO_STARS, galaxies=NO_GALAXIES, defects=NO_DEFECTS)
    first, second = (simulate_ccd(survey, SECOND, ccd).adu[4:-4, 8:-8] for ccd in (0, 1))

    assert first.mean() > 500
    assert abs(first.mean() - second.mean()) > 0.02 * first.mean()


def test_a_ccd_is_the_same_whatever_was_drawn_before_it():
    survey = small_survey()
    alone = simulate_ccd(survey, SECOND, 1)
    later = simulate_exposure(build_survey(survey.parameters), SECOND)[1]

    assert np.array_equal(alone.adu, later.adu)
    assert np.array_equal(alone.weight, later.weight)
    assert np.array_equal(alone.flag, later.flag)
    assert not np.array_equal(alone.adu, simulate_ccd(survey, FIRST, 1).adu)


MANY_DEFECTS = DefectParameters(n_bad_columns=100, n_dead=2000, n_hot=2000, n_warm=4000, n_cosmic_rays=100)


def test_pixels_that_the_reference_calls_bad_are_bad():
    survey = small_survey(stars=NO_STARS, galaxies=NO_GALAXIES, defects=MANY_DEFECTS)
    ccd, mask = simulate_ccd(survey, FIRST, 0), static_defects(survey.parameters, 0, 0).dq
    inside = np.zeros(mask.shape, bool)
    inside[ccd.data_section.slices] = True
    values, hit = ccd.adu.astype(float), (ccd.flag & RAW_FLAG_COSMIC) != 0
    good = inside & (mask == 0) & ~hit
    sky, noise = np.median(values[good]), values[good].std()

    def pixels(flag):
        return inside & ~hit & ((mask & np.uint32(flag)) != 0)

    dead, hot, warm = (pixels(flag) & (mask != 0) for flag in (DQFlag.DEAD, DQFlag.HOT, DQFlag.WARM))
    assert min(dead.sum(), hot.sum(), warm.sum()) >= 20
    assert values[dead & ~hot & ~warm].max() < 0.2 * sky
    assert values[hot].min() > sky * 0.05 + 1500
    assert (values[warm & ~dead & ~hot] - sky).mean() > 5 * noise
    assert ((mask[~inside] & np.uint32(DQFlag.NON_SCIENCE)) != 0).all()
    assert not (mask[inside] & np.uint32(DQFlag.NON_SCIENCE)).any()
    assert not values[~inside].any()


def test_the_camera_itself_knows_dead_pixels_but_not_hot_ones():
    survey = small_survey(stars=NO_STARS, galaxies=NO_GALAXIES, defects=MANY_DEFECTS)
    ccd, mask = simulate_ccd(survey, FIRST, 0), static_defects(survey.parameters, 0, 0).dq
    dead = (mask & np.uint32(DQFlag.DEAD)) != 0
    hot = ((mask & np.uint32(DQFlag.HOT)) != 0) & ~dead
    cosmic = (ccd.flag & RAW_FLAG_COSMIC) != 0
    inside = np.zeros(mask.shape, bool)
    inside[ccd.data_section.slices] = True

    assert np.array_equal((ccd.flag & RAW_FLAG_BAD) != 0, dead)
    assert np.array_equal(ccd.weight > 0, inside & ~dead & ~cosmic)
    assert (ccd.weight[hot & inside & ~cosmic] > 0).all()


def test_detectors_grow_older_at_the_reference_dates():
    parameters = small_survey(defects=MANY_DEFECTS).parameters
    section = parameters.camera.data_section.slices
    young, old = (static_defects(parameters, 1, period).dq[section] for period in (0, 1))
    other = static_defects(parameters, 0, 0).dq[section]

    assert np.array_equal(old & young, young)
    assert np.count_nonzero(old) > 1.05 * np.count_nonzero(young)
    assert not np.array_equal(other, young)


def test_an_exposure_shows_the_defects_of_its_date():
    dates = ("2016-01-01 00:00:00", "2016-03-01 00:00:00")  # the exposures are of 2016-02-11 and 2016-03-12
    defects = MANY_DEFECTS.model_copy(update={"reference_dates": dates, "n_cosmic_rays": 0.0})
    survey = small_survey(stars=NO_STARS, galaxies=NO_GALAXIES, defects=defects)
    young, old = (static_defects(survey.parameters, 0, period).dq for period in (0, 1))
    new = ((old & ~young) & np.uint32(DQFlag.HOT)) != 0
    new[:4], new[-4:], new[:, :8], new[:, -8:] = False, False, False, False
    level = 1.3 * survey.pointing(SECOND).sky_level

    assert new.sum() >= 3
    assert (simulate_ccd(survey, FIRST, 0).adu[new] < level).mean() > 0.8
    assert (simulate_ccd(survey, SECOND, 0).adu[new] > level).all()


def test_an_exposure_before_the_first_reference_date_is_refused():
    defects = DefectParameters(reference_dates=("2017-01-01 00:00:00",))

    with pytest.raises(ConfigError, match=r"Exposure 2113700 is taken at MJD 57429\.2500, before the first reference"):
        small_survey(defects=defects)


def test_reference_dates_out_of_order_are_refused():
    defects = DefectParameters(reference_dates=("2016-05-01 00:00:00", "2015-01-01 00:00:00"))

    with pytest.raises(ConfigError, match="are not in time order"):
        small_survey(defects=defects)


def test_an_unknown_exposure_is_refused():
    with pytest.raises(UnknownExposureError, match="no exposure 1234567: it has 2113700 to 2113701"):
        small_survey().pointing("1234567")


def test_a_bright_star_saturates_and_bleeds_along_its_column():
    survey = small_survey(
        galaxies=NO_GALAXIES,
        stars=StarParameters(density_arcmin2=0.0, n_bright=1, brightest_magnitude=14.0, bright_magnitude=14.1),
        camera=SMALL_CAMERA.model_copy(update={"n_columns": 1, "ccd_height_px": 160}),
        defects=NO_DEFECTS,
        seed=11,
    )
    ccd = simulate_ccd(survey, FIRST, 0)
    rows, columns = np.nonzero((ccd.flag & RAW_FLAG_SATURATED) != 0)

    assert ccd.adu.max() == 60000
    assert (ccd.adu[rows, columns] == 60000).all()
    assert np.ptp(rows) > 2 * np.ptp(columns)
    assert (ccd.weight[rows, columns] > 0).all()


def test_bleeding_keeps_the_charge():
    electrons = np.zeros((40, 3))
    electrons[20, 1], electrons[10, 0] = 1050.0, 70.0

    full = bleed_along_columns(electrons, 100.0)

    assert electrons.sum() == pytest.approx(1120.0)
    assert electrons.max() == pytest.approx(100.0)
    assert np.flatnonzero(electrons[:, 1]).tolist() == list(range(15, 26))
    assert full.sum() == 9
    assert electrons[10, 0] == 70.0


def test_an_image_without_excess_does_not_bleed():
    electrons = np.full((5, 4), 99.0)

    assert not bleed_along_columns(electrons, 100.0).any()
    assert (electrons == 99.0).all()


def test_a_cosmic_ray_is_a_straight_track():
    electrons, section = np.zeros((300, 300)), Window(0, 0, 300, 300)
    defects = DefectParameters(n_cosmic_rays=12.0, cosmic_ray_length_px=30.0)

    hit = add_cosmic_rays(electrons, section, defects, np.random.default_rng(10))

    rows, columns = np.nonzero(hit)
    across, along = np.sqrt(np.linalg.eigvalsh(np.cov(rows, columns)))
    assert len(rows) > 10
    assert along > 5.0
    assert across < 0.5


def test_cosmic_rays_stay_inside_the_data_section():
    electrons, section = np.zeros((200, 240)), Window(20, 10, 220, 190)
    defects = DefectParameters(n_cosmic_rays=400.0, cosmic_ray_electrons=1000.0)

    hit = add_cosmic_rays(electrons, section, defects, np.random.default_rng(4))

    outside = np.ones(electrons.shape, bool)
    outside[section.slices] = False
    assert hit.sum() > 50
    assert np.array_equal(hit, electrons > 0)
    assert not hit[outside].any()


def test_read_out_rounds_to_whole_numbers_of_16_bits():
    photometry = Photometry(2.0, 0.0, 65535.0, 1.0, 30.0, 57000.0, "r")
    electrons = np.array([[0.0, 101.0, 2.0 * 65535.0, 1e6, -5.0]])

    result = read_out(electrons, photometry, Window(0, 0, 5, 1), np.random.default_rng(0))

    assert result.adu.dtype == np.uint16
    assert result.adu.tolist() == [[0, 50, 65535, 65535, 0]]
    assert result.saturated.tolist() == [[False, False, True, True, False]]


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (GalaxyParameters, {"shear_g1": 0.5}),
        (CameraParameters, {"saturation": 70000.0}),
        (DefectParameters, {"reference_dates": ("2016-05-01",)}),
        (SurveyParameters, {"galaxy": {}}),
    ],
)
def test_settings_out_of_bounds_are_refused(model, settings):
    with pytest.raises(ValidationError):
        model(**settings)
