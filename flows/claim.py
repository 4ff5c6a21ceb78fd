"""One run at a time works on an exposure or tile."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed

from blocks.lease import EXPIRY_S, LeaseOwner, lease
from blocks.store import DataStore

# of a server that is not there httpx speaks, not Prefect
UNTELLABLE = (PrefectException, httpx.HTTPError, OSError, RuntimeError, ValueError)
LOGGER = "shearline.run"


@contextmanager
def claim(
    store: DataStore, subject: str, *, wait_s: float | None = None, expiry_s: float = EXPIRY_S, yields: bool = False
) -> Iterator[None]:
    """Wait until no other run works on an exposure or tile, and keep others waiting meanwhile.

    What a dead run has left is taken over, and that run is set to Crashed in Prefect, where it would say Running for
    good. Open the session inside of the claim: it waits at its end, also after Ctrl-C or SIGTERM, until no body of a
    stage runs, and only then may another run begin.

    Parameters
    ----------
    store, subject
        What is worked on, such as ``exposure-2113737``, and where its products go.
    wait_s
        How long to wait for another run; none waits for ever.
    expiry_s
        After how many seconds without a sign of life another run counts as dead.
    yields
        Whether to leave the work to another run as soon as it is known to live.

    Raises
    ------
    LeaseHeldError
        If another run still works on it after ``wait_s``, or lives and this one yields.
    StoreError
        If the store cannot be used now.
    """
    log = _log()

    def waiting(holder: LeaseOwner) -> None:
        log.info("%s is being worked on by %s; waiting for it to end.", subject, holder)

    owner = _flow_run()
    with lease(store, subject, owner=owner, wait_s=wait_s, on_wait=waiting, expiry_s=expiry_s, yields=yields) as mine:
        dead = mine.taken_from
        if dead is not None and mine.users == 1:
            log.warning("%s was being worked on by %s, which is dead; this run goes on with it.", subject, dead)
            if dead.owner not in {"", mine.document.owner}:
                _set_crashed(dead, log)
        yield


def _flow_run() -> str:
    """Return the id of the Prefect flow run that this is called in; empty outside of one."""
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context is not None and context.flow_run is not None else ""


def _log() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    return get_run_logger() if FlowRunContext.get() is not None else logging.getLogger(LOGGER)


def _set_crashed(dead: LeaseOwner, log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
    """Set the flow run of a dead owner to Crashed, unless it has ended otherwise; that it fails is only logged."""
    if FlowRunContext.get() is None and not PREFECT_API_URL.value():
        # nothing says where that run is known, and asking would start a server
        return
    try:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(dead.owner))
            if run.state is not None and (run.state.is_running() or run.state.is_pending()):
                message = f"The process {dead.process.pid} on {dead.process.host} that ran it is gone."
                client.set_flow_run_state(run.id, Crashed(message=message), force=True)
                log.info("Flow run %s is set to Crashed.", run.name)
    except UNTELLABLE as error:
        log.warning("Flow run %s is dead, but Prefect could not be told: %s", dead.owner, error)
