"""A flow run whose process is gone, without a worker that could notice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trial import trial, wait_until

from deployments.automations import SILENCE_S

pytestmark = pytest.mark.faults

SLEEPER = """
import time
from prefect import flow

@flow(name="sleeper")
def sleep():
    time.sleep(3600)

sleep()
"""


def test_a_run_without_heartbeat_is_marked_as_crashed(tmp_path: Path) -> None:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    (tmp_path / "sleeper.py").write_text(SLEEPER)
    sleepers = FlowFilter(name=FlowFilterName(any_=["sleeper"]))
    with trial(tmp_path / "trial") as running, SyncPrefectClient(running.api_url) as client:
        settings = {"PREFECT_API_URL": running.api_url, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
        environment = {**os.environ, **settings, "PREFECT_HOME": str(tmp_path / "home")}
        processes = [subprocess.Popen([sys.executable, str(tmp_path / "sleeper.py")], env=environment) for _ in "ab"]
        try:

            def runs(state: str) -> int:
                found = client.read_flow_runs(flow_filter=sleepers)
                return sum(run.state is not None and run.state.name == state for run in found)

            wait_until(lambda: runs("Running") == 2, "two running flows")
            processes[0].kill()
            wait_until(lambda: runs("Crashed") == 1, "the automation", SILENCE_S + 120)

            # the other one is alive, and stays so
            assert runs("Running") == 1
            [crashed] = [run for run in client.read_flow_runs(flow_filter=sleepers) if run.state.name == "Crashed"]
            assert "No heartbeat for 90 s" in crashed.state.message
        finally:
            for process in processes:
                process.kill()
                process.wait()
