"""From the announcement of one exposure to its products: event, automation, worker, arrival run."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trial import Trial, trial, wait_until, without_prefect

from blocks.store import DataStore

pytestmark = pytest.mark.faults

CHANGES: tuple[str, ...] = runpy.run_path(str(Path(__file__).parents[1] / "flows/small_survey.py"))["CHANGES"]
SETTINGS = [word for change in CHANGES for word in ("--set", change)]
EXPOSURE = "2113700"


def started_by_the_automation(running: Trial) -> list[Any]:
    """Runs of the arrival flow that no schedule started."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId

    with SyncPrefectClient(running.api_url) as client:
        deployment = client.read_deployment_by_name("arrival/arrival")
        ids = FlowRunFilterDeploymentId(any_=[deployment.id])
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id=ids))
    return [run for run in runs if run.created_by is not None and run.created_by.type == "AUTOMATION"]


def test_an_exposure_that_is_announced_is_processed_by_a_run_that_the_event_started(tmp_path: Path) -> None:
    with trial(tmp_path, "--survey", "demo", *SETTINGS, "--simulate", patience_s=400) as running:
        store = DataStore(root=str(tmp_path / "store"), collection="main")
        file = tmp_path / "store" / "raw" / f"{EXPOSURE}p.fits.fz"
        assert file.exists()
        assert started_by_the_automation(running) == []

        notify = [sys.executable, "-m", "deployments.cli", "notify", str(file), "--survey", "demo", *SETTINGS]
        environment = without_prefect(PREFECT_API_URL=running.api_url, PREFECT_HOME=str(tmp_path / "home"))
        done = subprocess.run(
            [*notify, "--store", store.root], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (0, f"announced {EXPOSURE}\n"), done.stderr

        wait_until(lambda: store.exists(f"exposures/{EXPOSURE}/products.json"), "the products", 300)

        def ended() -> bool:
            runs = started_by_the_automation(running)
            return bool(runs) and all(run.state is not None and run.state.is_final() for run in runs)

        wait_until(ended, "the arrival run", 300)
        assert [run.state.name for run in started_by_the_automation(running)] == ["Completed"]
