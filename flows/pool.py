"""Runs of the deployed flows in their work pool: asked for, waited for, and their end as an error or none."""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import httpx
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import BaseModel

from blocks.store import DataStore, StoreError, StoreUnusableError
from flows.pool_wait import PoolRunError, ServerPatience, wait_for_end
from tasks.archive.manifests import read_exposure_products, read_tile_products
from tasks.errors import ConfigError, DataError, MissingProductError, ShearlineError
from tasks.products.identity import ExposureId, ExposureProducts, TileId, TileProducts

ERROR_IN_MESSAGE = re.compile(r".*?encountered an exception: (?P<kind>\w+): (?P<sentence>.*)", re.DOTALL)

# Prefect numbers the runs that a flow run asks for in a plain dictionary; two with one number are one in its graph
_asking = threading.Lock()


def run_in_pool(
    kind: str,
    name: ExposureId | TileId,
    parameters: dict[str, Any],
    store: DataStore,
    tags: Sequence[str],
    check: Callable[[], None],
    worker_patience_s: float,
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
    worker_patience_s
        How long the run may wait in its pool while nothing else runs there, in seconds.

    Returns
    -------
    bool
        Whether its products are others than before.

    Raises
    ------
    DataError
        If the exposure or tile was set aside.
    ConfigError
        If there is no such deployment, the server refuses the run, or the settings cannot work.
    StoreError
        If the store failed in the run.
    PoolRunError
        If the run crashed, was cancelled or deleted, or was stopped by a bug.
    PoolStalledError
        If there is no worker, or no slot for the run that anything will free.
    """
    before = _products(store, name)
    state = wait_for_end(_start(kind, name, parameters, tags), check, worker_patience_s)
    if not state.is_completed():
        raise _error_of(state, f"{kind} {name}")
    return _products(store, name) != before


def _products(store: DataStore, name: ExposureId | TileId) -> ExposureProducts | TileProducts | None:
    try:
        return read_tile_products(store, name) if isinstance(name, TileId) else read_exposure_products(store, name)
    except (MissingProductError, DataError):
        return None


def _start(kind: str, name: object, parameters: dict[str, Any], tags: Sequence[str]) -> FlowRun:
    """Ask for a run once, however often the server has to be asked."""
    wanted = {key: _json_parameter(value) for key, value in parameters.items()}
    asked, server = uuid.uuid4().hex, ServerPatience(f"a run of {kind}/{kind} for {name}")
    while True:
        try:
            with _asking:
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
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            server.bear(error)
        else:
            # called from a thread without an event loop, it returns the run itself
            return cast("FlowRun", run)


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
