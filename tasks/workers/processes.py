"""Worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver

from tasks.workers.bodies import ONE_THREAD, Executed, Job, Running, Work, WorkerDiedError, refusal

PRELOAD = ["tasks.workers.fork_server"]


class ProcessPool:
    """A pool of processes that is made when the first body comes, and again when a process was killed."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, work: Work, job: Job) -> Running:
        """Hand over a body."""
        with self._lock:
            if self._closed:
                raise refusal(job)
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

    def close(self, *, now: bool = False) -> None:
        """End the processes; what was not started never is."""
        with self._lock:
            self._closed = True
            pool = self._pool
        if pool is None:
            return
        if now:
            # Python 3.14 has a public way; what a killed body was writing never appears under its key
            for process in list((pool._processes or {}).values()):
                process.kill()
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


class _OneThread:
    """What the environment was before several threads, each for a while, had it say one thread for each process."""

    def __init__(self) -> None:
        self._users = 0
        self._before: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = {name: os.environ.get(name) for name in ONE_THREAD}
                os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for name, value in self._before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value


_one_thread = _OneThread()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let processes that are started in this block compute with one thread each; the last block restores the rest."""
    _one_thread.enter()
    try:
        yield
    finally:
        _one_thread.leave()


def _make_pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with one_thread():
        # the server inherits the environment, and its workers inherit it from the server
        forkserver.ensure_running()
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_belong_to_the_flow)


def _belong_to_the_flow() -> None:
    """Leave Ctrl-C to the flow, and end with it when it is killed: a worker would wait, or write, for good."""
    # a shell sends it to all processes; what it means for what runs is for the flow to say
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_and_die, name="die-with-the-flow", daemon=True).start()


def _wait_and_die() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # at once, whatever the body does: what it was writing never appears under its key
        os._exit(1)
