"""Waiting for a run in a work pool: through restarts of the server, but not for ever without a worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_logger, get_run_logger

from tasks.errors import ConfigError

POLL_S = 1.0
SERVER_PATIENCE_S = 300.0
WORKER_PATIENCE_S = 1800.0
WARN_AFTER_S = 60.0
LOOK_S = 5.0
"""How often to ask whether anything else runs in the pool while a run waits there."""

CLIENT_ERRORS = range(400, 500)
MAY_PASS = {408, 429}
"""A request that took too long, and one of too many: refused for now."""


class PoolRunError(RuntimeError):
    """A run in the work pool ended without doing its work: crashed, cancelled, or stopped by a bug."""


class PoolStalledError(RuntimeError):
    """Runs in the work pool do not start: it has no worker, or no slot that anything will free."""


def wait_for_end(run: FlowRun, check: Callable[[], None], worker_patience_s: float) -> State[Any]:
    """Wait until a run in a work pool has ended, and return how.

    Parameters
    ----------
    run
        The run.
    check
        Called at every look at the run; raises if nobody waits for it any more.
    worker_patience_s
        How long the run may wait in its pool while nothing else runs there, in seconds.

    Raises
    ------
    PoolStalledError
        If nothing started in its pool for that long.
    PoolRunError
        If the run was deleted.
    ConfigError
        If the server refuses to say.
    """
    server, slot = ServerPatience(f"to tell of the run {run.name}"), _WaitForSlot(worker_patience_s)
    while True:
        check()
        try:
            with get_client(sync_client=True) as client:
                found = client.read_flow_run(run.id)
                slot.look(client, found)
        except ObjectNotFound as error:
            raise PoolRunError(f"The run {run.name} in the work pool was deleted before it had ended.") from error
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            server.bear(error)
            continue
        if found.state is not None and found.state.is_final():
            return found.state
        server.renew()
        time.sleep(POLL_S)


@dataclass
class ServerPatience:
    """Bears with a server that is being restarted, and not with one that says no."""

    doing: str
    """What is asked of it, as in "the server refuses ..."."""
    deadline: float = field(default_factory=lambda: time.monotonic() + SERVER_PATIENCE_S)

    def renew(self) -> None:
        """Begin anew, as the server has answered."""
        self.deadline = time.monotonic() + SERVER_PATIENCE_S

    def bear(self, error: httpx.TransportError | PrefectHTTPStatusError) -> None:
        """Wait a little before the server is asked again.

        Raises
        ------
        ConfigError
            If the server refuses what it is asked.
        httpx.TransportError, PrefectHTTPStatusError
            The error itself, if the server has not answered for too long.
        """
        if isinstance(error, PrefectHTTPStatusError) and error.response.status_code in set(CLIENT_ERRORS) - MAY_PASS:
            raise ConfigError(f"The Prefect server refuses {self.doing}: {_said(error)}") from error
        if time.monotonic() > self.deadline:
            raise error
        time.sleep(POLL_S)


def _said(error: PrefectHTTPStatusError) -> str:
    """Return the sentence of the server's answer, if there is one in it."""
    try:
        return str(error.response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return str(error)


@dataclass
class _WaitForSlot:
    """How long a run has been waiting in a pool in which nothing else runs, so that no slot will become free."""

    patience_s: float
    moved: float = field(default_factory=time.monotonic)
    looked: float = field(default_factory=time.monotonic)
    warned: bool = False

    def look(self, client: SyncPrefectClient, run: FlowRun) -> None:
        """Look at the pool of a run that has not begun; say what is wrong with it, and after a while raise it."""
        if run.state is None or not (run.state.is_scheduled() or run.state.is_pending()) or not run.work_pool_name:
            return
        now = time.monotonic()
        if now - self.looked < LOOK_S:
            return
        self.looked = now
        if _others_run(client, run.work_pool_name):
            self.moved = now
            return
        stood_s = now - self.moved
        if stood_s >= self.patience_s:
            raise PoolStalledError(_what_is_wrong(client, run, stood_s))
        if stood_s >= WARN_AFTER_S and not self.warned:
            self.warned = True
            _log().warning("%s", _what_is_wrong(client, run, stood_s))


def _others_run(client: SyncPrefectClient, pool: str) -> bool:
    """Tell whether anything runs in a pool beside the run that asks, which frees no slot while it waits."""
    own = FlowRunContext.get()
    mine = [own.flow_run.id] if own is not None and own.flow_run is not None else []
    running = FlowRunFilter(
        id=FlowRunFilterId(not_any_=mine),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
    )
    in_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    return client.count_flow_runs(flow_run_filter=running, work_pool_filter=in_pool) > 0


def _what_is_wrong(client: SyncPrefectClient, run: FlowRun, stood_s: float) -> str:
    name, pool = run.name, client.read_work_pool(str(run.work_pool_name))
    if pool.is_paused:
        return (
            f"The run {name} waits in work pool {pool.name}, which is paused; `prefect work-pool resume {pool.name}`."
        )
    if run.state is not None and run.state.is_pending():
        return (
            f"A worker of work pool {pool.name} has taken the run {name}, which has not begun after {stood_s:.0f} s; "
            "the log of the worker says why."
        )
    online = [item.name for item in client.read_workers_for_work_pool(pool.name) if item.status == WorkerStatus.ONLINE]
    if not online:
        return (
            f"No worker has taken the run {name} of work pool {pool.name} in {stood_s:.0f} s; start one with "
            f"`prefect worker start --pool {pool.name}`."
        )
    return (
        f"The run {name} has waited for {stood_s:.0f} s in work pool {pool.name}, in which nothing else runs: its "
        f"workers ({', '.join(online)}) have no free slot, perhaps because a night or arrival run takes the only one. "
        "Give the worker a larger --limit, the pool or its queue a larger concurrency limit, or start another worker."
    )


def _log() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    return get_run_logger() if FlowRunContext.get() is not None else get_logger("launch")
