"""The readiness book gives a tile out when it is complete, once, and again when an exposure affects it."""

import pytest
from planned_survey import centre, planned_survey, put_exposure, put_raw, put_tile

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.readiness import Readiness, Ready
from flows.recipes import exposure_recipe, tile_recipe
from tasks.archive.manifests import forget_exposure_products, read_exposure_products, write_refusal
from tasks.archive.raw import RawListing
from tasks.products.identity import ExposureId, Refusal, TileId

TILE = "210.290"
FIRST, SECOND, THIRD = (ExposureId(f"200000{number}") for number in (1, 2, 3))


@pytest.fixture
def config() -> SurveyConfig:
    return planned_survey()


def process(store: DataStore, raw: DataStore, config: SurveyConfig, name: ExposureId, **options: object) -> None:
    put_raw(raw, str(name))
    put_exposure(store, raw, config, str(name), centre(TILE), **options)


def given(ready: tuple[Ready, ...]) -> list[tuple[TileId, tuple[ExposureId, ...]]]:
    return [(item.tile, item.exposures) for item in ready]


def test_a_tile_is_given_out_with_the_exposure_that_completes_it(store, raw_store, config):
    book = Readiness(config, store, raw_store)

    process(store, raw_store, config, FIRST)
    early = book.after(FIRST)
    process(store, raw_store, config, SECOND)
    late = book.after(SECOND)

    assert early == ()
    assert given(late) == [(TileId(TILE), (FIRST, SECOND))]
    assert TileId(TILE) in book.tiles_of(SECOND)


def test_a_tile_is_given_out_once(store, raw_store, config):
    for name in (FIRST, SECOND):
        process(store, raw_store, config, name)
    book = Readiness(config, store, raw_store)

    assert given(book.complete()) == [(TileId(TILE), (FIRST, SECOND))]
    assert (book.complete(), book.after(FIRST), book.after(SECOND)) == ((), (), ())


def test_a_later_exposure_gives_its_tile_out_again(store, raw_store, config):
    for name in (FIRST, SECOND):
        process(store, raw_store, config, name)
    book = Readiness(config, store, raw_store)
    book.complete()
    process(store, raw_store, config, THIRD)

    assert given(book.after(THIRD)) == [(TileId(TILE), (FIRST, SECOND, THIRD))]
    assert book.after(THIRD) == ()


def test_a_tile_that_is_done_is_not_given_out(store, raw_store, config):
    put_raw(raw_store, str(FIRST))
    put_raw(raw_store, str(SECOND))
    exposures = [put_exposure(store, raw_store, config, str(name), centre(TILE)) for name in (FIRST, SECOND)]
    put_tile(store, raw_store, config, TILE, exposures)

    assert Readiness(config, store, raw_store).complete() == ()


def test_a_tile_waits_while_one_of_its_exposures_is_made_again(store, raw_store, config):
    for name in (FIRST, SECOND, THIRD):
        put_raw(raw_store, str(name))
    exposures = [put_exposure(store, raw_store, config, str(name), centre(TILE)) for name in (FIRST, SECOND, THIRD)]
    put_tile(store, raw_store, config, TILE, exposures)
    book = Readiness(config, store, raw_store)

    forget_exposure_products(store, SECOND)
    away = book.after(SECOND)
    process(store, raw_store, config, SECOND, version="1")
    back = book.after(SECOND)

    assert away == ()
    assert given(back) == [(TileId(TILE), (FIRST, SECOND, THIRD))]


def test_with_an_observing_plan_a_tile_waits_for_all_that_it_names(store, raw_store):
    config = planned_survey(tile_exposures={TILE: [str(FIRST), str(SECOND), str(THIRD)]})
    book = Readiness(config, store, raw_store)

    found = []
    for name in (THIRD, FIRST, SECOND):
        process(store, raw_store, config, name)
        found.append(given(book.after(name)))

    assert found == [[], [], [(TileId(TILE), (FIRST, SECOND, THIRD))]]


def test_with_an_observing_plan_a_refused_exposure_completes_its_tile(store, raw_store):
    config = planned_survey(tile_exposures={TILE: [str(FIRST), str(SECOND), str(THIRD)]})
    for name in (FIRST, SECOND):
        process(store, raw_store, config, name)
    book = Readiness(config, store, raw_store)
    before = book.complete()
    put_raw(raw_store, str(THIRD))
    recipe = exposure_recipe(
        RawListing(raw_store, config.exposure.instrument).files_of(THIRD), config.exposure, raw_store
    )
    write_refusal(store, THIRD, Refusal(subject=str(THIRD), reason="It is dark.", recipe=recipe))

    assert before == ()
    assert given(book.after(THIRD)) == [(TileId(TILE), (FIRST, SECOND))]


def test_only_tiles_of_the_survey_are_given_out(store, raw_store):
    config = planned_survey(tiles=["005.005"])
    for name in (FIRST, SECOND):
        process(store, raw_store, config, name)

    book = Readiness(config, store, raw_store)

    assert (book.complete(), book.tiles_of(FIRST)) == ((), ())


def test_an_exposure_of_another_survey_completes_nothing(store, raw_store):
    config = planned_survey(exposures=[str(FIRST)], tile={"find_exposures": {"min_exposures": 1}})
    book = Readiness(config, store, raw_store)
    process(store, raw_store, config, SECOND)

    assert book.after(SECOND) == ()


def done_tile(store: DataStore, raw: DataStore, config: SurveyConfig) -> None:
    for name in (FIRST, SECOND):
        put_raw(raw, str(name))
    exposures = [put_exposure(store, raw, config, str(name), centre(TILE)) for name in (FIRST, SECOND)]
    put_tile(store, raw, config, TILE, exposures)


def test_new_settings_give_no_tile_out_but_a_new_exposure_does(store, raw_store, config):
    done_tile(store, raw_store, config)
    other = planned_survey(tile={"shapes": {"seed": 7}, "find_exposures": {"min_exposures": 2}})
    assert tile_recipe(TileId(TILE), [], other.tile, raw_store) != tile_recipe(TileId(TILE), [], config.tile, raw_store)
    book = Readiness(other, store, raw_store)
    before = book.complete()
    process(store, raw_store, other, THIRD)

    assert before == ()
    assert given(book.after(THIRD)) == [(TileId(TILE), (FIRST, SECOND, THIRD))]


def test_an_exposure_whose_products_changed_gives_its_tile_out(store, raw_store, config):
    done_tile(store, raw_store, config)
    process(store, raw_store, config, SECOND, version="1")

    assert given(Readiness(config, store, raw_store).complete()) == [(TileId(TILE), (FIRST, SECOND))]


def test_new_settings_are_no_reason_to_try_a_refused_tile_again(store, raw_store, config):
    for name in (FIRST, SECOND):
        process(store, raw_store, config, name)
    exposures = [read_exposure_products(store, name) for name in (FIRST, SECOND)]
    recipe = tile_recipe(TileId(TILE), exposures, config.tile, raw_store)
    write_refusal(store, TileId(TILE), Refusal(subject=TILE, reason="No source.", recipe=recipe))
    other = planned_survey(tile={"shapes": {"seed": 7}, "find_exposures": {"min_exposures": 2}})

    assert Readiness(other, store, raw_store).complete() == ()


def test_a_tile_that_others_have_made_meanwhile_is_not_made_again(store, raw_store, config):
    for name in (FIRST, SECOND):
        process(store, raw_store, config, name)
    book = Readiness(config, store, raw_store)
    [ready] = book.complete()
    assert book.again(ready) == ready
    done_tile(store, raw_store, config)

    assert book.again(ready) is None


def test_a_tile_waits_again_when_others_make_one_of_its_exposures_anew(store, raw_store, config):
    for name in (FIRST, SECOND):
        process(store, raw_store, config, name)
    book = Readiness(config, store, raw_store)
    [ready] = book.complete()
    forget_exposure_products(store, SECOND)
    away = book.again(ready)
    process(store, raw_store, config, SECOND)

    assert away is None
    assert book.after(SECOND) == (ready,)


def test_it_is_known_which_announced_exposures_may_belong_to_a_tile(store, raw_store):
    config = planned_survey(tile_exposures={"211.290": [str(SECOND)]})
    process(store, raw_store, config, FIRST)
    book = Readiness(config, store, raw_store)
    planned, other, far = TileId("211.290"), TileId(TILE), TileId("005.005")

    found = book.expected((planned, other, far), (FIRST, SECOND, THIRD))

    # the first lies around its tile, the second is named for another, and the third may be anywhere but there
    assert found[other] == {FIRST, THIRD}
    assert found[planned] - {FIRST} == {SECOND}
    assert found[far] == {THIRD}
