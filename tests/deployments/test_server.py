import re
from pathlib import Path

import pytest
from trial import free_port
from typer.testing import CliRunner

from blocks.store import DataStore
from deployments.cli import app
from deployments.registration import S3Access, make_store, save_block
from deployments.server import check_server, deployed_survey
from flows.cli import Exit
from tasks.errors import ConfigError

pytestmark = pytest.mark.faults

NAMES = [f"{name}/{name}" for name in ("exposure", "tile", "survey", "nightly", "arrival")]


def deploy(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["deploy", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def outcomes(text: str) -> dict[str, str]:
    """What the printed table says became of every deployment."""
    return {name: re.findall(rf"{name} +│ +(\w+)", text)[0] for name in NAMES}


@pytest.fixture
def empty_server(own_server: dict[str, str]) -> None:
    """Have no deployments on the session's server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


@pytest.mark.usefixtures("empty_server")
def test_deploying_says_what_it_created_changed_and_left_alone(tmp_path: Path) -> None:
    where = ("--survey", "demo", "--store", str(tmp_path / "store"), "--raw", str(tmp_path / "raw"))

    first = deploy(*where)
    again = deploy(*where)
    other = deploy(*where, "--set", "exposure.detect.threshold_sigma=3")

    assert [code for code, _ in (first, again, other)] == [Exit.OK] * 3, (first, again, other)
    assert set(outcomes(first[1]).values()) == {"created"}
    assert set(outcomes(again[1]).values()) == {"unchanged"}
    assert outcomes(other[1]) == dict.fromkeys(NAMES, "changed") | {"tile/tile": "unchanged"}


@pytest.mark.usefixtures("empty_server")
def test_a_second_survey_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    assert deployed_survey() is None
    where = ("--raw", str(tmp_path / "raw"), "--store")
    assert deploy("--survey", "demo", *where, str(tmp_path / "demo"))[0] == Exit.OK

    code, text = deploy("--survey", "cfis", *where, str(tmp_path / "cfis"))

    assert code == Exit.CONFIG
    assert "processes survey demo, which survey CFIS would replace" in text
    assert deployed_survey() == "demo"
    assert DataStore.load("products").root == str(tmp_path / "demo")

    code, text = deploy("--survey", "cfis", *where, str(tmp_path / "cfis"), "--replace")

    assert code == Exit.OK, text
    assert deployed_survey() == "CFIS"
    assert set(outcomes(text).values()) == {"changed"}


@pytest.fixture
def block(own_server: dict[str, str], tmp_path: Path) -> str:
    save_block(make_store(str(tmp_path), "v1", S3Access()), "kept-block")
    return "kept-block"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--collection", "v2"), "--collection v2 cannot be given beside the block kept-block"),
        (("--endpoint-url", "http://localhost:1"), "are about s3:// URLs, and none was given"),
        (("--make-buckets",), "are about s3:// URLs, and none was given"),
        (("--pool-type", "ecs"), "Shearline has templates for"),
        (("--survey", "nowhere"), "There is no survey 'nowhere'"),
    ],
)
def test_options_that_would_do_nothing_are_refused(block: str, arguments: tuple[str, ...], sentence: str) -> None:
    code, text = deploy("--store", block, "--raw", block, *arguments)

    assert code == Exit.CONFIG
    assert sentence in text


def test_a_server_that_does_not_answer_is_named(own_server: dict[str, str]) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(ConfigError, match=f"No Prefect server answers at {url}"):
            check_server()
        code, _ = deploy("--survey", "demo")
    assert code == Exit.CONFIG
