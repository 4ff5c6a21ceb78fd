import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import psutil
import pytest
from trial import PATIENCE_S, Trial, command, sleeper, state_of, trial, wait_until
from typer.main import get_command

from deployments.automations import TAG, crash_zombies
from deployments.cli import app
from deployments.guardian import guard
from deployments.trial import Trial as Tried
from deployments.trial import greeting
from deployments.up import Place
from flows.cli import Exit

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    with trial(tmp_path_factory.mktemp("up")) as started:
        yield started


def run_deployment(running: Trial, name: str, **parameters: Any) -> Any:
    """Run a deployed flow through the worker and return the flow run when it has ended."""
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(running.api_url) as client:
        deployment = client.read_deployment_by_name(name)
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

        def ended() -> bool:
            state = client.read_flow_run(run.id).state
            return state is not None and state.is_final()

        wait_until(ended, f"the run of {name}")
        return client.read_flow_run(run.id)


def test_a_worker_runs_a_deployed_flow_with_its_blocks_and_settings(running: Trial) -> None:
    run = run_deployment(running, "exposure/exposure", exposure="9999999")

    # the sentence is the flow's own: it was found, its parameters were read, and the raw store was looked into
    assert run.state.is_failed()
    assert f"Exposure 9999999 is not in {running.root / 'store' / 'raw'}" in run.state.message


def test_the_server_schedules_the_nights_to_come_and_the_sweeps(running: Trial) -> None:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId

    with SyncPrefectClient(running.api_url) as client:

        def scheduled(name: str) -> list[Any]:
            ids = FlowRunFilterDeploymentId(any_=[client.read_deployment_by_name(name).id])
            return list(client.read_flow_runs(flow_run_filter=FlowRunFilter(deployment_id=ids)))

        wait_until(lambda: scheduled("nightly/nightly") and scheduled("arrival/arrival"), "scheduled runs")

        # 9:00 in Hawaii, which has no summer time
        assert {run.expected_start_time.astimezone(UTC).hour for run in scheduled("nightly/nightly")} == {19}


def test_a_silent_run_of_shearline_is_marked_as_crashed_and_one_of_somebody_else_is_left_alone(
    running: Trial, tmp_path: Path
) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(running.api_url) as client:
        # both are silent for much longer than this after their first heartbeat
        automation = client.create_automation(crash_zombies("impatient", 10.0))
        try:
            with (
                sleeper(running.api_url, tmp_path, "somebody-else", "nightly"),
                sleeper(running.api_url, tmp_path, "ours", TAG),
            ):
                wait_until(lambda: state_of(running.api_url, "ours").startswith("Crashed"), "the automation")

                assert "No heartbeat for 10 s" in state_of(running.api_url, "ours")
                assert state_of(running.api_url, "somebody-else") == "Running"
        finally:
            client.delete_automation(automation)


def test_a_worker_that_is_killed_is_started_again(running: Trial) -> None:
    worker = running.service("worker")
    assert worker is not None
    worker.kill()

    wait_until(lambda: running.service("worker") not in {None, worker}, "a new worker")
    assert "The worker ended with code -9; it is started again in 1 s" in running.text


def test_another_one_in_the_same_folder_is_refused(running: Trial) -> None:
    done = subprocess.run(command(running.root, running.port), capture_output=True, text=True, check=False)

    assert done.returncode == Exit.CONFIG
    assert "Another `shearline up` works in" in done.stderr


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(command(tmp_path, port), capture_output=True, text=True, check=False)

    assert done.returncode == Exit.CONFIG
    assert f"Port {port} of 127.0.0.1 cannot be used (Address already in use)" in done.stderr


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("192.168.1.5", True)],
)
def test_a_server_that_others_reach_is_announced_as_one_without_authentication(
    host: str, warned: bool, tmp_path: Path
) -> None:
    lines = greeting(Place(tmp_path, host, 4200), Tried("demo"))

    assert any(f"listens at {host} and has no authentication" in line for line in lines) == warned


def test_the_command_of_the_greeting_deploys_what_is_tried_now(tmp_path: Path) -> None:
    survey = tmp_path / "my survey.yaml"
    tried = Tried(str(survey), ("tiles=['2165.2000']", "tile.detect.min_area_px=7"), workers=5)
    [line] = [line for line in greeting(Place(tmp_path, "127.0.0.1", 4200), tried) if "shearline deploy" in line]

    parameters = get_command(app).commands["deploy"].make_context("deploy", shlex.split(line)[2:]).params

    assert parameters["survey"] == str(survey)
    assert parameters["changes"] == [*tried.changes, "exposure.detect.threshold_sigma=2"]
    assert parameters["workers"] == 5


KILLED = """
import os, signal, sys
from pathlib import Path
from deployments.up import Service, Supervisor

folder = Path(sys.argv[1])
# without the mark, as wherever the environment of other processes cannot be read
unmarked = ["env", "-u", "SHEARLINE_UP", "sh", "-c", 'echo $$ > "$0"; exec sleep 600']
with Supervisor({}, print) as supervisor:
    supervisor.run_to_end(Service("ended", ["true"], folder / "log"))
    supervisor.run_to_end(Service("simulation", [*unmarked, str(folder / "pid")], folder / "log"))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_ends_by_itself_does_not_outlive_its_supervisor(number: int, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text().strip(), "the simulation")
    simulation = psutil.Process(int(pid.read_text()))

    process.send_signal(number)
    process.wait(PATIENCE_S)

    assert psutil.wait_procs([simulation], timeout=30)[1] == []


def test_a_number_that_a_process_had_is_not_ended_later() -> None:
    with subprocess.Popen(["sleep", "600"]) as somebody_else:
        guard("no-process-has-this-mark", [f"simulation {somebody_else.pid}\n", "simulation\n"])

        assert somebody_else.poll() is None
        somebody_else.kill()


def test_nothing_is_left_when_it_is_killed_and_its_folder_is_good_for_another(running: Trial) -> None:
    """Runs last: it ends the one that the others use."""
    before = running.processes()
    assert len(before) >= 4
    running.process.kill()
    running.process.wait()
    _gone, left = psutil.wait_procs(before, timeout=30)
    assert left == []

    with trial(running.root) as again:
        before = again.processes()
        seconds = again.stop(signal.SIGINT)
        text = again.text
        _gone, left = psutil.wait_procs(before, timeout=5)

    assert left == []
    assert again.process.returncode == Exit.OK
    assert "Stopped. The same command goes on where this one ended." in text
    assert seconds < PATIENCE_S / 4
