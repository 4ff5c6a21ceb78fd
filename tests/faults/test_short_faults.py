"""The fault suite in its short form: five kills, and a hundred arrival events while server and worker are restarted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fault_suite.services import environment

SUITE = Path(__file__).parents[2] / "benchmarks" / "faults.py"


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the suite in an environment of its own; a broken promise is its exit code."""
    home = tmp_path_factory.mktemp("prefect")
    done = subprocess.run(
        [sys.executable, str(SUITE), "--short"], env=environment(home), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_killed_runs_leave_the_bytes_of_undisturbed_ones(figures: dict[str, Any]) -> None:
    found = figures

    assert (found["kills"], found["identical"]) == (5, 5), found
    assert found["kills_by_kind"].keys() == {"exposure", "tile"}, found
    assert (found["partial_objects"], found["objects_watched"] > 0) == (0, True), found
    assert (found["redone_finished_stages"], found["finished_stages_at_kills"] > 0) == (0, True), found
    assert (found["failed_reruns"], found["failed_recoveries"], found["orphan_processes"]) == ([], [], 0), found


def test_every_announced_exposure_is_processed_once_while_services_are_restarted(figures: dict[str, Any]) -> None:
    found = figures

    assert found["events_sent"] == 100, found
    assert (found["exposures"], found["exposures_once"]) == (70, 70), found
    assert found["tiles_once"] == found["tiles"] > 0, found
    assert found["arrival_stages_run_twice"] == 0, found
    assert (found["event_to_start_measured"], found["started_before_event"]) == (70, 0), found
    assert found["restarts"] == ["server SIGKILL", "worker SIGTERM"], found
