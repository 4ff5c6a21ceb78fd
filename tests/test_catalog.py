"""The catalogue of a tile: one row per source, joined by number."""

import numpy as np
import pytest
from filled_tables import filled, filled_shapes
from pydantic import ValidationError

from tasks.archive.catalogs import read_catalog
from tasks.archive.documents import write_document
from tasks.archive.planes import write_plane
from tasks.archive.sources import write_sources
from tasks.archive.tables import write_table
from tasks.catalog import CatalogConfig, make_catalog, make_catalog_task
from tasks.errors import BadFileError, DataError
from tasks.products.columns import CATALOG, EPOCHS, SHAPES, SOURCES, SPREAD
from tasks.products.dq import MaskFlag
from tasks.products.identity import TileId
from tasks.products.sources import SourceList
from tasks.products.wcs_index import TileExposures
from tasks.science.metacal import ShapeFlag

NUMBER = np.array([1, 2, 3, 4])
CONFIG = CatalogConfig()


@pytest.fixture
def sources():
    return filled(
        SOURCES, 4, number=NUMBER, x_win=[10.0, 20.4, 30.0, 99.0], y_win=[5.0, 6.0, 7.6, 99.0],
        ra_win=[150.0, 150.1, 150.2, 150.3], flags=[0, 2, 4, 0], mag_auto=[20.0, 21.0, 22.0, 23.0],
    )  # fmt: skip


@pytest.fixture
def mask():
    plane = np.zeros((50, 50), np.uint32)
    plane[6, 20] = int(MaskFlag.HALO)
    plane[8, 30] = int(MaskFlag.NGC | MaskFlag.SPIKE)
    return plane


@pytest.fixture
def epochs():
    return filled(EPOCHS, 5, number=[3, 1, 1, 3, 1], ccd=[0, 1, 2, 3, 4])


@pytest.fixture
def spread():
    return filled(
        SPREAD, 4, number=[4, 3, 2, 1], spread_model=[np.nan, 0.004, 0.009, 0.0005],
        spreaderr_model=[0.1, 5e-4, 1e-3, 1e-3], flags=[1, 0, 0, 0],
    )  # fmt: skip


@pytest.fixture
def shapes():
    return filled_shapes(
        [2, 1, 4, 3], g1_noshear=[0.2, 0.1, 0.4, 0.3], g1_1p=[0.21, 0.11, 0.41, 0.31], flags=[0, 0, 8, 0]
    )


def join(*tables, config=CONFIG):
    return make_catalog("210.296", *tables, config)


def test_every_source_has_one_row_in_the_order_of_detection(sources, mask, epochs, spread, shapes):
    catalog = join(sources, mask, epochs, spread, shapes)
    assert tuple(catalog.colnames) == CATALOG.names
    assert catalog["number"].tolist() == [1, 2, 3, 4]
    assert catalog["mag_auto"].tolist() == [20.0, 21.0, 22.0, 23.0]
    assert set(catalog["tile_id"]) == {"210.296"}


def test_tables_in_another_order_are_joined_by_number(sources, mask, epochs, spread, shapes):
    catalog = join(sources, mask, epochs, spread, shapes)
    assert catalog["g1_noshear"].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert catalog["g1_1p"].tolist() == [0.11, 0.21, 0.31, 0.41]
    np.testing.assert_array_equal(catalog["spread_model"], [0.0005, 0.009, 0.004, np.nan])


def test_flags_of_detection_spread_and_shapes_stay_apart(sources, mask, epochs, spread, shapes):
    catalog = join(sources, mask, epochs, spread, shapes)
    assert catalog["flags"].tolist() == [0, 2, 4, 0]
    assert catalog["spread_flags"].tolist() == [0, 0, 0, 1]
    assert catalog["shape_flags"].tolist() == [0, 0, 0, 8]


def test_the_mask_is_that_of_the_pixel_of_the_source(sources, mask, epochs, spread, shapes):
    catalog = join(sources, mask, epochs, spread, shapes)
    expected = [0, MaskFlag.HALO, MaskFlag.NGC | MaskFlag.SPIKE, MaskFlag.MISSING]
    assert catalog["mask"].tolist() == [int(flag) for flag in expected]


def test_epochs_are_counted_and_may_be_none(sources, mask, epochs, spread, shapes):
    assert join(sources, mask, epochs, spread, shapes)["n_epoch"].tolist() == [3, 0, 2, 0]
    assert join(sources, mask, epochs[:0], spread, shapes)["n_epoch"].tolist() == [0, 0, 0, 0]


def test_classes_follow_the_spread_model_and_its_error(sources, mask, epochs, spread, shapes):
    # 0.0005 + 2 * 0.001 < 0.003 star; 0.009 + 0.002 > 0.01 galaxy; 0.004 + 0.001 neither; NaN neither
    assert join(sources, mask, epochs, spread, shapes)["spread_class"].tolist() == [0, 1, 2, 2]
    strict = CatalogConfig(class_error_factor=0.0)
    assert join(sources, mask, epochs, spread, shapes, config=strict)["spread_class"].tolist() == [0, 2, 2, 2]


def test_a_source_without_a_shape_never_looks_clean(sources, mask, epochs, spread, shapes):
    shapes["g1_noshear"][0] = shapes["g2_noshear"][1] = np.nan
    shapes["flags"][1] = int(ShapeFlag.NO_EPOCH)
    catalog = join(sources, mask, epochs, spread, shapes)
    assert catalog["shape_flags"][1] == ShapeFlag.NO_ATTEMPT
    assert catalog["shape_flags"][0] == ShapeFlag.NO_ATTEMPT | ShapeFlag.NO_EPOCH
    assert catalog["shape_flags"][2] == 0


def test_no_input_is_changed(sources, mask, epochs, spread, shapes):
    shapes["g1_noshear"][0] = np.nan
    before = [np.array(table.as_array()) for table in (sources, epochs, spread, shapes)]
    join(sources, mask, epochs, spread, shapes)
    for table, kept in zip((sources, epochs, spread, shapes), before, strict=True):
        assert np.array(table.as_array()).tobytes() == kept.tobytes()


def test_tables_that_lack_or_double_sources_are_refused(sources, mask, epochs, spread, shapes):
    with pytest.raises(
        DataError, match=r"Tile 210\.296: table SHAPES has 3 rows for 4 sources: 1 sources are missing \(\[2\]\)"
    ):
        join(sources, mask, epochs, spread, shapes[1:])
    spread["number"][0] = 7
    with pytest.raises(DataError, match=r"table SPREAD has 4 rows .* and 1 are unknown \(\[7\]\)"):
        join(sources, mask, epochs, spread, shapes)


def test_a_source_that_occurs_twice_is_refused(sources, mask, epochs, spread, shapes):
    shapes["number"][0] = 1
    with pytest.raises(DataError, match=r"1 sources are missing \(\[2\]\) and 0 are unknown"):
        join(sources, mask, epochs, spread, shapes)


def test_epochs_of_unknown_sources_are_refused(sources, mask, epochs, spread, shapes):
    epochs["number"][0] = 12
    with pytest.raises(DataError, match=r"table EPOCHS has rows of 1 sources that do not exist \(\[12\]\)"):
        join(sources, mask, epochs, spread, shapes)


def test_class_limits_that_overlap_are_refused():
    with pytest.raises(ValidationError, match=r"galaxy_limit 0\.001 must not be below star_limit 0\.003"):
        CatalogConfig(galaxy_limit=0.001)


def test_the_stage_stores_the_catalogue_with_the_place_of_its_tile(store, sources, mask, epochs, spread, shapes):
    tile, mesh = TileId("210.296"), np.zeros((1, 1))
    listed = TileExposures(tile=tile, ra=150.0, dec=58.0, size_px=50, pixel_scale_arcsec=0.2, ccds=())
    refs = {
        "exposures": write_document(store, "tiles/210.296/exposures.json", listed, subject=tile),
        "sources": write_sources(
            store, "tiles/210.296/sources.fits",
            SourceList("210.296", sources, np.zeros((50, 50), np.int32), mesh, mesh, 50, 1.0, 30.0),
        ),
        "mask": write_plane(store, "tiles/210.296/mask.fits", mask, "MASK", subject=tile),
        "epochs": write_table(store, "tiles/210.296/epochs.fits", epochs, EPOCHS, subject=tile),
        "spread": write_table(store, "tiles/210.296/spread_model.fits", spread, SPREAD, subject=tile),
        "shapes": write_table(store, "tiles/210.296/shapes.fits", shapes, SHAPES, subject=tile),
    }  # fmt: skip
    ref = make_catalog_task.fn(tile, **refs, config=CONFIG, store=store)
    assert ref.key == "tiles/210.296/catalog.fits"
    assert ref.summary == {"n_sources": 4, "n_measured": 3, "n_stars": 1, "n_galaxies": 1}
    catalog, footprint = read_catalog(store, ref)
    assert catalog["x_win"].tolist() == [10.0, 20.4, 30.0, 99.0]
    assert (footprint.ra, footprint.dec, footprint.half_width, footprint.half_height) == (150.0, 58.0, 5.0, 5.0)


def test_a_catalogue_that_does_not_say_where_its_tile_lies_is_refused(store):
    ref = write_table(store, "tiles/210.296/catalog.fits", filled(CATALOG, 1), CATALOG, subject="210.296")
    with pytest.raises(BadFileError, match="lacks TILERA, TILEDEC, TILEHW, TILEHH"):
        read_catalog(store, ref)
