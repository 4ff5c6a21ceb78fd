"""Worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver

from tasks.workers.bodies import ONE_THREAD, Executed, Job, Running, Work, WorkerDiedError

PRELOAD = ["tasks.stage", "astropy.io.fits", "astropy.wcs", "photutils.segmentation", "numba", "scipy.fft", "galsim"]


class ProcessPool:
    """A pool of processes that is made when the first body comes, and again when a process was killed."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def submit(self, work: Work, job: Job) -> Running:
        """Hand over a body."""
        with self._lock:
            if self._pool is None:
                self._pool = _make_pool(self._workers)
            pool = self._pool
            try:
                return _InPool(self, pool, pool.submit(work))
            except BrokenProcessPool as error:
                self._pool = None
                raise self.death() from error

    def death(self) -> WorkerDiedError:
        """Return the error that says that a process was killed."""
        return WorkerDiedError(
            f"a worker process died, perhaps for want of memory: try fewer than {self._workers} workers"
        )

    def discard(self, pool: ProcessPoolExecutor) -> None:
        """Use this pool no more."""
        with self._lock:
            if self._pool is pool:
                self._pool = None

    def close(self) -> None:
        """End the processes; what was not started never is."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _InPool:
    workers: ProcessPool
    pool: ProcessPoolExecutor
    future: Future[Executed]

    def result(self) -> Executed:
        try:
            return self.future.result()
        except BrokenProcessPool as error:
            self.workers.discard(self.pool)
            raise self.workers.death() from error

    def cancel(self) -> None:
        self.future.cancel()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let processes that are started in this block compute with one thread each."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _make_pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with one_thread():
        # the server inherits the environment, and its workers inherit it from the server
        forkserver.ensure_running()
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_the_flow)


def _die_with_the_flow() -> None:
    """End this worker when the process of its flow is killed: it would wait, or write, for good."""
    threading.Thread(target=_wait_and_die, name="die-with-the-flow", daemon=True).start()


def _wait_and_die() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # at once, whatever the body does: what it was writing never appears under its key
        os._exit(1)
