"""A night processes what there is to do, says what it did, and finds nothing to do when it runs again."""

import pytest
from small_survey import small_survey

from blocks.store import DataStore
from flows.demo import simulate_survey
from flows.launch import Launcher
from flows.night_report import NightReport, read_night_report
from flows.nightly import NightFailedError, run_night
from flows.plan import make_plan
from tasks.products.identity import ExposureId, TileId
from tasks.runner import Runner

# a whole small survey, several times: too long for every change
pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("prefect_server")]

CONFIG = small_survey()
HERE = Runner(workers=2)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataStore, DataStore, NightReport]:
    root = str(tmp_path_factory.mktemp("night"))
    store, raw = DataStore(root=root, collection="night"), DataStore(root=root, collection="raw")
    simulate_survey(CONFIG.simulation, raw, HERE)
    return store, raw, run_night(CONFIG, store, raw, HERE)


def test_a_night_processes_exposures_and_their_tile_and_merges(night):
    store, _, report = night

    assert {(item.kind, item.outcome) for item in report.launched} == {("exposure", "done"), ("tile", "done")}
    assert len(report.launched) == 3
    assert report.catalog is not None
    assert store.exists(report.catalog.key)
    assert read_night_report(store, report.night) == report
    assert report.not_launched == ()


def test_what_the_flows_made_is_what_the_plan_would_make(night):
    store, raw, _ = night
    plan = make_plan(CONFIG, store, raw)

    assert (plan.count("exposure"), plan.count("tile")) == ({"done": 2}, {"done": 1})


def test_a_second_night_finds_nothing_to_do(night):
    store, raw, first = night
    second = run_night(CONFIG, store, raw, HERE)

    assert (second.launched, second.up_to_date) == ((), {"exposure": 2, "tile": 1})
    assert second.catalog == first.catalog
    assert second.stages_run == 0


def test_what_is_launched_again_is_reused(night):
    store, raw, _ = night
    with Launcher(CONFIG, store, raw, HERE) as launcher:
        found = launcher.exposure(ExposureId("2113700")).result()

    assert (found.outcome, found.reason) == ("reused", "")


def test_data_that_cannot_be_processed_do_not_fail_a_night(night):
    _, raw, _ = night
    store = DataStore(root=raw.root, collection="strict")
    strict = small_survey("exposure.psf_fit.min_stars=500")

    report = run_night(strict, store, raw, HERE)
    again = run_night(strict, store, raw, HERE)

    assert [item.outcome for item in report.launched] == ["set_aside", "set_aside"]
    assert "needs 500" in report.launched[0].reason
    assert again.launched == ()
    assert {item.status for item in again.not_launched if item.kind == "exposure"} == {"set_aside"}


def test_a_bug_in_one_exposure_fails_the_night_but_not_the_other_exposure(night, monkeypatch):
    from flows import exposure as flow_of_exposures

    _, raw, _ = night
    store = DataStore(root=raw.root, collection="bug")
    find = flow_of_exposures.find_raw_exposure

    def broken(raw: DataStore, name: ExposureId, *rest: object) -> object:
        if name == ExposureId("2113701"):
            raise ZeroDivisionError("a bug")
        return find(raw, name, *rest)

    monkeypatch.setattr(flow_of_exposures, "find_raw_exposure", broken)
    lonely = small_survey("tile.find_exposures.min_exposures=2")
    with pytest.raises(NightFailedError, match=r"1 of 2 .*exposure 2113701: ZeroDivisionError: a bug") as failure:
        run_night(lonely, store, raw, HERE)

    report = failure.value.report
    assert report == read_night_report(store, report.night)
    assert [item.subject for item in report.failed()] == ["2113701"]

    plan = make_plan(lonely, store, raw)
    assert {str(item.exposure): item.status for item in plan.exposures} == {"2113700": "done", "2113701": "new"}
    assert plan.tiles[0].tile == TileId("2165.2000")
    assert plan.tiles[0].status == "waiting"
