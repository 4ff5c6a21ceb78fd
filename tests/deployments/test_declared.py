import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments import declared
from deployments.declared import POOL_TYPES, pool_type_of, read_deployments, read_job_template
from tasks.errors import ConfigError

pytestmark = pytest.mark.faults

FILE = Path(declared.__file__).with_name("prefect.yaml")
NAMES = ["exposure", "tile", "survey", "nightly", "arrival"]


def test_the_file_declares_five_deployments() -> None:
    assert [item.name for item in read_deployments()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_entrypoint_is_a_flow_of_the_same_name(name: str) -> None:
    [deployment] = [item for item in read_deployments() if item.name == name]

    assert deployment.load_flow().name == name


def test_nothing_starts_by_itself_when_prefect_deploys_the_file_without_settings() -> None:
    assert not any(schedule.active for item in read_deployments() for schedule in item.schedules)
    assert not any(trigger["enabled"] for item in read_deployments() for trigger in item.triggers)


def test_the_arrival_trigger_gathers_events_for_a_while_and_the_sweep_is_frequent() -> None:
    [arrival] = [item for item in read_deployments() if item.name == "arrival"]

    assert [(trigger["within"], trigger["threshold"]) for trigger in arrival.triggers] == [(30, 1), (60, 1)]
    assert arrival.concurrency_limit is None
    assert [schedule.interval for schedule in arrival.schedules] == [300]


@pytest.mark.parametrize(
    ("entrypoint", "sentence"),
    [
        ("flows.nowhere.process", "there is no flow flows.nowhere.process"),
        ("flows.exposure.nothing", "there is no flow flows.exposure.nothing"),
        ("flows.exposure.star_catalog", "is not a flow"),
        ("exposure", "there is no flow exposure"),
    ],
)
def test_an_entrypoint_that_is_no_flow_is_named(entrypoint: str, sentence: str) -> None:
    deployment = read_deployments()[0].model_copy(update={"entrypoint": entrypoint})

    with pytest.raises(ConfigError, match=sentence):
        deployment.load_flow()


def test_a_misspelt_key_of_the_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(FILE.read_text())
    content["deployments"][3]["schedules"][0]["timezon"] = "UTC"
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr(declared.importlib.resources, "files", lambda _package: tmp_path)

    with pytest.raises(ConfigError, match="timezon"):
        read_deployments()


def test_an_unknown_type_of_pool_is_refused_by_name() -> None:
    assert [pool_type_of(name) for name in POOL_TYPES] == list(POOL_TYPES)
    with pytest.raises(ConfigError, match="templates for process, docker, kubernetes"):
        pool_type_of("ecs")


def test_prefects_own_command_deploys_the_file_too(own_server: dict[str, str], tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        pool = WorkPoolCreate(name="shearline", type="process", base_job_template=read_job_template("process"))
        client.create_work_pool(pool, overwrite=True)
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | own_server, capture_output=True, text=True, check=False
        )

        assert done.returncode == 0, done.stdout + done.stderr
        for name in NAMES:
            found = client.read_deployment_by_name(f"{name}/{name}")
            assert found.pull_steps == []
            assert found.enforce_parameter_schema
            assert not any(schedule.active for schedule in found.schedules)
