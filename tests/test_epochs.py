"""Every CCD that saw a source has a row that says where, and no other has."""

import galsim
import numpy as np
import pytest
from astropy.table import Table

from tasks.archive.documents import write_document
from tasks.archive.fits_wcs import read_wcs_text, wcs_to_header_text
from tasks.archive.sources import write_sources
from tasks.archive.tables import empty_table, read_table
from tasks.epochs import EpochsConfig, count_epochs, find_epochs, find_epochs_task
from tasks.errors import DataError
from tasks.products.columns import EPOCHS, SOURCES
from tasks.products.identity import CcdId, CcdProducts, ProductRef, TileId
from tasks.products.images import Photometry, Window
from tasks.products.sources import SourceList
from tasks.products.wcs_index import CcdRecord, TileExposures
from tasks.science.geometry import image_footprint, pixel_to_sky, tile_wcs
from tasks.science.sphere import bounding_circle

SHAPE = (200, 100)
SECTION = Window(4, 0, 96, 198)
CENTRE = (210.0, 54.0)


def make_record(exposure, ccd, *, dx=0.0, angle_deg=0.0):
    """A CCD whose pixel (50 + dx, 100) looks at the centre of the tile."""
    wcs = tile_wcs(*CENTRE, size_px=100, pixel_scale_arcsec=0.2)
    angle, scale = np.radians(angle_deg), 0.2 / 3600
    wcs.wcs.crpix = [51.0 + dx, 101.0]
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.set()
    outline = image_footprint(wcs, SHAPE)
    return CcdRecord(
        ccd=CcdId(exposure=exposure, ccd=ccd),
        shape=SHAPE,
        data_section=SECTION,
        footprint=tuple(map(tuple, outline.tolist())),
        circle=bounding_circle(outline[:, 0], outline[:, 1]),
        photometry=Photometry(1.5, 4.0, 64000.0, 200.0, 26.3, 57000.0, "r"),
        wcs_text=wcs_to_header_text(wcs),
    )


def make_tile(*records):
    return TileExposures(tile=TileId("210.296"), ra=210.0, dec=54.0, size_px=400, pixel_scale_arcsec=0.2, ccds=records)


def sources_at(record, x, y):
    """A source table with the sky positions of pixels of a CCD."""
    ra, dec = pixel_to_sky(read_wcs_text(record.wcs_text), np.array(x, float), np.array(y, float))
    return Table({"number": np.arange(1, len(ra) + 1), "ra_win": ra, "dec_win": dec})


def test_positions_on_the_ccd_come_back_from_the_sky():
    record = make_record("1000001", 3, angle_deg=33.0)
    x, y = [10.25, 50.0, 94.0], [5.5, 100.75, 150.0]
    epochs = find_epochs(sources_at(record, x, y), make_tile(record), EpochsConfig())
    assert epochs["number"].tolist() == [1, 2, 3]
    assert set(epochs["exposure"]) == {"1000001"}
    assert set(epochs["ccd"]) == {3}
    np.testing.assert_allclose(epochs["x"], x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(epochs["y"], y, rtol=0, atol=1e-6)
    np.testing.assert_allclose(epochs["edge_distance"], [6.0, 45.5, 1.5], atol=1e-3)


def test_the_data_section_bounds_a_ccd_strictly():
    record = make_record("1000001", 0)
    x = [3.4, 3.6, 95.4, 95.6, 50.0, 50.0, 50.0, 50.0]
    y = [50.0, 50.0, 50.0, 50.0, -0.6, -0.4, 197.4, 197.6]
    epochs = find_epochs(sources_at(record, x, y), make_tile(record), EpochsConfig())
    assert epochs["number"].tolist() == [2, 3, 6, 7]


def test_a_margin_keeps_sources_at_the_edge_out():
    record = make_record("1000001", 0)
    epochs = find_epochs(sources_at(record, [13.4, 13.6], [50, 50]), make_tile(record), EpochsConfig(edge_px=10.0))
    assert epochs["number"].tolist() == [2]


def test_the_jacobian_of_every_epoch_is_that_of_its_ccd():
    record = make_record("1000001", 0, angle_deg=125.0)
    (row,) = find_epochs(sources_at(record, [60.0], [20.0]), make_tile(record), EpochsConfig())
    wcs = galsim.AstropyWCS(wcs=read_wcs_text(record.wcs_text), origin=galsim.PositionD(-1, -1))
    jacobian = wcs.jacobian(galsim.PositionD(60.0, 20.0))
    for name in ("dudx", "dudy", "dvdx", "dvdy"):
        assert row[name] == pytest.approx(getattr(jacobian, name), abs=1e-6)


def test_rows_go_by_source_exposure_and_ccd_whatever_the_order_of_the_ccds():
    records = [make_record("1000002", 1), make_record("1000001", 11, dx=3.0), make_record("1000003", 2, dx=-3.0)]
    sources = sources_at(records[0], [50.0, 30.0], [50.0, 60.0])
    epochs = find_epochs(sources, make_tile(*records), EpochsConfig())
    assert [(row["number"], row["exposure"]) for row in epochs] == [
        (number, exposure) for number in (1, 2) for exposure in ("1000001", "1000002", "1000003")
    ]
    again = find_epochs(sources, make_tile(*records[::-1]), EpochsConfig())
    for name in EPOCHS.names:
        np.testing.assert_array_equal(epochs[name], again[name])


def test_of_two_ccds_of_one_exposure_the_deeper_one_counts_unless_all_are_wanted():
    left, right = make_record("1000001", 0, dx=-30.0), make_record("1000001", 1, dx=35.0)
    other = make_record("1000002", 1)
    sources = sources_at(other, [50.0, 48.0], [100.0, 100.0])
    epochs = find_epochs(sources, make_tile(left, right, other), EpochsConfig())
    # source 1 is at x = 20 on the left CCD and 85 on the right one, whose edges are at 3.5 and 95.5
    assert [(row["number"], row["exposure"], row["ccd"]) for row in epochs] == [
        (1, "1000001", 0),
        (1, "1000002", 1),
        (2, "1000001", 0),
        (2, "1000002", 1),
    ]
    every = find_epochs(sources, make_tile(left, right, other), EpochsConfig(two_ccds="all"))
    assert len(every) == 6
    assert count_epochs(sources, every).tolist() == [3, 3]


def test_sources_elsewhere_or_nowhere_have_no_row():
    record = make_record("1000001", 0)
    sources = sources_at(record, [50.0, 50.0, 50.0], [50.0, 50.0, 50.0])
    sources["ra_win"][1], sources["dec_win"][2] = np.nan, -54.0
    epochs = find_epochs(sources, make_tile(record), EpochsConfig())
    assert epochs["number"].tolist() == [1]
    assert count_epochs(sources, epochs).tolist() == [1, 0, 0]


def test_a_tile_without_sources_has_an_empty_table_of_the_right_types():
    record = make_record("1000001", 0)
    epochs = find_epochs(sources_at(record, [], []), make_tile(record), EpochsConfig())
    assert len(epochs) == 0
    assert epochs.colnames == list(EPOCHS.names)


def fake_ref(key="x.fits"):
    return ProductRef(key=key, sha256="0" * 64, size=0)


def products_of(ccd):
    refs = dict.fromkeys(("image", "dq", "mask", "sources", "stars", "psf", "residuals"), fake_ref())
    return CcdProducts(ccd=ccd, **refs)


def store_sources(store, found):
    columns = {}
    for column in SOURCES.columns:
        shape = (len(found), *(max(1, size) for size in column.shape))
        columns[column.name] = found[column.name] if column.name in found.colnames else np.zeros(shape, column.dtype)
    table = Table(columns) if len(found) else empty_table(SOURCES)
    mesh = np.zeros((1, 1))
    source_list = SourceList("210.296", table, np.zeros((4, 4), np.int32), mesh, mesh, 64, 1.0, 30.0)
    return write_sources(store, "tiles/210.296/sources.fits", source_list)


def test_the_task_writes_one_based_pixels_and_says_how_many_were_not_seen(store):
    record = make_record("1000001", 0)
    sources = sources_at(record, [50.0, 50.0], [50.0, 5000.0])
    tile = write_document(store, "tiles/210.296/exposures.json", make_tile(record), subject="210.296")
    arguments = (store_sources(store, sources), tile, [products_of(record.ccd)], EpochsConfig(), store)
    ref = find_epochs_task.fn(*arguments)
    assert ref.key == "tiles/210.296/epochs.fits"
    assert ref.summary == {"n_epochs": 1, "n_sources_without_epochs": 1}
    epochs = read_table(store, ref, EPOCHS)
    assert epochs["x"][0] == pytest.approx(50.0, abs=1e-6)
    with store.local_copy(ref.key) as path:
        assert Table.read(path, hdu="EPOCHS")["X_IMAGE"][0] == pytest.approx(51.0, abs=1e-6)
    assert find_epochs_task.fn(*arguments).sha256 == ref.sha256


def test_a_ccd_without_products_is_an_error_and_not_a_lost_epoch(store):
    record = make_record("1000001", 0)
    tile = write_document(store, "tiles/210.296/exposures.json", make_tile(record), subject="210.296")
    sources = store_sources(store, sources_at(record, [50.0], [50.0]))
    with pytest.raises(DataError, match="1 of the 1 CCDs that overlap it have no products, such as 1000001-0"):
        find_epochs_task.fn(sources, tile, [], EpochsConfig(), store)
