"""Runs of the deployed flows in their work pool: asked for, waited for, and their end as an error or none."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import httpx
from prefect import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import BaseModel

from blocks.store import DataStore, StoreError, StoreUnusableError
from tasks.archive.manifests import (
    forget_refusal,
    read_exposure_products,
    read_refusal,
    read_tile_products,
)
from tasks.errors import ConfigError, DataError, MissingProductError, ShearlineError
from tasks.products.identity import ExposureId, ExposureProducts, TileId, TileProducts

POLL_S = 1.0
SERVER_PATIENCE_S = 300.0
ERROR_IN_MESSAGE = re.compile(r".*?encountered an exception: (?P<kind>\w+): (?P<sentence>.*)", re.DOTALL)
INVALID = 422


class PoolRunError(RuntimeError):
    """A run in the work pool ended without doing its work: crashed, cancelled, or stopped by a bug."""


def run_in_pool(
    kind: str,
    name: ExposureId | TileId,
    parameters: dict[str, Any],
    store: DataStore,
    tags: Sequence[str],
    check: Callable[[], None],
) -> bool:
    """Run the deployment of exposures or tiles in its work pool and wait for the end.

    Parameters
    ----------
    kind
        ``exposure`` or ``tile``: the flow and its deployment have this name.
    name
        Which exposure or tile.
    parameters
        Parameters of the flow.
    store
        Where the products are.
    tags
        Tags of the run.
    check
        Called at every look at the run; raises if nobody waits for it any more. The run itself goes on.

    Returns
    -------
    bool
        Whether its products are others than before.

    Raises
    ------
    DataError
        If the exposure or tile was set aside; the sentence is that of the refusal in the store.
    ConfigError
        If there is no such deployment, or the settings cannot work.
    StoreError
        If the store failed in the run.
    PoolRunError
        If the run crashed, was cancelled, or was stopped by a bug.
    """
    before = _products(store, name)
    # what is there after the run, the run has written
    forget_refusal(store, name)
    state = _wait(_start(kind, name, parameters, tags), check)
    if not state.is_completed():
        error = _error_of(state, f"{kind} {name}")
        refusal = read_refusal(store, name) if isinstance(error, DataError) else None
        raise DataError(refusal.reason) if refusal else error
    return _products(store, name) != before


def _products(store: DataStore, name: ExposureId | TileId) -> ExposureProducts | TileProducts | None:
    try:
        return read_tile_products(store, name) if isinstance(name, TileId) else read_exposure_products(store, name)
    except (MissingProductError, DataError):
        return None


def _start(kind: str, name: object, parameters: dict[str, Any], tags: Sequence[str]) -> FlowRun:
    """Ask for a run once, however often the server has to be asked."""
    wanted = {key: _json_parameter(value) for key, value in parameters.items()}
    asked, deadline = uuid.uuid4().hex, time.monotonic() + SERVER_PATIENCE_S
    while True:
        try:
            run = run_deployment(
                f"{kind}/{kind}",
                parameters=wanted,
                flow_run_name=f"{kind} {name}",
                timeout=0,
                tags=tags,
                idempotency_key=asked,
            )
        except ObjectNotFound as error:
            raise ConfigError(f"There is no deployment {kind}/{kind}; run `shearline deploy` first.") from error
        except PrefectHTTPStatusError as error:
            if error.response.status_code == INVALID:
                raise ConfigError(f"The deployment {kind}/{kind} refuses its parameters: {error}") from error
            _be_patient(error, deadline)
        except httpx.TransportError as error:
            _be_patient(error, deadline)
        else:
            # called from a thread without an event loop, it returns the run itself
            return cast("FlowRun", run)


def _wait(run: FlowRun, check: Callable[[], None]) -> State[Any]:
    deadline = time.monotonic() + SERVER_PATIENCE_S
    while True:
        check()
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(run.id).state
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            _be_patient(error, deadline)
            continue
        if state is not None and state.is_final():
            return state
        deadline = time.monotonic() + SERVER_PATIENCE_S
        time.sleep(POLL_S)


def _be_patient(error: Exception, deadline: float) -> None:
    """Wait a little for a server that is being restarted."""
    if time.monotonic() > deadline:
        raise error
    time.sleep(POLL_S)


def _json_parameter(value: object) -> object:
    if isinstance(value, DataStore):
        return store_parameter(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return [_json_parameter(item) for item in value]
    return value


def store_parameter(store: DataStore) -> dict[str, Any]:
    """Return how a store is named in the parameters of a run: by its block, or in full if it has no secrets.

    Raises
    ------
    ConfigError
        If it has secrets but no block.
    """
    block = store._block_document_id
    if block is not None:
        return {"$ref": {"block_document_id": str(block)}}
    if store.secret_key is not None:
        raise ConfigError(
            f"The store {store.url} has a secret key, which may not be a parameter of a run in a work pool: save the "
            "store as a block, and give the block to the run."
        )
    return {name: getattr(store, name) for name in type(store).model_fields if getattr(store, name) is not None}


def _error_of(state: State[Any], subject: str) -> Exception:
    """Return the error that ended a run, as far as its state tells."""
    message = state.message or ""
    found = ERROR_IN_MESSAGE.fullmatch(message)
    if state.is_failed() and found is not None:
        known = {error.__name__: error for error in _known_errors()}
        if found["kind"] in known:
            return known[found["kind"]](found["sentence"])
        return PoolRunError(f"{found['kind']}: {found['sentence']}")
    return PoolRunError(f"The run of {subject} in the work pool ended as {state.name}: {message or 'no reason given'}")


def _known_errors() -> Iterator[type[Exception]]:
    waiting: list[type[Exception]] = [ShearlineError, StoreError, StoreUnusableError]
    while waiting:
        error = waiting.pop()
        yield error
        waiting += error.__subclasses__()
