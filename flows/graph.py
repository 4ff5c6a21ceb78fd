"""The graph of a run in the Prefect UI: stages that never started are named and ended.

Prefect leaves a task whose predecessor failed "not ready" for good, under a name that says nothing, and draws it up to
the present: the graph of a finished run would grow day by day.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES
from prefect.states import Cancelled

from flows.prefect_settings import changed_settings


def end_unstarted(runs: Mapping[UUID, tuple[str, str]]) -> None:
    """Give task runs that never started a name and an end.

    Parameters
    ----------
    runs
        For every task run its name, such as ``psf_fit 2113737-10``, and the sentence that says why it never started.
    """
    if not runs or FlowRunContext.get() is None:
        return
    try:
        with changed_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
            for run, (name, reason) in runs.items():
                # the server may not know the task run yet, as it learns of them by events
                with suppress(PrefectHTTPStatusError, ObjectNotFound):
                    client.set_task_run_name(run, name)
                    client.set_task_run_state(run, Cancelled(name="Not started", message=reason), force=True)
    except Exception as error:  # noqa: BLE001 (only a picture: the run has done its work)
        get_run_logger().warning("The graph shows stages that never started as open: %s", type(error).__name__)
