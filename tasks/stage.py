"""What makes a function a stage: a Prefect task that reuses, retries, reports and runs in the session's process pool.

A stage body takes product references, settings and stores and returns one product reference. Around it, this module

* compares a *record* in the store (stage, fingerprints of code and settings, checksum of every input) with what is
  asked for, and reuses the product if they agree **and** the product is still there with its checksum. The records are
  the persisted results: Prefect's own result store reports COMPLETED when persisting failed, and takes an outage of
  the store for a cache miss;
* runs the body in a worker process, because photutils, GalSim and drizzle hold the GIL;
* retries what may pass (I/O errors, missing products) and nothing else;
* tells the session what happened, for the progress display and the table of what was set aside.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ParamSpec, Protocol, runtime_checkable

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import BaseModel, ValidationError

from blocks.store import DataStore, ObjectNotFoundError
from tasks.archive import keys
from tasks.archive.provenance import Provenance, provenance
from tasks.errors import DataError, MissingProductError, RunStoppedError
from tasks.fingerprint import code_fingerprint
from tasks.products.config import StageConfig
from tasks.products.identity import Identity, ProductRef

Arguments = Mapping[str, Any]
P = ParamSpec("P")
Parts = Callable[[DataStore, ProductRef], Sequence[ProductRef]]

RETRIES = 2
RETRY_BACKOFF_S = 2
LOGGER = "shearline"


@runtime_checkable
class Fingerprinted(Protocol):
    """An outside resource, such as a reference-file cache, that can say which state it is in."""

    def fingerprint(self) -> str:
        """Return a checksum of everything that results can depend on."""
        ...


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


class Record(BaseModel):
    """How the product of a stage was made; kept in the store beside the products."""

    stage: str
    subject: str
    code: str
    config: str
    inputs: dict[str, str]
    product: ProductRef

    def matches(self, other: Record) -> bool:
        """Tell whether the same work was asked for."""
        return (self.stage, self.code, self.config, self.inputs) == (
            other.stage,
            other.code,
            other.config,
            other.inputs,
        )


@dataclass
class Session:
    """The process pool of a run, and what happened in it."""

    pool: ProcessPoolExecutor | None
    on_event: Callable[[StageEvent], None] | None = None
    events: list[StageEvent] = field(default_factory=list)
    stopped_by: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, event: StageEvent) -> None:
        """Record one event and pass it on."""
        with self._lock:
            self.events.append(event)
            if event.outcome is Outcome.FAILED and not self.stopped_by:
                self.stopped_by = f"{event.stage} of {event.subject}: {event.reason}"
        if self.on_event is not None:
            self.on_event(event)

    def count(self, outcome: Outcome) -> int:
        """Return how many stages ended so."""
        return sum(event.outcome is outcome for event in self.events)


_session: Session | None = None

PRELOAD = ["tasks.stage", "astropy.io.fits", "astropy.wcs", "photutils.segmentation", "numba", "scipy.fft", "galsim"]


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
    global _session  # Prefect's task threads have no other way to the pool of their process
    if _session is not None:
        yield _session
        return
    pool = _make_pool(workers) if workers else None
    _session = Session(pool, on_event)
    try:
        yield _session
    finally:
        _session = None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _make_pool(workers: int) -> ProcessPoolExecutor:
    # one thread per worker: a BLAS that splits sums over threads would make the bits depend on the machine
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return ProcessPoolExecutor(workers, mp_context=context)


class StageTask(Task[P, ProductRef]):
    """A Prefect task that returns its product, whether it ran or was reused."""

    def __call__(self, *args: Any, **kwargs: Any) -> ProductRef:  # type: ignore[override]  # noqa: ANN401
        """Run the stage in a flow and return its product; with ``return_state`` the state around it."""
        outcome: Any = super().__call__(*args, **kwargs)
        # of a reused product Prefect hands out the state that names it "Cached"
        reused = isinstance(outcome, State) and not kwargs.get("return_state")
        product: ProductRef = outcome.result() if reused else outcome
        return product

    def submit(self, *args: Any, **kwargs: Any) -> PrefectFuture[ProductRef]:  # type: ignore[override]  # noqa: ANN401
        """Start the stage in a flow; references among the arguments may be futures of running stages."""
        future: PrefectFuture[ProductRef] = super().submit(*args, **kwargs)
        return future


def stage(
    *, name: str, subject: Callable[[Arguments], object] | None = None, parts: Parts | None = None
) -> Callable[[Callable[P, ProductRef]], StageTask[P]]:
    """Make a function a stage.

    Parameters
    ----------
    name
        Name in records, logs and the Prefect UI.
    subject
        Says from the arguments what the product is about; by default the first argument that is an identity or a
        product reference says so.
    parts
        Returns the further products that the stage leaves beside the one that it returns; a missing part makes the
        stage run again.

    Returns
    -------
    callable
        A decorator; the Prefect task that it returns also works without any server as ``task.fn(...)``.
    """

    def decorate(body: Callable[P, ProductRef]) -> StageTask[P]:
        signature = inspect.signature(body)
        find_subject = subject or _default_subject

        @functools.wraps(body)
        def run(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401 (a reference, or Prefect's state around it)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            event = _run(body, name, str(find_subject(bound.arguments)), bound.arguments, parts)
            if event.outcome is Outcome.REUSED and TaskRunContext.get() is not None:
                return Completed(name="Cached", message="reused from the store", data=event.product)
            return event.product

        def run_name(parameters: dict[str, Any]) -> str:
            return f"{name} {find_subject(parameters)}"

        return StageTask(
            run,
            name=name,
            # Prefect asks for the argument by its name, which its type cannot say
            task_run_name=run_name,  # type: ignore[arg-type]
            retries=RETRIES,
            retry_delay_seconds=exponential_backoff(RETRY_BACKOFF_S),
            retry_jitter_factor=0.5,
            retry_condition_fn=_may_pass,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    return decorate


def _default_subject(arguments: Arguments) -> object:
    for value in arguments.values():
        if isinstance(value, Identity):
            return value
        if isinstance(value, ProductRef):
            return value.subject
    raise TypeError("a stage needs an identity or a product reference among its arguments, or a `subject`")


def _may_pass(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, (OSError, MissingProductError, BrokenProcessPool)) and not isinstance(error, DataError)


def _run(
    body: Callable[..., ProductRef], name: str, subject: str, arguments: Arguments, parts: Parts | None
) -> StageEvent:
    current = _session or Session(None)
    if current.stopped_by:
        raise RunStoppedError(f"{name} of {subject} was not started: the run was stopped by {current.stopped_by}")
    started = time.monotonic()
    try:
        store = _output_store(arguments)
        wanted = _wanted_record(body, name, subject, arguments)
        product = _reusable(store, wanted, parts)
        outcome, seconds = (Outcome.REUSED if product else Outcome.RUN), time.monotonic() - started
        if product is None:
            product, seconds = _execute_somewhere(current, body, wanted, arguments)
            record = wanted.model_copy(update={"product": product})
            store.put_bytes(keys.record(name, subject), record.model_dump_json(indent=1).encode())
    except DataError as error:
        current.tell(StageEvent(name, subject, Outcome.SET_ASIDE, time.monotonic() - started, reason=str(error)))
        raise
    except (OSError, MissingProductError, BrokenProcessPool):
        raise
    except Exception as error:
        current.tell(StageEvent(name, subject, Outcome.FAILED, time.monotonic() - started, reason=repr(error)))
        raise
    event = StageEvent(name, subject, outcome, seconds, product)
    current.tell(event)
    return event


# --- what is asked for, and whether it is there already ------------------------------------------------------------

NO_PRODUCT = ProductRef(key="none", sha256="0" * 64, size=0)


def _output_store(arguments: Arguments) -> DataStore:
    store = arguments.get("store")
    if not isinstance(store, DataStore):
        raise TypeError("a stage writes to its argument `store`, which must be a DataStore")
    return store


def _wanted_record(body: Callable[..., ProductRef], name: str, subject: str, arguments: Arguments) -> Record:
    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    for argument, value in arguments.items():
        if not isinstance(value, DataStore):
            _describe(argument, value, settings, inputs)
    config = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return Record(
        stage=name,
        subject=subject,
        code=code_fingerprint(body.__module__),
        config=config,
        inputs=inputs,
        product=NO_PRODUCT,
    )


def _describe(path: str, value: object, settings: dict[str, Any], inputs: dict[str, str]) -> None:
    """Sort one argument into settings and inputs; references are found at any depth."""
    if isinstance(value, ProductRef):
        inputs[f"{path}:{value.key}"] = value.sha256
    elif isinstance(value, (StageConfig, Identity)):
        settings[path] = value.model_dump(mode="json")
    elif isinstance(value, Fingerprinted):
        settings[path] = value.fingerprint()
    elif isinstance(value, BaseModel):
        for field_name in type(value).model_fields:
            _describe(f"{path}.{field_name}", getattr(value, field_name), settings, inputs)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _describe(f"{path}.{key}", item, settings, inputs)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        settings[f"{path}.length"] = len(value)
        for number, item in enumerate(value):
            _describe(f"{path}.{number}", item, settings, inputs)
    elif value is None or isinstance(value, (str, int, float, bool)):
        settings[path] = value
    else:
        raise TypeError(f"argument {path} of type {type(value).__name__} cannot be part of a record")


def _reusable(store: DataStore, wanted: Record, parts: Parts | None) -> ProductRef | None:
    """Return the recorded product if it was made as asked for and is still there to the bit."""
    try:
        found = Record.model_validate_json(store.read_bytes(keys.record(wanted.stage, wanted.subject)))
        if not found.matches(wanted):
            return None
        if not _is_there(store, found.product):
            return None
        whole = parts is None or all(_is_there(store, part) for part in parts(store, found.product))
    except (ObjectNotFoundError, ValidationError):
        return None
    return found.product if whole else None


def _is_there(store: DataStore, ref: ProductRef) -> bool:
    return store.stat(ref.key).sha256 == ref.sha256


# --- running --------------------------------------------------------------------------------------------------------


def _execute_somewhere(
    current: Session, body: Callable[..., ProductRef], wanted: Record, arguments: Arguments
) -> tuple[ProductRef, float]:
    made = Provenance(wanted.stage, wanted.code, _digest(wanted.config), tuple(_input_pairs(wanted.inputs)))
    # the task has taken the body's name in its module, so the body is found through the task
    address = (body.__module__, body.__qualname__)
    if current.pool is None:
        done = _execute(address, made, wanted.subject, dict(arguments))
    else:
        done = current.pool.submit(_execute, address, made, wanted.subject, dict(arguments)).result()
    _relay(done.log)
    return done.product, done.seconds


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _input_pairs(inputs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for path, sha256 in inputs.items():
        yield path.split(":", 1)[1], sha256


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


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[LogLine] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(LogLine(record.levelno, record.getMessage()))


def _execute(address: tuple[str, str], made: Provenance, subject: str, arguments: dict[str, Any]) -> Executed:
    """Run a stage body, in this process or a worker; its log lines come back with the product."""
    module, qualname = address
    task: Task[Any, ProductRef] = getattr(importlib.import_module(module), qualname)
    body = inspect.unwrap(task.fn)
    logger, collector = logging.getLogger(LOGGER), _Collector()
    logger.addHandler(collector)
    started = time.monotonic()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with provenance(made):
            product: ProductRef = body(**arguments)
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(collector)
    log = [LogLine(line.level, f"{made.stage} {subject}: {line.text}") for line in collector.lines]
    return Executed(product, log, time.monotonic() - started)


def _relay(lines: Sequence[LogLine]) -> None:
    if not lines:
        return
    logger = get_run_logger() if TaskRunContext.get() is not None else logging.getLogger(f"{LOGGER}.run")
    for line in lines:
        logger.log(line.level, "%s", line.text)
