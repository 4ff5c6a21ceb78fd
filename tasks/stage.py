"""What makes a function a stage: a Prefect task that reuses, retries, reports and runs in the session's process pool.

A stage body takes product references, settings and stores and returns one product reference. Around it, this module

* compares a record in the store with what is asked for, and reuses the product if they agree **and** the product is
  still there with its checksum;
* runs the body in a worker process, because photutils and GalSim hold the GIL;
* retries what may pass (I/O errors, missing products) and nothing else;
* tells the session what happened, for the progress display and the table of what was set aside.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, cast

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.provenance import Provenance, provenance
from tasks.errors import ConfigError, DataError, MissingProductError, RunStoppedError
from tasks.fingerprint import code_fingerprint
from tasks.products.identity import Identity, ProductRef
from tasks.records import Arguments, Parts, Record, reusable_product, wanted_record
from tasks.session import Outcome, Session, StageEvent, current_session
from tasks.workers.bodies import Executed, Job, LogLine
from tasks.workers.live_log import LogFile, followed

P = ParamSpec("P")

RETRIES = 2
RETRY_BACKOFF_S = 2
LOGGER = "shearline"
LOG_LINES = "shearline_log_lines"


class StageTask(Task[P, ProductRef]):
    """A Prefect task that returns its product, whether it ran or was reused."""

    def __call__(self, *args: Any, **kwargs: Any) -> ProductRef:  # type: ignore[override]  # noqa: ANN401
        """Run the stage in a flow and return its product; with ``return_state`` the state around it."""
        outcome: Any = super().__call__(*args, **kwargs)
        # of a reused product Prefect hands out the state that names it "Cached"
        reused = isinstance(outcome, State) and not kwargs.get("return_state")
        product: ProductRef = outcome.result() if reused else outcome
        return product

    def with_options(self, **options: Any) -> StageTask[P]:  # noqa: ANN401 (as Prefect's)
        """Return a copy with other options of Prefect's, such as ``retries``."""
        copy = super().with_options(**options)
        copy.__class__ = StageTask
        return cast("StageTask[P]", copy)

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
            # no tags: for a tagged task Prefect asks the server for a slot, which took 96 instead of 3 to 37 ms a task
            # on 32 threads, and 7.2 instead of 4.5 ms of the processor; the name of a task run begins with its stage
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
    return isinstance(error, (OSError, MissingProductError))


def _run(
    body: Callable[..., ProductRef], name: str, subject: str, arguments: Arguments, parts: Parts | None
) -> StageEvent:
    current = current_session()
    if current.stopped_by:
        raise RunStoppedError(f"{name} of {subject} was not started: the run was stopped by {current.stopped_by}")
    started = time.monotonic()
    try:
        store = _output_store(arguments)
        wanted = wanted_record(body.__module__, name, subject, arguments)
        product = reusable_product(store, wanted, parts)
        outcome, seconds = (Outcome.REUSED if product else Outcome.RUN), time.monotonic() - started
        if product is None:
            product, seconds = _execute_somewhere(current, body, wanted, arguments, store)
    except RunStoppedError:
        # the error that stopped the run was told; what waited behind it did not fail
        raise
    except DataError as error:
        current.tell(StageEvent(name, subject, Outcome.SET_ASIDE, time.monotonic() - started, reason=str(error)))
        raise
    except (OSError, MissingProductError) as error:
        if _was_last_try():
            reason = f"{error} (tried {RETRIES + 1} times)"
            current.tell(StageEvent(name, subject, Outcome.FAILED, time.monotonic() - started, reason=reason))
        raise
    except Exception as error:
        current.tell(StageEvent(name, subject, Outcome.FAILED, time.monotonic() - started, reason=repr(error)))
        raise
    event = StageEvent(name, subject, outcome, seconds, product)
    current.tell(event)
    return event


def _was_last_try() -> bool:
    """Tell whether Prefect will not try again; outside Prefect that is for the caller to know."""
    context = TaskRunContext.get()
    return context is not None and context.task_run.run_count > context.task.retries


def _output_store(arguments: Arguments) -> DataStore:
    store = arguments.get("store")
    if not isinstance(store, DataStore):
        raise TypeError("a stage writes to its argument `store`, which must be a DataStore")
    return store


def _execute_somewhere(
    current: Session, body: Callable[..., ProductRef], wanted: Record, arguments: Arguments, store: DataStore
) -> tuple[ProductRef, float]:
    made = Provenance(wanted.stage, wanted.code, _digest(wanted.config), tuple(_input_pairs(wanted.inputs)))
    # the task has taken the body's name in its module, so the body is found through the task
    address = (body.__module__, body.__qualname__)
    logger = get_run_logger() if TaskRunContext.get() is not None else logging.getLogger(f"{LOGGER}.run")
    job = Job(wanted.stage, wanted.subject, store, logger.warning)
    with followed(lambda line: _relay(logger, [line]), elsewhere=current.runs_elsewhere) as follower:
        file = follower.file if follower else None
        try:
            done = current.execute(functools.partial(_execute, address, made, wanted, dict(arguments), file), job)
        except Exception as error:
            _relay(logger, vars(error).pop(LOG_LINES, ())[follower.stop() if follower else 0 :])
            raise
        _relay(logger, done.log[follower.stop() if follower else 0 :])
    return done.product, done.seconds


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _input_pairs(inputs: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for path, sha256 in inputs.items():
        yield path.split(":", 1)[1], sha256


class _Collector(logging.Handler):
    """Keeps what a body logs, each line with the stage and its subject, and leaves it in a file for the flow."""

    def __init__(self, identity: str, file: LogFile | None) -> None:
        super().__init__(logging.INFO)
        self._identity, self._file = identity, file
        self.lines: list[LogLine] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(LogLine(record.levelno, f"{self._identity}: {record.getMessage()}"))
        if self._file is not None:
            self._file.append(self.lines[-1])


def _execute(
    address: tuple[str, str], made: Provenance, wanted: Record, arguments: dict[str, Any], log_file: LogFile | None
) -> Executed:
    """Run a stage body, in this process or a worker; its log lines come back with the product.

    The record is written here too: what was made is then reused though its answer was lost on the way to the flow.
    """
    module, qualname = address
    task: Task[Any, ProductRef] = getattr(importlib.import_module(module), qualname)
    if code_fingerprint(module) != made.code:
        raise ConfigError(
            f"The code of stage {made.stage} was changed while it was running, or is another one where it runs: "
            "start again, with the same version everywhere."
        )
    body = inspect.unwrap(task.fn)
    logger, collector = logging.getLogger(LOGGER), _Collector(f"{made.stage} {wanted.subject}", log_file)
    logger.addHandler(collector)
    started = time.monotonic()
    level, propagate = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with provenance(made):
            product: ProductRef = body(**arguments)
        record = wanted.model_copy(update={"product": product})
        _output_store(arguments).put_bytes(
            keys.record(wanted.stage, wanted.subject), record.model_dump_json(indent=1).encode()
        )
    except Exception as error:
        # what was said before an error says most; its attributes are what crosses to the flow with it
        vars(error)[LOG_LINES] = collector.lines
        raise
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(collector)
    return Executed(product, collector.lines, time.monotonic() - started)


def _relay(logger: logging.Logger | logging.LoggerAdapter[logging.Logger], lines: Sequence[LogLine]) -> None:
    for line in lines:
        logger.log(line.level, "%s", line.text)
