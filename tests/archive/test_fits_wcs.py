"""Headers of ground-based cameras give the right sky, and bad ones a sentence that says what is wrong."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from tasks.archive.fits_wcs import (
    read_wcs,
    read_wcs_text,
    wcs_cards,
    wcs_cards_text,
    wcs_to_header,
    wcs_to_header_text,
)
from tasks.errors import WCSError

SCALE = 0.187 / 3600
TERMS = {
    (1, 0): 1e-4, (1, 1): 1.0012, (1, 2): -3e-4, (1, 4): 2.1e-3, (1, 5): -1.3e-3, (1, 6): 7e-4, (1, 7): 0.011,
    (2, 0): -2e-4, (2, 1): 0.9991, (2, 2): 5e-4, (2, 4): -1.7e-3, (2, 5): 8e-4, (2, 6): 1.1e-3, (2, 7): -0.009,
    (1, 9): -0.004, (2, 10): 0.003,
}  # fmt: skip


def make_header(projection="TPV", *, terms=TERMS):
    header = fits.Header()
    header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 2, 2112, 4644
    header["CTYPE1"], header["CTYPE2"] = f"RA---{projection}", f"DEC--{projection}"
    header["CRVAL1"], header["CRVAL2"] = 213.7654321, 54.1234567
    header["CRPIX1"], header["CRPIX2"] = -3120.25, 4711.75
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -SCALE, 1e-7, 2e-7, SCALE
    for (axis, term), value in terms.items():
        header[f"PV{axis}_{term}"] = value
    return header


def pixels(n=500):
    rng = np.random.default_rng(7)
    return rng.uniform(0, 2112, n), rng.uniform(0, 4644, n)


def sky_of_polynomial(x, y, *, terms=TERMS):
    """Sky of 0-based pixels by the formulas of the TPV convention, with astropy's spherical offsets for the rest."""
    header = make_header()
    dx, dy = x + 1 - header["CRPIX1"], y + 1 - header["CRPIX2"]
    xi = header["CD1_1"] * dx + header["CD1_2"] * dy
    eta = header["CD2_1"] * dx + header["CD2_2"] * dy
    r = np.hypot(xi, eta)

    def polynomial(axis, a, b):
        powers = [1, a, b, r, a**2, a * b, b**2, a**3, a**2 * b, a * b**2, b**3]
        return sum(terms.get((axis, term), 1.0 if term == 1 else 0.0) * power for term, power in enumerate(powers))

    east, north = np.radians(polynomial(1, xi, eta)), np.radians(polynomial(2, eta, xi))
    centre = SkyCoord(header["CRVAL1"] * u.deg, header["CRVAL2"] * u.deg)
    sky = centre.directional_offset_by(np.arctan2(east, north) * u.rad, np.arctan(np.hypot(east, north)) * u.rad)
    return sky.ra.deg, sky.dec.deg


def test_tpv_gives_the_sky_of_its_polynomial():
    x, y = pixels()
    ra, dec = read_wcs(make_header()).all_pix2world(x, y, 0)
    expected_ra, expected_dec = sky_of_polynomial(x, y)
    np.testing.assert_allclose(ra, expected_ra, rtol=0, atol=1e-9)
    np.testing.assert_allclose(dec, expected_dec, rtol=0, atol=1e-9)


def test_tan_with_pv_terms_is_the_sky_of_tpv():
    x, y = pixels()
    tpv, tan = read_wcs(make_header("TPV")), read_wcs(make_header("TAN"))
    for first, second in zip(tpv.all_pix2world(x, y, 0), tan.all_pix2world(x, y, 0), strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-9)


def test_the_linear_term_is_one_where_a_header_leaves_it_out():
    terms = {key: value for key, value in TERMS.items() if key[1] != 1}
    x, y = pixels()
    ra, dec = read_wcs(make_header("TAN", terms=terms)).all_pix2world(x, y, 0)
    expected_ra, expected_dec = sky_of_polynomial(x, y, terms=terms)
    np.testing.assert_allclose(ra, expected_ra, rtol=0, atol=1e-9)
    np.testing.assert_allclose(dec, expected_dec, rtol=0, atol=1e-9)


def test_plain_tan_ignores_the_pv_terms_that_place_the_pole():
    plain, with_pole = make_header("TAN", terms={}), make_header("TAN", terms={(1, 3): 180.0, (1, 4): 0.0})
    assert read_wcs(with_pole).wcs.ctype[0] == "RA---TAN"
    x, y = pixels()
    np.testing.assert_array_equal(read_wcs(with_pole).all_pix2world(x, y, 0), read_wcs(plain).all_pix2world(x, y, 0))


def test_sip_keeps_its_distortion_and_drops_pv_terms_beside_it():
    header = make_header("TAN-SIP", terms={})
    header["A_ORDER"], header["B_ORDER"], header["A_2_0"], header["B_0_2"] = 2, 2, 1.5e-7, -2.5e-7
    x, y = pixels()
    expected = WCS(header).all_pix2world(x, y, 0)
    both = header.copy()
    both.update({"PV1_1": 1.02, "PV2_1": 0.98})
    np.testing.assert_allclose(read_wcs(header).all_pix2world(x, y, 0), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(read_wcs(both).all_pix2world(x, y, 0), expected, rtol=0, atol=1e-12)


def test_the_header_is_not_changed_and_old_keywords_leak_no_warning():
    header = make_header("TAN")
    header["RADECSYS"], header["EQUINOX"] = "FK5", 2000.0
    header["DATE-OBS"], header["MJD-OBS"], header["CUNIT1"], header["CUNIT2"] = "2017-03-16", 57000.0, "degree", "deg"
    before = header.tostring()
    read_wcs(header)
    assert header.tostring() == before


@pytest.mark.parametrize("projection", ["TPV", "TAN"])
def test_a_wcs_survives_the_way_through_text(projection):
    wcs = read_wcs(make_header(projection))
    x, y = pixels()
    expected = wcs.all_pix2world(x, y, 0)
    for back in (
        read_wcs(wcs_to_header(wcs)),
        read_wcs_text(wcs_to_header_text(wcs)),
        read_wcs_text(wcs_cards_text(make_header(projection))),
    ):
        np.testing.assert_allclose(back.all_pix2world(x, y, 0), expected, rtol=0, atol=1e-11)


def test_text_holds_nothing_but_the_coordinate_system():
    header = make_header()
    header["EXPTIME"] = 200.0
    assert "EXPTIME" not in wcs_cards(header)
    assert "NAXIS1" not in wcs_cards(header)


def test_the_image_size_comes_along_also_from_a_compressed_header():
    assert read_wcs(make_header()).pixel_shape == (2112, 4644)
    compressed = make_header()
    compressed["NAXIS1"], compressed["ZNAXIS1"], compressed["ZNAXIS2"] = 8, 2112, 4644
    assert read_wcs(compressed).pixel_shape == (2112, 4644)


@pytest.mark.parametrize("keyword", ["CTYPE1", "CRVAL2", "CRPIX1"])
def test_a_header_without_wcs_is_named_with_its_missing_keyword(keyword):
    header = make_header()
    del header[keyword]
    with pytest.raises(WCSError, match=f"CCD 2113737-10 has no celestial WCS: {keyword} is missing"):
        read_wcs(header, "CCD 2113737-10")


@pytest.mark.parametrize(
    ("keyword", "value", "sentence"),
    [
        ("CTYPE1", "GLON-TAN", "CTYPE1 is 'GLON-TAN', not RA---TAN"),
        ("CTYPE2", "DEC--SIN", "CTYPE2 is 'DEC--SIN', not DEC--TAN"),
        ("RADESYS", "FK4", "RADESYS is 'FK4', not ICRS or FK5"),
        ("CUNIT2", "arcsec", "CUNIT2 is 'arcsec', not 'deg'"),
        ("CRVAL1", "unknown", "CRVAL1 is 'unknown', not a number"),
    ],
)
def test_a_wcs_of_another_kind_is_refused(keyword, value, sentence):
    header = make_header()
    header[keyword] = value
    with pytest.raises(WCSError, match=sentence):
        read_wcs(header, "CCD 1")


def test_half_a_distortion_is_refused():
    header = make_header("TAN-SIP", terms={})
    header["A_ORDER"], header["A_2_0"] = 2, 1.5e-7
    with pytest.raises(WCSError, match="CCD 1 has no celestial WCS that can be used: A_ORDER provided without"):
        read_wcs(header, "CCD 1")


@pytest.mark.parametrize("value", [0.0, None])
def test_pixels_without_a_size_are_refused(value):
    header = make_header()
    for keyword in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        del header[keyword]
        if value is not None:
            header[keyword] = value
    with pytest.raises(WCSError, match="The header has no celestial WCS that can be used: neither CDi_j nor CDELTi"):
        read_wcs(header)


def test_old_cdelt_headers_are_read():
    header = make_header("TAN", terms={})
    for keyword in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        del header[keyword]
    header["CDELT1"], header["CDELT2"] = -SCALE, SCALE
    np.testing.assert_allclose(read_wcs(header).pixel_scale_matrix, [[-SCALE, 0], [0, SCALE]], rtol=1e-12)
