"""The plan says of every exposure and tile what is to be done with it, and why."""

from datetime import date

import pytest
from planned_survey import GRID, MJD, centre, planned_survey, put_exposure, put_raw, put_tile

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.exposure_plan import ExposurePlan, moment_of, night_of
from flows.plan import Plan, make_plan
from flows.recipes import exposure_recipe
from flows.tile_plan import TilePlan
from tasks.archive import keys
from tasks.archive.manifests import forget_exposure_products, write_refusal
from tasks.archive.raw import RawListing
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId, Refusal, TileId
from tasks.products.recipe import Recipe
from tasks.science.sphere import square_footprint

TILE = "210.290"
BESIDE = "211.290"
FAR = "230.290"


def exposure_of(plan: Plan, name: str) -> ExposurePlan:
    [found] = [item for item in plan.exposures if str(item.exposure) == name]
    return found


def tile_of(plan: Plan, name: str = TILE) -> TilePlan:
    [found] = [item for item in plan.tiles if str(item.tile) == name]
    return found


def refuse(store: DataStore, raw: DataStore, config: SurveyConfig, name: str, reason: str) -> None:
    files = RawListing(raw, config.exposure.instrument).files_of(ExposureId(name))
    recipe = exposure_recipe(files, config.exposure, raw)
    write_refusal(store, ExposureId(name), Refusal(subject=name, reason=reason, recipe=recipe))


@pytest.fixture
def config() -> SurveyConfig:
    return planned_survey()


def test_an_exposure_that_was_not_processed_is_new(store, raw_store, config):
    put_raw(raw_store, "2000001")

    plan = make_plan(config, store, raw_store)

    assert plan.exposures == (
        ExposurePlan(exposure=ExposureId("2000001"), status="new", reasons=("not processed yet",)),
    )
    assert plan.tiles == ()
    assert plan.exposures_to_do() == plan.exposures


def test_an_exposure_waits_for_its_weight_file(store, raw_store, config):
    put_raw(raw_store, "2000001", roles=("image",))

    found = exposure_of(make_plan(config, store, raw_store), "2000001")
    put_raw(raw_store, "2000001", roles=("weight", "flag"))

    sentence = "weight file 2000001p.weight.fits.fz, flag file 2000001p.flag.fits.fz have not arrived in"
    assert (found.status, found.reasons[0].startswith(sentence)) == ("incomplete", True)
    assert exposure_of(make_plan(config, store, raw_store), "2000001").status == "new"


def test_an_exposure_waits_for_its_star_lists(store, raw_store):
    instrument = {"name": "camera", "n_ccds": 2, "star_list_file": "stars/list-{exposure}-{ccd}.cat"}
    config = planned_survey(exposure={"instrument": instrument})
    put_raw(raw_store, "2000001")
    raw_store.put_bytes("stars/list-2000001-0.cat", b"1")

    found = exposure_of(make_plan(config, store, raw_store), "2000001")
    raw_store.put_bytes("stars/list-2000001-1.cat", b"2")

    assert found.status == "incomplete"
    assert found.reasons[0].startswith("1 of 2 star lists has not arrived")
    assert exposure_of(make_plan(config, store, raw_store), "2000001").status == "new"


def test_a_damaged_record_of_a_refusal_stops_no_plan(store, raw_store, config):
    put_raw(raw_store, "2000001")
    store.put_bytes("exposures/2000001/set_aside.json", b'{"subject": "2000')

    assert exposure_of(make_plan(config, store, raw_store), "2000001").status == "new"


def test_a_named_exposure_that_nobody_has_sent_is_incomplete(store, raw_store):
    plan = make_plan(planned_survey(exposures=["2000009"]), store, raw_store)

    assert plan.exposures[0].status == "incomplete"
    assert "image file 2000009p.fits.fz" in plan.exposures[0].reasons[0]


def test_two_files_of_one_exposure_are_set_aside_with_their_names(store, raw_store, config):
    put_raw(raw_store, "2000001")
    raw_store.put_bytes("night1/2000002p.fits.fz", b"a")
    raw_store.put_bytes("night2/2000002p.fits.fz", b"b")

    found = exposure_of(make_plan(config, store, raw_store), "2000002")

    assert found.status == "set_aside"
    assert "night1/2000002p.fits.fz, night2/2000002p.fits.fz; keep one" in found.reasons[0]


def test_an_exposure_is_done_until_something_changes(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE))

    assert exposure_of(make_plan(config, store, raw_store), "2000001") == ExposurePlan(
        exposure=ExposureId("2000001"), status="done"
    )


def test_changed_settings_are_named_by_stage(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE))
    other = planned_survey(exposure={"psf_fit": {"min_stars": 33}, "min_ccds": 2})

    found = exposure_of(make_plan(other, store, raw_store), "2000001")

    assert (found.status, found.reasons) == ("stale", ("the settings of min_ccds, psf_fit changed",))


def test_changed_code_is_named_by_stage(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE), code={"detect": "older", "mask": "older"})

    found = exposure_of(make_plan(config, store, raw_store), "2000001")

    assert (found.status, found.reasons) == ("stale", ("the code of detect, mask changed",))


def test_another_look_of_the_report_makes_nothing_stale(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE))
    other = planned_survey(exposure={"report": {"completeness_arcsec": 7.0}})

    assert other.exposure.report != config.exposure.report
    assert exposure_of(make_plan(other, store, raw_store), "2000001").status == "done"


def test_a_raw_file_that_was_sent_again_is_named(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE))
    put_raw(raw_store, "2000001", roles=("weight",), mjd=1.0)

    found = exposure_of(make_plan(config, store, raw_store), "2000001")

    assert (found.status, found.reasons) == ("stale", ("raw file 2000001p.weight.fits.fz changed",))


def test_another_star_catalogue_is_named(store, raw_store):
    config = planned_survey(exposure={"star_catalog": "stars.fits"})
    put_raw(raw_store, "2000001")
    raw_store.put_bytes("stars.fits", b"old")
    put_exposure(store, raw_store, config, "2000001", centre(TILE))
    raw_store.put_bytes("stars.fits", b"newer")

    found = exposure_of(make_plan(config, store, raw_store), "2000001")

    assert (found.status, found.reasons) == ("stale", ("star catalogue stars.fits changed",))


def test_a_star_catalogue_that_is_not_there_stops_the_plan(store, raw_store):
    config = planned_survey(exposure={"star_catalog": "stars.fits"})

    with pytest.raises(ConfigError, match=r"name the file 'stars\.fits', which is not in"):
        make_plan(config, store, raw_store)


def test_a_processed_exposure_stays_done_when_its_raw_files_are_cleared_away(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE))
    for key in raw_store.list_keys():
        raw_store.remove(key)

    found = exposure_of(make_plan(config, store, raw_store), "2000001")

    assert found.status == "done"
    assert "any more" in found.reasons[0]


def test_a_refused_exposure_is_not_tried_again_until_something_changes(store, raw_store, config):
    put_raw(raw_store, "2000001")
    refuse(store, raw_store, config, "2000001", "It has no stars.")
    other = planned_survey(exposure={"psf_fit": {"min_stars": 33}})

    found = exposure_of(make_plan(config, store, raw_store), "2000001")
    again = exposure_of(make_plan(other, store, raw_store), "2000001")

    assert (found.status, found.reasons) == ("set_aside", ("It has no stars.",))
    assert again.status == "new"
    assert again.reasons == ("was set aside: It has no stars.", "the settings of psf_fit changed")


def test_an_exposure_without_a_list_is_new_although_its_summary_is_there(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE))
    forget_exposure_products(store, ExposureId("2000001"))

    assert store.exists("exposures/2000001/summary.json")
    assert exposure_of(make_plan(config, store, raw_store), "2000001").status == "new"


def test_an_exposure_without_a_summary_is_known_by_its_list(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE))
    store.remove("exposures/2000001/summary.json")

    plan = make_plan(config, store, raw_store)

    assert exposure_of(plan, "2000001").status == "done"
    assert tile_of(plan).exposures == (ExposureId("2000001"),)


def test_a_tile_is_ready_when_enough_exposures_overlap_it(store, raw_store, config):
    for name in ("2000001", "2000002"):
        put_raw(raw_store, name)
    put_exposure(store, raw_store, config, "2000001", centre(TILE))
    early = tile_of(make_plan(config, store, raw_store))
    put_exposure(store, raw_store, config, "2000002", centre(TILE))
    late = tile_of(make_plan(config, store, raw_store))

    assert (early.status, early.reasons) == ("waiting", ("1 of the 2 processed exposures that it needs overlap it",))
    assert (late.status, late.reasons) == ("ready", ("complete with 2000001, 2000002",))
    assert late.exposures == (ExposureId("2000001"), ExposureId("2000002"))


@pytest.fixture
def done(store, raw_store, config):
    """Two processed exposures and their processed tile."""
    for name in ("2000001", "2000002"):
        put_raw(raw_store, name)
    exposures = [put_exposure(store, raw_store, config, name, centre(TILE)) for name in ("2000001", "2000002")]
    put_tile(store, raw_store, config, TILE, exposures)
    return exposures


def test_a_tile_is_done_until_something_changes(store, raw_store, config, done):
    plan = make_plan(config, store, raw_store)

    assert (tile_of(plan).status, tile_of(plan).reasons) == ("done", ())
    assert plan.tiles_to_do() == ()


def test_a_new_exposure_affects_the_tile_that_it_overlaps(store, raw_store, config, done):
    put_raw(raw_store, "2000003")
    put_exposure(store, raw_store, config, "2000003", centre(TILE))

    found = tile_of(make_plan(config, store, raw_store))

    assert (found.status, found.reasons) == ("stale", ("exposure 2000003 is new",))
    assert [str(name) for name in found.exposures] == ["2000001", "2000002", "2000003"]


def test_an_exposure_that_only_comes_near_a_tile_does_not_affect_it(store, raw_store, config, done):
    ra, dec = centre(TILE)
    put_raw(raw_store, "2000003")
    # a corner's distance away: the circles touch, the squares do not
    put_exposure(store, raw_store, config, "2000003", (ra, dec + 0.5 * 0.5167 + 0.5 * 0.3 + 0.02))

    found = tile_of(make_plan(config, store, raw_store))

    assert ExposureId("2000003") in found.exposures
    assert (found.status, found.reasons) == ("done", ())


def test_an_exposure_that_was_made_anew_affects_its_tile_only_if_its_bytes_are_others(store, raw_store, config, done):
    put_exposure(store, raw_store, config, "2000002", centre(TILE))
    same = tile_of(make_plan(config, store, raw_store))
    put_exposure(store, raw_store, config, "2000002", centre(TILE), version="1")
    other = tile_of(make_plan(config, store, raw_store))

    assert same.status == "done"
    assert (other.status, other.reasons) == ("stale", ("exposure 2000002 changed",))


def test_a_tile_waits_for_a_stale_exposure_that_overlaps_it(store, raw_store, config, done):
    put_raw(raw_store, "2000002", mjd=5.0)

    found = tile_of(make_plan(config, store, raw_store))

    assert (found.status, found.reasons) == ("waiting", ("waits for exposure 2000002, which is stale",))


def test_a_tile_waits_for_an_exposure_that_is_being_made_again(store, raw_store, config, done):
    forget_exposure_products(store, ExposureId("2000002"))

    found = tile_of(make_plan(config, store, raw_store))

    assert found.status == "waiting"
    assert found.reasons[0] == "waits for exposure 2000002, which is new"


def test_a_changed_tile_setting_is_named(store, raw_store, config, done):
    other = planned_survey(tile={"shapes": {"seed": 5}})

    found = tile_of(make_plan(other, store, raw_store))

    assert (found.status, found.reasons) == ("stale", ("the settings of shapes changed",))


def test_a_refused_tile_is_tried_again_when_an_exposure_comes(store, raw_store, config):
    for name in ("2000001", "2000002", "2000003"):
        put_raw(raw_store, name)
    for name in ("2000001", "2000002"):
        put_exposure(store, raw_store, config, name, centre(TILE))
    from flows.recipes import tile_recipe
    from tasks.archive.manifests import read_exposure_products

    exposures = [read_exposure_products(store, ExposureId(name)) for name in ("2000001", "2000002")]
    recipe = tile_recipe(TileId(TILE), exposures, config.tile, raw_store)
    write_refusal(store, TileId(TILE), Refusal(subject=TILE, reason="No source.", recipe=recipe))
    before = tile_of(make_plan(config, store, raw_store))
    put_exposure(store, raw_store, config, "2000003", centre(TILE))
    after = tile_of(make_plan(config, store, raw_store))

    assert (before.status, before.reasons) == ("set_aside", ("No source.",))
    assert after.status == "ready"
    assert after.reasons[:2] == ("was set aside: No source.", "exposure 2000003 is new")


def test_the_observing_plan_says_what_a_tile_waits_for(store, raw_store):
    config = planned_survey(tile_exposures={TILE: [2000001, "2000002", "2000003"]})
    for name in ("2000001", "2000002"):
        put_raw(raw_store, name)
        put_exposure(store, raw_store, config, name, centre(TILE))
    early = tile_of(make_plan(config, store, raw_store))
    put_raw(raw_store, "2000003", roles=("image",))
    refused = planned_survey(
        tile_exposures={TILE: ["2000001", "2000002", "2000003"]},
        exposure={"instrument": {"name": "camera", "weight_file": None, "flag_file": None}},
    )
    refuse(store, raw_store, refused, "2000003", "It is dark.")
    late = tile_of(make_plan(refused, store, raw_store))

    assert (early.status, early.reasons) == ("waiting", ("waits for exposure 2000003, which is not processed",))
    # those of the other settings are stale, but nobody waits for what was refused
    assert not any("2000003" in reason for reason in late.reasons)


def test_a_tile_goes_on_without_an_exposure_that_was_set_aside(store, raw_store):
    config = planned_survey(tile_exposures={TILE: ["2000001", "2000002", "2000003"]})
    for name in ("2000001", "2000002", "2000003"):
        put_raw(raw_store, name)
    for name in ("2000001", "2000002"):
        put_exposure(store, raw_store, config, name, centre(TILE))
    refuse(store, raw_store, config, "2000003", "It is dark.")

    found = tile_of(make_plan(config, store, raw_store))

    assert found.status == "ready"
    assert found.reasons[-1] == "goes on without exposure 2000003, which is set aside: It is dark."


def test_without_named_tiles_those_that_exposures_overlap_are_planned(store, raw_store, config):
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE), width_deg=0.7)
    corners = square_footprint(*centre(TILE), width_deg=0.7)
    width_deg = config.tile.find_exposures.size_px * config.tile.find_exposures.pixel_scale_arcsec / 3600

    names = {item.tile for item in make_plan(config, store, raw_store).tiles}

    assert names == set(GRID.tiles_touched(corners[:, 0], corners[:, 1], width_deg=width_deg))
    assert len(names) == 7


def test_only_the_tiles_of_the_survey_are_planned(store, raw_store):
    config = planned_survey(tiles=[TILE, FAR])
    put_raw(raw_store, "2000001")
    put_exposure(store, raw_store, config, "2000001", centre(TILE), width_deg=0.7)

    plan = make_plan(config, store, raw_store)

    assert {str(item.tile): item.status for item in plan.tiles} == {TILE: "waiting", FAR: "waiting"}
    assert tile_of(plan, FAR).reasons == ("none of the 2 processed exposures that it needs overlap it",)


def test_a_night_lasts_from_noon_to_noon_where_the_telescope_is():
    # 2025-11-21 09:00 UTC is 23:00 of the evening before on Hawaii
    mjd = 61000.375
    assert str(moment_of(mjd)) == "2025-11-21 09:00:00+00:00"
    assert night_of(moment_of(mjd), "Pacific/Honolulu") == date(2025, 11, 20)
    assert night_of(moment_of(mjd), "UTC") == date(2025, 11, 20)
    assert night_of(moment_of(mjd), "Asia/Tokyo") == date(2025, 11, 21)


def test_a_plan_of_a_night_has_its_exposures_and_the_tiles_that_these_touch(store, raw_store):
    config = planned_survey(timezone="Pacific/Honolulu")
    night = night_of(moment_of(MJD), config.timezone)
    for name, mjd in (("2000001", MJD), ("2000002", MJD + 1), ("2000003", MJD), ("2000004", MJD - 1)):
        put_raw(raw_store, name, mjd=mjd)
    put_exposure(store, raw_store, config, "2000001", centre(TILE))
    put_exposure(store, raw_store, config, "2000002", centre(BESIDE), mjd=MJD + 1)

    plan = make_plan(config, store, raw_store, night=night)

    # the date of 2000003 is read from its raw header
    assert {str(item.exposure): item.status for item in plan.exposures} == {"2000001": "done", "2000003": "new"}
    assert [str(item.tile) for item in plan.tiles] == [TILE]


def test_an_exposure_whose_date_cannot_be_read_is_in_every_night(store, raw_store, config):
    for key in ("2000001p.fits.fz", "2000001p.weight.fits.fz", "2000001p.flag.fits.fz"):
        raw_store.put_bytes(key, b"not FITS")

    found = exposure_of(make_plan(config, store, raw_store, night=date(2020, 1, 1)), "2000001")

    assert (found.status, found.reasons[-1]) == ("new", "its night is not known")


def test_a_plan_writes_nothing(store, raw_store, config, done):
    put_raw(raw_store, "2000003")
    before = store.list_versions(), raw_store.list_versions()

    make_plan(config, store, raw_store)

    assert (store.list_versions(), raw_store.list_versions()) == before


def test_an_exposure_that_is_not_of_the_survey_counts_for_nothing(store, raw_store, done):
    config = planned_survey(exposures=["2000001"])

    plan = make_plan(config, store, raw_store)

    assert [str(item.exposure) for item in plan.exposures] == ["2000001"]
    assert tile_of(plan).exposures == (ExposureId("2000001"),)


def test_a_folder_that_is_no_exposure_is_passed_over(store, raw_store, config, done):
    store.put_bytes("exposures/not.an.exposure/products.json", b"{}")
    store.put_bytes("tiles/notes/readme.txt", b"mine")

    assert make_plan(config, store, raw_store).count("exposure") == {"done": 2}


def test_recipes_name_what_an_exposure_is_made_from(store, raw_store, config):
    put_raw(raw_store, "2000001")
    files = RawListing(raw_store, config.exposure.instrument).files_of(ExposureId("2000001"))

    recipe = exposure_recipe(files, config.exposure, raw_store)

    assert set(recipe.inputs) == {
        "raw file 2000001p.fits.fz",
        "raw file 2000001p.weight.fits.fz",
        "raw file 2000001p.flag.fits.fz",
    }
    assert recipe.changes(Recipe()) != ()
    assert keys.exposure(ExposureId("2000001"), "x") == "exposures/2000001/x"
