"""Coadds come back as they were written, whole or band by band, with what they were made of."""

import dataclasses
import math

import numpy as np
import pytest
from astropy.io import fits

from blocks.store import DataStore
from tasks.archive.coadds import PLANES, CoaddFile, read_coadd, write_coadd
from tasks.products.identity import CcdId, TileId
from tasks.products.images import Coadd, CoaddInput, CoaddMetadata, CoaddPlanes, Photometry
from tasks.science.geometry import pixel_to_sky, tile_wcs

SHAPE = (150, 40)
ALL = ("CTX", "VAR", "DQ", "TIME")
WCS = tile_wcs(210.3, 54.2, size_px=SHAPE[1], pixel_scale_arcsec=0.186)


def planes_of(n_context: int, rows: slice = slice(None)) -> CoaddPlanes:
    rng = np.random.default_rng(1)
    floats = [rng.normal(size=SHAPE).astype(np.float32)[rows] for _ in range(4)]
    context = rng.integers(-(2**31), 2**31, (n_context, *SHAPE), dtype=np.int32)[:, rows]
    dq = rng.integers(0, 2**32, SHAPE, dtype=np.uint32)[rows]
    return CoaddPlanes(floats[0], floats[1], context, floats[2], dq, floats[3])


@pytest.fixture
def coadd() -> Coadd:
    light = Photometry(1.6, 4.0, 6e4, 200.0, 26.3, 57000.25, "r")
    other = dataclasses.replace(light, mjd=57003.5, exposure_time_s=150.0, band="i")
    inputs = (
        CoaddInput(CcdId(exposure="a1", ccd=3), light, 5000, 1.5, 0.71, 12),
        CoaddInput(CcdId(exposure="b2", ccd=0), other, 100, 0.5, math.nan),
    )
    metadata = CoaddMetadata(1e5, 7.5, inputs, "square", 0.8, 0.186, 210.0, 1.3)
    return Coadd(TileId("210.296"), planes_of(2), WCS, metadata)


def test_a_coadd_comes_back_as_it_was(store: DataStore, coadd: Coadd) -> None:
    back = read_coadd(store, write_coadd(store, "x.fits", coadd), ALL)

    for field, dtype in PLANES.values():
        assert getattr(back.planes, field).dtype == dtype
        assert np.array_equal(getattr(back.planes, field), getattr(coadd.planes, field)), field
    assert back.id == coadd.id
    # NaN is not equal to itself
    assert str(back.metadata) == str(coadd.metadata)
    x, y = np.array([3.0, -700.0]), np.array([4.0, 900.0])
    assert np.allclose(pixel_to_sky(back.wcs, x, y), pixel_to_sky(WCS, x, y), rtol=0, atol=1e-11)


def test_readers_get_the_planes_that_they_ask_for(store: DataStore, coadd: Coadd) -> None:
    ref = write_coadd(store, "x.fits", coadd)
    only = dataclasses.replace(coadd, planes=CoaddPlanes(coadd.sci, coadd.weight))
    small = write_coadd(store, "y.fits", only)

    assert read_coadd(store, ref).planes.context is None
    assert read_coadd(store, ref, ("DQ",)).planes.dq is not None
    assert read_coadd(store, small, ALL).planes.variance is None
    assert np.array_equal(read_coadd(store, small).sci, coadd.sci)


def test_the_header_says_what_the_coadd_is_made_of(store: DataStore, coadd: Coadd) -> None:
    ref = write_coadd(store, "x.fits", coadd)

    with store.open(ref.key) as file, fits.open(file) as hdus:
        header, names = dict(hdus["SCI"].header.items()), [hdu.name for hdu in hdus]

    assert names == ["PRIMARY", "SCI", "WHT", "CTX", "VAR", "DQ", "TIME", "INPUTS"]
    expected = {
        "PHOTZP": 30.0, "SATURATE": 1e5, "GAIN": 7.5, "PIXSCALE": 0.186, "KERNEL": "square", "PIXFRAC": 0.8,
        "EXPTIME": 210.0, "TEXPTIME": 350.0, "NCOMBINE": 2, "NCCDS": 2, "FILTER": "i,r", "NOISECOR": 1.3,
        "MJD-BEG": 57000.25, "PSF_FWHM": 0.71,
    }  # fmt: skip
    assert {name: header[name] for name in expected} == expected
    assert header["MJD-END"] == pytest.approx(57003.5 + 150 / 86400)
    middles = 57000.25 + 100 / 86400, 57003.5 + 75 / 86400
    assert header["MJD-AVG"] == pytest.approx((1.5 * middles[0] + 0.5 * middles[1]) / 2)


def test_what_is_not_known_has_no_card(store: DataStore, coadd: Coadd) -> None:
    ref = write_coadd(store, "x.fits", dataclasses.replace(coadd, metadata=CoaddMetadata(1e5, 7.5)))

    with store.open(ref.key) as file, fits.open(file) as hdus:
        header = hdus["SCI"].header
        assert (header["NCOMBINE"], len(hdus["INPUTS"].data)) == (0, 0)
    for name in ("KERNEL", "PIXFRAC", "EXPTIME", "TEXPTIME", "MJD-BEG", "MJD-AVG", "FILTER", "PSF_FWHM", "NOISECOR"):
        assert name not in header
    assert math.isnan(read_coadd(store, ref).metadata.exposure_time_s)


def test_a_file_written_in_bands_is_the_same_and_context_planes_may_come_late(store: DataStore, coadd: Coadd) -> None:
    whole = write_coadd(store, "x.fits", coadd).sha256
    late = dataclasses.replace(coadd.planes, context=coadd.planes.context.copy())
    late.context[1, :128] = 0
    expected = write_coadd(store, "y.fits", dataclasses.replace(coadd, planes=late)).sha256
    with CoaddFile(SHAPE, 2) as file, CoaddFile(SHAPE) as growing:
        for rows in (slice(0, 64), slice(64, 128), slice(128, 150)):
            band = planes_of(2, rows)
            file.append(band)
            growing.append(band if rows.start == 128 else dataclasses.replace(band, context=band.context[:1]))
        assert file.publish(store, "z.fits", coadd.id, WCS, coadd.metadata).sha256 == whole
        assert growing.publish(store, "z.fits", coadd.id, WCS, coadd.metadata).sha256 == expected


def test_a_file_that_lacks_rows_or_planes_is_not_published(store: DataStore, coadd: Coadd) -> None:
    with CoaddFile(SHAPE) as file:
        file.append(planes_of(1, slice(0, 64)))
        with pytest.raises(ValueError, match="SCI has 64 of its 150 rows"):
            file.publish(store, "x.fits", coadd.id, WCS, coadd.metadata)
        with pytest.raises(ValueError, match="has the planes SCI, WHT, those before SCI, WHT, CTX, VAR"):
            file.append(CoaddPlanes(coadd.sci[64:], coadd.weight[64:]))
    assert not store.exists("x.fits")
