import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

import deployments
from deployments.cli import app
from deployments.registration import S3Access, make_bucket, make_store
from tasks.archive.inbox import list_arrivals
from tasks.products.identity import ExposureId

FOLDER = Path(deployments.__file__).parent
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WATCH = SERVICES["watch"]
# what `filled` writes where the env file leaves the choice to the user
EXAMPLE_KEY = "filled"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
EXAMPLE = dict(
    line.split("=", 1)
    for line in (FOLDER / ".env.example").read_text().splitlines()
    if line and not line.startswith("#")
)
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
SECRETS = ("POSTGRES_PASSWORD", "PREFECT_AUTH", "S3_ACCESS_KEY", "S3_SECRET_KEY")


def words(value: object) -> list[str]:
    """All text in a part of the file."""
    if isinstance(value, dict):
        return [word for item in value.values() for word in words(item)]
    if isinstance(value, list):
        return [word for item in value for word in words(item)]
    return [str(value)]


def filled(text: str) -> str:
    """Text with its variables filled in."""
    return VARIABLE.sub(lambda found: EXAMPLE.get(found[1]) or "filled", text)


def test_the_services_are_those_of_a_production_system() -> None:
    assert set(SERVICES) == {"postgres", "server", "store", "setup", "watch", "worker"}


def test_every_image_is_pinned() -> None:
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[a-z/]+:\d+[.\d]*(-\w+)?", service["image"]), name
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["python:3.11.13-slim-bookworm"] * 2


def test_every_service_waits_for_services_that_exist_and_say_when_they_are_ready() -> None:
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            assert other in SERVICES, name
            needed = condition["condition"]
            assert needed == "service_completed_successfully" or "healthcheck" in SERVICES[other], (name, other)


def test_everything_that_runs_for_good_is_checked_and_started_again() -> None:
    for name in set(SERVICES) - {"setup"}:
        assert SERVICES[name]["restart"] == "unless-stopped", name
        # the watch answers nobody: it works as long as it runs
        assert "healthcheck" in SERVICES[name] or name == "watch", name


def test_what_must_last_is_on_a_volume() -> None:
    sources = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    mounted = {source for source in sources if not source.startswith(".")}

    assert mounted == set(COMPOSE["volumes"])
    assert {"database", "objects"} <= mounted


@pytest.mark.parametrize("name", ["setup", "watch"])
def test_a_survey_is_read_from_the_folder_beside_the_file_and_not_from_the_image(name: str) -> None:
    from flows.config import load_survey

    [(source, target)] = [volume.removesuffix(":ro").split(":") for volume in SERVICES[name]["volumes"]]
    command = [filled(word) for word in SERVICES[name]["command"]]
    survey = Path(command[command.index("--survey") + 1])

    assert survey.parent == Path(target)
    assert load_survey(str(FOLDER / source / survey.name)).name == "CFIS"


def test_there_are_no_passwords_but_in_the_env_file() -> None:
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|AUTH|ACCESS_KEY|CONNECTION_URL", key):
                found = VARIABLE.findall(str(value))
                assert found, (name, key)
                assert all(kind == "?" for _, kind, _ in found), (name, key)
    assert all(EXAMPLE[name] == "" for name in SECRETS)


def test_the_env_file_explains_every_variable() -> None:
    used = {found[0] for word in words(COMPOSE) for found in VARIABLE.findall(word)}

    assert used == set(EXAMPLE)


def test_only_this_machine_reaches_the_ports() -> None:
    assert all(port.startswith("127.0.0.1:") for service in SERVICES.values() for port in service.get("ports", ()))


def test_prefect_knows_every_variable_that_is_meant_for_it() -> None:
    from prefect.settings.models.root import Settings
    from pydantic import AliasChoices

    known: set[str] = set()

    def collect(model: Any) -> None:
        for field in model.model_fields.values():
            if hasattr(field.annotation, "model_fields"):
                collect(field.annotation)
            alias = field.validation_alias
            if isinstance(alias, AliasChoices):
                known.update(choice.upper() for choice in alias.choices if isinstance(choice, str))
        prefix = model.model_config.get("env_prefix", "")
        known.update(f"{prefix}{name}".upper() for name in model.model_fields)

    collect(Settings)
    set_in_compose = {key for service in SERVICES.values() for key in service.get("environment", {})}
    set_in_image = set(re.findall(r"\b(PREFECT_\w+)=", DOCKERFILE))
    wanted = {key for key in set_in_compose | set_in_image if key.startswith("PREFECT_")}

    assert len(wanted) >= 7
    assert wanted - known == set()


def test_setup_is_a_command_that_shearline_understands() -> None:
    program, *arguments = [filled(word) for word in SERVICES["setup"]["command"]]
    command: Any = typer.main.get_command(app)

    assert program == "shearline"
    command = command.commands[arguments.pop(0)]
    parameters = command.make_context("deploy", arguments).params
    assert parameters["secret_key_from"] in SERVICES["setup"]["environment"]
    assert parameters["make_buckets"]
    assert not parameters["replace"]


@pytest.mark.parametrize(("value", "replaces"), [("false", False), ("true", True)])
def test_setup_replaces_a_survey_only_if_the_env_file_says_so(
    value: str, replaces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program, name, *arguments = [filled(word) for word in SERVICES["setup"]["command"]]
    command: Any = typer.main.get_command(app)
    variable = SERVICES["setup"]["environment"]["SHEARLINE_REPLACE"]
    monkeypatch.setenv("SHEARLINE_REPLACE", VARIABLE.sub(value, variable))

    assert EXAMPLE["REPLACE"] == "false"
    assert command.commands[name].make_context(name, arguments).params["replace"] == replaces


def test_the_watch_announces_what_lies_in_the_raw_bucket(prefect_server: None, tmp_path: Path) -> None:
    from prefect.settings import get_current_settings

    program, *arguments = [
        filled(word).replace("/surveys/cfis", str(FOLDER / "surveys/demo")) for word in WATCH["command"]
    ]
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        access = S3Access(f"http://{host}:{port}", EXAMPLE_KEY, SecretStr(EXAMPLE_KEY))
        for bucket in ("s3://raw", "s3://products"):
            make_bucket(bucket, access)
        raw, products = make_store("s3://raw", "", access), make_store("s3://products", "main", access)
        for suffix in ("p.fits.fz", "p.weight.fits.fz", "p.flag.fits.fz"):
            raw.put_bytes(f"2113737{suffix}", b"pixels")
        environment = {name: filled(value) for name, value in WATCH["environment"].items()}
        assert environment["AWS_ENDPOINT_URL"] == "http://store:8333"
        environment |= {
            "AWS_ENDPOINT_URL": str(access.endpoint_url),
            "PREFECT_API_URL": str(get_current_settings().api.url),
            "PREFECT_HOME": str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", *arguments, "--interval", "0.1", "--once"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

        assert program == "shearline"
        assert (done.returncode, done.stdout) == (0, "announced 2113737\n"), done.stderr
        assert list(list_arrivals(products)) == [ExposureId("2113737")]
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["server", "worker"])
def test_server_and_worker_are_commands_that_prefect_understands(name: str) -> None:
    from prefect.cli._app import _app

    program, *arguments = [filled(word) for word in SERVICES[name]["command"]]

    assert program == "prefect"
    _command, bound, _ignored = _app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert bound.arguments


def test_the_worker_takes_runs_from_the_pool_that_setup_creates() -> None:
    from deployments.deploy import Target

    command = SERVICES["worker"]["command"]

    assert command[command.index("--pool") + 1] == Target().pool
    assert command[command.index("--type") + 1] == Target().pool_type


def test_the_image_installs_the_pinned_versions_and_does_not_run_as_root() -> None:
    lines = DOCKERFILE.replace("\\\n", " ").splitlines()
    [install] = [line for line in lines if "pip install" in line]
    copied = {
        word for line in lines if line.startswith("COPY") and "--from" not in line for word in shlex.split(line)[1:-1]
    }

    assert "-c constraints.txt" in install
    assert {"blocks", "tasks", "flows", "deployments", "pyproject.toml", "constraints.txt"} <= copied
    assert all((FOLDER.parent / name).exists() for name in copied)
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
