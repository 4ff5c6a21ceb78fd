"""One holder at a time, and nobody waits for the dead."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from s3_proxy import LOST, FaultyS3

from blocks import lease as leases
from blocks.lease import LeaseHeldError, LeaseOwner, lease
from blocks.process_identity import ProcessIdentity, _started, this_process
from blocks.store import DataStore, StoreError

KEY = "leases/exposure-1.json"


@pytest.fixture(params=["local", "s3"])
def shared(request: pytest.FixtureRequest) -> DataStore:
    """A store in which conditional writes are atomic; moto's are so behind the proxy only."""
    store: DataStore = request.getfixturevalue("store" if request.param == "local" else "patient_store")
    return store


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.02)


def holder(store: DataStore) -> LeaseOwner:
    return LeaseOwner.model_validate_json(store.read_bytes(KEY))


def in_thread(work: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work).result()


def write_lease(store: DataStore, age_s: float = 0.0, **changes: object) -> LeaseOwner:
    """Leave the lease of somebody else, who has renewed it some time ago."""
    process = this_process().model_copy(update=changes)
    then = datetime.now(UTC) - timedelta(seconds=age_s)
    owner = LeaseOwner(subject="exposure-1", process=process, owner="run-1", token="other", since=then, renewed=then)
    store.put_bytes(KEY, owner.model_dump_json().encode())
    return owner


def test_a_lease_says_who_holds_it_and_is_removed_at_the_end(shared: DataStore) -> None:
    with lease(shared, "exposure-1", owner="run-7") as mine:
        seen = holder(shared)
        assert (seen.subject, seen.owner, seen.process) == ("exposure-1", "run-7", this_process())
        assert mine.taken_from is None
    assert shared.list_keys() == []


def test_it_is_removed_when_the_work_fails(store: DataStore) -> None:
    with pytest.raises(ZeroDivisionError), lease(store, "exposure-1"):
        raise ZeroDivisionError
    assert store.list_keys() == []


def test_two_runs_in_one_process_exclude_each_other_and_the_second_is_told(shared: DataStore) -> None:
    told: list[LeaseOwner] = []
    order: list[str] = []

    def second() -> None:
        with lease(shared, "exposure-1", owner="run-2", on_wait=told.append):
            order.append("second")

    with ThreadPoolExecutor(1) as threads:
        with lease(shared, "exposure-1", owner="run-1"):
            waiting = threads.submit(second)
            until(lambda: told)
            time.sleep(0.3)
            order.append("first")
        waiting.result(10)

    assert order == ["first", "second"]
    assert [owner.owner for owner in told] == ["run-1"]
    assert f"run run-1 on {this_process().host} since {datetime.now(UTC):%Y-}" in str(told[0])


def test_other_subjects_are_not_waited_for(store: DataStore) -> None:
    with lease(store, "exposure-1", owner="a"):
        assert in_thread(lambda: lease(store, "exposure-2", owner="b", wait_s=0).__enter__()) is not None


def test_waiting_ends_after_the_time_that_was_given(store: DataStore) -> None:
    def impatient() -> None:
        with lease(store, "exposure-1", owner="b", wait_s=0.3):
            pass

    sentence = r"exposure-1 is being worked on by run a on .* since .* UTC; waited 0\.\d s for it"
    with lease(store, "exposure-1", owner="a"), pytest.raises(LeaseHeldError, match=sentence):
        in_thread(impatient)


def test_the_same_thread_and_the_same_owner_may_hold_it_twice(store: DataStore) -> None:
    def again() -> bool:
        with lease(store, "exposure-1", owner="run-1", wait_s=0):
            return store.exists(KEY)

    with lease(store, "exposure-1", owner="run-1"):
        with lease(store, "exposure-1", owner="run-2", wait_s=0):
            assert holder(store).owner == "run-1"
        assert in_thread(again)
        assert store.exists(KEY)
    assert not store.exists(KEY)


def work_until_killed(store: DataStore, ready: object) -> None:
    with lease(store, "exposure-1", owner="run-1"):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_the_lease_of_a_killed_process_of_this_machine_is_taken_at_once(store: DataStore) -> None:
    context = multiprocessing.get_context("forkserver")
    ready = context.Event()
    victim = context.Process(target=work_until_killed, args=(store, ready))
    victim.start()
    assert ready.wait(30)
    begun = time.monotonic()
    with pytest.raises(LeaseHeldError, match="run run-1"), lease(store, "exposure-1", owner="run-2", wait_s=0):
        pass
    os.kill(victim.pid or 0, signal.SIGKILL)

    with lease(store, "exposure-1", owner="run-2", wait_s=10) as mine:
        assert mine.taken_from is not None
        assert (mine.taken_from.owner, mine.taken_from.process.pid) == ("run-1", victim.pid)
        assert holder(store).owner == "run-2"
    assert time.monotonic() - begun < 5
    victim.join()


@pytest.mark.parametrize("changes", [{"started": "1"}, {"pid": 2**22 + 1}], ids=["another start", "no such process"])
def test_a_number_that_another_process_has_now_does_not_keep_a_lease_alive(
    shared: DataStore, changes: dict[str, object]
) -> None:
    write_lease(shared, **changes)

    with lease(shared, "exposure-1", wait_s=0) as mine:
        assert mine.taken_from is not None
        assert mine.taken_from.token == "other"


@pytest.mark.parametrize("elsewhere", ["host", "boot", "namespace"])
def test_a_process_that_cannot_be_seen_is_dead_when_it_has_not_renewed_for_as_long_as_we_watched(
    store: DataStore, elsewhere: str
) -> None:
    # its clock may be hours ahead or behind: only ours counts
    write_lease(store, **{elsewhere: "other", "pid": 2**22 + 1})
    begun = time.monotonic()

    with lease(store, "exposure-1", expiry_s=0.6, wait_s=10) as mine:
        assert time.monotonic() - begun >= 0.6
        assert mine.taken_from is not None


def test_a_holder_who_renews_is_never_taken_for_dead(shared: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # as if on another machine
    monkeypatch.setattr(ProcessIdentity, "is_alive", lambda _self: None)
    monkeypatch.setattr(leases, "this_process", lambda: ProcessIdentity(
        host=threading.current_thread().name, boot="", namespace="", pid=1, started=""))  # fmt: skip

    def other() -> None:
        with lease(shared, "exposure-1", owner="b", expiry_s=expiry_s, wait_s=1.25 * expiry_s):
            pass

    # longer than a busy machine keeps a thread waiting: who is kept longer than this is rightly taken for dead
    expiry_s = 5.0
    with lease(shared, "exposure-1", owner="a", expiry_s=expiry_s) as mine:
        with pytest.raises(LeaseHeldError, match="run a"):
            in_thread(other)
        assert not mine.lost
        assert holder(shared).renewed > holder(shared).since


def test_one_of_many_waiters_takes_over(shared: DataStore) -> None:
    write_lease(shared, pid=2**22 + 1)
    inside: list[str] = []
    most, takers = 0, []

    def work(name: str) -> None:
        nonlocal most
        with lease(shared, "exposure-1", owner=name, wait_s=30) as mine:
            inside.append(name)
            most = max(most, len(inside))
            if mine.taken_from is not None:
                takers.append(name)
            time.sleep(0.05)
            inside.remove(name)

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(work, f"run-{number}") for number in range(6)]:
            done.result()

    assert most == 1
    assert len(takers) == 1
    assert shared.list_keys() == []


def test_a_holder_whose_lease_was_taken_notices_and_does_not_take_it_back(
    store: DataStore, caplog: pytest.LogCaptureFixture
) -> None:
    with lease(store, "exposure-1", owner="a", expiry_s=0.4) as mine:
        taken = write_lease(store)
        until(lambda: mine.lost)
        until(lambda: "The lease of exposure-1 is lost" in caplog.text)
    assert holder(store) == taken


def test_a_renewal_whose_answer_was_lost_does_not_lose_the_lease(faulty_store: DataStore, proxy: FaultyS3) -> None:
    with lease(faulty_store, "exposure-1", owner="a", expiry_s=0.8) as mine:
        proxy.rule = lambda request: LOST if request.method == "PUT" and request.path.endswith(KEY) else None
        until(lambda: proxy.traffic.faults["lost"] >= 2)
        proxy.rule = lambda _request: None
        before = holder(faulty_store).renewed
        until(lambda: holder(faulty_store).renewed > before)
        assert not mine.lost


def test_a_lease_that_could_not_be_given_back_is_free_for_this_process(
    faulty_store: DataStore, proxy: FaultyS3, caplog: pytest.LogCaptureFixture
) -> None:
    from s3_proxy import INTERNAL_ERROR

    with lease(faulty_store, "exposure-1"):
        proxy.rule = lambda _request: INTERNAL_ERROR
    proxy.rule = lambda _request: None

    assert "The lease of exposure-1 could not be given back" in caplog.text
    assert faulty_store.exists(KEY)
    with lease(faulty_store, "exposure-1", wait_s=0) as mine:
        assert mine.taken_from is not None


def test_what_is_no_lease_is_taken_when_nobody_renews_it(store: DataStore) -> None:
    store.put_bytes(KEY, b"{}")

    with lease(store, "exposure-1", expiry_s=0.3, wait_s=5) as mine:
        assert mine.taken_from is None
        assert holder(store).token == mine.document.token


def test_one_thread_renews_all_leases(store: DataStore) -> None:
    with lease(store, "exposure-1", expiry_s=0.4), lease(store, "exposure-2", expiry_s=0.4):
        until(lambda: holder(store).renewed > holder(store).since)
        assert [thread.name for thread in threading.enumerate()].count("leases") == 1


def test_who_yields_leaves_the_lease_to_a_living_owner_at_once(store: DataStore) -> None:
    def polite() -> None:
        with lease(store, "arrival", owner="b", yields=True):
            pass

    with lease(store, "arrival", owner="a"), pytest.raises(LeaseHeldError, match="arrival is being worked on by run a"):
        in_thread(polite)


def test_who_yields_takes_over_from_a_dead_owner(store: DataStore) -> None:
    dead = write_lease(store, host="elsewhere")

    with lease(store, dead.subject, owner="b", yields=True, expiry_s=0.5) as mine:
        assert mine.taken_from == dead


@pytest.mark.parametrize("age_s", [3600.0, -3600.0], ids=["long ago", "by a clock that was put back"])
def test_who_yields_takes_over_what_a_living_process_has_forgotten(store: DataStore, age_s: float) -> None:
    forgotten = write_lease(store, age_s, **parent())

    with lease(store, forgotten.subject, owner="b", yields=True, expiry_s=0.5, wait_s=10) as mine:
        assert mine.taken_from == forgotten


def test_who_yields_believes_a_living_process_that_has_renewed_lately(store: DataStore) -> None:
    write_lease(store, **parent())

    with (
        pytest.raises(LeaseHeldError, match=r"waited 0\.\d s"),
        lease(store, "exposure-1", owner="b", yields=True, expiry_s=20),
    ):
        pass


def parent() -> dict[str, object]:
    """Another process of this machine that lives."""
    return {"pid": os.getppid(), "started": _started(os.getppid())}


def test_a_lease_whose_store_fails_after_it_was_written_is_not_left_behind(
    faulty_store: DataStore, proxy: FaultyS3
) -> None:
    assert faulty_store._bucket.honours_conditions()
    late = iter([True] * 4)
    # the service does it, and then says nothing for as long as the store is patient
    proxy.rule = lambda request: LOST if request.method in {"PUT", "HEAD"} and next(late, False) else None

    with pytest.raises(StoreError), lease(faulty_store.model_copy(update={"attempts": 2}), "exposure-1"):
        pass

    assert proxy.traffic.faults["lost"] == 4
    assert faulty_store.list_keys() == []


def test_a_lease_costs_one_request_when_nobody_holds_it(patient_store: DataStore, proxy: FaultyS3) -> None:
    """What is looked up after it was written may fail, or be another's."""
    assert patient_store._bucket.honours_conditions()
    proxy.forget()

    with lease(patient_store, "exposure-1") as mine:
        assert proxy.traffic.requests == 1
        assert mine.version == patient_store.version(KEY)


def test_a_lease_with_its_own_token_is_its_own(store: DataStore) -> None:
    """As when a request that was taken for lost arrives after all."""
    now = datetime.now(UTC)
    document = LeaseOwner(subject="exposure-1", process=this_process(), token="mine", since=now, renewed=now)
    mine = leases.Lease(store, KEY, document, 60, threading.get_ident())
    leases._held.tokens.add("mine")
    store.put_bytes(KEY, document.model_dump_json().encode())

    assert leases._try(mine, leases._Watch(60))
    assert mine.version == store.version(KEY)
    mine.release()
    leases._held.tokens.discard("mine")
    assert store.list_keys() == []


def test_a_lease_in_a_bucket_of_one_service_is_none_in_its_namesake_of_another(
    faulty_store: DataStore, s3_endpoint: str
) -> None:
    # moto's services of one process are one service: so the other one says that somebody holds it
    other = faulty_store.model_copy(update={"endpoint_url": s3_endpoint})
    assert other.url == faulty_store.url

    with (
        lease(faulty_store, "exposure-1"),
        pytest.raises(LeaseHeldError, match="exposure-1 is being worked on"),
        lease(other, "exposure-1", wait_s=0),
    ):
        pass


FORK = """
import multiprocessing, sys
from contextlib import ExitStack
from blocks.lease import lease
from blocks.store import DataStore

store = DataStore(root=sys.argv[1], collection="test")
with lease(store, "exposure-1"), ExitStack() as outer:
    block = outer.enter_context(ExitStack())
    block.enter_context(lease(store, "exposure-2"))
    child = multiprocessing.get_context("fork").Process(target=block.close)
    child.start()
    child.join(20)
    print(child.exitcode, *store.list_keys())
"""


def test_a_forked_child_that_leaves_the_block_does_not_give_the_lease_back(store: DataStore) -> None:
    # in a process of its own: what other tests leave running does not survive a fork
    done = subprocess.run([sys.executable, "-c", FORK, store.root], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0", "leases/exposure-1.json", "leases/exposure-2.json"]
