"""Launching exposures and tiles, a few at a time: in this process, or as runs of their own in the work pool."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Literal, Self

from prefect import get_client
from prefect.context import FlowRunContext
from prefect.logging import get_logger, get_run_logger
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from pydantic import BaseModel, ConfigDict

from blocks.store import DataStore, ObjectNotFoundError, StoreError, StoreUnusableError
from flows.config import SurveyConfig
from flows.exposure import process_exposure
from flows.pool import run_in_pool
from flows.tile import process_tile
from tasks.errors import ConfigError, DataError, RunStoppedError
from tasks.products.identity import ExposureId, TileId
from tasks.runner import LOCAL, Runner
from tasks.session import Outcome, Session, session

Kind = Literal["exposure", "tile"]
Dispatch = Literal["here", "pool"]

STOPS_EVERYTHING = (StoreUnusableError, StoreError, ConfigError)
"""Errors that every other exposure and tile would meet as well."""


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

    seconds: float
    """Wall time from its start, waiting for others not included."""


class Launcher:
    """Runs exposures and tiles, at most a few at a time; none that fails stops another.

    Used as a context manager inside a flow run. ``exposure`` and ``tile`` return futures at once. What one exposure or
    tile meets becomes its `Launched`. An error that all would meet, such as a store that is gone or settings that
    cannot work, stops everything: every future that is not done yet raises it, and so does the end of the ``with``
    block.

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
    ) -> None:
        self._config, self._store, self._raw, self._runner = config, store, raw, runner
        self._dispatch, self._tags = dispatch, tuple(tags)
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="launch")
        self._stack = ExitStack()
        self._stopping = threading.Lock()
        self._error: BaseException | None = None
        self._session: Session | None = None
        self._context: contextvars.Context | None = None

    def __enter__(self) -> Self:
        if self._dispatch == "here":
            self._session = self._stack.enter_context(session(self._runner))
        # each thread sees the flow run of this block as the parent of its own
        self._context = contextvars.copy_context()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._stop(error)
        self._threads.shutdown(wait=True, cancel_futures=True)
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
        reason = ""
        try:
            outcome = "done" if self._process(kind, name, parameters) else "reused"
        except DataError as error:
            outcome, reason = "set_aside", str(error)
        except RunStoppedError as error:
            self._raise_if_stopped()
            outcome, reason = "failed", str(error)
        except Exception as error:
            if isinstance(error, STOPS_EVERYTHING) and not isinstance(error, ObjectNotFoundError):
                self._stop(error)
                raise
            outcome, reason = "failed", f"{type(error).__name__}: {error}"
        except BaseException as error:
            self._stop(error)
            raise
        return self._tell(
            Launched(subject=str(name), kind=kind, outcome=outcome, reason=reason, seconds=time.monotonic() - started)
        )

    def _process(self, kind: Kind, name: ExposureId | TileId, parameters: dict[str, Any]) -> bool:
        """Run a flow; tell whether any of its stages ran anew."""
        tags = (kind, f"{kind}:{name}", *self._tags)
        if self._dispatch == "pool":
            return run_in_pool(kind, name, parameters, self._store, tags, self._raise_if_stopped)
        with session(self._runner) as current, without_heartbeat():
            flow = (process_exposure if kind == "exposure" else process_tile).with_options(on_running=[_tagging(tags)])
            flow(**parameters)
            return current.count(Outcome.RUN) > 0

    def _stop(self, error: BaseException) -> None:
        """Start nothing more, and let what runs refuse its next stage."""
        with self._stopping:
            self._error = self._error or error
        if self._session is not None:
            self._session.stop(f"{type(error).__name__}: {error}")

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


def _tagging(tags: Sequence[str]) -> Callable[..., None]:
    """Return a hook that tags a flow run; tags of the context would make Prefect ask for limits at every task."""

    def tag(flow: Any, flow_run: Any, state: Any) -> None:  # noqa: ANN401 (Prefect's types)
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, tags=[*flow_run.tags, *tags])

    return tag


@contextmanager
def without_heartbeat() -> Iterator[None]:
    """Switch off the heartbeat of subflow runs: that of their parent stands for them, and each costs a second."""
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield
