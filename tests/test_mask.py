"""The mask stage: settings to planes, star lists from the raw store, the stored product."""

import dataclasses

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from pydantic import ValidationError

from tasks.archive.coadds import write_coadd
from tasks.archive.images import write_ccd_image
from tasks.archive.planes import read_plane, write_plane
from tasks.archive.raw import raw_file
from tasks.errors import BadFileError, MissingProductError, NoGoodPixelsError
from tasks.mask import MaskConfig, make_mask, mask_ccd_task, mask_tile_task
from tasks.products.dq import DQFlag, MaskFlag
from tasks.products.identity import CcdId, TileId
from tasks.products.images import CcdImage, Coadd, CoaddMetadata, CoaddPlanes, Photometry, Window
from tasks.science.masking import DeepSkyObjects
from tasks.science.starlists import make_star_list

SHAPE, SCALE = (200, 300), 0.5
QUIET = MaskConfig()
CENTER = ([149.5], [99.5])


def tan(ra=150.0, dec=30.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [150.5, 100.5]
    wcs.wcs.cd = np.diag([-SCALE, SCALE]) / 3600
    wcs.wcs.set()
    return wcs


@pytest.fixture
def ccd():
    rng = np.random.default_rng(1)
    return CcdImage(
        id=CcdId(exposure="2113737", ccd=3),
        sci=rng.normal(500, 10, SHAPE).astype(np.float32),
        weight=np.ones(SHAPE, np.float32),
        dq=np.zeros(SHAPE, np.uint32),
        wcs=tan(),
        photometry=Photometry(1.5, 3.0, 60000.0, 200.0, 26.0, 58000.0, "r"),
        data_section=Window.full(SHAPE),
    )


@pytest.fixture
def coadd():
    return Coadd(
        id=TileId("210.296"),
        planes=CoaddPlanes(
            sci=np.random.default_rng(2).normal(0, 1, SHAPE).astype(np.float32),
            weight=np.ones(SHAPE, np.float32),
        ),
        wcs=tan(),
        metadata=CoaddMetadata(saturation=5000.0, gain=4.0),
    )


def mask_of(ccd, config=QUIET, dq=None, stars=None, ngc=None):
    return make_mask(ccd, ccd.dq if dq is None else dq, stars, ngc, ccd.photometry.saturation, config)


def bits(mask):
    return {flag for flag in MaskFlag if flag and (mask & np.uint16(flag)).any()}


def test_a_clean_image_has_an_empty_mask(ccd):
    assert not mask_of(ccd).any()


def test_every_kind_of_bad_data_has_its_bit(ccd):
    ccd.sci[0, 0], ccd.sci[1, 1], ccd.weight[2, 2] = 0, 6e4, 0
    ccd.dq[3, 3], ccd.dq[4, 4], ccd.dq[5, 5] = DQFlag.DEAD, DQFlag.WARM, DQFlag.SATURATED

    mask = mask_of(ccd)

    diagonal = [MaskFlag.MISSING, MaskFlag.SATURATED, MaskFlag.WEIGHT, MaskFlag.EXTERNAL, 0, MaskFlag.SATURATED]
    assert np.diag(mask)[:6].tolist() == diagonal
    assert np.count_nonzero(mask) == 5


def test_which_flags_are_bad_is_a_setting(ccd):
    ccd.dq[4, 4] = DQFlag.WARM

    assert mask_of(ccd, MaskConfig(bad_flags=("WARM",)))[4, 4] == MaskFlag.EXTERNAL
    assert not mask_of(ccd, MaskConfig(bad_flags=())).any()


def test_bits_are_joined_by_or(ccd):
    ccd.dq[0, 0] = DQFlag.DEAD | DQFlag.DO_NOT_USE
    ra, dec = ccd.wcs.all_pix2world(*CENTER, 0)

    mask = mask_of(ccd, MaskConfig(border_px=10), stars=make_star_list(ra, dec, [9.0]))

    assert mask[0, 0] & MaskFlag.BORDER
    assert mask[0, 0] & MaskFlag.EXTERNAL
    assert mask[99, 149] == MaskFlag.HALO | MaskFlag.SPIKE
    assert bits(mask) == {MaskFlag.BORDER, MaskFlag.EXTERNAL, MaskFlag.HALO, MaskFlag.SPIKE}


def test_halos_and_spikes_can_be_switched_off(ccd):
    ra, dec = ccd.wcs.all_pix2world(*CENTER, 0)
    stars = make_star_list(ra, dec, [9.0])

    assert bits(mask_of(ccd, MaskConfig(halo_mag_limit=None), stars=stars)) == {MaskFlag.SPIKE}
    assert bits(mask_of(ccd, MaskConfig(spike_mag_limit=None), stars=stars)) == {MaskFlag.HALO}


def test_messier_and_ngc_objects_are_masked(ccd):
    andromeda = dataclasses.replace(ccd, wcs=tan(10.68, 41.27))
    ra, dec = ccd.wcs.all_pix2world(*CENTER, 0)
    ngc = DeepSkyObjects(ra, dec, np.array([0.2]))

    assert (mask_of(andromeda) == MaskFlag.MESSIER).all()
    assert not mask_of(andromeda, MaskConfig(messier=False)).any()
    assert (mask_of(ccd, ngc=ngc) == MaskFlag.NGC).sum() == pytest.approx(np.pi * 24**2, rel=0.01)


def test_an_image_that_is_mostly_empty_is_refused(ccd):
    ccd.sci[:180] = 0

    with pytest.raises(NoGoodPixelsError, match=r"2113737-3 has no data in 90\.0% of its pixels; at most 75% may be"):
        mask_of(ccd)
    assert mask_of(ccd, MaskConfig(max_missing_fraction=1.0))[0, 0] == MaskFlag.MISSING


@pytest.mark.parametrize("settings", [{"border_px": -1}, {"max_missing_fraction": 2}, {"bad_flags": ("DED",)}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        MaskConfig(**settings)


def put_stars(raw_store, name, data):
    raw_store.put_bytes(name, data)
    return raw_file(raw_store, name, "2113737")


def fits_table(tmp_path, **columns):
    path = tmp_path / "table.fits"
    Table(columns).write(path, overwrite=True)
    return path.read_bytes()


def test_the_stage_writes_the_mask_of_a_ccd(store, raw_store, tmp_path, ccd):
    ra, dec = ccd.wcs.all_pix2world(*CENTER, 0)
    stars = put_stars(raw_store, "stars.fits", fits_table(tmp_path, RA=ra, DEC=dec, MAG=[np.float32(12.0)]))
    ccd.dq[5, 5] = DQFlag.DO_NOT_USE
    image = write_ccd_image(store, "image.fits", ccd)
    dq = write_plane(store, "dq.fits", ccd.dq, "DQ", subject=ccd.id)

    ref = mask_ccd_task.fn(image, dq, stars, QUIET, store, raw_store)

    assert ref.key == "exposures/2113737/ccd-03/mask.fits"
    mask = read_plane(store, ref, "MASK")
    assert bits(mask) == {MaskFlag.EXTERNAL, MaskFlag.HALO, MaskFlag.SPIKE}
    assert ref.summary["external"] == pytest.approx(1 / 60000, rel=0.5)
    assert ref.summary["masked"] == pytest.approx((mask > 0).mean(), abs=1e-5)


def test_a_text_list_of_stars_serves_as_well(store, raw_store, ccd):
    text = "#\n#\n#\n#GSC2-id RA(J2000) Dec(J2000) Fmag Jmag Vmag Nmag Clas\nS1 150.0 30.0 12.0 --- --- --- 0\n#\n"
    stars = put_stars(raw_store, "star_cat-2113737-3.cat", text.encode())
    image = write_ccd_image(store, "image.fits", ccd)
    dq = write_plane(store, "dq.fits", ccd.dq, "DQ", subject=ccd.id)

    mask = read_plane(store, mask_ccd_task.fn(image, dq, stars, QUIET, store, raw_store), "MASK")

    assert bits(mask) == {MaskFlag.HALO, MaskFlag.SPIKE}


def test_the_stage_writes_the_mask_of_a_tile(store, raw_store, coadd):
    raw_store.put_bytes("ngc.csv", b"# NGC\nname,RA,DEC,SIZE_ARCMIN\nNGC 1,150.0,30.0,0.2\nNGC 2,10.0,-30.0,\n")
    coadd.weight[:, :20] = 0

    ref = mask_tile_task.fn(
        write_coadd(store, "coadd.fits", coadd), None, MaskConfig(ngc_catalog="ngc.csv"), store, raw_store
    )

    assert ref.key == "tiles/210.296/mask.fits"
    assert bits(read_plane(store, ref, "MASK")) == {MaskFlag.NGC, MaskFlag.WEIGHT}


def test_catalogues_that_cannot_be_used_are_refused(store, raw_store, tmp_path, coadd):
    tile = write_coadd(store, "coadd.fits", coadd)
    for name, data, sentence in (
        ("a.fits", fits_table(tmp_path, RA=[1.0], DEC=[1.0]), "a.fits has no column MAG; it has RA, DEC"),
        ("b.fits", b"no FITS", "b.fits cannot be read as FITS"),
        ("c.csv", b"RA,DEC,MAG\n1,2\n", "c.csv is not a CSV file with the same columns"),
        ("d.csv", b"RA,DEC,MAG\n1,2,bright\n", "d.csv has a value that is not a number"),
        ("e.cat", b"nothing", "e.cat has no column RA"),
        ("f.cat", b"\xff\xfe", "f.cat is not text"),
        ("g.csv", b"\xff\xfe", "g.csv is not text"),
    ):
        with pytest.raises(BadFileError, match=sentence):
            mask_tile_task.fn(tile, put_stars(raw_store, name, data), QUIET, store, raw_store)
    primary = tmp_path / "primary.fits"
    fits.PrimaryHDU(np.zeros((2, 2))).writeto(primary)
    with pytest.raises(BadFileError, match="has no table"):
        mask_tile_task.fn(tile, put_stars(raw_store, "h.fits", primary.read_bytes()), QUIET, store, raw_store)


def test_a_catalogue_that_is_not_there_is_a_missing_product(store, raw_store, coadd):
    tile = write_coadd(store, "coadd.fits", coadd)
    ref = put_stars(raw_store, "stars.cat", b"x").model_copy(update={"key": "gone.cat"})

    with pytest.raises(MissingProductError, match=r"The list gone\.cat is not in"):
        mask_tile_task.fn(tile, ref, QUIET, store, raw_store)
    with pytest.raises(MissingProductError, match=r"The table ngc\.fits is not in"):
        mask_tile_task.fn(tile, None, MaskConfig(ngc_catalog="ngc.fits"), store, raw_store)
