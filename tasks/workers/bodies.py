"""What goes to a worker process and comes back, wherever the worker is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Protocol

from blocks.store import DataStore
from tasks.errors import RunStoppedError
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
        """Hand over a body.

        Raises
        ------
        RunStoppedError
            If the workers were closed.
        """
        ...

    def close(self, *, now: bool = False) -> None:
        """End, for good, what was started for the session; what has not begun never does.

        Parameters
        ----------
        now
            Whether bodies that run are killed where that can be done; otherwise they are waited for.
        """
        ...


def refusal(job: Job) -> RunStoppedError:
    """Return the error of a body that comes after its workers were closed."""
    return RunStoppedError(f"{job.stage} of {job.subject} was not run: the workers of its session have ended")


# bodies of several threads would share the log that they write
_one_at_a_time = threading.RLock()


class _Here:
    def __init__(self, work: Work) -> None:
        self._work = work
        self._cancelled = False

    def result(self) -> Executed:
        with _one_at_a_time:
            if self._cancelled:
                raise CancelledError
            return self._work()

    def cancel(self) -> None:
        self._cancelled = True


class ThisThread:
    """No workers: a body runs in the thread that asks for its result, one at a time."""

    def __init__(self) -> None:
        self._closed = False

    def submit(self, work: Work, job: Job) -> Running:
        """Hand over a body."""
        if self._closed:
            raise refusal(job)
        return _Here(work)

    def close(self, *, now: bool = False) -> None:
        """Take no more; a thread cannot be killed."""
        self._closed = True
