"""Merging tiles: every object once, whatever the order."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from filled_tables import filled

from tasks.archive.catalogs import write_catalog
from tasks.archive.tables import read_table
from tasks.errors import DataError
from tasks.merge import MergeConfig, export_parquet_task, merge_catalogs, merge_catalogs_task
from tasks.products.columns import CATALOG, SURVEY_CATALOG
from tasks.products.footprint import TileFootprint
from tasks.products.identity import TileId
from tasks.products.wcs_index import TileExposures

CONFIG = MergeConfig()
WEST, EAST = TileFootprint(150.0, 0.0, 190.0, 190.0), TileFootprint(150.08, 0.0, 190.0, 190.0)
ARCSEC = 1 / 3600


def catalog(tile, ra, number=None, **columns):
    n = len(ra)
    number = np.arange(1, n + 1) if number is None else number
    return filled(CATALOG, n, tile_id=[tile] * n, number=number, ra_win=ra, **columns)


@pytest.fixture
def tiles():
    """Two tiles that share three objects: one nearer to each, one whose two positions straddle the border."""
    west = catalog("101.200", [149.98, 150.03, 150.05, 150.04 + 0.05 * ARCSEC], shape_flags=[0, 0, 0, 1])
    east = catalog("102.200", [150.03 + 0.1 * ARCSEC, 150.05, 150.04 - 0.05 * ARCSEC, 150.035, 150.1])
    return [west, east], [WEST, EAST]


def test_every_object_is_kept_once_and_by_its_home_tile(tiles):
    merged, summary = merge_catalogs(*tiles, CONFIG)
    assert tuple(merged.colnames) == SURVEY_CATALOG.names
    assert merged["object_id"].tolist() == ["101.200-1", "101.200-2", "101.200-4", "102.200-2", "102.200-5"]
    assert summary == {
        "n_tiles": 2, "n_objects": 5, "n_measured": 4, "n_duplicates": 3, "n_outside_unique_area": 1
    }  # fmt: skip


def test_the_order_of_the_tiles_changes_nothing(tiles):
    catalogs, footprints = tiles
    first, again = (
        merge_catalogs(catalogs, footprints, CONFIG),
        merge_catalogs(catalogs[::-1], footprints[::-1], CONFIG),
    )
    assert first[1] == again[1]
    assert first[0].as_array().tobytes() == again[0].as_array().tobytes()


def test_objects_that_only_the_other_tile_has_are_kept_if_asked(tiles):
    merged, summary = merge_catalogs(*tiles, MergeConfig(keep_unmatched=True))
    assert "102.200-4" in merged["object_id"]
    assert not merged["unique_area"][merged["object_id"] == "102.200-4"]
    assert summary["n_outside_unique_area"] == 0


def test_a_single_tile_loses_nothing(tiles):
    merged, summary = merge_catalogs(tiles[0][:1], tiles[1][:1], CONFIG)
    assert summary["n_objects"] == 4
    assert merged["unique_area"].all()


def test_a_tile_without_sources_is_passed_over(tiles):
    catalogs, footprints = tiles
    merged, summary = merge_catalogs([catalogs[0], catalogs[1][:0]], footprints, CONFIG)
    assert summary["n_tiles"] == 1
    assert len(merged) == 4


def test_nothing_to_merge_is_refused(tiles):
    with pytest.raises(DataError, match="None of 1 catalogues has a source"):
        merge_catalogs([tiles[0][0][:0]], [WEST], CONFIG)
    with pytest.raises(DataError, match="None of 0 catalogues has a source"):
        merge_catalogs([], [], CONFIG)


def test_a_tile_that_occurs_twice_is_refused(tiles):
    with pytest.raises(DataError, match=r"Tiles occur twice among the 2 to merge: 101\.200, 101\.200"):
        merge_catalogs([tiles[0][0]] * 2, [WEST] * 2, CONFIG)


def test_tiles_with_other_columns_are_refused(tiles):
    catalogs, footprints = tiles
    catalogs[1]["flux_aper"] = np.zeros((5, 3))
    with pytest.raises(DataError, match="The catalogues of 2 tiles differ in their columns"):
        merge_catalogs(catalogs, footprints, CONFIG)


@pytest.fixture
def refs(store, tiles):
    made = []
    for table, footprint in zip(*tiles, strict=True):
        tile = TileId(str(table["tile_id"][0]))
        listed = TileExposures(
            tile=tile, ra=footprint.ra, dec=footprint.dec, size_px=1900, pixel_scale_arcsec=0.2, ccds=()
        )
        made.append(write_catalog(store, table, listed))
    return made


def test_the_stages_store_the_survey_as_fits_and_parquet(store, refs, tiles):
    merged = merge_catalogs_task.fn(refs, CONFIG, store)
    assert (merged.key, merged.subject) == ("survey/catalog.fits", "survey")
    assert merged.summary["n_objects"] == 5
    table = read_table(store, merged, SURVEY_CATALOG)
    parquet = export_parquet_task.fn(merged, CONFIG, store)
    assert parquet.key == "survey/catalog.parquet"
    with store.local_copy(parquet.key) as path:
        columns = pq.read_table(path)
    assert tuple(columns.column_names) == SURVEY_CATALOG.names
    for name in ("object_id", "ra_win", "x_win", "shape_flags", "unique_area"):
        assert columns[name].to_pylist() == table[name].tolist()
    np.testing.assert_array_equal(columns["flux_aper"].to_pylist(), table["flux_aper"])
    described = columns.schema.field("ra_win").metadata
    assert described == {b"unit": b"deg", b"meaning": SURVEY_CATALOG["ra_win"].meaning.encode()}


def test_parquet_is_the_same_to_the_byte(store, refs):
    merged = merge_catalogs_task.fn(refs, CONFIG, store)
    first = export_parquet_task.fn(merged, CONFIG, store)
    again = export_parquet_task.fn(merged, MergeConfig(tolerance_arcsec=0.7), store)
    assert first.sha256 == again.sha256
