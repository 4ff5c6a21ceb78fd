"""Launching exposures and tiles, a few at a time: in this process, or as runs of their own in the work pool."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, Self

from prefect import Flow, get_client
from prefect.context import FlowRunContext
from prefect.logging import get_logger, get_run_logger
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY
from pydantic import BaseModel, ConfigDict

from blocks.store import DataStore, ObjectNotFoundError, StoreError, StoreUnusableError
from flows.config import SurveyConfig
from flows.exposure import process_exposure
from flows.outcome import is_outage_of_prefect
from flows.pool import run_in_pool
from flows.pool_wait import WORKER_PATIENCE_S, PoolStalledError
from flows.prefect_settings import changed_settings
from flows.tile import process_tile
from tasks.errors import ConfigError, DataError, RunStoppedError
from tasks.products.identity import ExposureId, TileId
from tasks.runner import LOCAL, Runner
from tasks.session import Outcome, Session, session

Kind = Literal["exposure", "tile"]
Dispatch = Literal["here", "pool"]

STOPS_EVERYTHING = (StoreUnusableError, ConfigError, PoolStalledError)
"""Errors that every other exposure and tile would meet as well; a ``StoreError`` is one if the store is gone."""


class Launched(BaseModel):
    """What became of one exposure or tile that was launched."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    subject: str
    """Name of the exposure or tile."""

    kind: Kind
    """Whether it is an exposure or a tile."""

    outcome: Literal["done", "reused", "set_aside", "failed"]
    """Made; found to be up to date; impossible with the data there are; stopped by an unexpected error."""

    reason: str = ""
    """The sentence of the error."""

    interrupted: bool = False
    """Whether it failed only because Prefect could not be reached: that is no fault of the exposure or tile."""

    seconds: float
    """Wall time from its start, waiting for others not included."""


class Launcher:
    """Runs exposures and tiles, at most a few at a time; none that fails stops another.

    Used as a context manager inside a flow run. ``exposure`` and ``tile`` return futures at once. What one exposure or
    tile meets becomes its `Launched`; so does one object that cannot be read or written while the stores answer. An
    error that all would meet, such as a store that is gone or settings that cannot work, stops everything: every future
    that is not done yet raises it, and so does the end of the ``with`` block, which waits for all that was launched.

    Parameters
    ----------
    config
        Settings of every flow.
    store
        Where the products are and go.
    raw
        Where the raw files are; never written.
    runner
        Where the stages run.
    parallel
        How many exposures and tiles are worked on at a time.
    dispatch
        ``here`` runs them in threads of this process, which share its worker processes; ``pool`` asks the deployments
        ``exposure/exposure`` and ``tile/tile`` for runs in their work pool and waits for these.
    tags
        Tags of their Prefect runs, beside those that say exposure or tile, and which.
    worker_patience_s
        After how many seconds in which no run of the work pool could start everything is stopped.
    """

    def __init__(
        self,
        config: SurveyConfig,
        store: DataStore,
        raw: DataStore,
        runner: Runner = LOCAL,
        *,
        parallel: int = 2,
        dispatch: Dispatch = "here",
        tags: Sequence[str] = (),
        worker_patience_s: float = WORKER_PATIENCE_S,
    ) -> None:
        self._config, self._store, self._raw, self._runner = config, store, raw, runner
        self._dispatch, self._tags, self._worker_patience_s = dispatch, tuple(tags), worker_patience_s
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="launch")
        self._stack = ExitStack()
        self._stopping = threading.Lock()
        self._error: BaseException | None = None
        self._session: Session | None = None
        self._context: contextvars.Context | None = None

    def __enter__(self) -> Self:
        if self._dispatch == "here":
            self._session = self._stack.enter_context(session(self._runner))
        with without_heartbeat():
            # each thread sees the flow run of this block as the parent of its own
            self._context = contextvars.copy_context()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._stop(error)
        # what was not begun is not cancelled: its future has to say which error stopped it
        self._threads.shutdown(wait=True)
        self._stack.__exit__(kind, error, traceback)
        if error is None and self._error is not None:
            raise self._error

    def exposure(self, name: ExposureId) -> Future[Launched]:
        """Process one exposure as soon as there is room for it."""
        config = self._config.exposure
        parameters = {"exposure": name, "config": config, "store": self._store, "raw": self._raw}
        return self._submit("exposure", name, parameters)

    def tile(self, name: TileId, exposures: Sequence[ExposureId] = ()) -> Future[Launched]:
        """Process one tile as soon as there is room for it.

        Parameters
        ----------
        name
            The tile.
        exposures
            Processed exposures that may overlap it; empty takes all that are processed.
        """
        parameters = {"tile": name, "config": self._config.tile, "store": self._store, "raw": self._raw}
        return self._submit("tile", name, {**parameters, "exposures": tuple(exposures)})

    def _submit(self, kind: Kind, name: ExposureId | TileId, parameters: dict[str, Any]) -> Future[Launched]:
        if self._context is None:
            raise RuntimeError("a Launcher is used in a `with` block")
        parameters["runner"] = self._runner
        return self._threads.submit(self._context.copy().run, self._launch, kind, name, parameters)

    def _launch(self, kind: Kind, name: ExposureId | TileId, parameters: dict[str, Any]) -> Launched:
        """Run one exposure or tile to its end, whatever that is."""
        self._raise_if_stopped()
        started = time.monotonic()
        outcome: Literal["done", "reused", "set_aside", "failed"]
        reason, interrupted = "", False
        try:
            outcome = "done" if self._process(kind, name, parameters) else "reused"
        except DataError as error:
            outcome, reason = "set_aside", str(error)
        except RunStoppedError as error:
            self._raise_if_stopped()
            outcome, reason = "failed", str(error)
        except Exception as error:
            if self._stops_everything(error):
                self._stop(error)
                raise
            outcome, reason = "failed", f"{type(error).__name__}: {error}"
            interrupted = is_outage_of_prefect(error)
        except BaseException as error:
            self._stop(error)
            raise
        return self._tell(
            Launched(
                subject=str(name),
                kind=kind,
                outcome=outcome,
                reason=reason,
                interrupted=interrupted,
                seconds=time.monotonic() - started,
            )
        )

    def _process(self, kind: Kind, name: ExposureId | TileId, parameters: dict[str, Any]) -> bool:
        """Run a flow; tell whether any of its stages ran anew."""
        tags = (kind, f"{kind}:{name}", *self._tags)
        if self._dispatch == "pool":
            return run_in_pool(
                kind, name, parameters, self._store, tags, self._raise_if_stopped, self._worker_patience_s
            )
        # the thread has a context of its own for each of its exposures and tiles
        _tags.set(tags)
        with session(self._runner) as current:
            TAGGED_FLOWS[kind](**parameters)
            return current.count(Outcome.RUN) > 0

    def _stops_everything(self, error: Exception) -> bool:
        """Tell whether every other exposure and tile would meet an error as well."""
        if isinstance(error, StoreError):
            return not isinstance(error, ObjectNotFoundError) and not self._stores_answer()
        return isinstance(error, STOPS_EVERYTHING)

    def _stores_answer(self) -> bool:
        """Tell whether the stores can be used apart from the object that could not be read or written."""
        try:
            self._store.probe()
            # raw files are never written, and often must not be
            self._raw.list_folders()
        except (StoreError, StoreUnusableError):
            return False
        return True

    def _stop(self, error: BaseException) -> None:
        """Start nothing more, and let what runs refuse its next stage."""
        with self._stopping:
            self._error = self._error or error
        if self._session is not None:
            self._session.stop_by(error)

    def _raise_if_stopped(self) -> None:
        if self._error is not None:
            raise self._error

    @staticmethod
    def _tell(launched: Launched) -> Launched:
        logger = get_run_logger() if FlowRunContext.get() is not None else get_logger("launch")
        sentence = f"{launched.kind} {launched.subject}: {launched.outcome.replace('_', ' ')}"
        if launched.outcome in {"set_aside", "failed"}:
            logger.warning("%s: %s", sentence, launched.reason)
        else:
            logger.info("%s in %.0f s", sentence, launched.seconds)
        return launched


# tags of Prefect's context would make it ask for limits at every task
_tags: ContextVar[tuple[str, ...]] = ContextVar("tags", default=())


def _tag(flow: Any, flow_run: Any, state: Any) -> None:  # noqa: ANN401 (Prefect's types)
    """Tag a flow run when it starts."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=[*flow_run.tags, *_tags.get()])


# made once: Prefect works out the schema of the parameters of every new flow, which takes a tenth of a second
TAGGED_FLOWS: Mapping[Kind, Flow[..., Any]] = {
    "exposure": process_exposure.with_options(on_running=[_tag]),
    "tile": process_tile.with_options(on_running=[_tag]),
}


@contextmanager
def without_heartbeat() -> Iterator[None]:
    """Switch off the heartbeat of subflow runs: that of their parent stands for them, and each costs a second."""
    with changed_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
