"""One run at a time, with and without Prefect."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.states import Completed, Running

from blocks.lease import LeaseHeldError, LeaseOwner
from blocks.process_identity import this_process
from blocks.store import DataStore
from flows.claim import claim

KEY = "leases/exposure-1.json"


def holder(store: DataStore) -> LeaseOwner:
    return LeaseOwner.model_validate_json(store.read_bytes(KEY))


def leave_dead_lease(store: DataStore, flow_run: str) -> None:
    gone = this_process().model_copy(update={"pid": 2**22 + 1})
    now = datetime.now(UTC)
    owner = LeaseOwner(subject="exposure-1", process=gone, owner=flow_run, token="t", since=now, renewed=now)
    store.put_bytes(KEY, owner.model_dump_json().encode())


@flow
def work(store: DataStore, seconds: float = 0.0, wait_s: float | None = None) -> tuple[str, float, float]:
    """Claim an exposure and return whose the claim was, and when."""
    with claim(store, "exposure-1", wait_s=wait_s):
        begun = time.monotonic()
        time.sleep(seconds)
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        assert holder(store).owner == str(context.flow_run.id)
        return holder(store).owner, begun, time.monotonic()


def run_in(state: State) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.create_flow_run(work, parameters={}, state=state)


def state_of(run: FlowRun) -> str:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(run.id).state
        assert state is not None
        return state.name


def test_a_claim_works_without_prefect_and_leaves_nothing(store: DataStore) -> None:
    with claim(store, "exposure-1"), claim(store, "exposure-1"):
        assert holder(store).owner == ""
    assert store.list_keys() == []


def test_what_a_process_without_prefect_left_is_taken_over_and_said(
    store: DataStore, caplog: pytest.LogCaptureFixture
) -> None:
    leave_dead_lease(store, "")

    with caplog.at_level(logging.INFO), claim(store, "exposure-1", wait_s=0):
        pass

    assert f"exposure-1 was being worked on by process {2**22 + 1} on" in caplog.text


@pytest.mark.usefixtures("prefect_server")
def test_two_flow_runs_of_one_process_work_one_after_the_other(store: DataStore) -> None:
    with ThreadPoolExecutor(2) as threads:
        (one, begun, ended), (other, begun_other, ended_other) = threads.map(lambda _: work(store, 0.5), range(2))

    assert one != other
    assert ended <= begun_other or ended_other <= begun


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_run_that_waits_says_for_whom(store: DataStore, caplog: pytest.LogCaptureFixture) -> None:
    with claim(store, "exposure-1"), ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(work, store, 0.0, 0.2)
        with pytest.raises(LeaseHeldError, match=r"exposure-1 is being worked on by process \d+ on"):
            waiting.result()
    assert "exposure-1 is being worked on by process" in caplog.text


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_run_of_a_dead_owner_is_set_to_crashed(store: DataStore) -> None:
    dead = run_in(Running())
    leave_dead_lease(store, str(dead.id))

    work(store)

    assert state_of(dead) == "Crashed"


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_run_that_has_ended_keeps_its_state(store: DataStore) -> None:
    done = run_in(Completed())
    leave_dead_lease(store, str(done.id))

    work(store)

    assert state_of(done) == "Completed"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("name", ["00000000-0000-4000-8000-000000000000", "no id"])
def test_a_flow_run_that_prefect_does_not_know_is_a_line_in_the_log(
    store: DataStore, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    leave_dead_lease(store, name)

    work(store)

    assert f"Flow run {name} is dead, but Prefect could not be told" in caplog.text
