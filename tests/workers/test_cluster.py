import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from pathlib import Path

import pytest
from dask_jobqueue import SLURMCluster
from small_stages import CopyConfig, WriteConfig, copy_task, write_task

from blocks.store import DataStore
from tasks.errors import ConfigError, DataError, RunStoppedError
from tasks.products.identity import CcdId, ProductRef
from tasks.runner import Runner, SlurmJobs
from tasks.session import Outcome, current_session, session
from tasks.workers.bodies import ONE_THREAD, Executed, Job, WorkerDiedError
from tasks.workers.cluster import DaskCluster, _Guarded, slurm_options

# clusters of real processes start slowly
pytestmark = pytest.mark.faults

HOUSE = Path(__file__).parents[2]
OWN = Runner(kind="dask", workers=1)
SAID = ["write 2113737-1: writing 2113737-1"]


def ccd(number: int) -> CcdId:
    return CcdId(exposure="2113737", ccd=number)


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Context]:
    context, manager = copy_context(), session(OWN)
    context.run(manager.__enter__)
    yield context
    context.run(manager.__exit__, None, None, None)


def test_bodies_run_on_the_cluster_and_give_the_same_bytes(
    store: DataStore, caplog: pytest.LogCaptureFixture, own_cluster: Context
) -> None:
    with caplog.at_level("INFO", "shearline.run"):
        written = own_cluster.run(write_task.fn, ccd(1), WriteConfig(text="flux"), store)
        copied = own_cluster.run(copy_task.fn, written, CopyConfig(), store)

    assert written.summary["pid"] != os.getpid()
    assert store.read_bytes(copied.key) == b"flux"
    assert [record.getMessage() for record in caplog.records if record.name == "shearline.run"] == SAID
    # the marker is for folders of other machines
    assert store.list_keys() == [
        "copied/2113737-1", "records/copy/2113737-1.json", "records/write/2113737-1.json", "written/2113737-1"
    ]  # fmt: skip


def write_inside(config: WriteConfig, store: DataStore) -> ProductRef:
    """Write in a session of its own, which may be stopped while the cluster is used on."""
    with session():
        return write_task.fn(ccd(1), config, store)


def test_errors_of_a_body_come_back_with_what_was_logged_before(
    store: DataStore, caplog: pytest.LogCaptureFixture, own_cluster: Context
) -> None:
    with caplog.at_level("INFO", "shearline.run"), pytest.raises(DataError, match=r"^CCD 2113737-1 is bad\.$"):
        own_cluster.run(write_inside, WriteConfig(fail_ccd=1), store)

    assert [record.getMessage() for record in caplog.records if record.name == "shearline.run"] == SAID


def test_a_killed_worker_is_our_error_and_the_next_body_has_a_fresh_one(store: DataStore, own_cluster: Context) -> None:
    sentence = r"the Dask worker tcp://.* died while it ran write of 2113737-1, perhaps for want"
    with pytest.raises(WorkerDiedError, match=sentence):
        own_cluster.run(write_inside, WriteConfig(kill_worker_of_ccd=1), store)

    assert own_cluster.run(write_inside, WriteConfig(), store).key == "written/2113737-1"


def test_workers_of_our_own_leave_ctrl_c_to_the_flow(store: DataStore, own_cluster: Context) -> None:
    with ThreadPoolExecutor(1) as threads:
        body = threads.submit(own_cluster.copy().run, write_inside, WriteConfig(wait_s=2), store)
        os.kill(pid_of_the_worker(store), signal.SIGINT)

        assert body.result(60).key == "written/2113737-1"


def pid_of_the_worker(store: DataStore) -> int:
    """Wait until a body of some seconds has begun, and return the process that runs it."""
    while not (started := store.list_keys("started")):
        time.sleep(0.05)
    return int(store.read_bytes(started[0]))


def test_an_answer_that_comes_when_the_patience_ends_is_taken(
    store: DataStore, own_cluster: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so short that the body is done before any wait for its answer has succeeded
    monkeypatch.setattr("tasks.workers.cluster.PATIENCE_S", 1e-4)

    assert own_cluster.run(write_inside, WriteConfig(), store).key == "written/2113737-1"


def test_a_job_of_slurm_asks_for_what_the_settings_say() -> None:
    jobs = SlurmJobs(
        account="lensing",
        partition="night",
        processes=4,
        cores=8,
        memory="24 GB",
        walltime="06:30:00",
        directives=("--qos=high", "--exclusive"),
        prologue=("module load gcc/13.2",),
        python="/opt/shearline/bin/python",
    )
    with SLURMCluster(**slurm_options(jobs)) as cluster:
        script = cluster.job_script()
    lines = script.splitlines()

    assert {
        "#SBATCH -J shearline",
        "#SBATCH -p night",
        "#SBATCH -A lensing",
        "#SBATCH -n 1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=23G",
        "#SBATCH -t 06:30:00",
        "#SBATCH --qos=high",
        "#SBATCH --exclusive",
        "module load gcc/13.2",
        *(f"export {name}=1" for name in ONE_THREAD),
        "export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False",
    } <= set(lines)
    [command] = [line for line in lines if "distributed.cli.dask_worker" in line]
    assert command.startswith("/opt/shearline/bin/python -m distributed.cli.dask_worker tcp://")
    assert "--nthreads 1 --memory-limit 5.59GiB --nworkers 4" in command


def test_a_slurm_that_does_not_answer_at_the_end_is_said_and_hides_nothing(
    store: DataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commands = tmp_path / "commands"
    for name, script in {"sbatch": "echo Submitted batch job 1729", "scancel": "sleep 5"}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {name} $* >> {commands}\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    runner = Runner(kind="dask", workers=1, slurm=SlurmJobs())

    with ThreadPoolExecutor(1) as threads, session(runner) as current:
        body = threads.submit(copy_context().run, write_task.fn, ccd(1), WriteConfig(), store)
        while not commands.exists() or not current._running:
            time.sleep(0.05)
        monkeypatch.setattr("tasks.workers.cluster.CONNECT_S", 1)
        current.stop("the operator had enough")
    with pytest.raises(RunStoppedError, match="the operator had enough"):
        body.result(30)

    assert "scancel 1729" in commands.read_text().splitlines()
    assert any("was not ended properly; see with squeue" in message for message in caplog.messages)
    assert [key for key in store.list_keys() if key.startswith("probe-")] == []


@contextmanager
def process(*arguments: str, log: Path, ready: str) -> Iterator[None]:
    """Run a program of Dask until the block ends; go on when it prints a word."""
    environment = os.environ | {"PYTHONPATH": f"{HOUSE}:{HOUSE / 'tests'}", "NUMBA_NUM_THREADS": "1"}
    with log.open("w") as target:
        program = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, stderr=target, start_new_session=True
        )
    try:
        while ready not in log.read_text():
            assert program.poll() is None, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()


@contextmanager
def running_scheduler(port: int, folder: Path) -> Iterator[None]:
    arguments = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    with process(*arguments, log=folder / "scheduler.log", ready="Scheduler at"):
        yield


@contextmanager
def running_worker(address: str, folder: Path, *options: str) -> Iterator[None]:
    arguments = ("distributed.cli.dask_worker", address, "--no-dashboard", "--local-directory", str(folder))
    with process(*arguments, *options, log=folder / "worker.log", ready="Registered to"):
        yield


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with running_scheduler(port, tmp_path_factory.mktemp("scheduler")):
        yield f"tcp://127.0.0.1:{port}"


def test_a_cluster_that_is_there_is_used_and_left_running(store: DataStore, scheduler: str, tmp_path: Path) -> None:
    with running_worker(scheduler, tmp_path, "--nthreads", "1"):
        for text in ("a", "b"):
            with session(Runner(kind="dask", scheduler=scheduler)):
                assert write_task.fn(ccd(1), WriteConfig(text=text), store).sha256
                [marker] = [key for key in store.list_keys() if key.startswith("probe-")]

    assert marker not in store.list_keys()


def test_a_worker_with_many_threads_is_refused(store: DataStore, scheduler: str, tmp_path: Path) -> None:
    sentence = (
        r"The Dask worker tcp://\S+ may compute with several threads, .* start workers with --nthreads 1 and OMP_NUM"
    )
    with (
        running_worker(scheduler, tmp_path, "--nthreads", "2"),
        session(Runner(kind="dask", scheduler=scheduler)) as current,
    ):
        with pytest.raises(ConfigError, match=sentence):
            write_task.fn(ccd(1), WriteConfig(), store)
        assert "may compute with several threads" in current.stopped_by


def test_a_worker_that_sees_another_folder_is_refused(store: DataStore, own_cluster: Context) -> None:
    body = _Guarded(Never(), store, "probe-that-is-not-here")
    job = Job("write", "2113737-1", store, logging.getLogger("shearline.run").warning)

    with pytest.raises(ConfigError, match=f"has another {store.url} than the flow: put the store"):
        own_cluster.run(lambda: current_session().execute(body, job))


def test_waiting_for_workers_is_said_and_a_stop_ends_it(
    store: DataStore, scheduler: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.workers.cluster.PATIENCE_S", 0.2)
    with session(Runner(kind="dask", scheduler=scheduler)) as current, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(copy_context().run, write_task.fn, ccd(1), WriteConfig(), store)
        sentence = f"write 2113737-1: waiting, as the Dask cluster {scheduler} has no workers"
        while sentence not in caplog.messages:
            time.sleep(0.05)
        current.stop("the operator had enough")
        with pytest.raises(RunStoppedError, match=r"write of 2113737-1 was not run: .* the operator had enough"):
            waiting.result(30)


def test_what_was_made_is_reused_though_the_connection_was_cut_before_the_answer(
    store: DataStore, scheduler: str, tmp_path: Path
) -> None:
    with (
        running_worker(scheduler, tmp_path, "--nthreads", "1"),
        session(Runner(kind="dask", scheduler=scheduler)) as current,
        ThreadPoolExecutor(1) as threads,
    ):
        body = threads.submit(copy_context().run, write_task.fn, ccd(1), WriteConfig(wait_s=2), store)
        pid_of_the_worker(store)
        workers = current.shared.workers
        assert isinstance(workers, DaskCluster)
        client = workers._client
        client.loop.add_callback(client.scheduler_comm.comm.abort)
        with pytest.raises(WorkerDiedError, match="was lost"):
            body.result(60)
        while not store.exists("records/write/2113737-1.json"):
            time.sleep(0.05)

        assert write_task.fn(ccd(1), WriteConfig(wait_s=2), store).key == "written/2113737-1"

    assert [event.outcome for event in current.events] == [Outcome.REUSED]


@pytest.mark.faults
def test_a_lost_scheduler_is_our_error_until_it_is_back(store: DataStore, tmp_path: Path) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    with session(Runner(kind="dask", scheduler=address)), ThreadPoolExecutor(1) as threads:
        with running_scheduler(port, tmp_path), running_worker(address, tmp_path, "--nthreads", "1"):
            body = threads.submit(copy_context().run, write_task.fn, ccd(1), WriteConfig(wait_s=60), store)
            while not store.list_keys("started"):
                time.sleep(0.05)
        with pytest.raises(WorkerDiedError, match=rf"the Dask scheduler {address} was lost: see in its log"):
            body.result(60)
        with running_scheduler(port, tmp_path), running_worker(address, tmp_path, "--nthreads", "1"):
            assert write_task.fn(ccd(1), WriteConfig(), store).key == "written/2113737-1"


def test_an_address_where_nobody_answers_is_a_wrong_setting(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.workers.cluster.CONNECT_S", 1)
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        session(Runner(kind="dask", scheduler=address)),
        pytest.raises(ConfigError, match=f"No Dask scheduler answers at {address}: .* Start it, or give its address"),
    ):
        write_task.fn(ccd(1), WriteConfig(), store)


class Never:
    def __call__(self) -> Executed:
        raise AssertionError("this body must not run")
