"""The worker processes of a run, and what happened in it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing import forkserver

from tasks.errors import DataError
from tasks.products.identity import ProductRef


class Outcome(StrEnum):
    """What became of one stage for one subject."""

    RUN = "run"
    REUSED = "reused"
    SET_ASIDE = "set aside"
    FAILED = "failed"


@dataclass(frozen=True)
class StageEvent:
    """One stage was finished for one subject."""

    stage: str
    subject: str
    outcome: Outcome
    seconds: float
    product: ProductRef | None = None
    reason: str = ""


@dataclass(frozen=True)
class LogLine:
    """One log message on its way from a worker process to the run's log."""

    level: int
    text: str


@dataclass(frozen=True)
class Executed:
    """What comes back from a worker process."""

    product: ProductRef
    log: list[LogLine]
    seconds: float


@dataclass
class Session:
    """The worker processes of a run, and what happened in it."""

    workers: int = 0
    """Number of worker processes; with 0 bodies run in the calling thread."""
    on_event: Callable[[StageEvent], None] | None = None
    events: list[StageEvent] = field(default_factory=list)
    stopped_by: str = ""
    """The error that stopped the run; nothing is started after it."""
    _pool: ProcessPoolExecutor | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _inline: threading.RLock = field(default_factory=threading.RLock)

    def tell(self, event: StageEvent) -> None:
        """Record one event and pass it on."""
        with self._lock:
            self.events.append(event)
        if event.outcome is Outcome.FAILED:
            self.stop(f"{event.stage} of {event.subject}: {event.reason}")
        if self.on_event is not None:
            self.on_event(event)

    def stop(self, reason: str) -> None:
        """Start nothing more."""
        with self._lock:
            self.stopped_by = self.stopped_by or reason

    def count(self, outcome: Outcome) -> int:
        """Return how many stages ended so."""
        return sum(event.outcome is outcome for event in self.events)

    def execute(self, work: Callable[[], Executed]) -> Executed:
        """Run a stage body in a worker process, or in this thread if there are none.

        Raises
        ------
        WorkerDiedError
            If the worker was killed; the next body has fresh workers.
        """
        if not self.workers:
            # one at a time: bodies of several threads would share the log that they write
            with self._inline:
                return work()
        pool = self._living_pool()
        try:
            return pool.submit(work).result()
        except BrokenProcessPool as error:
            with self._lock:
                if self._pool is pool:
                    self._pool = None
            raise WorkerDiedError(
                f"a worker process died, perhaps for want of memory: try fewer than {self.workers} workers"
            ) from error

    def _living_pool(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = _make_pool(self.workers)
            return self._pool

    def close(self) -> None:
        """End the worker processes; what was not started never is."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


class WorkerDiedError(OSError):
    """A worker process was killed while it ran a stage: retried."""


_session: Session | None = None
_users = 0
_opening = threading.Lock()

PRELOAD = ["tasks.stage", "astropy.io.fits", "astropy.wcs", "photutils.segmentation", "numba", "scipy.fft", "galsim"]
# one thread per worker: a BLAS that splits sums over threads would make the bits depend on the machine
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextmanager
def session(workers: int = 0, on_event: Callable[[StageEvent], None] | None = None) -> Iterator[Session]:
    """Run stages in ``workers`` processes and collect what happens; inside another session, use that one.

    Parameters
    ----------
    workers
        Number of worker processes; 0 runs the bodies in the calling thread.
    on_event
        Called after every stage, from the thread that ran it.
    """
    # Prefect's task threads have no other way to the workers of their process than a global
    global _session, _users
    with _opening:
        current = _session = _session or Session(workers, on_event)
        _users += 1
    try:
        yield current
    except DataError:
        # one exposure or tile is set aside; the others of the session go on
        raise
    except BaseException as error:
        current.stop(f"{type(error).__name__}: {error}")
        raise
    finally:
        with _opening:
            _users -= 1
            last = _users == 0
            if last:
                _session = None
        if last:
            current.close()


def current_session() -> Session:
    """Return the session of this process, or one without worker processes if none is open."""
    return _session or Session()


def _make_pool(workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        # the server inherits the environment, and its workers inherit it from the server
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return ProcessPoolExecutor(workers, mp_context=context)
