"""A recipe changes with everything that an exposure or tile is made by and from, and with nothing else."""

import pytest
from crds_cache import write_simple_cache
from planned_survey import centre, planned_survey, put_exposure, put_raw

from blocks.store import DataStore
from flows import recipes as recipes_module
from flows.config import SurveyConfig
from flows.recipes import ExposureRecipes, exposure_recipe, tile_recipe
from tasks.archive.raw import RawListing, find_raw_exposure
from tasks.archive.star_lists import StarLists
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId, TileId
from tasks.products.recipe import Recipe

NAME = ExposureId("2000001")
TILE = "210.290"
LISTS = {"name": "camera", "n_ccds": 2, "star_list_file": "stars/{exposure}-{ccd}.cat"}


@pytest.fixture
def raw(raw_store: DataStore) -> DataStore:
    put_raw(raw_store, NAME.name)
    raw_store.put_bytes("stars.fits", b"stars")
    return raw_store


def recipe_of(raw: DataStore, config: SurveyConfig) -> Recipe:
    return exposure_recipe(RawListing(raw, config.exposure.instrument).files_of(NAME), config.exposure, raw)


def test_the_same_things_make_the_same_recipe(raw):
    config = planned_survey(exposure={"star_catalog": "stars.fits"})

    assert recipe_of(raw, config) == recipe_of(raw, config)
    # by the report too: it is no product
    other = planned_survey(exposure={"star_catalog": "stars.fits", "report": {"completeness_arcsec": 7.0}})
    assert recipe_of(raw, other) == recipe_of(raw, config)


def test_the_flow_and_the_plan_write_the_same_recipe(raw):
    config = planned_survey(exposure={"instrument": LISTS})
    for ccd in (0, 1, 2):
        raw.put_bytes(f"stars/{NAME}-{ccd}.cat", b"stars")
    raw.put_bytes("stars/notes.txt", b"no list")
    listing = RawListing(raw, config.exposure.instrument)

    planned = ExposureRecipes(config.exposure, raw, listing.versions).of(listing.files_of(NAME))
    written = exposure_recipe(find_raw_exposure(raw, NAME, config.exposure.instrument), config.exposure, raw)

    assert planned == written
    assert set(written.inputs) == {"star lists", *(f"raw file {key}" for key in listing.files_of(NAME).found.values())}


@pytest.mark.parametrize(
    ("settings", "stages"),
    [
        ({"psf_fit": {"min_stars": 33}}, "psf_fit"),
        ({"min_ccds": 3}, "min_ccds"),
        ({"instrument": {"name": "camera", "n_ccds": 4}}, "instrument, split"),
    ],
)
def test_settings_change_a_recipe(raw, settings, stages):
    changes = recipe_of(raw, planned_survey()).changes(recipe_of(raw, planned_survey(exposure=settings)))

    assert len(changes) == 1
    assert changes[0].startswith("the settings of ")
    assert set(changes[0].removeprefix("the settings of ").removesuffix(" changed").split(", ")) <= set(
        stages.split(", ")
    )


def test_code_changes_a_recipe(raw, monkeypatch):
    before = recipe_of(raw, planned_survey())
    fingerprint = recipes_module.code_fingerprint
    changed = {"tasks.detect": "of other code"}
    monkeypatch.setattr(recipes_module, "code_fingerprint", lambda name: changed.get(name) or fingerprint(name))

    assert before.changes(recipe_of(raw, planned_survey())) == ("the code of detect changed",)


@pytest.mark.parametrize("role", ["image", "weight", "flag"])
def test_a_raw_file_changes_a_recipe(raw, role):
    before = recipe_of(raw, planned_survey())
    put_raw(raw, NAME.name, roles=(role,), mjd=1.0)

    [change] = before.changes(recipe_of(raw, planned_survey()))
    assert change.startswith(f"raw file {NAME}p")
    assert change.endswith("changed")


def test_a_star_list_changes_a_recipe(raw):
    config = planned_survey(exposure={"instrument": LISTS})
    for ccd in (0, 1):
        raw.put_bytes(f"stars/{NAME}-{ccd}.cat", b"stars")
    before = recipe_of(raw, config)
    raw.put_bytes("stars/2000002-0.cat", b"stars of another exposure")
    assert recipe_of(raw, config) == before
    raw.put_bytes(f"stars/{NAME}-1.cat", b"more stars")

    assert before.changes(recipe_of(raw, config)) == ("star lists changed",)


def test_star_lists_are_missing_until_every_ccd_has_one(raw):
    config = planned_survey(exposure={"instrument": LISTS}).exposure
    found = []
    for ccd in (0, 1):
        found.append(StarLists(config.instrument, raw).missing(NAME))
        raw.put_bytes(f"stars/{NAME}-{ccd}.cat", b"stars")
        listed = StarLists(config.instrument, raw, raw.list_versions())
        assert listed.missing(NAME) == StarLists(config.instrument, raw).missing(NAME)

    assert found == [("2 of 2 star lists",), ("1 of 2 star lists",)]
    assert StarLists(config.instrument, raw).missing(NAME) == ()
    assert StarLists(planned_survey().exposure.instrument, raw).missing(NAME) == ()


def test_the_star_catalogue_changes_a_recipe_unless_there_are_star_lists(raw):
    config = planned_survey(exposure={"star_catalog": "stars.fits"})
    lists = planned_survey(exposure={"star_catalog": "stars.fits", "instrument": LISTS})
    before, beside = recipe_of(raw, config), recipe_of(raw, lists)
    raw.put_bytes("stars.fits", b"more stars")

    assert before.changes(recipe_of(raw, config)) == ("star catalogue stars.fits changed",)
    assert recipe_of(raw, lists) == beside


def test_a_star_catalogue_that_is_not_there_is_an_error_of_the_settings(raw):
    with pytest.raises(ConfigError, match=r"nowhere\.fits"):
        recipe_of(raw, planned_survey(exposure={"star_catalog": "nowhere.fits"}))


def test_the_reference_rules_change_a_recipe(raw, tmp_path):
    cache = write_simple_cache(tmp_path)
    rules = {"root": str(cache.root), "observatory": cache.observatory, "context": "testobs_0001.pmap"}
    config = planned_survey(exposure={"reference_cache": rules})
    before = recipe_of(raw, config)
    assert recipe_of(raw, config) == before
    cache.write_pmap({}, "testobs_0002.pmap")
    other = planned_survey(exposure={"reference_cache": {**rules, "context": "testobs_0002.pmap"}})

    assert before.changes(recipe_of(raw, other)) == (
        "reference rules testobs_0001.pmap is gone",
        "reference rules testobs_0002.pmap is new",
    )
    cache.write_pmap({})
    assert before.changes(recipe_of(raw, config)) == ("reference rules testobs_0001.pmap changed",)


def test_a_tile_changes_with_its_exposures(store, raw):
    config = planned_survey()
    before = tile_recipe(TileId(TILE), [put_exposure(store, raw, config, NAME.name, centre(TILE))], config.tile, raw)
    same = tile_recipe(TileId(TILE), [put_exposure(store, raw, config, NAME.name, centre(TILE))], config.tile, raw)
    changed = put_exposure(store, raw, config, NAME.name, centre(TILE), version="1")
    other = tile_recipe(TileId(TILE), [changed], config.tile, raw)

    assert same == before
    assert before.changes(other) == (f"exposure {NAME} changed",)
