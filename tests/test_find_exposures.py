"""A tile is given the CCDs that overlap it, all of them, in a fixed order."""

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.archive.documents import read_document
from tasks.archive.fits_wcs import wcs_to_header_text
from tasks.archive.wcs_index import write_index
from tasks.errors import BadFileError, DataError, TooFewEpochsError
from tasks.find_exposures import FindExposuresConfig, exposures_in_history, find_exposures, find_exposures_task
from tasks.products.identity import CcdId, ExposureId, TileId
from tasks.products.images import Photometry, Window
from tasks.products.wcs_index import CcdRecord, TileExposures
from tasks.science.geometry import TileGrid, image_footprint, pixel_to_sky, sky_to_pixel, tile_wcs
from tasks.science.sphere import bounding_circle

CONFIG = FindExposuresConfig(spacing_deg=0.02, size_px=400, pixel_scale_arcsec=0.2)
TILE = TileId("3000.7000")
CENTRE = TileGrid(0.02).centre(TILE)
SHAPE = (200, 100)


def make_record(exposure, ccd, *, east=0.0, north=0.0):
    """A CCD of 20 x 40 arcsec whose centre lies some arcsec from the centre of the tile, which is 80 arcsec wide."""
    dec = CENTRE[1] + north / 3600
    wcs = tile_wcs(CENTRE[0] + east / 3600 / np.cos(np.radians(dec)), dec, size_px=100, pixel_scale_arcsec=0.2)
    wcs.wcs.crpix = [50.5, 100.5]
    wcs.wcs.set()
    outline = image_footprint(wcs, SHAPE)
    return CcdRecord(
        ccd=CcdId(exposure=exposure, ccd=ccd),
        shape=SHAPE,
        data_section=Window.full(SHAPE),
        footprint=tuple(map(tuple, outline.tolist())),
        circle=bounding_circle(outline[:, 0], outline[:, 1]),
        photometry=Photometry(1.5, 4.0, 64000.0, 200.0, 26.3, 57000.0, "r"),
        wcs_text=wcs_to_header_text(wcs),
    )


def test_ccds_inside_across_the_edge_and_outside():
    records = [
        make_record("2000001", 3),
        make_record("2000001", 1, east=49.0),
        make_record("2000001", 2, east=51.0),
        make_record("1000001", 0, north=59.0),
        make_record("1000001", 1, north=-61.0),
        make_record("1000002", 1, north=5000.0),
    ]
    found = find_exposures(TILE, records, CONFIG)
    assert [str(record.ccd) for record in found.ccds] == ["1000001-0", "2000001-1", "2000001-3"]
    assert found.exposures == (ExposureId("1000001"), ExposureId("2000001"))
    assert (found.ra, found.dec, found.size_px, found.pixel_scale_arcsec) == (*CENTRE, 400, 0.2)


def test_no_ccd_with_a_pixel_on_the_tile_is_missed():
    rng = np.random.default_rng(4)
    wcs = tile_wcs(*CENTRE, size_px=400, pixel_scale_arcsec=0.2)
    records = [make_record("1000000", n, east=e, north=s) for n, (e, s) in enumerate(rng.uniform(-75, 75, (120, 2)))]
    listed = {record.ccd.ccd for record in find_exposures(TILE, records, CONFIG).ccds}
    y, x = np.mgrid[0.0:400:8, 0.0:400:8]
    sky = pixel_to_sky(wcs, x.ravel(), y.ravel())
    reached = set()
    for record in records:
        ccd_wcs = tile_wcs(*record.circle[:2], size_px=100, pixel_scale_arcsec=0.2)
        ccd_wcs.wcs.crpix = [50.5, 100.5]
        ccd_wcs.wcs.set()
        on_x, on_y, _ = sky_to_pixel(ccd_wcs, *sky, SHAPE)
        if Window.full(SHAPE).contains(on_x, on_y).any():
            reached.add(record.ccd.ccd)
    assert 20 < len(reached) < 110
    assert reached <= listed
    assert len(listed - reached) <= 6


def test_the_order_of_the_records_changes_nothing():
    records = [make_record(f"{2000000 + n}", n % 3, east=n) for n in range(6)]
    assert find_exposures(TILE, records, CONFIG) == find_exposures(TILE, records[::-1], CONFIG)


def test_the_task_reads_the_index_and_writes_a_document(store):
    records = [make_record("2000001", 0), make_record("2000002", 1), make_record("2000003", 0, north=900.0)]
    index = write_index(store, "survey/headers.sqlite", records, subject="survey")
    ref = find_exposures_task.fn(TILE, index, CONFIG, store)
    assert ref.key == "tiles/3000.7000/exposures.json"
    assert ref.summary == {"n_ccds": 2, "n_exposures": 2}
    assert read_document(store, ref, TileExposures) == find_exposures(TILE, records, CONFIG)
    assert find_exposures_task.fn(TILE, index, CONFIG, store).sha256 == ref.sha256


def test_a_tile_without_exposures_is_refused():
    with pytest.raises(
        TooFewEpochsError, match=r"Tile 3000.7000 at RA .* is overlapped by 0 processed exposures; it needs"
    ):
        find_exposures(TILE, [make_record("1000001", 0, north=3000.0)], CONFIG)


def test_the_floor_counts_exposures_and_not_ccds():
    records = [make_record("1000001", 0), make_record("1000001", 1, east=15.0)]
    config = CONFIG.model_copy(update={"min_exposures": 2})
    with pytest.raises(TooFewEpochsError, match="is overlapped by 1 processed exposures; it needs 2"):
        find_exposures(TILE, records, config)
    find_exposures(TILE, [*records, make_record("1000002", 0)], config)


def test_a_tile_beyond_the_grid_is_refused():
    with pytest.raises(DataError, match=r"Tile 000.9001 is not on the grid of 0.02 degrees"):
        find_exposures(TileId("000.9001"), [], CONFIG)


def test_a_list_that_lacks_products_is_refused():
    found = find_exposures(TILE, [make_record("1000001", 0), make_record("1000001", 1)], CONFIG)
    found.require([CcdId(exposure="1000001", ccd=1), CcdId(exposure="1000001", ccd=0)])
    with pytest.raises(DataError, match="1 of the 2 CCDs that overlap it have no products, such as 1000001-0"):
        found.require([CcdId(exposure="1000001", ccd=1)])


def test_settings_are_bounded():
    with pytest.raises(ValidationError, match="greater than 0"):
        FindExposuresConfig(spacing_deg=0)


def test_the_history_of_an_external_tile_names_its_exposures():
    history = [
        "input image 2243881p.fits 6 extension(s)",
        "SWarp 2.38.0",
        "input image 2228303p.fits 4 extension(s)",
        "input image 2228303p.fits 2 extension(s)",
        "input image c4d_170316.fits.fz 62 extension(s)",
    ]
    names = [exposure.name for exposure in exposures_in_history(history, TILE)]
    assert names == ["2228303", "2243881", "c4d_170316"]


def test_only_the_exposures_of_a_stack_are_used_for_it():
    records = [make_record("2228303", 0), make_record("2228304", 0)]
    only = exposures_in_history(["input image 2228303p.fits 4 extension(s)"], TILE)
    assert find_exposures(TILE, records, CONFIG, only=only).exposures == (ExposureId("2228303"),)


def test_a_tile_without_input_cards_is_refused():
    with pytest.raises(
        BadFileError, match=r"Tile 3000.7000 has no HISTORY card of the form 'input image 2228303p.fits"
    ):
        exposures_in_history(["stacked by hand"], TILE)
