"""An exposure whose place on the sky cannot be read is made again; it is neither everywhere nor forgotten."""

from datetime import date

import pytest
from planned_survey import MJD, centre, planned_survey, put_exposure, put_raw, put_tile

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.exposure_plan import UNKNOWN_NIGHT, moment_of, night_of
from flows.plan import make_plan
from flows.recipes import read_near
from tasks.archive.manifests import write_exposure_products
from tasks.errors import MissingProductError
from tasks.products.identity import ExposureId, ExposureProducts, TileId

TILE, FAR = "210.290", "230.290"


@pytest.fixture
def config() -> SurveyConfig:
    return planned_survey(tile={"find_exposures": {"min_exposures": 1}})


@pytest.fixture
def done(store: DataStore, raw_store: DataStore, config: SurveyConfig) -> ExposureProducts:
    """Return an exposure that is processed, and one far from it."""
    for name, tile in (("2000001", TILE), ("2000002", FAR)):
        put_raw(raw_store, name)
        products = put_exposure(store, raw_store, config, name, centre(tile))
    put_tile(store, raw_store, config, FAR, [products])
    return products


def without_circle(store: DataStore, products: ExposureProducts) -> None:
    """Let an exposure be one that was indexed before circles were recorded, with an index that is gone."""
    headers = products.headers.model_copy(update={"summary": {}})
    write_exposure_products(store, products.model_copy(update={"headers": headers}))
    store.remove(products.headers.key)


def test_an_exposure_without_a_readable_index_is_stale_and_not_everywhere(store, raw_store, config, done):
    without_circle(store, done)

    plan = make_plan(config, store, raw_store)

    first, second = plan.exposures
    assert (first.status, second.status) == ("done", "stale")
    assert second.reasons[0].startswith("its WCS index cannot be read: ")
    assert done.headers.key in second.reasons[0]
    tiles = {str(item.tile): item for item in plan.tiles}
    assert tiles[TILE].exposures == (ExposureId("2000001"),)
    assert (tiles[FAR].status, tiles[FAR].reasons[0]) == ("waiting", "waits for exposure 2000002, which is stale")


def test_an_index_that_a_tile_cannot_do_without_makes_its_exposure_stale(store, raw_store, config, done):
    store.remove("exposures/2000001/headers.sqlite")

    plan = make_plan(config, store, raw_store)

    assert [item.status for item in plan.exposures] == ["stale", "done"]
    tiles = {str(item.tile): item for item in plan.tiles}
    assert (tiles[TILE].status, tiles[TILE].reasons) == ("waiting", ("waits for exposure 2000001, which is stale",))
    assert tiles[FAR].status == "done"


def test_without_raw_files_it_cannot_be_made_again(store, raw_store, config, done):
    without_circle(store, done)
    for key in raw_store.list_keys():
        raw_store.remove(key)

    found = make_plan(config, store, raw_store).exposures[1]

    assert found.status == "incomplete"
    assert len(found.reasons) == 2


def test_a_tile_does_not_go_on_without_an_exposure_that_may_overlap_it(store, raw_store, config, done):
    without_circle(store, done)

    with pytest.raises(MissingProductError, match=r"whether exposure 2000002 overlaps tile 210\.290: its WCS index"):
        read_near(store, TileId(TILE), config.tile.find_exposures)
    assert read_near(store, TileId(TILE), config.tile.find_exposures, [ExposureId("2000001")]) != []


@pytest.mark.parametrize("mjd", [0.0, "NaN", "unknown"])
def test_an_exposure_without_a_date_is_in_every_night(store, raw_store, config, mjd):
    put_raw(raw_store, "2000001", mjd=mjd)
    put_raw(raw_store, "2000002")

    [found] = make_plan(config, store, raw_store, night=date(2020, 1, 1)).exposures

    assert (str(found.exposure), found.status, found.reasons[-1]) == ("2000001", "new", UNKNOWN_NIGHT)


def test_the_date_of_a_processed_exposure_without_one_is_that_of_its_raw_file(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE), mjd=0.0)
    night = night_of(moment_of(MJD), config.timezone)

    assert len(make_plan(config, store, raw_store, night=night).exposures) == 1
    assert make_plan(config, store, raw_store, night=date(2020, 1, 1)).exposures == ()
