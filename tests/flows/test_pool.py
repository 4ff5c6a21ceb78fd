"""Exposures and tiles as runs of their own in a work pool: refused, waited for, and processed by a real worker."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_survey import small_survey

from blocks.store import DataStore
from deployments.deploy import Target, deploy
from deployments.registration import S3Access, make_store, save_block
from flows import pool_wait
from flows.demo import simulate_survey
from flows.launch import Launcher
from flows.nightly import run_night
from flows.pool import run_in_pool
from flows.pool_wait import PoolRunError, PoolStalledError
from flows.status import store_status
from tasks.archive.manifests import read_refusal
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId, TileId
from tasks.runner import Runner

pytestmark = pytest.mark.usefixtures("prefect_server")

CONFIG = small_survey()
EXPOSURE = ExposureId("2113700")
POOL = "flows-in-a-pool"
HERE = Runner(workers=0)


def client() -> Any:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


@pytest.fixture(scope="module")
def deployed(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[DataStore, DataStore]:
    """Deploy to a pool that has no worker yet; return the stores."""
    root = tmp_path_factory.mktemp("pool")
    stores = [make_store(str(root), collection, S3Access()) for collection in ("products", "raw")]
    for store, name in zip(stores, ("pool-products", "pool-raw"), strict=True):
        save_block(store, name)
    deploy(CONFIG, "pool-products", "pool-raw", HERE, Target(pool=POOL, active=False))
    return stores[0], stores[1]


def ask(
    stores: tuple[DataStore, DataStore],
    patience_s: float = 600.0,
    check: Callable[[], None] = lambda: None,
    **parameters: object,
) -> bool:
    wanted = {"exposure": EXPOSURE, "config": CONFIG.exposure, "store": stores[0], "raw": stores[1], **parameters}
    return run_in_pool("exposure", EXPOSURE, wanted, stores[0], ["asked"], check, patience_s)


def give_up_if(stopped: threading.Event) -> None:
    if stopped.is_set():
        raise ZeroDivisionError("stopped elsewhere")


def waiting_runs() -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

    with client() as api:
        runs = api.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["asked"])))
    return [run for run in runs if run.state is not None and not run.state.is_final()]


@pytest.fixture
def asked(deployed: tuple[DataStore, DataStore]) -> Iterator[tuple[Future[bool], Any]]:
    """Return what waits for a run in the pool, and the run, which nobody has taken."""
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(ask, deployed, check=lambda: give_up_if(stopped))
        while not (runs := waiting_runs()):
            assert not future.done(), future.exception()
        try:
            yield future, runs[0].id
        finally:
            stopped.set()


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [({"exposure": "../x"}, "does not match"), ({"runner": {"kind": "ray"}}, "runner")],
)
def test_what_the_server_refuses_is_a_fault_of_the_settings(deployed, parameters, sentence):
    with pytest.raises(ConfigError, match=rf"refuses a run of exposure/exposure for {EXPOSURE}: .*{sentence}"):
        ask(deployed, **parameters)


def test_a_deployment_that_is_not_there_is_named(deployed):
    with pytest.raises(ConfigError, match=r"no deployment epoch/epoch; run `shearline deploy` first"):
        run_in_pool("epoch", EXPOSURE, {}, deployed[0], [], lambda: None, 600.0)


def test_a_run_that_another_ends_says_how(asked):
    from prefect.states import Crashed

    future, run = asked
    with client() as api:
        api.set_flow_run_state(run, Crashed(message="The machine is gone."), force=True)

    with pytest.raises(PoolRunError, match=r"exposure 2113700 in the work pool ended as Crashed: The machine is gone"):
        future.result()


def test_a_run_that_is_deleted_is_not_waited_for(asked):
    future, run = asked
    with client() as api:
        api.delete_flow_run(run)

    with pytest.raises(PoolRunError, match="exposure 2113700 in the work pool was deleted"):
        future.result()


def test_nobody_waits_longer_than_the_one_who_asked(deployed):
    stopped = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(ask, deployed, check=lambda: give_up_if(stopped))
        stopped.set()
        with pytest.raises(ZeroDivisionError, match="stopped elsewhere"):
            future.result()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the pool at once, and say at once what is wrong with it."""
    monkeypatch.setattr(pool_wait, "LOOK_S", 0.0)
    monkeypatch.setattr(pool_wait, "WARN_AFTER_S", 0.0)


@pytest.mark.usefixtures("soon")
def test_without_a_worker_it_says_how_to_start_one_and_then_ends(deployed, caplog):
    sentence = rf"No worker has taken the run exposure 2113700 of work pool {POOL} in \d s; start one with `prefect "
    with pytest.raises(PoolStalledError, match=sentence):
        ask(deployed, patience_s=1.5)

    assert [record.message[:19] for record in caplog.records if record.name == "prefect.launch"] == [
        "No worker has taken"
    ]


@pytest.mark.usefixtures("soon")
def test_a_worker_without_a_free_slot_is_another_reason(deployed):
    with client() as api:
        api.send_worker_heartbeat(POOL, "one-slot", heartbeat_interval_seconds=30)

    with pytest.raises(PoolStalledError, match=r"nothing else runs: its workers \(one-slot\) have no free slot"):
        ask(deployed, patience_s=1.5)


@pytest.mark.usefixtures("soon")
def test_while_others_run_in_the_pool_a_run_waits_for_its_turn(asked, deployed):
    from prefect.states import Cancelled, Running

    _, run = asked
    with client() as api:
        api.set_flow_run_state(run, Running(), force=True)
        with ThreadPoolExecutor(1) as threads:
            future = threads.submit(ask, deployed, 1.5)
            with pytest.raises(TimeoutError):
                future.result(4.0)
            api.set_flow_run_state(run, Cancelled(), force=True)
            with pytest.raises(PoolStalledError, match="exposure 2113700"):
                future.result()


def test_a_stalled_pool_stops_all_that_waits_in_it(deployed, monkeypatch):
    monkeypatch.setattr(pool_wait, "LOOK_S", 0.0)
    store, raw = deployed
    launcher = Launcher(CONFIG, store, raw, HERE, parallel=1, dispatch="pool", worker_patience_s=1.0)

    with pytest.raises(PoolStalledError), launcher:
        futures = [launcher.exposure(ExposureId(name)) for name in ("2113700", "2113701")]

    assert all(isinstance(future.exception(), PoolStalledError) for future in futures)


@contextmanager
def worker(home: Path) -> Iterator[None]:
    """Run a process worker of the pool with two slots."""
    from prefect.settings import get_current_settings

    where = {"PREFECT_API_URL": str(get_current_settings().api.url), "PREFECT_HOME": str(home)}
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        POOL,
        "--limit",
        "2",
        "--name",
        "two-slots",
    ]
    process = subprocess.Popen(command, env={**os.environ, **where, "PREFECT_WORKER_QUERY_SECONDS": "1"})
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def processed(deployed: tuple[DataStore, DataStore], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Simulate a survey and start a worker; return the stores."""
    store, raw = deployed
    simulate_survey(CONFIG.simulation, raw, Runner(workers=2))
    for run in waiting_runs():
        with client() as api:
            api.delete_flow_run(run.id)
    with worker(tmp_path_factory.mktemp("worker")):
        yield store, raw


@pytest.mark.faults
def test_a_worker_processes_exposures_a_tile_and_a_night(processed):
    store, raw = processed
    with Launcher(CONFIG, store, raw, HERE, dispatch="pool", tags=["launched"]) as launcher:
        first = launcher.exposure(EXPOSURE).result()
        again = launcher.exposure(EXPOSURE).result()
        alone = launcher.tile(TileId("2165.2000"), [EXPOSURE]).result()
        unknown = launcher.exposure(ExposureId("2999999")).result()

    assert [first.outcome, again.outcome, alone.outcome, unknown.outcome] == ["done", "reused", "done", "set_aside"]
    assert "2999999" in unknown.reason

    report = run_night(CONFIG, store, raw, HERE, dispatch="pool")

    assert {(item.kind, item.subject): item.outcome for item in report.launched} == {
        ("exposure", "2113701"): "done",
        ("tile", "2165.2000"): "done",
    }
    assert report.catalog is not None
    assert store_status(CONFIG, store, raw).open == ()


@pytest.mark.faults
def test_the_refusal_of_a_run_in_the_pool_has_its_sentence(processed):
    _, raw = processed
    store = DataStore(root=raw.root, collection="strict")
    strict = small_survey("exposure.psf_fit.min_stars=500")
    with Launcher(strict, store, raw, HERE, dispatch="pool") as launcher:
        found = launcher.exposure(EXPOSURE).result()

    assert found.outcome == "set_aside"
    assert "needs 500" in found.reason
    assert read_refusal(store, EXPOSURE).reason == found.reason


@pytest.mark.faults
def test_runs_of_a_night_are_its_children(processed):
    """Each has a number of its own, however many are asked for at once."""
    _, raw = processed
    store = DataStore(root=raw.root, collection="children")
    wrong = small_survey("exposure.min_ccds=9")

    report = run_night(wrong, store, raw, HERE, parallel=2, dispatch="pool")

    assert [item.outcome for item in report.launched] == ["set_aside", "set_aside"]
    assert "it needs 9" in report.launched[0].reason
    with client() as api:
        runs = [run for run in api.read_flow_runs(limit=200) if set(run.tags) >= {"exposure", f"night:{report.night}"}]
        mine = sorted(runs, key=lambda run: run.created)[-2:]
        parents = {run.parent_task_run_id for run in mine}
    assert len(parents) == 2
    assert None not in parents
