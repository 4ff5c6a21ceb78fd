"""What happens in a flow run, and the workers that it shares with the runs around it.

Sessions nest as flow runs do. A session inside another uses the workers of the outermost; it counts its own stages,
which the outer ones count too; and it can be stopped by itself, as one exposure with a bug must not stop a night.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

from tasks.errors import DataError, RunStoppedError
from tasks.products.identity import ProductRef
from tasks.runner import Runner
from tasks.workers.bodies import Executed, Job, LogLine, Running, ThisThread, Work, WorkerDiedError, Workers
from tasks.workers.cluster import DaskCluster
from tasks.workers.processes import ProcessPool

__all__ = [
    "Executed",
    "LogLine",
    "Outcome",
    "Session",
    "StageEvent",
    "WorkerDiedError",
    "current_session",
    "session",
]


# some 20 MB
MAX_EVENTS = 20_000


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


class _SharedWorkers:
    """The workers of an outermost session; they end with the last session that uses them."""

    def __init__(self, runner: Runner) -> None:
        self.workers = _open_workers(runner)
        # the order of events is one for all sessions of the run
        self.telling = threading.RLock()
        self._users = 1
        self._lock = threading.Lock()

    def join(self) -> bool:
        """Count one more user, unless they have ended."""
        with self._lock:
            self._users += self._users > 0
            return self._users > 0

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self.workers.close()


@dataclass(eq=False)
class Session:
    """What happens in a flow run, and the workers that it uses."""

    shared: _SharedWorkers = field(default_factory=lambda: _SharedWorkers(Runner(workers=0)), repr=False)
    on_event: Callable[[StageEvent], None] | None = None
    outer: Session | None = None
    """The session in which this one was opened."""
    events: list[StageEvent] = field(default_factory=list)
    """What happened in this session and in those inside it; of a long night the latest."""
    _counts: Counter[Outcome] = field(default_factory=Counter)
    _stopped_by: str = ""
    _over: bool = False
    _running: set[Running] = field(default_factory=set)
    # those that run, and those that are just being handed over
    _bodies: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def stopped_by(self) -> str:
        """The error that stopped this session or one around it; nothing is started after it."""
        return next((one._stopped_by for one in self._with_outer() if one._stopped_by), "")

    @property
    def runs_elsewhere(self) -> bool:
        """Whether bodies run in other processes than this."""
        return not isinstance(self.shared.workers, ThisThread)

    def tell(self, event: StageEvent) -> None:
        """Record one event here and in the sessions around, and pass it on to those who watch them."""
        if event.outcome is Outcome.FAILED:
            self.stop(f"{event.stage} of {event.subject}: {event.reason}")
        with self.shared.telling:
            for one in self._with_outer():
                one._counts[event.outcome] += 1
                one.events.append(event)
                if len(one.events) > MAX_EVENTS:
                    del one.events[: MAX_EVENTS // 2]
                if one.on_event is not None:
                    one.on_event(event)

    def stop(self, reason: str) -> None:
        """Start nothing more here and in the sessions inside; those around go on."""
        with self._changed:
            self._stopped_by = self._stopped_by or reason
        self._take_back()

    def stop_by(self, error: BaseException) -> None:
        """Start nothing more here and in the sessions inside because of an error.

        What is not an ``Exception``, such as Ctrl-C and SIGTERM, asks the process to end soon: then the workers end at
        once, with the bodies that they run, for all sessions that share them.
        """
        self.stop(f"{type(error).__name__}: {error}")
        if not isinstance(error, Exception):
            self.shared.workers.close(now=True)

    def end(self) -> None:
        """Start nothing more here, and wait until no body runs: from then on others may make the same products."""
        try:
            with self._changed:
                self._over = True
            self._take_back()
            with self._changed:
                self._changed.wait_for(lambda: self._bodies == 0)
        except BaseException as error:
            self.stop_by(error)
            raise

    def _take_back(self) -> None:
        with self._changed:
            handed_over = list(self._running)
        for running in handed_over:
            running.cancel()

    def count(self, outcome: Outcome) -> int:
        """Return how many stages ended so."""
        return self._counts[outcome]

    def execute(self, work: Work, job: Job) -> Executed:
        """Run a stage body on a worker, or in this thread if there are none.

        Raises
        ------
        WorkerDiedError
            If the worker was killed; the next body has a fresh one.
        RunStoppedError
            If the session was stopped, or ended, before a worker was free; or if its stop has ended the worker.
        """
        self._count_bodies(1)
        try:
            if self._is_stopped():
                raise self._refusal(job)
            return self._result(self.shared.workers.submit(work, job))
        except CancelledError as error:
            raise self._refusal(job) from error
        except WorkerDiedError as error:
            if self._is_stopped():
                # its stop may have ended the worker
                raise self._refusal(job) from error
            raise
        finally:
            self._count_bodies(-1)

    def _result(self, running: Running) -> Executed:
        """Wait for a body, which a stop of this session or of one around takes back."""
        for one in self._with_outer():
            with one._changed:
                one._running.add(running)
        try:
            if self._is_stopped():
                # it was stopped before it knew of this body
                running.cancel()
            return running.result()
        finally:
            for one in self._with_outer():
                with one._changed:
                    one._running.discard(running)

    def _count_bodies(self, change: int) -> None:
        for one in self._with_outer():
            with one._changed:
                one._bodies += change
                one._changed.notify_all()

    def _is_stopped(self) -> bool:
        return self._over or bool(self.stopped_by)

    def _refusal(self, job: Job) -> RunStoppedError:
        cause = self.stopped_by or "its end"
        return RunStoppedError(f"{job.stage} of {job.subject} was not run: the run was stopped by {cause}")

    def _with_outer(self) -> Iterator[Session]:
        one: Session | None = self
        while one is not None:
            yield one
            one = one.outer


def _open_workers(runner: Runner) -> Workers:
    if runner.kind == "dask":
        return DaskCluster(runner)
    return ProcessPool(runner.workers) if runner.workers else ThisThread()


# Prefect's task threads run in a copy of the context of the flow that submits to them
_current: ContextVar[Session | None] = ContextVar("session", default=None)


@contextmanager
def session(runner: Runner | int = 0, on_event: Callable[[StageEvent], None] | None = None) -> Iterator[Session]:
    """Run stages where the runner says and collect what happens; inside another session, share its workers.

    An error that leaves the block stops the session, unless it is a ``DataError``: one exposure or tile is then set
    aside. Whether the session around is stopped too is for its own block to decide. However the block is left, no body
    runs after it, except on a Dask cluster, where a body that was taken back may run to its end.

    Parameters
    ----------
    runner
        Where stages run, or a number of local worker processes; 0 runs the bodies in the calling thread. Inside
        another session it has no effect.
    on_event
        Called after every stage of this session and of those inside it, one at a time, from the thread that ran it.
    """
    outer = _current.get()
    if outer is not None and outer.shared.join():
        current = Session(outer.shared, on_event, outer)
    else:
        current = Session(_SharedWorkers(Runner(workers=runner) if isinstance(runner, int) else runner), on_event)
    token = _current.set(current)
    try:
        yield current
    except DataError:
        raise
    except BaseException as error:
        current.stop_by(error)
        raise
    finally:
        _current.reset(token)
        try:
            current.end()
        finally:
            current.shared.leave()


def current_session() -> Session:
    """Return the session of this flow run, or one without worker processes if none is open."""
    return _current.get() or Session()
