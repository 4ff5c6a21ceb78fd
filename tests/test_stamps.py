"""Stamps: what is cut is checked against images whose value at every pixel says where it is on the sky."""

import fitsio
import galsim
import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS
from filled_tables import filled
from pydantic import ValidationError

from tasks.archive.coadds import write_coadd
from tasks.archive.images import write_ccd_image
from tasks.archive.meds import read_stamps
from tasks.archive.planes import write_plane
from tasks.archive.sources import write_sources
from tasks.archive.tables import write_table
from tasks.errors import DataError
from tasks.products.columns import EPOCH_PSF, EPOCHS, SOURCES
from tasks.products.dq import MaskFlag
from tasks.products.identity import CcdId, CcdProducts, TileId
from tasks.products.images import CcdImage, Coadd, CoaddMetadata, CoaddPlanes, Photometry, Window
from tasks.products.sources import SourceList
from tasks.science.background import mesh_edges
from tasks.science.geometry import local_jacobian, pixel_to_sky, sky_to_pixel, tile_wcs
from tasks.science.multi_epoch import StampImage, ccd_stamp_image
from tasks.shapes import ShapesConfig, measure_shapes
from tasks.stamps import StampsConfig, cut_stamps, cut_stamps_task

RA, DEC, SCALE = 150.0, 30.0, 0.2
NY, NX = 120, 140
SIZE = 15
CONFIG = StampsConfig(stamp_size=SIZE)
TILE = TileId("210.296")
TILE_SHAPE = (200, 200)
VARIANCE_SCALE, TILE_VARIANCE_SCALE = 4.0, 2.0
# x, y in the tile; the last is far from both CCDs
SOURCES_XY = np.array([[100.2, 99.7], [112.5, 105.0], [45.3, 60.1], [5.0, 190.0]])


def ccd_wcs(angle_deg: float, dx: float) -> WCS:
    """A CCD that is turned and shifted against the tile, with slightly larger pixels."""
    wcs = tile_wcs(RA, DEC, size_px=NX, pixel_scale_arcsec=SCALE * 1.05)
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turned = WCS(naxis=2)
    turned.wcs.ctype, turned.wcs.crval, turned.wcs.cunit = ["RA---TAN", "DEC--TAN"], [RA, DEC], ["deg", "deg"]
    turned.wcs.crpix = [NX / 2 + dx, NY / 2]
    turned.wcs.cd = wcs.wcs.cd @ np.array([[c, -s], [s, c]])
    turned.wcs.set()
    return turned


CCD_WCS = {"1000001-0": ccd_wcs(180.0, 0.0), "1000002-3": ccd_wcs(12.0, 40.0)}


@pytest.fixture
def tile():
    wcs = tile_wcs(RA, DEC, size_px=TILE_SHAPE[0], pixel_scale_arcsec=SCALE)
    seg = np.zeros(TILE_SHAPE, np.int32)
    rows, cols = np.mgrid[: TILE_SHAPE[0], : TILE_SHAPE[1]]
    for number, (x, y) in enumerate(SOURCES_XY, start=1):
        seg[np.hypot(rows - y, cols - x) < 5] = number
    mask = np.zeros(TILE_SHAPE, np.uint32)
    mask[:, 104:108] = int(MaskFlag.HALO)
    mask[:, 96:98] = int(MaskFlag.BORDER)
    ra, dec = pixel_to_sky(wcs, *SOURCES_XY.T)
    table = filled(
        SOURCES, 4, number=[1, 2, 3, 4], x_win=SOURCES_XY[:, 0], y_win=SOURCES_XY[:, 1], ra_win=ra, dec_win=dec
    )
    mesh = np.zeros((2, 2))
    sources = SourceList("210.296", table, seg, mesh, mesh, 100, TILE_VARIANCE_SCALE, 30.0)
    sci = (1000.0 + rows + 0.01 * cols).astype(np.float32)
    coadd = Coadd(TILE, CoaddPlanes(sci, np.full(TILE_SHAPE, 8, np.float32)), wcs, CoaddMetadata(1e6, 1.0))
    return coadd, mask, sources


@pytest.fixture
def epochs(tile):
    _, _, sources = tile
    table = Table(names=EPOCHS.names, dtype=[column.dtype for column in EPOCHS.columns])
    for name, wcs in CCD_WCS.items():
        exposure, ccd = name.split("-")
        x, y, seen = sky_to_pixel(wcs, sources.table["ra_win"], sources.table["dec_win"], (NY, NX), margin=0.0)
        for row in np.flatnonzero(seen):
            (dvdy, dvdx), (dudy, dudx) = local_jacobian(wcs, x[row], y[row])[0]
            table.add_row((row + 1, exposure, int(ccd), x[row], y[row], 20.0, dudx, dudy, dvdx, dvdy))
    assert len(table) == 6
    return table


@pytest.fixture
def psf(epochs):
    n = len(epochs)
    stamps = np.arange(1, n + 1)[:, None, None] * np.ones((n, 5, 5)) / 25.0
    columns = {name: epochs[name] for name in ("number", "exposure", "ccd")}
    return filled(EPOCH_PSF, n, psf=stamps, **columns)


def ccd_planes(name):
    """Every pixel holds a number of its own, so that a stamp says which pixels it was cut from."""
    rows, cols = np.mgrid[:NY, :NX]
    bmask = np.where(cols < 3, int(MaskFlag.BORDER), 0).astype(np.int32)
    value = (rows * 1000 + cols).astype(np.float32)
    return StampImage(name, value, np.full((NY, NX), 2, np.float32), bmask)


@pytest.fixture
def readers():
    return {name: lambda name=name: ccd_planes(name) for name in CCD_WCS}


@pytest.fixture
def stamps(tile, epochs, psf, readers):
    return cut_stamps(*tile, epochs, psf, readers, CONFIG)


def test_every_source_has_its_coadd_first_and_then_its_epochs_in_order(stamps):
    assert stamps.ids.tolist() == [1, 2, 3, 4]
    assert stamps.n_epoch.tolist() == [2, 2, 2, 0]
    assert [e.source_image for e in stamps.epochs(0)] == ["1000001-0", "1000002-3"]
    assert stamps.coadd(3).source_image == "210.296"
    assert stamps.epochs(3) == []


def test_pixels_come_from_where_the_stamp_says(stamps):
    for i in range(3):
        for epoch in stamps.epochs(i):
            inside = epoch.weight > 0
            rows, cols = np.nonzero(inside)
            expected = (rows + epoch.orig_start_row) * 1000 + cols + epoch.orig_start_col
            np.testing.assert_array_equal(epoch.image[inside], expected)
            assert (epoch.weight[inside] == 2).all()


def test_the_source_is_in_the_central_pixel_and_its_position_is_exact(stamps, epochs):
    for i in range(3):
        rows = np.flatnonzero(epochs["number"] == i + 1)
        for epoch, row in zip(stamps.epochs(i), rows, strict=True):
            assert abs(epoch.cutout_row - SIZE // 2) <= 0.5
            assert abs(epoch.cutout_col - SIZE // 2) <= 0.5
            assert epoch.cutout_row + epoch.orig_start_row == pytest.approx(epochs["y"][row], abs=1e-9)
            assert epoch.orig_col == epochs["x"][row]


def test_what_hangs_over_the_edge_has_no_weight_and_says_missing(stamps, tile):
    coadd = stamps.coadd(3)
    outside = np.zeros((SIZE, SIZE), bool)
    outside[:, :2] = True
    assert coadd.orig_start_col == -2
    assert (coadd.bmask[outside] == int(MaskFlag.MISSING)).all()
    assert not coadd.weight[outside].any()
    assert not coadd.image[outside].any()
    assert (coadd.bmask[~outside] & int(MaskFlag.MISSING) == 0).all()


def test_the_coadd_is_cut_with_true_inverse_variances(stamps):
    coadd = stamps.coadd(0)
    assert coadd.weight[7, 7] == 8 / TILE_VARIANCE_SCALE
    assert coadd.image[7, 7] == np.float32(1000.0 + 100 + 0.01 * 100)
    np.testing.assert_allclose(coadd.jacobian, [[SCALE, 0], [0, SCALE]], atol=1e-7)


def test_segmentation_and_sky_mask_follow_the_sky(stamps, tile):
    coadd, mask, sources = tile
    checked = 0
    for i in range(3):
        for epoch in stamps.epochs(i):
            rows, cols = np.mgrid[:SIZE, :SIZE]
            ra, dec = pixel_to_sky(
                CCD_WCS[epoch.source_image],
                (cols + epoch.orig_start_col).ravel().astype(float),
                (rows + epoch.orig_start_row).ravel().astype(float),
            )
            x, y = coadd.wcs.all_world2pix(ra, dec, 0)
            # on the border of two tile pixels the last digit decides
            clear = (np.abs(x % 1 - 0.5) > 1e-3) & (np.abs(y % 1 - 0.5) > 1e-3)
            column, row = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
            np.testing.assert_array_equal(epoch.seg.ravel()[clear], sources.segmentation[row, column][clear])
            halo = epoch.bmask.ravel() & int(MaskFlag.HALO)
            np.testing.assert_array_equal(halo[clear], (mask & int(MaskFlag.HALO))[row, column][clear])
            checked += clear.sum()
    assert checked > 1200
    assert set(np.unique(stamps.epochs(0)[0].seg)) == {0, 1, 2}


def test_bits_of_the_coadd_itself_are_not_carried_over(stamps):
    assert (stamps.coadd(0).bmask & int(MaskFlag.BORDER)).any()
    for epoch in stamps.epochs(0):
        assert not (epoch.bmask & int(MaskFlag.BORDER)).any()


def test_an_epoch_without_a_good_psf_has_no_stamp(tile, epochs, psf, readers):
    psf["flags"][:3] = [4, 0, 4]
    stamps = cut_stamps(*tile, epochs, psf, readers, CONFIG)
    assert stamps.n_epoch.sum() == 4
    used = np.concatenate([[e.psf[0, 0] * 25 for e in stamps.epochs(i)] for i in range(4)])
    assert sorted(used.round().astype(int)) == [2, 4, 5, 6]


def test_every_psf_stays_with_its_epoch(stamps, epochs):
    for i in range(3):
        for epoch in stamps.epochs(i):
            exposure, ccd = epoch.source_image.split("-")
            [row] = np.flatnonzero(
                (epochs["number"] == i + 1) & (epochs["exposure"] == exposure) & (epochs["ccd"] == int(ccd))
            )
            np.testing.assert_allclose(epoch.psf, (row + 1) / 25)


def test_each_ccd_is_read_once_and_only_if_it_has_an_epoch(tile, epochs, psf):
    read = []

    def reader(name):
        return lambda: (read.append(name), ccd_planes(name))[1]

    readers = {name: reader(name) for name in ("1000000-7", *CCD_WCS, "1000009-1")}
    assert cut_stamps(*tile, epochs, psf, readers, CONFIG).images == ("210.296", *CCD_WCS)
    assert read == list(CCD_WCS)


def test_sources_without_any_epoch_still_have_a_coadd(tile, epochs, psf, readers):
    psf["flags"] = 1
    assert cut_stamps(*tile, epochs, psf, readers, CONFIG).n_epoch.tolist() == [0, 0, 0, 0]


def test_psfs_of_other_epochs_are_refused(tile, epochs, psf, readers):
    psf["ccd"][2] += 1
    with pytest.raises(
        DataError, match=r"Tile 210\.296: the epochs \(6 rows\) and their PSFs \(6 rows\) differ in ccd"
    ):
        cut_stamps(*tile, epochs, psf, readers, CONFIG)
    with pytest.raises(DataError, match=r"their PSFs \(5 rows\) differ in number"):
        cut_stamps(*tile, epochs, psf[:5], readers, CONFIG)


def test_epochs_of_strangers_are_refused(tile, epochs, psf, readers):
    with pytest.raises(DataError, match=r"1 CCDs that are not at hand \(\['1000002-3'\]\) and 0 sources"):
        cut_stamps(*tile, epochs, psf, {"1000001-0": readers["1000001-0"]}, CONFIG)
    epochs["number"][0] = psf["number"][0] = 99
    with pytest.raises(
        DataError, match=r"0 CCDs that are not at hand \(\[\]\) and 1 sources that do not exist \(\[99\]\)"
    ):
        cut_stamps(*tile, epochs, psf, readers, CONFIG)


def test_a_tile_without_sources_is_refused(tile, epochs, psf, readers):
    coadd, mask, sources = tile
    empty = SourceList("210.296", sources.table[:0], sources.segmentation, *[np.zeros((2, 2))] * 2, 100, 1.0, 30.0)
    with pytest.raises(DataError, match=r"Tile 210\.296 has no sources to cut stamps of"):
        cut_stamps(coadd, mask, empty, epochs[:0], psf[:0], readers, CONFIG)


def test_an_even_stamp_size_is_refused():
    with pytest.raises(ValidationError, match="must be odd, so that a stamp has a central pixel, not 50"):
        StampsConfig(stamp_size=50)


def test_ccds_are_brought_to_zero_point_30_without_background_and_with_true_noise():
    rng = np.random.default_rng(5)
    sigma, scale, flux_scale = 7.0, 3.0, 40.0
    sci = rng.normal(500.0, sigma, (200, 200)).astype(np.float32)
    weight = np.full((200, 200), scale / sigma**2, np.float32)
    sci[0, 0], weight[0, 1], sci[0, 2], weight[0, 3] = np.nan, 0.0, np.inf, -1.0
    before = sci.copy()
    image = ccd_stamp_image(
        "1-0", sci, weight, np.full_like(sci, 500), np.zeros((200, 200), np.uint32), flux_scale=flux_scale,
        variance_scale=scale,
    )  # fmt: skip
    assert not image.weight[0, :4].any()
    assert np.isfinite(image.flux).all()
    np.testing.assert_array_equal(sci, before)
    good = image.weight > 0
    chi2 = (image.flux[good] ** 2 * image.weight[good]).mean()
    assert chi2 == pytest.approx(1.0, abs=5 * np.sqrt(2 / good.sum()))


@pytest.fixture
def stored(store, tile, epochs, psf):
    """The tile, its tables and its CCDs in a store, and the CCDs once more in memory."""
    coadd, mask, sources = tile
    photometry = Photometry(1.5, 5.0, 60000.0, 200.0, 26.0, 58000.0, "r")
    rng = np.random.default_rng(6)
    ccds, images = [], {}
    mesh = mesh_edges(NY, 70).size - 1, mesh_edges(NX, 70).size - 1
    for name, wcs in CCD_WCS.items():
        exposure, number = name.split("-")
        identity = CcdId(exposure=exposure, ccd=int(number))
        sci, weight = rng.normal(300, 5, (NY, NX)).astype(np.float32), np.ones((NY, NX), np.float32)
        image = CcdImage(identity, sci, weight, np.zeros((NY, NX), np.uint32), wcs, photometry, Window.full((NY, NX)))
        images[name] = image
        background = SourceList(name, sources.table[:1], np.zeros((NY, NX), np.int32), np.full(mesh, 300.0),
                                np.ones(mesh), 70, VARIANCE_SCALE, 26.0)  # fmt: skip
        at = f"exposures/{exposure}/ccd-{number}"
        refs = {
            "image": write_ccd_image(store, f"{at}/image.fits", image),
            "mask": write_plane(store, f"{at}/mask.fits", np.zeros((NY, NX), np.uint32), "MASK", subject=name),
            "sources": write_sources(store, f"{at}/sources.fits", background),
        }
        ccds.append(
            CcdProducts(ccd=identity, **refs, **dict.fromkeys(("dq", "stars", "psf", "residuals"), refs["image"]))
        )
    tables = {
        "coadd": write_coadd(store, "tiles/210.296/coadd.fits", coadd),
        "mask": write_plane(store, "tiles/210.296/mask.fits", mask, "MASK", subject="210.296"),
        "sources": write_sources(store, "tiles/210.296/sources.fits", sources),
        "epochs": write_table(store, "tiles/210.296/epochs.fits", epochs, EPOCHS, subject="210.296"),
        "psf": write_table(store, "tiles/210.296/psf.fits", psf, EPOCH_PSF, subject="210.296"),
    }
    return tables, ccds, images


def test_the_stage_writes_one_meds_file_with_counts(store, stored, psf):
    refs, ccds, images = stored
    psf["flags"][0] = 2
    refs["psf"] = write_table(store, "tiles/210.296/psf.fits", psf, EPOCH_PSF, subject="210.296")
    made = cut_stamps_task.fn(**refs, ccds=ccds, config=CONFIG, store=store)
    assert made.key == "tiles/210.296/stamps.fits"
    assert made.summary == {
        "n_sources": 4, "n_epochs": 5, "n_epochs_without_psf": 1, "n_sources_without_epochs": 1
    }  # fmt: skip
    with store.local_copy(made.key) as path:
        header = fitsio.read_header(str(path), ext=0)
        assert header["STAGE"] == "stamps"
    epoch = read_stamps(store, made).epochs(1)[0]
    image = images[epoch.source_image]
    row, col = epoch.orig_start_row, epoch.orig_start_col
    expected = (image.sci[row : row + SIZE, col : col + SIZE] - 300) * image.photometry.flux_scale
    np.testing.assert_allclose(epoch.image, expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(epoch.weight, 1 / (VARIANCE_SCALE * image.photometry.flux_scale**2), rtol=1e-6)


def test_the_order_of_the_ccds_does_not_change_a_bit(store, stored):
    refs, ccds, _ = stored
    first = read_stamps(store, cut_stamps_task.fn(**refs, ccds=ccds, config=CONFIG, store=store))
    again = read_stamps(store, cut_stamps_task.fn(**refs, ccds=ccds[::-1], config=CONFIG, store=store))
    for name, value in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)


def test_a_galaxy_has_the_same_shape_on_every_ccd_and_that_of_the_sky(tile, epochs):
    """Drawn by GalSim through the WCS of two turned CCDs; one epoch at a time gives the shape that went in."""
    coadd, mask, sources = tile
    truth = galsim.Gaussian(half_light_radius=0.6, flux=1e5).shear(g1=0.2, g2=-0.12)
    point = galsim.Gaussian(fwhm=0.7)
    planes, stamps_of_psf = {}, []
    for name, wcs in CCD_WCS.items():
        full = galsim.ImageF(NX, NY, xmin=0, ymin=0, wcs=galsim.AstropyWCS(wcs=wcs, origin=galsim.PositionD(0, 0)))
        exposure, ccd = name.split("-")
        [row] = np.flatnonzero((epochs["number"] == 3) & (epochs["exposure"] == exposure) & (epochs["ccd"] == int(ccd)))
        position = galsim.PositionD(epochs["x"][row], epochs["y"][row])
        galsim.Convolve(truth, point).drawImage(full, center=position)
        local = full.wcs.local(position)
        stamps_of_psf.append((row, point.drawImage(nx=31, ny=31, wcs=local).array))
        full.addNoise(galsim.GaussianNoise(galsim.BaseDeviate(1), sigma=1.0))
        planes[name] = StampImage(name, full.array, np.ones((NY, NX), np.float32), np.zeros((NY, NX), np.int32))
    for row, image in stamps_of_psf:
        psf = filled(EPOCH_PSF, len(epochs), **{name: epochs[name] for name in ("number", "exposure", "ccd")})
        psf["psf"] = np.zeros((len(epochs), 31, 31), np.float32)
        psf["flags"] = 1
        psf["psf"][row], psf["flags"][row] = image, 0
        readers = {name: lambda name=name: planes[name] for name in CCD_WCS}
        stamps = cut_stamps(coadd, mask * 0, sources, epochs, psf, readers, StampsConfig(stamp_size=35))
        shape = measure_shapes(stamps, ShapesConfig())[2]
        assert (shape["number"], shape["flags"], shape["n_epoch_used"]) == (3, 0, 1)
        assert shape["g1_noshear"] == pytest.approx(0.2, abs=5e-3)
        assert shape["g2_noshear"] == pytest.approx(-0.12, abs=5e-3)
