"""Raw exposures, plain and compressed, become CCD images with the right sky; bad files are refused in a sentence."""

import io
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from tasks.archive.images import read_ccd_image
from tasks.archive.raw import find_raw_exposure
from tasks.errors import (
    BadFileError,
    ConfigError,
    DataError,
    MissingKeywordError,
    MissingProductError,
    NoGoodPixelsError,
    ShapeMismatchError,
    UnknownExposureError,
    WCSError,
)
from tasks.products.dq import DQFlag
from tasks.products.identity import CcdId, ExposureId, ProductRef
from tasks.products.images import Window
from tasks.products.instrument import FlagBit, Instrument
from tasks.science.flag_images import translate_flag_image
from tasks.split import SplitConfig, split_ccd_task

SHAPE = (60, 48)
EXPOSURE = "2113737"
CCD = CcdId(exposure=EXPOSURE, ccd=1)
FLAGS = (
    FlagBit(value=1, name="DEAD"),
    FlagBit(value=2, name="JUMP_DET"),
    FlagBit(value=4, name="SATURATED"),
)
CAMERA = Instrument(name="test camera", n_ccds=2, flag_bits=FLAGS)
DECAM = Path(__file__).parent / "data" / "decam"


def ccd_header(**changes):
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"], header["CRPIX1"], header["CRPIX2"] = 210.0, 54.0, -300.0, 200.0
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -5.2e-5, 0.0, 0.0, 5.2e-5
    header["PV1_0"], header["PV1_1"], header["PV1_4"], header["PV2_1"], header["PV2_4"] = 0.0, 1.0, 0.01, 1.0, -0.02
    header["GAIN"], header["RDNOISE"], header["SATURATE"] = 1.6, 4.2, 64000.0
    header["PHOTZP"], header["FILTER"], header["MJD-OBS"] = 26.4, "r.MP9602", 57000.25
    header["DATASEC"], header["DETECTOR"] = "[3:46,1:58]", "CCD01"
    for keyword, value in changes.items():
        if value is None:
            header.remove(keyword.replace("_", "-"), ignore_missing=True)
        else:
            header[keyword.replace("_", "-") if keyword == "MJD_OBS" else keyword] = value
    return header


def science(seed=1):
    return np.random.default_rng(seed).poisson(1000, SHAPE).astype(np.uint16)


def mef(planes, headers, *, compressed):
    primary = fits.PrimaryHDU()
    primary.header["EXPTIME"], primary.header["INSTRUME"] = 200.0, "TESTCAM"
    kind = fits.CompImageHDU if compressed else fits.ImageHDU
    hdus = [
        kind(plane, header, name=f"ccd{n:02d}")
        for n, (plane, header) in enumerate(zip(planes, headers[: len(planes)], strict=True))
    ]
    buffer = io.BytesIO()
    fits.HDUList([primary, *hdus]).writeto(buffer)
    return buffer.getvalue()


def put(raw_store, *, image=None, weight=None, flag=None, compressed=True, **changes):
    """Publish an exposure of two CCDs; what is given replaces CCD 1."""
    planes = {
        "": [science(0), science(1) if image is None else image],
        ".weight": [np.ones(SHAPE, np.float32), np.full(SHAPE, 0.5, np.float32) if weight is None else weight],
        ".flag": [np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.int16) if flag is None else flag],
    }
    for suffix, pair in planes.items():
        data = mef(pair, [ccd_header(), ccd_header(**changes)], compressed=compressed)
        raw_store.put_bytes(f"{EXPOSURE}p{suffix}.fits.fz", data)
    return find_raw_exposure(raw_store, ExposureId(EXPOSURE), CAMERA)


def split(raw_store, store, raw, *, config=None, camera=CAMERA, ccd=CCD):
    return split_ccd_task.fn(ccd, raw, config or SplitConfig(), camera, raw_store, store)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_ccd_comes_out_of_plain_and_compressed_files(raw_store, store, compressed):
    ref = split(raw_store, store, put(raw_store, compressed=compressed))
    image = read_ccd_image(store, ref)
    assert ref.key == "exposures/2113737/ccd-01/image.fits"
    assert image.id == CCD
    assert image.sci.dtype == np.float32
    np.testing.assert_array_equal(image.sci, science(1))
    np.testing.assert_array_equal(image.weight, np.full(SHAPE, 0.5, np.float32))
    assert not image.dq.any()
    assert image.data_section == Window(2, 0, 46, 58)


def test_photometry_comes_from_the_ccd_and_else_from_the_primary_header(raw_store, store):
    image = read_ccd_image(store, split(raw_store, store, put(raw_store)))
    light = image.photometry
    assert (light.gain, light.read_noise, light.saturation, light.zero_point) == (1.6, 4.2, 64000.0, 26.4)
    assert (light.exposure_time_s, light.mjd, light.band) == (200.0, 57000.25, "r.MP9602")
    assert light.flux_scale == pytest.approx(10 ** (0.4 * 3.6))
    assert image.keywords == {"INSTRUME": "TESTCAM", "DETECTOR": "CCD01"}


def test_a_number_stands_for_a_keyword_that_a_camera_does_not_write(raw_store, store):
    camera = CAMERA.model_copy(update={"read_noise": 7.0, "data_section": None})
    image = read_ccd_image(store, split(raw_store, store, put(raw_store, RDNOISE=None, DATASEC=None), camera=camera))
    assert image.photometry.read_noise == 7.0
    assert image.data_section == Window(0, 0, 48, 60)


def test_tan_with_pv_terms_keeps_its_cards_and_gives_the_sky_of_tpv(raw_store, store):
    image = read_ccd_image(store, split(raw_store, store, put(raw_store)))
    assert "RA---TAN" in image.header_text
    tpv = put(raw_store, CTYPE1="RA---TPV", CTYPE2="DEC--TPV")
    other = read_ccd_image(store, split(raw_store, store, tpv))
    x, y = np.array([0.0, 20.0, 47.0]), np.array([0.0, 59.0, 30.0])
    np.testing.assert_allclose(image.wcs.all_pix2world(x, y, 0), other.wcs.all_pix2world(x, y, 0), rtol=0, atol=1e-9)
    # x = -301 pixels west of the pointing; the quadratic term moves it by 0.01 xi^2
    xi = -5.2e-5 * (1 + 300)
    east = np.radians(xi + 0.01 * xi**2)
    eta = 5.2e-5 * (1 - 200)
    north = np.radians(eta - 0.02 * eta**2)
    ra = 210.0 + np.degrees(np.arctan2(east, np.cos(np.radians(54.0)) - north * np.sin(np.radians(54.0))))
    assert image.wcs.all_pix2world(0.0, 0.0, 0)[0] == pytest.approx(ra, abs=1e-9)


def test_flags_are_translated_and_what_is_not_understood_is_not_used(raw_store, store):
    flag = np.zeros(SHAPE, np.int16)
    flag[10, 11], flag[10, 12], flag[10, 13], flag[10, 14] = 1, 6, 9, 512
    image = read_ccd_image(store, split(raw_store, store, put(raw_store, flag=flag)))
    assert image.dq[10, 11] == DQFlag.DEAD
    assert image.dq[10, 12] == DQFlag.JUMP_DET | DQFlag.SATURATED
    assert image.dq[10, 13] == DQFlag.DEAD | DQFlag.DO_NOT_USE
    assert image.dq[10, 14] == DQFlag.DO_NOT_USE
    assert np.count_nonzero(image.dq) == 4


def test_codes_are_not_sums_of_bits():
    codes = (FlagBit(value=1, name="DEAD"), FlagBit(value=3, name="SATURATED"), FlagBit(value=4, name="JUMP_DET"))
    dq = translate_flag_image(np.array([[0, 1, 3, 4, 5]], np.int32), codes, codes=True)
    assert dq.tolist() == [[0, DQFlag.DEAD, DQFlag.SATURATED, DQFlag.JUMP_DET, DQFlag.DO_NOT_USE]]


def test_the_top_bit_of_a_signed_flag_image_is_not_lost():
    dq = translate_flag_image(np.array([[-32768]], np.int16), FLAGS)
    assert dq[0, 0] == DQFlag.DO_NOT_USE


def test_a_flag_that_is_not_in_the_table_stops_the_run():
    with pytest.raises(ConfigError, match="There is no data-quality flag 'SATURATE'; the nearest is SATURATED"):
        translate_flag_image(np.array([[1]]), (FlagBit(value=1, name="SATURATE"),))


def test_pixels_without_value_or_weight_are_not_used(raw_store, store):
    image, weight = science(1).astype(np.float32), np.full(SHAPE, 0.5, np.float32)
    image[5, 6], weight[7, 8], weight[9, 10] = np.nan, -1.0, np.inf
    found = read_ccd_image(store, split(raw_store, store, put(raw_store, image=image, weight=weight, compressed=False)))
    assert [found.weight[pixel] for pixel in ((5, 6), (7, 8), (9, 10))] == [0, 0, 0]
    assert np.count_nonzero(found.weight == 0) == 3
    assert (found.sci[5, 6], found.dq[5, 6]) == (0, DQFlag.DO_NOT_USE)
    assert np.isfinite(found.sci).all()


def test_a_camera_without_weights_and_flags_has_weight_one(raw_store, store):
    raw = put(raw_store).model_copy(update={"weight": None, "flag": None})
    image = read_ccd_image(store, split(raw_store, store, raw))
    assert (image.weight == 1).all()
    assert not image.dq.any()


def test_running_twice_gives_the_same_bytes(raw_store, store):
    raw = put(raw_store)
    assert split(raw_store, store, raw).sha256 == split(raw_store, store, raw).sha256


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", ["", ".weight", ".flag"])
def test_a_truncated_file_is_refused(raw_store, store, suffix, compressed):
    image = np.random.default_rng(3).normal(1000, 30, (400, 300)).astype(np.float32)
    flag = np.random.default_rng(3).integers(0, 8, (400, 300)).astype(np.int16)
    raw = put(raw_store, image=image, weight=np.abs(image), flag=flag, compressed=compressed, DATASEC="[1:300,1:400]")
    key = f"{EXPOSURE}p{suffix}.fits.fz"
    data = raw_store.read_bytes(key)
    raw_store.put_bytes(key, data[: len(data) - 20000])
    raw = find_raw_exposure(raw_store, raw.exposure, CAMERA)
    with pytest.raises(BadFileError, match=rf"{EXPOSURE}p{suffix}\.fits\.fz is truncated: HDU 2 ends at byte \d+, "):
        split(raw_store, store, raw)


def test_a_raw_file_that_changed_since_it_was_found_is_no_bad_data(raw_store, store):
    raw = put(raw_store)
    raw_store.put_bytes(f"{EXPOSURE}p.fits.fz", b"another file")
    with pytest.raises(MissingProductError, match="is not the file that was recorded"):
        split(raw_store, store, raw)


def test_a_file_that_ends_before_the_ccd_names_what_it_has(raw_store, store):
    raw = put(raw_store, compressed=False)
    key = f"{EXPOSURE}p.fits.fz"
    raw_store.put_bytes(key, mef([science(0)], [ccd_header()], compressed=False))
    raw = find_raw_exposure(raw_store, raw.exposure, CAMERA)
    with pytest.raises(BadFileError, match=r"2113737p.fits.fz has no HDU 2; it has 0 PRIMARY, 1 CCD00"):
        split(raw_store, store, raw)


def test_bytes_that_are_no_fits_are_refused(raw_store, store):
    raw = put(raw_store)
    raw_store.put_bytes(f"{EXPOSURE}p.fits.fz", b"<html>not found</html>" * 500)
    raw = find_raw_exposure(raw_store, raw.exposure, CAMERA)
    with pytest.raises(BadFileError, match="cannot be read as FITS"):
        split(raw_store, store, raw)


def test_an_hdu_that_is_no_image_is_refused(raw_store, store):
    camera = CAMERA.model_copy(update={"first_hdu": 0})
    with pytest.raises(BadFileError, match="HDU 0 is not an image of two axes; check `first_hdu`"):
        split(raw_store, store, put(raw_store), camera=camera, ccd=CcdId(exposure=EXPOSURE, ccd=0))


@pytest.mark.parametrize("keyword", ["GAIN", "PHOTZP", "SATURATE", "FILTER", "DATASEC", "MJD-OBS"])
def test_a_missing_keyword_is_named_with_its_ccd(raw_store, store, keyword):
    raw = put(raw_store, **{keyword: None})
    with pytest.raises(MissingKeywordError, match=f"CCD 2113737-1 has no keyword {keyword} in its header nor in the"):
        split(raw_store, store, raw)


@pytest.mark.parametrize("value", ["high", "nan"])
def test_a_keyword_that_is_no_number_is_refused(raw_store, store, value):
    with pytest.raises(
        MissingKeywordError, match=f"CCD 2113737-1: the keyword GAIN is '{value}', which is not a number"
    ):
        split(raw_store, store, put(raw_store, GAIN=value))


@pytest.mark.parametrize(("section", "error"), [("[3:49,1:58]", ShapeMismatchError), ("3:46", MissingKeywordError)])
def test_a_data_section_that_does_not_fit_is_refused(raw_store, store, section, error):
    with pytest.raises(error, match=r"CCD 2113737-1: .*section"):
        split(raw_store, store, put(raw_store, DATASEC=section))


@pytest.mark.parametrize("name", ["weight", "flag"])
def test_a_plane_of_another_shape_is_refused(raw_store, store, name):
    plane = np.ones((60, 47), np.float32 if name == "weight" else np.int16)
    raw = put(raw_store, **{name: plane})
    with pytest.raises(
        ShapeMismatchError, match=f"CCD 2113737-1: the {name} image has 47 x 60 pixels, the image 48 x 60"
    ):
        split(raw_store, store, raw)


def test_an_image_of_nothing_but_nan_is_refused(raw_store, store):
    raw = put(raw_store, image=np.full(SHAPE, np.nan, np.float32), compressed=False)
    with pytest.raises(NoGoodPixelsError, match="CCD 2113737-1: none of its 2880 pixels has a value; the image is all"):
        split(raw_store, store, raw)


def test_a_ccd_with_too_few_good_pixels_is_refused(raw_store, store):
    weight = np.ones(SHAPE, np.float32)
    weight[:30] = 0
    raw = put(raw_store, weight=weight)
    split(raw_store, store, raw, config=SplitConfig(min_good_fraction=0.5))
    with pytest.raises(
        NoGoodPixelsError, match=r"1440 of 2880 pixels have data and weight, a share of 0.500; it needs 0.6"
    ):
        split(raw_store, store, raw, config=SplitConfig(min_good_fraction=0.6))
    with pytest.raises(NoGoodPixelsError, match="0 of 2880 pixels have data and weight"):
        split(raw_store, store, put(raw_store, weight=np.zeros(SHAPE, np.float32)))


def test_an_image_without_wcs_is_refused(raw_store, store):
    raw = put(raw_store, CTYPE1=None, CTYPE2=None)
    with pytest.raises(WCSError, match="CCD 2113737-1 has no celestial WCS: CTYPE1 is missing"):
        split(raw_store, store, raw)


def test_an_unknown_exposure_is_refused(raw_store, store):
    raw = put(raw_store)
    with pytest.raises(UnknownExposureError, match="Exposure 9999999 is not in"):
        find_raw_exposure(raw_store, ExposureId("9999999"), CAMERA)
    with pytest.raises(UnknownExposureError, match="night7 is not an exposure of test camera: names match"):
        split(raw_store, store, raw, ccd=CcdId(exposure="night7", ccd=1))


def test_a_ccd_that_the_camera_does_not_have_is_refused(raw_store, store):
    camera = CAMERA.model_copy(update={"n_ccds": 1})
    with pytest.raises(UnknownExposureError, match="test camera has 1 CCDs, counted from 0; there is no 2113737-1"):
        split(raw_store, store, put(raw_store), camera=camera)


def test_a_raw_file_that_is_gone_is_missing_and_may_be_retried(raw_store, store):
    raw = put(raw_store)
    gone = ProductRef(key="gone.fits.fz", sha256=raw.image.sha256, size=1, subject=EXPOSURE)
    with pytest.raises(MissingProductError, match=r"gone.fits.fz") as caught:
        split(raw_store, store, raw.model_copy(update={"image": gone}))
    assert not isinstance(caught.value, DataError)


# --- real images ------------------------------------------------------------------------------------------------------


def test_a_real_decam_cutout_is_split(raw_store, store):
    camera = Instrument(
        name="DECam",
        exposure_pattern=r"\d{6}_\d{6}",
        image_file="c4d_{exposure}_ooi_*.fits",
        weight_file="c4d_{exposure}_oow_*.fits",
        flag_file="c4d_{exposure}_ood_*.fits",
        n_ccds=1,
        gain="ARAWGAIN",
        read_noise="RDNOISEA",
        zero_point="MAGZERO",
        data_section=None,
        flag_codes=True,
        flag_bits=(FlagBit(value=3, name="SATURATED"),),
    )
    for kind in "iwd":
        name = f"c4d_170316_062107_oo{kind}_z_ls9.N2.fits"
        raw_store.put_bytes(name, (DECAM / name).read_bytes())
    raw = find_raw_exposure(raw_store, ExposureId("170316_062107"), camera)
    image = read_ccd_image(
        store, split(raw_store, store, raw, camera=camera, ccd=CcdId(exposure="170316_062107", ccd=0))
    )
    assert image.sci.shape == (251, 245)
    assert (image.photometry.band, image.photometry.exposure_time_s) == ("z", 107.0)
    assert image.photometry.zero_point == pytest.approx(29.915)
    gaia = np.genfromtxt(DECAM / "gaia.csv", delimiter=",", names=True, skip_header=1)
    x, y = image.wcs.all_world2pix(gaia["RA"], gaia["DEC"], 0)
    assert ((x > 0) & (x < 245) & (y > 0) & (y < 251)).all()
    for column, row in zip(np.rint(x).astype(int), np.rint(y).astype(int), strict=True):
        near = image.sci[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4]
        assert near.max() > np.median(image.sci) + 20 * 29.2
