"""Some rows of a CCD are those of the whole CCD, and only the strips that hold them are fetched."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from s3_proxy import FaultyS3, make_bucket, s3_service, store_at

from blocks.store import DataStore
from tasks.archive.ccd_rows import open_ccds
from tasks.archive.fits_wcs import wcs_to_header_text
from tasks.archive.images import write_ccd_image
from tasks.archive.planes import write_plane
from tasks.archive.psfex import write_psf
from tasks.archive.sources import write_sources
from tasks.archive.tables import empty_table
from tasks.errors import BadFileError, DataError, MissingProductError, ShapeMismatchError
from tasks.products.columns import SOURCES
from tasks.products.identity import CcdId, CcdProducts, TileId
from tasks.products.images import CcdImage, Photometry, Window
from tasks.products.psf import PsfModel
from tasks.products.sources import SourceList
from tasks.products.wcs_index import CcdRecord, TileExposures
from tasks.science.geometry import tile_wcs

CCD = CcdId(exposure="2113737", ccd=3)
SHAPE = (1500, 256)
LIGHT = Photometry(1.6, 4.0, 6e4, 200.0, 26.0, 57000.0, "r")
WCS = tile_wcs(150.0, 30.0, size_px=256, pixel_scale_arcsec=0.187)


def image() -> CcdImage:
    rng = np.random.default_rng(6)
    sci, weight = (rng.normal(1000, 30, SHAPE).astype(np.float32) for _ in range(2))
    dq = rng.integers(0, 2**32, SHAPE, dtype=np.uint32)
    return CcdImage(CCD, sci, weight, dq, WCS, LIGHT, Window.full(SHAPE))


def mask() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 2**9, SHAPE).astype(np.uint16)


def put_ccd(store: DataStore) -> CcdProducts:
    ref = write_ccd_image(store, "image.fits", image())
    sizes = {"flux_aper": (1,), "fluxerr_aper": (1,), "mag_aper": (1,), "magerr_aper": (1,)}
    mesh = np.full((6, 1), 7.0)
    sources = SourceList(str(CCD), empty_table(SOURCES, **sizes), np.zeros(SHAPE, np.int32), mesh, mesh, 256, 2.5, 26.0)
    psf = PsfModel(str(CCD), np.ones((1, 5, 5), np.float32), 0, 0.0, 1.0, 0.0, 1.0, 30, 25, 1.0, 3.75)
    return CcdProducts(
        ccd=CCD, image=ref, dq=write_plane(store, "dq.fits", image().dq, "DQ", subject=CCD),
        mask=write_plane(store, "mask.fits", mask(), "MASK", subject=CCD),
        sources=write_sources(store, "sources.fits", sources), psf=write_psf(store, "psf.psf", psf), stars=ref,
        residuals=ref,
    )  # fmt: skip


def listed(*ccds: CcdId, shape: tuple[int, int] = SHAPE) -> TileExposures:
    records = tuple(
        CcdRecord(
            ccd=ccd, shape=shape, data_section=Window.full(shape), footprint=((0.0, 0.0),), circle=(0.0, 0.0, 1.0),
            photometry=LIGHT, wcs_text=wcs_to_header_text(WCS),
        )
        for ccd in ccds
    )  # fmt: skip
    return TileExposures(tile=TileId("210.290"), ra=150.0, dec=30.0, size_px=64, pixel_scale_arcsec=0.187, ccds=records)


def test_rows_are_those_of_the_whole_ccd(store: DataStore) -> None:
    source = open_ccds(store, [put_ccd(store)], listed(CCD))[CCD]
    rows, whole = source.read(slice(100, 231)), image()

    for plane, expected in zip(dataclasses.astuple(rows), (whole.sci, whole.weight, whole.dq, mask()), strict=True):
        assert np.array_equal(plane, expected[100:231])
    assert [plane.dtype for plane in dataclasses.astuple(rows)] == [np.float32, np.float32, np.uint32, np.uint32]
    assert (source.sky.level, source.sky.variance_scale, source.fwhm_px) == (7.0, 2.5, 3.75)
    assert source.wcs.wcs.crval == pytest.approx([150.0, 30.0])


@pytest.fixture
def proxy() -> Iterator[tuple[FaultyS3, DataStore]]:
    with s3_service() as url, FaultyS3(url) as faulty:
        yield faulty, store_at(faulty.url, make_bucket(url, "ccd-rows"))


def test_of_a_ccd_on_s3_only_the_strips_with_the_rows_are_fetched(proxy: tuple[FaultyS3, DataStore]) -> None:
    faulty, remote = proxy
    products = put_ccd(remote)
    source = open_ccds(remote, [products], listed(CCD))[CCD]
    faulty.forget()
    rows = source.read(slice(640, 704))
    fetched = faulty.forget().bytes_down

    assert np.array_equal(rows.sci, image().sci[640:704])
    everything = products.image.size + products.dq.size + products.mask.size
    # 64 of 1500 rows, and the headers
    assert 0.03 * everything < fetched < 0.2 * everything


def test_what_is_not_as_recorded_is_refused_when_it_is_read(store: DataStore) -> None:
    products = put_ccd(store)
    with pytest.raises(DataError, match="1 of the 2 CCDs that overlap it have no products, such as 2113737-4"):
        open_ccds(store, [products], listed(CCD, CcdId(exposure="2113737", ccd=4)))
    small = open_ccds(store, [products], listed(CCD, shape=(9, 9)))[CCD]
    with pytest.raises(ShapeMismatchError, match=r"SCI of image.fits has the shape \(1500, 256\), the CCD \(9, 9\) by"):
        small.read(slice(0, 5))
    source = open_ccds(store, [products], listed(CCD))[CCD]
    write_plane(store, "mask.fits", mask() | 1, "MASK", subject=CCD)
    with pytest.raises(MissingProductError, match=r"mask.fits of 2113737-3 .* is not the file that was recorded"):
        source.read(slice(0, 5))
    with pytest.raises(BadFileError, match=r"image.fits is not a PSF model"):
        open_ccds(store, [products.model_copy(update={"psf": products.image})], listed(CCD))
