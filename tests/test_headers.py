"""Every CCD of an exposure is in its index with the sky, the photometry and the outline of its image."""

import numpy as np
from astropy.io import fits

from tasks.archive.fits_wcs import read_wcs, read_wcs_text
from tasks.archive.images import write_ccd_image
from tasks.archive.wcs_index import read_index
from tasks.headers import HeadersConfig, describe_ccd, index_headers_task, merge_headers_task
from tasks.products.identity import CcdId, ExposureId, TileId
from tasks.products.images import CcdImage, Photometry, Window
from tasks.science.geometry import pixel_to_sky
from tasks.science.sphere import bounding_circle, separation_deg

SHAPE = (40, 30)


def make_image(exposure="2113737", ccd=0, *, crpix=100.0):
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = 210.123456789, 54.987654321
    header["CRPIX1"], header["CRPIX2"] = crpix, -200.0
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -5.2e-5, 1e-7, 1e-7, 5.2e-5
    header["PV1_1"], header["PV1_7"], header["PV2_1"], header["PV2_4"] = 1.0, 0.3, 1.0, 0.02
    return CcdImage(
        id=CcdId(exposure=exposure, ccd=ccd),
        sci=np.full(SHAPE, 1000.0, np.float32),
        weight=np.ones(SHAPE, np.float32),
        dq=np.zeros(SHAPE, np.uint32),
        wcs=read_wcs(header),
        photometry=Photometry(1.5, 4.0, 64000.0, 200.0, 26.3, 57000.123456789, "r"),
        data_section=Window(2, 0, 28, 38),
        header_text=header.tostring(),
    )


def index(store, *images):
    refs = [write_ccd_image(store, f"exposures/{i.id.exposure}/ccd-{i.id.ccd:02d}/image.fits", i) for i in images]
    return index_headers_task.fn(ExposureId(images[0].id.exposure), refs, HeadersConfig(), store)


def test_the_index_gives_back_sky_photometry_and_shape(store):
    image = make_image()
    ref = index(store, image)
    assert ref.key == "exposures/2113737/headers.sqlite"
    (record,) = read_index(store, ref)
    assert (record.ccd, record.shape, record.data_section) == (image.id, SHAPE, image.data_section)
    assert record.photometry == image.photometry
    x, y = np.random.default_rng(1).uniform(0, 30, (2, 100))
    expected = image.wcs.all_pix2world(x, y, 0)
    np.testing.assert_allclose(read_wcs_text(record.wcs_text).all_pix2world(x, y, 0), expected, rtol=0, atol=1e-11)


def test_the_outline_goes_around_the_outer_edges_of_the_pixels():
    image = make_image()
    record = describe_ccd(image, HeadersConfig(points_per_edge=1))
    corners = pixel_to_sky(image.wcs, np.array([-0.5, 29.5, 29.5, -0.5]), np.array([-0.5, -0.5, 39.5, 39.5]))
    np.testing.assert_allclose(record.outline, np.stack(corners, axis=-1), rtol=0, atol=1e-12)
    assert record.circle == bounding_circle(*corners)
    assert len(describe_ccd(image, HeadersConfig()).footprint) == 20


def test_every_pixel_is_in_the_circle_of_its_record():
    image = make_image()
    ra, dec, radius = describe_ccd(image, HeadersConfig()).circle
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    assert (separation_deg(*pixel_to_sky(image.wcs, x, y), ra, dec) < radius).all()


def test_an_index_does_not_depend_on_the_order_of_the_ccds(store):
    images = [make_image(ccd=number, crpix=100.0 + 50 * number) for number in range(3)]
    forwards = read_index(store, index(store, *images))
    assert read_index(store, index(store, *images[::-1])) == forwards
    assert [record.ccd.ccd for record in forwards] == [0, 1, 2]


def test_running_twice_gives_the_same_bytes(store):
    assert index(store, make_image()).sha256 == index(store, make_image()).sha256


def test_indexes_are_merged_without_doubles(store):
    first = index(store, make_image(ccd=0), make_image(ccd=1))
    second = index(store, make_image("2113738", ccd=0))
    tile = TileId("210.296")
    merged = merge_headers_task.fn(tile, [second, first, first], HeadersConfig(), store)
    assert merged.key == "tiles/210.296/headers.sqlite"
    assert [str(record.ccd) for record in read_index(store, merged)] == ["2113737-0", "2113737-1", "2113738-0"]
