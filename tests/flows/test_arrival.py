import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from small_survey import small_survey

from blocks.store import DataStore, StoreError
from flows import desk as desk_module
from flows.announce import announce_missed
from flows.arrival import ArrivalReport, process_arrivals
from flows.config import SurveyConfig
from flows.demo import simulate_survey
from flows.desk import Desk
from flows.launch import Launched
from tasks.archive.inbox import announce, failure_of, list_arrivals, read_arrival
from tasks.archive.manifests import (
    forget_exposure_products,
    list_processed_exposures,
    read_exposure_products,
    read_refusal,
    read_tile_products,
)
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId, TileId
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
    monkeypatch.setattr(desk_module, "RETRY_S", 0.0)
    monkeypatch.setattr("flows.exposure.find_raw_exposure", broken)
    note = announce(store, FIRST)
    report = arrivals(config, root, "bug")
    failure = failure_of(store, note)
    assert (report.failed, report.given_up) == (3, 1)
    assert failure is not None
    assert (failure.attempts, failure.reason) == (3, "ZeroDivisionError: a bug")

    assert numbers(arrivals(config, root, "bug")) == {"given_up": 1}
    announce(store, FIRST)
    assert numbers(arrivals(config, root, "bug")) == {"failed": 3, "given_up": 1}


def test_an_outage_of_the_store_is_waited_for(
    survey: tuple[Path, ArrivalReport], config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, failures = survey[0], iter([True, False, True])

    def flaky(store: DataStore) -> dict[ExposureId, str]:
        if next(failures, False):
            raise StoreError("the network is gone")
        return list_arrivals(store)

    monkeypatch.setattr(desk_module, "list_arrivals", flaky)
    announce(store_of(root), FIRST)

    assert numbers(arrivals(config, root, linger_s=2.0)) == {"unchanged": 1}


def test_a_store_that_is_lost_by_what_runs_is_waited_for(
    copied: Path, config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import exposure as exposure_module

    failures, find = iter([True, True]), exposure_module.find_raw_exposure

    def flaky(*arguments: Any) -> object:
        if next(failures, False):
            raise StoreError("the network is gone")
        return find(*arguments)

    monkeypatch.setattr(exposure_module, "find_raw_exposure", flaky)
    forget_exposure_products(store_of(copied), FIRST)
    announce(store_of(copied), FIRST)

    assert numbers(arrivals(config, copied))["reused"] == 1


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


class Instant:
    """Stands for the launcher where only the order of starting matters: everything ends at once when told to."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.futures: list[Future[Launched]] = []

    def exposure(self, name: ExposureId) -> Future[Launched]:
        return self._start(str(name), "exposure")

    def tile(self, name: TileId, _exposures: object = ()) -> Future[Launched]:
        return self._start(str(name), "tile")

    def _start(self, name: str, kind: Any) -> Future[Launched]:
        self.started.append(name)
        future: Future[Launched] = Future()
        future.set_result(Launched(subject=name, kind=kind, outcome="done", seconds=0.0))
        return future


def make_desk(store: DataStore, raw: DataStore, config: SurveyConfig, parallel: int) -> Desk:
    import logging

    return Desk(config, store, raw, parallel, lambda _name: (), logging.getLogger("test"))


def put_raw(raw: DataStore, name: str) -> None:
    for suffix in ("", ".weight", ".flag"):
        raw.put_bytes(f"{name}p{suffix}.fits.fz", b"pixels")


def test_tiles_go_first_but_leave_a_place_to_exposures(
    store: DataStore, raw_store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_survey("exposure.star_catalog=null", "exposure.reference_cache=null")
    monkeypatch.setattr(desk_module, "POLL_S", 0.5)
    for name in ("2113703", "2113701", "2113702"):
        put_raw(raw_store, name)
        announce(store, name)
    desk, launcher = make_desk(store, raw_store, config, 3), Instant()
    desk.tiles.update((TileId(name), ()) for name in ("100.100", "100.101", "100.102"))
    desk.turn(launcher)  # type: ignore[arg-type]

    assert launcher.started[:3] == ["100.100", "100.101", "2113703"]
    while not desk.idle:
        desk.turn(launcher)  # type: ignore[arg-type]
    assert [name for name in launcher.started if "." not in name] == ["2113703", "2113701", "2113702"]
    assert launcher.started.count("100.102") == 1


def test_many_notes_are_worked_through_and_nothing_is_left_in_memory(store: DataStore, raw_store: DataStore) -> None:
    config = small_survey("exposure.star_catalog=null", "exposure.reference_cache=null")
    names = [f"{number}" for number in range(2200000, 2200150)]
    for name in names:
        put_raw(raw_store, name)
        announce(store, name)
    desk, launcher = make_desk(store, raw_store, config, 8), Instant()
    started = time.monotonic()
    while not (desk.idle and launcher.started):
        desk.turn(launcher)  # type: ignore[arg-type]

    assert launcher.started == names
    assert list_arrivals(store) == {}
    assert (len(desk._waiting), len(desk._running), len(desk.put_off)) == (0, 0, 0)
    assert time.monotonic() - started < 20
    assert read_arrival(store, ExposureId(names[0])) is None
