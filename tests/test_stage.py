import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import pytest
from prefect import flow
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner
from small_stages import CopyConfig, WriteConfig, copy_task, write_task

from blocks.store import DataStore
from tasks.errors import ConfigError, DataError, MissingProductError, RunStoppedError
from tasks.products.identity import CcdId, ProductRef
from tasks.session import Outcome, WorkerDiedError, session
from tasks.stage import StageTask
from tasks.workers.bodies import ONE_THREAD
from tasks.workers.processes import one_thread

CCD = CcdId(exposure="2113737", ccd=1)


def run_twice_and_count(store: DataStore, *configs: WriteConfig) -> list[Outcome]:
    with session() as current:
        for config in configs:
            copy_task.fn(write_task.fn(CCD, config, store), CopyConfig(), store)
    return [event.outcome for event in current.events]


def test_a_stage_needs_no_server_and_returns_the_reference_of_its_product(store: DataStore) -> None:
    ref = write_task.fn(CCD, WriteConfig(text="flux"), store)

    assert ref.key == "written/2113737-1"
    assert ref.subject == "2113737-1"
    assert store.read_bytes(ref.key) == b"flux"


def test_a_second_run_reuses_everything(store: DataStore) -> None:
    outcomes = run_twice_and_count(store, WriteConfig(), WriteConfig())

    assert outcomes == [Outcome.RUN, Outcome.RUN, Outcome.REUSED, Outcome.REUSED]


def test_changed_settings_run_the_stage_and_what_depends_on_it(store: DataStore) -> None:
    outcomes = run_twice_and_count(store, WriteConfig(), WriteConfig(text="b"))

    assert outcomes == [Outcome.RUN] * 4


def test_settings_that_do_not_change_the_product_leave_later_stages_alone(store: DataStore) -> None:
    outcomes = run_twice_and_count(store, WriteConfig(), WriteConfig(fail_ccd=7))

    assert outcomes[2:] == [Outcome.RUN, Outcome.REUSED]


def test_a_deleted_product_is_made_again_and_only_it(store: DataStore) -> None:
    run_twice_and_count(store, WriteConfig())
    store.remove("written/2113737-1")

    assert run_twice_and_count(store, WriteConfig()) == [Outcome.RUN, Outcome.REUSED]


def test_a_damaged_product_is_made_again(store: DataStore) -> None:
    run_twice_and_count(store, WriteConfig())
    store.put_bytes("copied/2113737-1", b"damaged")

    assert run_twice_and_count(store, WriteConfig()) == [Outcome.REUSED, Outcome.RUN]
    assert store.read_bytes("copied/2113737-1") == b"a"


def test_changed_code_makes_a_stage_stale(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run_twice_and_count(store, WriteConfig())
    for user in ("tasks.records", "tasks.stage"):
        monkeypatch.setattr(f"{user}.code_fingerprint", lambda _module: "another code")

    assert run_twice_and_count(store, WriteConfig()) == [Outcome.RUN, Outcome.RUN]


def test_code_that_changes_while_it_runs_is_refused(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.stage.code_fingerprint", lambda _module: "code of the worker")

    with session(), pytest.raises(ConfigError, match="The code of stage write was changed while it was running"):
        write_task.fn(CCD, WriteConfig(), store)


def test_a_damaged_record_counts_as_none(store: DataStore) -> None:
    run_twice_and_count(store, WriteConfig())
    store.put_bytes("records/write/2113737-1.json", b"{")

    assert run_twice_and_count(store, WriteConfig()) == [Outcome.RUN, Outcome.REUSED]


def test_bad_data_is_set_aside_with_its_sentence(store: DataStore) -> None:
    with session() as current, pytest.raises(DataError, match="CCD 2113737-1 is bad"):
        write_task.fn(CCD, WriteConfig(fail_ccd=1), store)

    assert [(event.outcome, event.reason) for event in current.events] == [(Outcome.SET_ASIDE, "CCD 2113737-1 is bad.")]
    assert not store.exists("records/write/2113737-1.json")


def test_after_a_bug_no_stage_is_started(store: DataStore) -> None:
    with session():
        with pytest.raises(ZeroDivisionError):
            write_task.fn(CCD, WriteConfig(crash_ccd=1), store)
        with pytest.raises(RunStoppedError, match="stopped by write of 2113737-1: ZeroDivisionError"):
            write_task.fn(CcdId(exposure="2113737", ccd=2), WriteConfig(), store)


def test_an_input_that_was_written_again_is_not_taken_for_the_recorded_one(store: DataStore) -> None:
    with session():
        ref = write_task.fn(CCD, WriteConfig(), store)
        store.put_bytes(ref.key, b"b")
        with pytest.raises(MissingProductError, match="is not the file that was recorded"):
            copy_task.fn(ref, CopyConfig(), store)


def test_a_missing_input_has_a_sentence(store: DataStore) -> None:
    gone = ProductRef(key="written/gone", sha256="0" * 64, size=1, subject="2113737-1")

    with session(), pytest.raises(MissingProductError, match="written/gone of 2113737-1 is not in"):
        copy_task.fn(gone, CopyConfig(), store)


@pytest.fixture
def pool() -> Iterator[None]:
    with session(1):
        yield


def test_bodies_run_in_worker_processes_and_their_errors_come_back(store: DataStore, pool: None) -> None:
    ref = write_task.fn(CCD, WriteConfig(), store)

    assert ref.summary["pid"] != os.getpid()
    with pytest.raises(DataError, match="CCD 2113737-1 is bad"):
        write_task.fn(CCD, WriteConfig(fail_ccd=1), store)


def test_workers_leave_ctrl_c_to_the_flow(store: DataStore, pool: None) -> None:
    with ThreadPoolExecutor(1) as threads:
        body = threads.submit(copy_context().run, write_task.fn, CCD, WriteConfig(wait_s=1), store)
        while not (started := store.list_keys("started")):
            time.sleep(0.01)
        os.kill(int(store.read_bytes(started[0])), signal.SIGINT)

        assert body.result().key == "written/2113737-1"


def test_after_a_worker_was_killed_the_next_body_has_a_fresh_one(store: DataStore, pool: None) -> None:
    with pytest.raises(WorkerDiedError, match="a worker process died, perhaps for want of memory: try fewer than 1"):
        write_task.fn(CCD, WriteConfig(kill_worker_of_ccd=1), store)

    assert write_task.fn(CCD, WriteConfig(), store).key == "written/2113737-1"


def test_the_environment_is_left_as_it_was(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with session(1):
        write_task.fn(CCD, WriteConfig(), store)

    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_the_environment_is_left_as_it_was_by_threads_whose_blocks_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    first, second = one_thread(), one_thread()
    with ThreadPoolExecutor(1) as other:
        first.__enter__()
        other.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        inside = {name: os.environ.get(name) for name in ONE_THREAD}
        other.submit(second.__exit__, None, None, None).result()

    assert inside == dict.fromkeys(ONE_THREAD, "1")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_log_lines_carry_stage_and_subject_and_leave_logging_as_it_was(
    store: DataStore, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("shearline")
    with caplog.at_level(logging.INFO, "shearline.run"), session(), ThreadPoolExecutor(8) as threads:
        ccds = [CcdId(exposure="2113737", ccd=number) for number in range(8)]
        list(threads.map(lambda ccd: write_task.fn(ccd, WriteConfig(), store), ccds))

    assert sorted(caplog.messages) == [f"write {ccd}: writing {ccd}" for ccd in ccds]
    assert logger.propagate
    assert logger.level == logging.NOTSET


def test_what_a_worker_logs_is_in_the_log_while_it_still_works_and_only_once(
    store: DataStore, pool: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "shearline.run"), ThreadPoolExecutor(1) as threads:
        body = threads.submit(copy_context().run, write_task.fn, CCD, WriteConfig(wait_s=2), store)
        while not caplog.messages and not body.done():
            time.sleep(0.02)
        still_works, early = not body.done(), list(caplog.messages)
        body.result()

    assert (still_works, early) == (True, ["write 2113737-1: writing 2113737-1"])
    assert caplog.messages == early


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def write_and_copy(config: WriteConfig, store: DataStore) -> list[tuple[State, State]]:
    pairs = []
    for number in range(4):
        written = write_task.submit(CcdId(exposure="2113737", ccd=number), config, store)
        pairs.append((written, copy_task.submit(written, CopyConfig(), store)))
    for written, copied in pairs:
        written.wait()
        copied.wait()
    return [(written.state, copied.state) for written, copied in pairs]


def names(states: list[tuple[State, State]]) -> Counter[str]:
    return Counter(state.name for pair in states for state in pair)


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_shows_reused_stages_as_cached(store: DataStore) -> None:
    with session():
        first = write_and_copy(WriteConfig(), store)
        second = write_and_copy(WriteConfig(), store)

    assert names(first) == {"Completed": 8}
    assert names(second) == {"Cached": 8}


@pytest.mark.usefixtures("prefect_server")
def test_a_stage_called_in_a_flow_returns_its_product_whether_it_ran_or_was_reused(store: DataStore) -> None:
    @flow
    def twice() -> list[ProductRef]:
        return [write_task(CCD, WriteConfig(), store) for _ in range(2)]

    with session() as current:
        first, second = twice()

    assert isinstance(second, ProductRef)
    assert first == second
    assert [event.outcome for event in current.events] == [Outcome.RUN, Outcome.REUSED]


@pytest.mark.usefixtures("prefect_server")
def test_one_bad_ccd_fails_alone(store: DataStore) -> None:
    with session():
        states = write_and_copy(WriteConfig(fail_ccd=2), store)

    assert names(states) == {"Completed": 6, "Failed": 1, "NotReady": 1}


@pytest.mark.usefixtures("prefect_server")
def test_what_may_pass_is_retried_and_bad_data_is_not(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = write_task.with_options(retry_delay_seconds=0)

    @flow
    def one(config: WriteConfig) -> ProductRef:
        return quick(CCD, config, store)

    with session() as current:
        assert isinstance(quick, StageTask)
        assert one(WriteConfig(lose_network=2)).key == "written/2113737-1"
        assert len(store.list_keys("tries")) == 3
        with pytest.raises(DataError, match="CCD 2113737-1 is bad"):
            one(WriteConfig(fail_ccd=1))

    assert [event.outcome for event in current.events] == [Outcome.RUN, Outcome.SET_ASIDE]


@pytest.mark.usefixtures("prefect_server")
def test_what_does_not_pass_stops_the_run_after_the_last_try_and_says_so(store: DataStore) -> None:
    quick = write_task.with_options(retry_delay_seconds=0)

    @flow
    def one() -> ProductRef:
        return quick(CCD, WriteConfig(lose_network=9), store)

    with session() as current:
        with pytest.raises(OSError, match="connection reset"):
            one()
        assert current.stopped_by == "write of 2113737-1: connection reset (tried 3 times)"

    assert len(store.list_keys("tries")) == 3
    assert [(event.outcome, event.reason) for event in current.events] == [
        (Outcome.FAILED, "connection reset (tried 3 times)")
    ]


@pytest.mark.usefixtures("prefect_server")
def test_the_state_and_the_log_of_a_failed_stage_carry_its_sentence_and_its_identity(
    store: DataStore, caplog: pytest.LogCaptureFixture
) -> None:
    with session():
        states = write_and_copy(WriteConfig(fail_ccd=2), store)
    failed = [written for written, _ in states if written.is_failed()]

    assert [state.message for state in failed] == ["Task run encountered an exception DataError: CCD 2113737-2 is bad."]
    own = [record for record in caplog.records if getattr(record, "task_run_name", "") == "write 2113737-2"]
    assert [record.getMessage() for record in own if record.levelno >= logging.INFO] == [
        "write 2113737-2: writing 2113737-2",
        "Finished in state Failed('Task run encountered an exception DataError: CCD 2113737-2 is bad.')",
    ]


def test_a_store_that_fails_is_not_mistaken_for_an_empty_one(store: DataStore, tmp_path: Path) -> None:
    run_twice_and_count(store, WriteConfig())
    record = Path(store.root) / "test" / "records" / "write" / "2113737-1.json"
    record.unlink()
    record.mkdir()

    with session(), pytest.raises(OSError, match="cannot read records/write"):
        write_task.fn(CCD, WriteConfig(), store)
