import logging
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from planned_survey import centre, planned_survey, put_exposure
from planned_survey import put_raw as put_raw_headers
from prefect.exceptions import PrefectHTTPStatusError
from s3_proxy import make_bucket, s3_service, store_at
from small_survey import small_survey

from blocks.store import DataStore, StoreError
from flows import attempts as attempts_module
from flows import desk as desk_module
from flows import in_tray as in_tray_module
from flows import put_off as put_off_module
from flows.announce import announce_missed
from flows.arrival import ArrivalReport, process_arrivals
from flows.config import SurveyConfig
from flows.demo import simulate_survey
from flows.desk import Desk, LaunchStoppedError
from flows.exposure import process_exposure
from flows.launch import Launched
from flows.outcome import is_outage_of_prefect
from flows.readiness import Readiness
from tasks.archive import keys
from tasks.archive.inbox import announce, list_arrivals, read_arrival
from tasks.archive.manifests import (
    forget_exposure_products,
    list_processed_exposures,
    read_exposure_products,
    read_refusal,
    read_tile_products,
)
from tasks.archive.tries import Tries, read_tries, write_tries
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId, ExposureProducts, TileId
from tasks.runner import Runner
from tasks.session import session

pytestmark = pytest.mark.usefixtures("prefect_server")

FIRST, SECOND = ExposureId("2113700"), ExposureId("2113701")
TILE = TileId("2165.2000")
INLINE = Runner(workers=0)


def store_of(root: Path, collection: str = "main") -> DataStore:
    return DataStore(root=str(root / "store"), collection=collection)


def raw_of(root: Path) -> DataStore:
    return DataStore(root=str(root / "raw"))


def arrivals(config: SurveyConfig, root: Path, collection: str = "main", **options: Any) -> ArrivalReport:
    """Run the arrival flow until there is nothing to do, without a sweep unless it is asked for."""
    asked = {"runner": INLINE, "linger_s": 0.0, "sweep": False, **options}
    return process_arrivals(config, store_of(root, collection), raw_of(root), **asked)


def numbers(report: ArrivalReport) -> dict[str, Any]:
    return report.model_dump(exclude_defaults=True, exclude={"seconds", "median_wait_s"})


@pytest.fixture(scope="module")
def config() -> SurveyConfig:
    return small_survey(f"tile_exposures={{'{TILE}': ['{FIRST}', '{SECOND}']}}")


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory, config: SurveyConfig) -> tuple[Path, ArrivalReport]:
    """Simulate a survey, announce its exposures several times in the wrong order, and let them be processed."""
    root = tmp_path_factory.mktemp("arrival")
    assert config.simulation is not None
    with session(2):
        simulate_survey(config.simulation, raw_of(root), Runner(workers=2))
    for name in (SECOND, FIRST, SECOND, FIRST, FIRST):
        announce(store_of(root), name)
    return root, arrivals(config, root, runner=Runner(workers=2))


@pytest.fixture
def copied(survey: tuple[Path, ArrivalReport], tmp_path: Path) -> Iterator[Path]:
    """Give a copy of the processed survey, to be changed."""
    shutil.copytree(survey[0], tmp_path / "copy")
    yield tmp_path / "copy"
    shutil.rmtree(tmp_path / "copy")


def test_announced_exposures_and_their_tile_are_processed_once(survey: tuple[Path, ArrivalReport]) -> None:
    root, report = survey

    assert numbers(report) == {"done": 2, "tiles_done": 1}
    assert list_processed_exposures(store_of(root)) == [FIRST, SECOND]
    assert set(read_tile_products(store_of(root), TILE).recipe.inputs) >= {f"exposure {FIRST}", f"exposure {SECOND}"}
    assert list_arrivals(store_of(root)) == {}


def test_a_duplicate_costs_no_flow_run(
    survey: tuple[Path, ArrivalReport], config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launched(*_arguments: object) -> None:
        raise AssertionError("something was launched")

    root = survey[0]
    monkeypatch.setattr("flows.launch.Launcher.exposure", launched)
    monkeypatch.setattr("flows.launch.Launcher.tile", launched)
    for name in (SECOND, FIRST, FIRST):
        announce(store_of(root), name)

    assert numbers(arrivals(config, root)) == {"unchanged": 2}
    assert list_arrivals(store_of(root)) == {}


def test_an_exposure_whose_note_was_lost_is_found_by_the_sweep(copied: Path, config: SurveyConfig) -> None:
    forget_exposure_products(store_of(copied), FIRST)
    report = arrivals(config, copied, sweep=True)

    assert (report.found, report.done + report.reused, report.unchanged) == (1, 1, 0)
    assert list_processed_exposures(store_of(copied)) == [FIRST, SECOND]
    assert announce_missed(store_of(copied), raw_of(copied), config.exposure.instrument, settle_s=0) == []


def test_an_exposure_whose_note_was_lost_is_known_from_the_event(copied: Path, config: SurveyConfig) -> None:
    forget_exposure_products(store_of(copied), FIRST)

    assert numbers(arrivals(config, copied, exposure=FIRST.name))["reused"] == 1
    assert numbers(arrivals(config, copied, exposure=FIRST.name)) == {}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "2113700\x00", "x" * 10_000, "\u202e2113700"])
def test_an_event_that_names_nonsense_changes_nothing(
    survey: tuple[Path, ArrivalReport], config: SurveyConfig, name: str
) -> None:
    before = sorted(path for path in survey[0].rglob("*") if path.is_file())

    assert numbers(arrivals(config, survey[0], exposure=name)) == {}
    assert sorted(path for path in survey[0].rglob("*") if path.is_file()) == before


def test_two_arrival_runs_at_the_same_time_do_everything_once(copied: Path, config: SurveyConfig) -> None:
    store = store_of(copied)
    before = [read_exposure_products(store, name) for name in (FIRST, SECOND)]
    for name in (FIRST, SECOND):
        forget_exposure_products(store, name)
        announce(store, name)
    with ThreadPoolExecutor(2) as threads:
        reports = [run.result() for run in [threads.submit(arrivals, config, copied) for _ in range(2)]]

    assert sum(report.failed for report in reports) == 0
    assert sum(report.done + report.reused + report.unchanged for report in reports) >= 2
    assert [read_exposure_products(store, name) for name in (FIRST, SECOND)] == before
    assert list_arrivals(store) == {}


def test_a_note_of_an_incomplete_exposure_waits_without_holding_up_others(copied: Path, config: SurveyConfig) -> None:
    store, weight = store_of(copied), f"{FIRST}p.weight.fits.fz"
    data = raw_of(copied).read_bytes(weight)
    raw_of(copied).remove(weight)
    for name in (FIRST, SECOND):
        forget_exposure_products(store, name)
        announce(store, name)
    report = arrivals(config, copied)
    assert (report.incomplete, report.waiting, report.done + report.reused) == (1, 0, 1)
    assert list(list_arrivals(store)) == [FIRST]

    raw_of(copied).put_bytes(weight, data)
    report = arrivals(config, copied)
    assert (report.incomplete, report.done + report.reused) == (0, 1)
    assert list_arrivals(store) == {}


def test_an_incomplete_exposure_that_could_be_asked_for_again_is_not_left_to_the_next_run(
    copied: Path, config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(put_off_module.FIRST_S, "incomplete", 0.0)
    raw_of(copied).remove(f"{FIRST}p.weight.fits.fz")
    forget_exposure_products(store_of(copied), FIRST)
    announce(store_of(copied), FIRST)

    assert numbers(arrivals(config, copied)) == {"incomplete": 1}


def test_an_exposure_that_is_set_aside_is_not_tried_again_with_the_same_files(
    survey: tuple[Path, ArrivalReport],
) -> None:
    root, strict = survey[0], small_survey("exposure.psf_fit.min_stars=500")
    store = store_of(root, "strict")
    announce(store, FIRST)
    assert numbers(arrivals(strict, root, "strict")) == {"set_aside": 1}
    refusal = read_refusal(store, FIRST)
    assert refusal is not None
    assert "needs 500" in refusal.reason

    announce(store, FIRST)
    assert numbers(arrivals(strict, root, "strict")) == {"unchanged": 1}


def test_an_exposure_that_meets_a_bug_is_tried_a_few_times_and_then_when_it_is_announced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    config = small_survey("exposure.star_catalog=null", "exposure.reference_cache=null", "tile.star_catalog=null")
    root, store = tmp_path, store_of(tmp_path, "bug")
    put_raw(raw_of(root), FIRST.name)
    monkeypatch.setattr(attempts_module, "RETRY_S", 0.0)
    monkeypatch.setattr("flows.exposure.find_raw_exposure", broken)
    announce(store, FIRST)
    sentence = f"Exposure {FIRST} was tried 3 times and is left alone until it is announced again: "
    given_up = (f"{sentence}ZeroDivisionError: a bug",)

    assert numbers(arrivals(config, root, "bug")) == {"failed": 3, "given_up": given_up}
    assert numbers(arrivals(config, root, "bug")) == {"given_up": given_up}
    announce(store, FIRST)
    assert numbers(arrivals(config, root, "bug")) == {"failed": 3, "given_up": given_up}


def test_a_tile_that_meets_a_bug_is_tried_three_times_and_then_when_an_exposure_changes(
    copied: Path, config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(attempts_module, "RETRY_S", 0.0)
    monkeypatch.setattr("flows.tile.read_near", broken)
    store_of(copied).remove(keys.tile(TILE, "products.json"))
    report = arrivals(config, copied)

    assert report.tiles_failed == 3
    assert report.given_up == (
        f"Tile {TILE} was tried 3 times and is left alone until an exposure of it changes: ZeroDivisionError: a bug",
    )
    assert numbers(arrivals(config, copied)) == {"given_up": report.given_up}


def test_an_exposure_whose_products_stay_the_same_is_never_missing(
    copied: Path, config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import exposure as exposure_module

    store, seen, work = store_of(copied), [], exposure_module._process_ccds

    def look(*arguments: Any) -> ExposureProducts:
        seen.append(FIRST in list_processed_exposures(store))
        return work(*arguments)

    monkeypatch.setattr(exposure_module, "_process_ccds", look)
    process_exposure(FIRST, config.exposure, store, raw_of(copied), INLINE)
    # other settings may mean other products
    process_exposure(FIRST, small_survey("exposure.min_ccds=2").exposure, store, raw_of(copied), INLINE)

    assert seen == [True, False]
    assert FIRST in list_processed_exposures(store)


def test_an_outage_of_the_store_is_waited_for(
    survey: tuple[Path, ArrivalReport], config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, failures = survey[0], iter([True, False, True])

    def flaky(store: DataStore) -> dict[ExposureId, str]:
        if next(failures, False):
            raise StoreError("the network is gone")
        return list_arrivals(store)

    monkeypatch.setattr(in_tray_module, "list_arrivals", flaky)
    announce(store_of(root), FIRST)

    assert numbers(arrivals(config, root, linger_s=2.0)) == {"unchanged": 1}


def test_a_try_that_the_store_spoilt_is_made_again(
    copied: Path, config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import exposure as exposure_module

    failures, find = iter([True, True]), exposure_module.find_raw_exposure

    def flaky(*arguments: Any) -> object:
        if next(failures, False):
            raise StoreError("the network is gone")
        return find(*arguments)

    monkeypatch.setattr(attempts_module, "RETRY_S", 0.0)
    monkeypatch.setattr(exposure_module, "find_raw_exposure", flaky)
    forget_exposure_products(store_of(copied), FIRST)
    announce(store_of(copied), FIRST)

    assert numbers(arrivals(config, copied))["reused"] == 1


def test_an_outage_of_prefect_is_no_try(copied: Path, config: SurveyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import exposure as exposure_module

    failures, find = iter([True] * 4), exposure_module.find_raw_exposure

    def flaky(*arguments: Any) -> object:
        if next(failures, False):
            raise httpx.ConnectError("All connection attempts failed")
        return find(*arguments)

    monkeypatch.setattr(desk_module, "RETRY_S", 0.0)
    monkeypatch.setattr(exposure_module, "find_raw_exposure", flaky)
    forget_exposure_products(store_of(copied), FIRST)
    announce(store_of(copied), FIRST)

    assert numbers(arrivals(config, copied)) == {"reused": 1, "interrupted": 4}


@pytest.mark.parametrize(("status", "is_outage"), [(503, True), (500, True), (404, False), (422, False)])
def test_only_a_server_that_cannot_answer_is_away(status: int, is_outage: bool) -> None:
    request = httpx.Request("GET", "http://127.0.0.1/api")
    error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))

    assert is_outage_of_prefect(PrefectHTTPStatusError.from_httpx_error(error)) == is_outage


def test_an_exposure_without_a_star_list_of_its_own_holds_up_no_other(copied: Path) -> None:
    config = small_survey("exposure.instrument.star_list_file='late/{exposure}-{ccd}.cat'")
    store, raw = store_of(copied, "lists"), raw_of(copied)
    for ccd in range(2):
        raw.put_bytes(f"late/{SECOND}-{ccd}.cat", raw.read_bytes(f"star_cat/star_cat-{SECOND}-{ccd}.cat"))
    for name in (FIRST, SECOND):
        announce(store, name)
    report = arrivals(config, copied, "lists")
    assert (report.done, report.incomplete, report.failed) == (1, 1, 0)

    # the number of its CCDs is not known before the image is read, so one that is too few is found by the flow
    raw.put_bytes(f"late/{FIRST}-0.cat", raw.read_bytes(f"star_cat/star_cat-{FIRST}-0.cat"))
    unknown = config.exposure.model_copy(
        update={"instrument": config.exposure.instrument.model_copy(update={"n_ccds": None})}
    )
    assert arrivals(config.model_copy(update={"exposure": unknown}), copied, "lists").set_aside == 1
    refusal = read_refusal(store, FIRST)
    assert refusal is not None
    assert f"CCD 1 of exposure {FIRST} has no star list late/{FIRST}-1.cat" in refusal.reason


def test_settings_that_cannot_work_fail_the_run_and_keep_the_notes(survey: tuple[Path, ArrivalReport]) -> None:
    root = survey[0]
    wrong = small_survey("exposure.star_catalog=nowhere.fits")
    announce(store_of(root, "wrong"), FIRST)

    with pytest.raises(ConfigError, match=r"nowhere\.fits"):
        arrivals(wrong, root, "wrong")
    assert list(list_arrivals(store_of(root, "wrong"))) == [FIRST]


def test_when_the_time_is_up_the_next_run_is_called(survey: tuple[Path, ArrivalReport], config: SurveyConfig) -> None:
    from test_announce import events_of

    root, store = survey[0], store_of(survey[0], "late")
    announce(store, FIRST)
    report = arrivals(config.model_copy(update={"name": "test-late"}), root, "late", max_minutes=1e-9)

    assert numbers(report) == {"waiting": 1}
    [event] = events_of("shearline.survey.test-late", 1)
    assert event["payload"]["exposure"] == FIRST.name
    assert list(list_arrivals(store)) == [FIRST]


def test_what_is_announced_while_it_runs_starts_within_seconds(copied: Path, config: SurveyConfig) -> None:
    store = store_of(copied)
    forget_exposure_products(store, FIRST)
    timer = threading.Timer(2.5, announce, (store, FIRST))
    timer.start()
    report = arrivals(config, copied, linger_s=5.0)
    timer.join()

    assert report.reused + report.done == 1
    assert report.median_wait_s is not None
    # the poll takes at most a second; the rest is for a busy machine
    assert report.median_wait_s < 4.0


def test_stores_on_s3_are_as_good_as_folders(survey: tuple[Path, ArrivalReport], config: SurveyConfig) -> None:
    with s3_service() as address:
        store = store_at(address, make_bucket(address, "arrival"), collection="main")
        raw = store_at(address, make_bucket(address, "raw"), collection="")
        for source, target in ((store_of(survey[0]), store), (raw_of(survey[0]), raw)):
            for key in source.list_keys():
                target.put_bytes(key, source.read_bytes(key))
        forget_exposure_products(store, FIRST)
        announce(store, FIRST)
        store.put_bytes("inbox/2113702.json", b"damaged")
        report = process_arrivals(config, store, raw, runner=INLINE, linger_s=0.0)

        assert (report.done + report.reused, report.failed, report.tiles_failed) == (1, 0, 0)
        assert (report.found, report.incomplete) == (0, 1)
        assert list_processed_exposures(store) == [FIRST, SECOND]
        assert list(list_arrivals(store)) == [ExposureId("2113702")]
        assert store.list_keys("inbox-failures") == []


class Instant:
    """Stands for the launcher where only the order of starting matters: everything ends at once as told."""

    def __init__(self, **ends: str) -> None:
        self.started: list[str] = []
        self.ends = ends

    def __enter__(self) -> "Instant":
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def exposure(self, name: ExposureId) -> Future[Launched]:
        return self._start(str(name), "exposure")

    def tile(self, name: TileId, _exposures: object = ()) -> Future[Launched]:
        return self._start(str(name), "tile")

    def _start(self, name: str, kind: Any) -> Future[Launched]:
        self.started.append(name)
        future: Future[Launched] = Future()
        end = self.ends.get(f"_{name}", "done")
        if end == "lost":
            future.set_exception(StoreError("the network is gone"))
        elif end == "done":
            future.set_result(Launched(subject=name, kind=kind, outcome="done", seconds=0.0))
        return future


def make_desk(store: DataStore, raw: DataStore, config: SurveyConfig, parallel: int) -> Desk:
    desk = Desk(config, store, raw, parallel, logging.getLogger("test"))
    desk.open_book(Readiness(config, store, raw), ())
    return desk


def turn(desk: Desk, launcher: Instant, times: int = 1) -> None:
    for _ in range(times):
        desk.turn(launcher)  # type: ignore[arg-type]


def work_off(desk: Desk, launcher: Instant) -> None:
    turn(desk, launcher)
    while not desk.idle:
        turn(desk, launcher)


def put_raw(raw: DataStore, name: str) -> None:
    for suffix in ("", ".weight", ".flag"):
        raw.put_bytes(f"{name}p{suffix}.fits.fz", b"pixels")


@pytest.fixture
def planned(store: DataStore, raw_store: DataStore) -> SurveyConfig:
    """Two processed exposures at each of three tiles, which are not processed."""
    config = planned_survey()
    for number, tile in enumerate(FAR_TILES):
        for name in (f"210000{2 * number}", f"210000{2 * number + 1}"):
            put_raw_headers(raw_store, name)
            put_exposure(store, raw_store, config, name, centre(tile))
    return config


FAR_TILES = ("100.200", "150.310", "200.290")


def open_all(store: DataStore, raw: DataStore, config: SurveyConfig, parallel: int) -> Desk:
    """Return a desk that has looked into the inbox before it was told which tiles are complete."""
    desk, book = Desk(config, store, raw, parallel, logging.getLogger("test")), Readiness(config, store, raw)
    desk.turn(Instant(), start=False)  # type: ignore[arg-type]
    desk.open_book(book, book.complete())
    return desk


def test_tiles_go_before_what_is_announced_later_but_leave_a_place_to_exposures(
    store: DataStore, raw_store: DataStore, planned: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "POLL_S", 0.3)
    monkeypatch.setattr(in_tray_module, "LOOK_S", 0.0)
    desk, launcher = open_all(store, raw_store, planned, 3), Instant()
    for name in ("2113703", "2113701", "2113702"):
        put_raw(raw_store, name)
        announce(store, name)
    turn(desk, launcher)

    assert launcher.started[:3] == [*FAR_TILES[:2], "2113703"]
    work_off(desk, launcher)
    assert [name for name in launcher.started if "." not in name] == ["2113703", "2113701", "2113702"]
    assert launcher.started.count(FAR_TILES[2]) == 1


def test_a_tile_waits_for_what_was_announced_before_and_may_belong_to_it(
    store: DataStore, raw_store: DataStore, planned: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "POLL_S", 0.3)
    monkeypatch.setattr(in_tray_module, "LOOK_S", 0.0)
    elsewhere = planned.model_copy(update={"tile_exposures": {TileId(FAR_TILES[0]): (ExposureId("2100000"),)}})
    for name in ("2113701", "2113702"):
        put_raw(raw_store, name)
        announce(store, name)
    desk, launcher = open_all(store, raw_store, elsewhere, 1), Instant()
    work_off(desk, launcher)

    # of the first tile it is known that they do not belong to it
    assert launcher.started == [FAR_TILES[0], "2113701", "2113702", *FAR_TILES[1:]]


def test_a_tile_does_not_wait_for_what_is_incomplete_or_given_up(
    store: DataStore, raw_store: DataStore, planned: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "POLL_S", 0.3)
    put_raw(raw_store, "2113701")
    note = announce(store, "2113701")
    write_tries(store, note.exposure, Tries(token=note.token, attempts=3, reason="a bug"))
    raw_store.put_bytes("2113702p.fits.fz", b"without its weights")
    announce(store, "2113702")
    desk, launcher = open_all(store, raw_store, planned, 2), Instant()
    work_off(desk, launcher)

    assert launcher.started == list(FAR_TILES)
    assert list(desk.attempts.given_up) == [note.exposure]


def test_what_kills_the_process_three_times_is_given_up_and_what_ran_beside_it_is_not(
    store: DataStore, raw_store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "POLL_S", 0.05)
    monkeypatch.setattr(in_tray_module, "LOOK_S", 0.0)
    config = planned_survey()
    for name in ("2113701", "2113702"):
        put_raw(raw_store, name)
        announce(store, name)
    started = []
    for _ in range(3):
        # neither ends: the process is killed after a few turns
        launcher = Instant(_2113701="killed", _2113702="killed")
        turn(make_desk(store, raw_store, config, 2), launcher, 3)
        started.append(launcher.started)
    desk, last = make_desk(store, raw_store, config, 2), Instant()
    work_off(desk, last)

    # the third try has the process for itself, so that it shows which of them it was
    assert started == [["2113701", "2113702"], ["2113701", "2113702"], ["2113701"]]
    assert last.started == ["2113702"]
    [sentence] = desk.attempts.given_up.values()
    assert sentence.startswith("Exposure 2113701 was tried 3 times and is left alone until it is announced again: ")
    assert "the process that it ran in ended first" in sentence
    assert list(list_arrivals(store)) == [ExposureId("2113701")]


def test_a_try_that_an_outage_stopped_does_not_count(store: DataStore, raw_store: DataStore) -> None:
    config = planned_survey()
    put_raw(raw_store, "2113701")
    note = announce(store, "2113701")
    for _ in range(4):
        desk = make_desk(store, raw_store, config, 2)
        with pytest.raises(LaunchStoppedError, match="the network is gone"):
            turn(desk, Instant(_2113701="lost"))
        assert read_tries(store, note.exposure, note.token) == Tries(token=note.token, attempts=1, unended=True)
        desk.start_over()
        assert read_tries(store, note.exposure, note.token) is None


def test_a_note_that_cannot_be_read_is_replaced_and_processed(
    store: DataStore, raw_store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "POLL_S", 0.05)
    monkeypatch.setattr(in_tray_module, "LOOK_S", 0.0)
    put_raw(raw_store, "2113701")
    store.put_bytes("inbox/2113701.json", b'{"exposure": "21137')
    store.put_bytes("inbox/README.json", b"of somebody else")
    desk, launcher = make_desk(store, raw_store, planned_survey(), 2), Instant()
    turn(desk, launcher, 4)

    assert launcher.started == ["2113701"]
    assert store.list_keys("inbox") == ["inbox/README.json"]


def test_exposures_start_while_the_survey_is_still_being_read(store: DataStore, raw_store: DataStore) -> None:
    config = planned_survey()
    put_raw(raw_store, "2113701")
    announce(store, "2113701")
    desk, launcher = Desk(config, store, raw_store, 2, logging.getLogger("test")), Instant()
    turn(desk, launcher, 2)

    assert (launcher.started, desk.idle) == (["2113701"], False)
    desk.open_book(Readiness(config, store, raw_store), ())
    turn(desk, launcher)
    assert desk.idle


def test_a_duplicate_starts_the_tiles_that_a_killed_run_did_not_start(
    copied: Path, config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, raw = store_of(copied), raw_of(copied)
    store.remove(keys.tile(TILE, "products.json"))
    desk, launcher = make_desk(store, raw, config, 2), Instant()
    announce(store, FIRST)
    turn(desk, launcher, 2)

    assert launcher.started == [str(TILE)]


def test_many_notes_are_worked_through_and_nothing_is_left_in_memory(store: DataStore, raw_store: DataStore) -> None:
    config = small_survey("exposure.star_catalog=null", "exposure.reference_cache=null", "tile.star_catalog=null")
    names = [f"{number}" for number in range(2200000, 2200150)]
    for name in names:
        put_raw(raw_store, name)
        announce(store, name)
    desk, launcher = make_desk(store, raw_store, config, 8), Instant()
    started = time.monotonic()
    work_off(desk, launcher)

    assert launcher.started == names
    assert (list_arrivals(store), store.list_keys("inbox-failures")) == ({}, [])
    assert (len(desk.tray.waiting), desk.running, len(desk.tray.put_off)) == (0, 0, 0)
    assert time.monotonic() - started < 20
    assert read_arrival(store, ExposureId(names[0])) is None
