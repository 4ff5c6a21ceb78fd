"""A Prefect server with Shearline deployed on it, a worker to be killed, and what Prefect says of runs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment

from fault_suite.services import SHEARLINE, PrefectServer, Service, family

POOL = "shearline"
POLL_S = 0.1
PAGE = 200
RUN_ID = "PREFECT__FLOW_RUN_ID"
FLOW_PROCESS = re.compile(r"-m prefect\.(flow_)?engine\b")
# a real worker asks every 10 s by default; `shearline up` too has it ask every 2 s
WORKER_SETTINGS = {"PREFECT_WORKER_QUERY_SECONDS": "2"}


class Station:
    """Server, deployments and worker of one survey."""

    def __init__(self, server: PrefectServer, folder: Path, limit: int = 2) -> None:
        self.server, self.folder = server, folder
        command = (sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--limit", str(limit))
        env = server.client_environment(**WORKER_SETTINGS)
        self.worker = Service((*command, "--name", "faults"), env, folder / "worker.log")

    def deploy(self, survey_file: Path, store: str, raw: str, collection: str, *more: str) -> None:
        """Deploy a survey with the command.

        Raises
        ------
        RuntimeError
            If the command fails.
        """
        options = {"survey": str(survey_file), "store": store, "raw": raw, "collection": collection, "pool": POOL}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.command("deploy", *words, *more)

    def command(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """Run the command to its end and return its standard output.

        Raises
        ------
        RuntimeError
            If it fails.
        """
        done = subprocess.run(
            [*SHEARLINE, *words],
            env={**self.server.client_environment(), **(env or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"shearline {' '.join(words)} failed: {done.stderr[-500:]}")
        return done.stdout

    def start_run(self, name: str, parameters: dict[str, Any]) -> UUID:
        """Ask for a run of a deployment and return its id."""
        run: Any = run_deployment(name, parameters=parameters, timeout=0)
        identifier: UUID = run.id
        return identifier

    def state_of(self, run: UUID) -> str:
        """Return the name of the state of a run."""
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
        return (state.name if state is not None else None) or "none"

    def wait_for(self, run: UUID, states: Sequence[str], limit_s: float = 180.0) -> str:
        """Wait until a run is in one of these states, and return which; after the limit, that in which it is."""
        deadline = time.monotonic() + limit_s
        while (now := self.state_of(run)) not in states and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return now

    def process_of(self, run: UUID) -> psutil.Process | None:
        """Return the process in which the worker runs a flow; none if there is none now."""
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if FLOW_PROCESS.search(" ".join(words)) and process.environ().get(RUN_ID) == str(run):
                    return process
            except psutil.Error:
                continue
        return None

    def runs_of(self, flow: str, since: datetime) -> list[FlowRun]:
        """Return the runs of a flow that were asked for since a moment, the oldest first.

        Other parts of the suite may have used the server, for exposures of the same names.
        """
        found: list[FlowRun] = []
        asked_for = FlowRunFilter(expected_start_time=FlowRunFilterExpectedStartTime(after_=since))
        with get_client(sync_client=True) as client:
            while True:
                page = client.read_flow_runs(
                    flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
                    flow_run_filter=asked_for,
                    sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                    limit=PAGE,
                    offset=len(found),
                )
                found += page
                if len(page) < PAGE:
                    return found

    def close(self) -> None:
        """End the worker and everything that it started."""
        try:
            relatives = family(self.worker.pid)
        except RuntimeError:
            return
        self.worker.kill()
        for process in relatives:
            try:
                process.kill()
            except psutil.Error:
                continue
