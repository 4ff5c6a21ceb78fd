"""Workers on a Dask cluster: one that is there, one of this machine, or jobs of SLURM."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from blocks.store import DataStore
from tasks.errors import ConfigError
from tasks.runner import Runner, SlurmJobs
from tasks.workers.bodies import ONE_THREAD, Executed, Job, Running, Work, WorkerDiedError, refusal
from tasks.workers.processes import one_thread

if TYPE_CHECKING:
    from distributed import Client, Future, Worker
    from distributed.deploy.cluster import Cluster

CONNECT_S = 20
# a queue of SLURM may take hours: the log says once in a while what is waited for
PATIENCE_S = 60
# a worker that holds much memory would be paused, or told to write data to disk of which it has none
MEMORY_RULES = ("TARGET", "SPILL", "PAUSE")
LOGGER = logging.getLogger("shearline.run")


class DaskCluster:
    """The workers of a Dask cluster, which is looked up or started when the first body comes."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._client: Client | None = None
        self._cluster: Cluster | None = None
        self._was_there = False
        self._closed = False
        self._closing: list[threading.Thread] = []
        self._markers: dict[str, tuple[DataStore, str]] = {}
        self._warned = 0.0
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """Address of the scheduler, for people."""
        return self._runner.scheduler or (str(self._cluster.scheduler_address) if self._cluster else "of this run")

    def submit(self, work: Work, job: Job) -> Running:
        """Hand over a body.

        Raises
        ------
        ConfigError
            If Dask is not installed, or no scheduler answers.
        WorkerDiedError
            If the scheduler that was there does not answer any more.
        RunStoppedError
            If the session has ended.
        """
        with self._lock:
            if self._closed:
                raise refusal(job)
            client = self._connected()
            marker = self._marker(job.store)
        try:
            # Dask itself would run a body again in silence; the stage does it, and says so
            future = client.submit(
                _Guarded(work, job.store, marker), key=f"{job.stage}-{uuid.uuid4().hex}", pure=False, retries=0
            )
        except (OSError, RuntimeError) as error:
            raise self.lost(client) from error
        return _OnCluster(self, client, future, job)

    def _connected(self) -> Client:
        if self._client is None:
            try:
                from distributed import Client
            except ImportError as error:
                raise ConfigError("The runner `dask` needs Dask: pip install 'shearline[dask]'.") from error
            if self._runner.scheduler is None and self._cluster is None:
                self._cluster = start_cluster(self._runner)
            try:
                self._client = Client(self._cluster or self._runner.scheduler, timeout=CONNECT_S, set_as_default=False)
            except (OSError, ValueError) as error:
                sentence = f"No Dask scheduler answers at {self.address}: {error}. Start it, or give its address."
                raise (WorkerDiedError if self._was_there else ConfigError)(sentence) from error
            self._was_there = True
        return self._client

    def _marker(self, store: DataStore) -> str:
        """Return the key of an object that tells a worker that its store is the one of the flow."""
        if not store.is_local or (self._cluster is not None and self._runner.slurm is None):
            return ""
        if store.url not in self._markers:
            key = f"probe-{uuid.uuid4().hex}"
            store.put_bytes(key, b"The workers of a cluster look for this object.\n")
            self._markers[store.url] = store, key
        return self._markers[store.url][1]

    def lost(self, client: Client) -> WorkerDiedError:
        """Forget a scheduler that is gone, and return the error that says so; the next body looks for it again."""
        address = self.address
        with self._lock:
            if self._client is client:
                cluster, self._client, self._cluster = self._cluster, None, None
                # a stage waits for this error, and what is gone answers late
                thread = threading.Thread(target=_close, args=(client, cluster), daemon=True)
                thread.start()
                self._closing.append(thread)
        return WorkerDiedError(f"the Dask scheduler {address} was lost: see in its log whether it was ended")

    def say_if_nobody_works(self, client: Client, job: Job) -> None:
        """Write to the log, once in a while, that there are no workers."""
        with self._lock:
            now = time.monotonic()
            if client.nthreads() or now - self._warned < PATIENCE_S:
                return
            self._warned = now
        job.warn(f"{job.stage} {job.subject}: waiting, as the Dask cluster {self.address} has no workers")

    def close(self, *, now: bool = False) -> None:
        """Leave the cluster, and end it if it was started for the session.

        Nothing that fails here is raised, as it would hide what the session has done; it is said in the log.

        Parameters
        ----------
        now
            Has no effect: a cluster of our own ends with what it runs, and on another one a body cannot be killed.
        """
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
            cluster, self._cluster = self._cluster, None
            markers, self._markers = self._markers, {}
            closing, self._closing = self._closing, []
        # even a second Ctrl-C leaves no job of SLURM behind
        with ExitStack() as all_of_it:
            for store, key in markers.values():
                all_of_it.callback(_try, f"The object {key} is left in {store.url}", store.remove, key)
            for thread in closing:
                all_of_it.callback(thread.join, 2 * CONNECT_S)
            all_of_it.callback(_close, client, cluster)


def _close(client: Client | None, cluster: Cluster | None) -> None:
    try:
        if client is not None:
            _try("The Dask scheduler could not be left properly", client.close, CONNECT_S)
    finally:
        if cluster is not None:
            hint = "The Dask cluster of the run was not ended properly; see with squeue, or ps, what of it is left"
            _try(hint, cluster.close, CONNECT_S)


def _try(sentence: str, action: Callable[..., object], argument: object) -> None:
    try:
        action(argument)
    except Exception as error:  # noqa: BLE001 (whatever Dask, SLURM or a store may raise; the work is done)
        LOGGER.warning("%s: %s: %s", sentence, type(error).__name__, error)


class _OnCluster:
    def __init__(self, cluster: DaskCluster, client: Client, future: Future, job: Job) -> None:
        self._cluster, self._client, self._future, self._job = cluster, client, future, job
        self._cancelled = False

    def result(self) -> Executed:
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker

        try:
            # once it is done, nothing but the answer of the body, or its own error, comes back
            while not self._future.done():
                try:
                    return self._answer(PATIENCE_S)
                except TimeoutError:
                    self._cluster.say_if_nobody_works(self._client, self._job)
            return self._answer(None)
        except KilledWorker as error:
            raise WorkerDiedError(
                f"the Dask worker {error.last_worker.address} died while it ran {self._job.stage} of "
                f"{self._job.subject}, perhaps for want of memory: give every worker more"
            ) from error
        except (CancelledError, CommClosedError) as error:
            if self._cancelled:
                raise CancelledError from error
            raise self._cluster.lost(self._client) from error

    def _answer(self, patience_s: float | None) -> Executed:
        done: Executed = self._future.result(timeout=patience_s)
        return done

    def cancel(self) -> None:
        # a body that runs cannot be interrupted: what it still writes is not recorded, and made again
        self._cancelled = True
        self._future.cancel()


# --- on the worker ---------------------------------------------------------------------------------------------

_seen: set[str] = set()


def dask_setup(_worker: Worker) -> None:
    """Leave Ctrl-C to the flow; Dask calls this in the main thread of the workers that were told to preload it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Guarded:
    """A body with the checks that a worker of any cluster must pass; it crosses to the worker."""

    def __init__(self, work: Work, store: DataStore, marker: str) -> None:
        self._work, self._store, self._marker = work, store, marker

    def __call__(self) -> Executed:
        from distributed import get_worker

        worker = get_worker()
        unset = [name for name in ONE_THREAD if os.environ.get(name) != "1"]
        if unset or worker.state.nthreads != 1:
            raise ConfigError(
                f"The Dask worker {worker.address} may compute with several threads, and then the last bits depend on "
                f"it: start workers with --nthreads 1 and {' '.join(f'{name}=1' for name in unset or ONE_THREAD)}."
            )
        if self._marker and self._marker not in _seen:
            if not self._store.exists(self._marker):
                raise ConfigError(
                    f"The Dask worker {worker.address} on {socket.gethostname()} has another {self._store.url} than "
                    "the flow: put the store on a file system of all hosts, or on s3://."
                )
            _seen.add(self._marker)
        return self._work()


# --- clusters of our own -----------------------------------------------------------------------------------------


def start_cluster(runner: Runner) -> Cluster:
    """Start a Dask cluster with the workers of a runner, on this machine or as jobs of SLURM."""
    if runner.slurm is not None:
        return start_slurm_cluster(runner.slurm, runner.workers)
    import dask
    from distributed import LocalCluster

    with one_thread(), dask.config.set({"distributed.worker.daemon": True}):
        return LocalCluster(
            n_workers=runner.workers,
            threads_per_worker=1,
            processes=True,
            # as with processes without Dask: the kernel decides when memory is short
            memory_limit=None,
            dashboard_address=None,
            env=dict.fromkeys(ONE_THREAD, "1"),
            preload=[__name__],
            scheduler_kwargs={"allowed_failures": 0},
        )


def start_slurm_cluster(jobs: SlurmJobs, workers: int) -> Cluster:
    """Ask SLURM for the jobs of a number of worker processes."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError as error:
        raise ConfigError("Jobs of SLURM need dask-jobqueue: pip install 'shearline[dask]'.") from error
    cluster = SLURMCluster(**slurm_options(jobs))
    if jobs.adaptive:
        cluster.adapt(minimum=0, maximum=workers)
    else:
        cluster.scale(workers)
    return cluster


def slurm_options(jobs: SlurmJobs) -> dict[str, Any]:
    """Return the arguments of dask-jobqueue's ``SLURMCluster``."""
    exports = [f"export {name}=1" for name in ONE_THREAD]
    exports += [f"export DASK_DISTRIBUTED__WORKER__MEMORY__{rule}=False" for rule in MEMORY_RULES]
    return {
        "queue": jobs.partition,
        "account": jobs.account,
        # of Dask's point of view: one thread for every process; what is booked says job_cpu
        "cores": jobs.processes,
        "job_cpu": jobs.cores,
        "processes": jobs.processes,
        "memory": jobs.memory,
        "walltime": jobs.walltime,
        "interface": jobs.interface,
        "python": jobs.python or sys.executable,
        "job_name": "shearline",
        "job_extra_directives": list(jobs.directives),
        "job_script_prologue": [*jobs.prologue, *exports],
        "scheduler_options": {"dashboard_address": ":0", "allowed_failures": 0},
    }
