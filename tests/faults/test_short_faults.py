"""The fault suite in its short form: five kills, and a hundred arrival events while server and worker are restarted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# too long for every change until its budget is settled
pytestmark = pytest.mark.faults

SUITE = Path(__file__).parents[2] / "benchmarks" / "faults.py"


def figures(*options: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(SUITE), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_kills(found: dict[str, Any], kills: int) -> None:
    assert (found["kills"], found["identical"]) == (kills, kills), found
    assert (found["partial_objects"], found["objects_watched"] > 0) == (0, True), found
    assert (found["redone_finished_stages"], found["finished_stages_at_kills"] > 0) == (0, True), found
    assert (found["failed_reruns"], found["failed_recoveries"], found["orphan_processes"]) == ([], [], 0), found


def check_arrivals(found: dict[str, Any], events: int) -> None:
    assert found["events_sent"] == events, found
    assert (found["exposures"], found["exposures_once"]) == (round(0.7 * events), round(0.7 * events)), found
    assert found["tiles_once"] == found["tiles"] > 0, found
    assert found["arrival_stages_run_twice"] == 0, found


def test_killed_runs_leave_the_bytes_of_undisturbed_ones() -> None:
    check_kills(figures("--short", "--only", "kills"), 5)


def test_every_announced_exposure_is_processed_once_while_services_are_restarted() -> None:
    check_arrivals(figures("--short", "--only", "arrivals"), 100)
