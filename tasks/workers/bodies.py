"""What goes to a worker process and comes back, wherever the worker is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from blocks.store import DataStore
from tasks.products.identity import ProductRef

# one thread per worker: a BLAS that splits sums over threads would make the bits depend on the machine
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


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


Work = Callable[[], Executed]


@dataclass(frozen=True)
class Job:
    """Which stage body a worker is asked to run, for people and for checks."""

    stage: str
    subject: str
    store: DataStore
    """Where the product goes."""
    warn: Callable[[str], None]
    """Writes a sentence into the log of the run."""


class WorkerDiedError(OSError):
    """A worker process was killed while it ran a stage: retried."""


class Running(Protocol):
    """A body that was handed to the workers."""

    def result(self) -> Executed:
        """Wait until the body has run.

        Raises
        ------
        WorkerDiedError
            If the worker was killed; the next body has a fresh one.
        CancelledError
            If it was cancelled before it had run.
        """
        ...

    def cancel(self) -> None:
        """Never start the body, or do not wait for it."""
        ...


class Workers(Protocol):
    """Who runs the bodies of a session."""

    def submit(self, work: Work, job: Job) -> Running:
        """Hand over a body."""
        ...

    def close(self) -> None:
        """End what was started for the session; what has not begun never does."""
        ...


# bodies of several threads would share the log that they write
_one_at_a_time = threading.RLock()


@dataclass(frozen=True)
class _Here:
    work: Work

    def result(self) -> Executed:
        with _one_at_a_time:
            return self.work()

    def cancel(self) -> None:
        """Nothing waits: a body runs when its result is asked for."""


class ThisThread:
    """No workers: a body runs in the thread that asks for its result, one at a time."""

    def submit(self, work: Work, job: Job) -> Running:
        """Hand over a body."""
        return _Here(work)

    def close(self) -> None:
        """Nothing was started."""
