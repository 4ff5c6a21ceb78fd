import contextvars
import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest
from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from small_stages import CopyConfig, WriteConfig, copy_task, write_task

from blocks.store import DataStore
from tasks.errors import DataError, RunStoppedError
from tasks.products.identity import CcdId, ProductRef
from tasks.session import Outcome, Session, StageEvent, current_session, session
from tasks.workers.bodies import Executed, Job

EVENT = StageEvent("write", "2113737-1", Outcome.RUN, 0.1)
FAILED = StageEvent("write", "2113737-2", Outcome.FAILED, 0.1, reason="ZeroDivisionError('a bug')")


def ccd(number: int) -> CcdId:
    return CcdId(exposure="2113737", ccd=number)


def test_the_outer_session_counts_what_happens_in_those_inside() -> None:
    seen: list[StageEvent] = []
    with session(0, seen.append) as night:
        with session() as first:
            first.tell(EVENT)
            with session() as inside:
                inside.tell(EVENT)
        with session() as second:
            second.tell(EVENT)

    assert [len(one.events) for one in (night, first, inside, second)] == [3, 2, 1, 1]
    assert seen == night.events


def test_events_of_many_threads_are_seen_once_each_and_in_the_order_of_the_list() -> None:
    seen: list[StageEvent] = []

    def exposure(number: int) -> None:
        with session() as current:
            for k in range(50):
                current.tell(StageEvent("write", f"{number}-{k}", Outcome.RUN, 0.0))

    with session(0, seen.append) as night, ThreadPoolExecutor(8) as threads:
        runs = [threads.submit(contextvars.copy_context().run, exposure, number) for number in range(8)]
        [run.result() for run in runs]

    assert len(seen) == 400
    assert seen == night.events


def test_a_bug_in_one_exposure_leaves_the_others_alone(store: DataStore) -> None:
    with session() as night:
        with pytest.raises(ZeroDivisionError), session() as broken:
            write_task.fn(ccd(1), WriteConfig(crash_ccd=1), store)
        with session() as healthy:
            write_task.fn(ccd(2), WriteConfig(), store)

    assert "write of 2113737-1: ZeroDivisionError" in broken.stopped_by
    assert (night.stopped_by, healthy.stopped_by) == ("", "")
    assert [event.outcome for event in night.events] == [Outcome.FAILED, Outcome.RUN]


def test_stopping_a_night_stops_its_exposures(store: DataStore) -> None:
    with session() as night, session() as exposure:
        night.stop("the operator had enough")
        with pytest.raises(RunStoppedError, match="was not started: the run was stopped by the operator had enough"):
            write_task.fn(ccd(1), WriteConfig(), store)

    assert exposure.stopped_by == "the operator had enough"


def test_an_exposure_that_is_set_aside_stops_nothing() -> None:
    with session() as night:
        with pytest.raises(DataError), session() as exposure:
            raise DataError("no good CCD")

        assert (night.stopped_by, exposure.stopped_by) == ("", "")


def test_an_error_that_leaves_the_block_of_the_night_stops_the_night() -> None:
    with pytest.raises(OSError, match="gone"), session() as night, session():
        raise OSError("the network is gone")

    assert night.stopped_by == "OSError: the network is gone"


def test_what_waits_for_a_worker_is_given_up_when_the_session_is_stopped(store: DataStore) -> None:
    def slowly() -> Session:
        with session() as slow:
            write_task.fn(ccd(1), WriteConfig(wait_s=5), store)
        return slow

    with session(1) as night, ThreadPoolExecutor(1) as threads:
        running = threads.submit(contextvars.copy_context().run, slowly)
        while not store.list_keys("started"):
            time.sleep(0.01)
        with session() as waiting, ThreadPoolExecutor(5) as more:
            # the pool keeps two bodies at hand, which cannot be taken back
            queue = [
                more.submit(contextvars.copy_context().run, write_task.fn, ccd(n), WriteConfig(), store)
                for n in range(2, 7)
            ]
            while len(waiting._running) < 5:
                time.sleep(0.01)
            waiting.stop("a bug")
            errors = [future.exception() for future in queue]
        slow = running.result()

    stopped = [error for error in errors if isinstance(error, RunStoppedError)]
    assert len(stopped) == 3
    assert "was not run: the run was stopped by a bug" in str(stopped[0])
    assert night.stopped_by == slow.stopped_by == ""
    assert store.exists("written/2113737-1")


def test_sessions_inside_share_the_workers_until_the_last_one_ends(store: DataStore) -> None:
    entered, leave = Event(), Event()
    copies: list[contextvars.Context] = []

    def owner() -> None:
        with session(1):
            copies.append(contextvars.copy_context())
            entered.set()
            leave.wait(10)

    def joiner() -> tuple[Session, ProductRef, ProductRef]:
        with session() as joined:
            before = write_task.fn(ccd(1), WriteConfig(), store)
            leave.set()
            thread.join()
            return joined, before, write_task.fn(ccd(2), WriteConfig(), store)

    thread = Thread(target=owner)
    thread.start()
    entered.wait(10)
    joined, before, after = copies[0].run(joiner)

    assert [event.outcome for event in joined.events] == [Outcome.RUN, Outcome.RUN]
    assert before.summary["pid"] == after.summary["pid"]


def test_a_session_in_a_context_that_outlived_its_own_starts_anew(store: DataStore) -> None:
    with session() as old:
        context = contextvars.copy_context()
    old.stop("over")

    def late() -> Session:
        with session() as current:
            write_task.fn(ccd(1), WriteConfig(), store)
        return current

    assert [event.outcome for event in context.run(late).events] == [Outcome.RUN]
    assert old.events == []


def test_without_a_session_there_is_one_without_workers() -> None:
    assert current_session().stopped_by == ""
    assert current_session() is not current_session()


@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def exposure(number: int, config: WriteConfig, store: DataStore) -> list[StageEvent]:
    with session() as current:
        written = write_task.submit(ccd(number), config, store)
        copy_task(written.result(), CopyConfig(), store)
        return current.events


@pytest.mark.usefixtures("prefect_server")
def test_tasks_and_subflows_in_threads_find_their_own_session(store: DataStore) -> None:
    @flow
    def night() -> tuple[list[list[StageEvent]], list[StageEvent]]:
        with session() as current, ThreadPoolExecutor(2) as threads:
            runs = [
                threads.submit(contextvars.copy_context().run, exposure, number, WriteConfig(), store)
                for number in range(4)
            ]
            return [run.result() for run in runs], current.events

    each, together = night()

    # submitted and called directly, from the flow's thread and from a thread of the runner
    expected = [[("write", f"2113737-{n}"), ("copy", f"2113737-{n}")] for n in range(4)]
    assert [[(event.stage, event.subject) for event in events] for events in each] == expected
    assert sorted(map(str, together)) == sorted(str(event) for events in each for event in events)


@pytest.mark.usefixtures("prefect_server")
def test_a_bug_in_one_subflow_stops_only_it(store: DataStore) -> None:
    @flow
    def night() -> list[BaseException | None]:
        with session(), ThreadPoolExecutor(2) as threads:
            runs = [
                threads.submit(contextvars.copy_context().run, exposure, number, WriteConfig(crash_ccd=1), store)
                for number in range(4)
            ]
            return [run.exception() for run in runs]

    errors = night()

    assert [type(error) for error in errors] == [type(None), ZeroDivisionError, type(None), type(None)]


def test_a_stopped_session_refuses_work_that_is_handed_to_it_directly(store: DataStore) -> None:
    with session(1) as current:
        current.stop("a bug")
        job = Job("write", "2113737-1", store, logging.getLogger("shearline.run").warning)
        with pytest.raises(RunStoppedError, match="write of 2113737-1 was not run: the run was stopped by a bug"):
            current.execute(Never(), job)


def test_what_waits_for_its_turn_in_this_process_is_given_up_when_the_session_is_stopped(store: DataStore) -> None:
    with session(0) as current, ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(contextvars.copy_context().run, write_task.fn, ccd(1), WriteConfig(wait_s=2), store)]
        while not store.list_keys("started"):
            time.sleep(0.01)
        runs += [
            threads.submit(contextvars.copy_context().run, write_task.fn, ccd(n), WriteConfig(), store)
            for n in (2, 3, 4)
        ]
        while current._bodies < 4:
            time.sleep(0.01)
        current.stop("a bug")
        errors = [run.exception() for run in runs]

    assert [type(error) for error in errors] == [type(None), *[RunStoppedError] * 3]
    assert store.list_keys("written") == ["written/2113737-1"]


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_do_not_come_back_after_their_session(store: DataStore, workers: int) -> None:
    with session(workers) as ended:
        write_task.fn(ccd(1), WriteConfig(), store)
    job = Job("write", "2113737-2", store, logging.getLogger("shearline.run").warning)

    with pytest.raises(RunStoppedError, match="write of 2113737-2 was not run: the workers of its session have ended"):
        ended.shared.workers.submit(Never(), job)
    with pytest.raises(RunStoppedError, match="write of 2113737-2 was not run: the run was stopped by its end"):
        ended.execute(Never(), job)


def test_a_session_ends_when_its_last_body_has_ended(store: DataStore) -> None:
    with session(1), ThreadPoolExecutor(1) as threads:
        with session() as inside:
            body = threads.submit(contextvars.copy_context().run, write_task.fn, ccd(1), WriteConfig(wait_s=1), store)
            while not store.list_keys("started"):
                time.sleep(0.01)
        assert store.exists("written/2113737-1")
        assert inside._bodies == 0
        assert body.result().key == "written/2113737-1"


def test_ctrl_c_ends_what_runs_and_nothing_is_tried_again(store: DataStore) -> None:
    seen: list[StageEvent] = []

    def night(threads: ThreadPoolExecutor) -> None:
        with session(1, seen.append), session():
            bodies.append(
                threads.submit(contextvars.copy_context().run, write_task.fn, ccd(1), WriteConfig(wait_s=60), store)
            )
            while not store.list_keys("started"):
                time.sleep(0.01)
            raise KeyboardInterrupt

    bodies: list[Future[ProductRef]] = []
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(KeyboardInterrupt):
            night(threads)
        with pytest.raises(RunStoppedError, match=r"write of 2113737-1 was not run: .* stopped by KeyboardInterrupt"):
            bodies[0].result()

    assert seen == []
    assert store.list_keys("written") == []


PROGRAM = """
import contextvars, signal, sys, time
from concurrent.futures import ThreadPoolExecutor

from small_stages import WriteConfig, write_task

from blocks.lease import lease
from blocks.store import DataStore
from tasks.products.identity import CcdId
from tasks.session import session


def terminate(number, frame):
    raise SystemExit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    store = DataStore(root=sys.argv[1], collection="test")
    with ThreadPoolExecutor(1) as threads, lease(store, "exposure-2113737"), session(1):
        ccd = CcdId(exposure="2113737", ccd=1)
        threads.submit(contextvars.copy_context().run, write_task.fn, ccd, WriteConfig(wait_s=60), store).result()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_told_to_end_ends_its_bodies_before_it_gives_back_its_lease(
    store: DataStore, tmp_path: Path, number: signal.Signals
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    paths = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1])))
    process = subprocess.Popen(
        [sys.executable, str(program), store.root],
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (started := store.list_keys("started")):
            assert process.poll() is None
            time.sleep(0.05)
        worker = int(store.read_bytes(started[0]))
        # a shell sends Ctrl-C to all processes of the group
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        while store.list_keys("leases"):
            time.sleep(0.001)
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
        _, said = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    assert process.returncode in {143, -signal.SIGINT, 130}
    assert store.list_keys("written") == []
    assert "ForkServerProcess" not in said


class Never:
    def __call__(self) -> Executed:
        raise AssertionError("this body must not run")
