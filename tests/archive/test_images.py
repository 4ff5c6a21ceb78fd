import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from blocks.store import DataStore
from tasks.archive.images import (
    format_section,
    parse_section,
    read_ccd_image,
    write_ccd_image,
)
from tasks.errors import BadFileError, MissingKeywordError
from tasks.products.identity import CcdId
from tasks.products.images import CcdImage, Photometry, Window

SHAPE = (30, 40)


def tpv_header() -> fits.Header:
    header = fits.Header()
    header.update({"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "CRVAL1": 150.0, "CRVAL2": 30.0, "CRPIX1": 20.0})
    header.update({"CRPIX2": 15.0, "CD1_1": -5e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 5e-5})
    header.update({"CUNIT1": "deg", "CUNIT2": "deg"})
    for axis in (1, 2):
        header.update({f"PV{axis}_0": 0.0, f"PV{axis}_1": 1.01, f"PV{axis}_2": 0.0, f"PV{axis}_4": 0.2})
    return header


@pytest.fixture
def image() -> CcdImage:
    rng = np.random.default_rng(1)
    header = tpv_header()
    return CcdImage(
        id=CcdId(exposure="2113737", ccd=10),
        sci=rng.normal(1000, 30, SHAPE).astype(np.float32),
        weight=np.ones(SHAPE, np.float32),
        dq=rng.integers(0, 2**32, SHAPE, dtype=np.uint32),
        wcs=WCS(header),
        photometry=Photometry(1.6, 5.0, 60000.0, 200.0, 26.5, 58000.25, "r"),
        data_section=Window(2, 1, 38, 29),
        header_text=header.tostring(),
        keywords={"DETECTOR": "CCD10", "DATE-OBS": "2017-09-04"},
    )


def test_a_ccd_image_comes_back_as_it_was(store: DataStore, image: CcdImage) -> None:
    back = read_ccd_image(store, write_ccd_image(store, "x.fits", image))

    assert (back.id, back.photometry, back.data_section) == (image.id, image.photometry, image.data_section)
    assert back.keywords == image.keywords
    for plane in ("sci", "weight", "dq"):
        assert np.array_equal(getattr(back, plane), getattr(image, plane))
        assert getattr(back, plane).dtype == getattr(image, plane).dtype
    x, y = np.array([0.0, 39.0]), np.array([0.0, 29.0])
    assert np.allclose(back.wcs.all_pix2world(x, y, 0), image.wcs.all_pix2world(x, y, 0), rtol=0, atol=1e-12)


def test_a_ccd_image_read_and_written_again_is_the_same_file(store: DataStore, image: CcdImage) -> None:
    first = write_ccd_image(store, "x.fits", image)
    second = write_ccd_image(store, "y.fits", read_ccd_image(store, first))

    assert first.sha256 == second.sha256


def test_the_flux_scale_follows_the_zero_point(image: CcdImage) -> None:
    assert image.photometry.flux_scale == pytest.approx(10 ** (0.4 * 3.5))


def test_a_file_that_is_not_a_ccd_image_has_a_sentence(store: DataStore, image: CcdImage) -> None:
    from tasks.archive.planes import write_plane

    ref = write_plane(store, "x.fits", image.dq, "SCI", subject="1-2")

    with pytest.raises(BadFileError, match=r"x\.fits is not a CCD image"):
        read_ccd_image(store, ref)


def test_sections_count_from_one_and_include_their_ends() -> None:
    window = parse_section("[33:2080,1:4612]", "CCD 1-2")

    assert window == Window(32, 0, 2080, 4612)
    assert format_section(window) == "[33:2080,1:4612]"
    with pytest.raises(MissingKeywordError, match=r"CCD 1-2: 'all' is not a section"):
        parse_section("all", "CCD 1-2")
