import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blocks.store import DataStore
from deployments.deploy import Target, deploy
from deployments.registration import Change
from flows.config import SurveyConfig, load_survey
from tasks.errors import ConfigError
from tasks.runner import Runner

Blocks = tuple[str, str]


def deployed(survey: SurveyConfig, blocks: Blocks, **target: Any) -> dict[str, Change]:
    return {change.name: change for change in deploy(survey, *blocks, Runner(workers=3), Target(**target))}


@pytest.fixture(scope="module")
def as_usual(blocks: Blocks) -> None:
    """Deploy once; what the server refuses depends on the types of the parameters, not on their defaults."""
    deployed(load_survey("demo"), blocks)


def read(name: str) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(name)


def create_run(name: str, **parameters: Any) -> str:
    """Create a flow run as the UI does; return why the server refuses it, or nothing."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    with get_client(sync_client=True) as client:
        try:
            run = client.create_flow_run_from_deployment(read(name).id, parameters=parameters)
        except PrefectHTTPStatusError as error:
            return f"{error.response.status_code}: {error.response.json()['detail']}"
        client.delete_flow_run(run.id)
    return ""


def test_every_setting_is_a_default_of_the_run_form(survey: SurveyConfig, blocks: Blocks) -> None:
    deployed(survey, blocks)
    expected = {
        "exposure": survey.exposure,
        "tile": survey.tile,
        "survey": survey,
        "nightly": survey,
        "arrival": survey,
    }

    for name, config in expected.items():
        parameters = read(f"{name}/{name}").parameters
        assert type(config).model_validate(parameters["config"]) == config
        assert Runner.model_validate(parameters["runner"]) == Runner(workers=3)


def test_the_run_form_describes_and_bounds_every_setting(survey: SurveyConfig, blocks: Blocks) -> None:
    deployed(survey, blocks)
    schema = read("exposure/exposure").parameter_openapi_schema

    threshold = schema["definitions"]["DetectConfig"]["properties"]["threshold_sigma"]
    assert threshold["exclusiveMinimum"] == 0
    settings = [item for item in schema["definitions"].values() if item["title"].endswith("Config")]
    assert len(settings) >= 9
    assert all(field.get("description") for item in settings for field in item["properties"].values())


def test_blocks_are_referred_to_by_identifier_which_is_what_the_run_form_reads(
    survey: SurveyConfig, blocks: Blocks
) -> None:
    deployed(survey, blocks)
    parameters = read("tile/tile").parameters

    assert set(parameters["store"]["$ref"]) == {"block_document_id"}
    assert DataStore.load_from_ref(parameters["store"]["$ref"]).url.endswith("/store/main")
    assert DataStore.load_from_ref(parameters["raw"]["$ref"]).url.endswith("/store/raw")


def test_deploying_twice_changes_nothing(survey: SurveyConfig, blocks: Blocks) -> None:
    deployed(survey, blocks)
    before = read("nightly/nightly")

    assert {change.outcome for change in deployed(survey, blocks).values()} == {"unchanged"}
    assert read("nightly/nightly").updated == before.updated


def test_only_what_a_setting_reaches_is_changed(survey: SurveyConfig, blocks: Blocks) -> None:
    deployed(survey, blocks)
    tile = survey.tile.model_copy(update={"detect": survey.tile.detect.model_copy(update={"threshold_sigma": 2.5})})
    changes = deployed(survey.model_copy(update={"tile": tile}), blocks)

    changed = {name for name, change in changes.items() if change.outcome != "unchanged"}
    assert changed == {"tile/tile", "survey/survey", "nightly/nightly", "arrival/arrival"}


def test_the_night_starts_when_it_is_told_to(survey: SurveyConfig, blocks: Blocks) -> None:
    deployed(survey, blocks, cron="30 7 * * *", timezone="Atlantic/Canary")
    [schedule] = read("nightly/nightly").schedules

    assert schedule.active
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("30 7 * * *", "Atlantic/Canary")


@pytest.mark.parametrize("target", [{"cron": "every night"}, {"timezone": "Mars/Olympus"}])
def test_a_schedule_that_cannot_be_is_refused(survey: SurveyConfig, blocks: Blocks, target: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"Schedule .* in time zone"):
        deployed(survey, blocks, **target)


def test_one_night_at_a_time_while_arrival_runs_settle_it_by_their_lease(survey: SurveyConfig, blocks: Blocks) -> None:
    deployed(survey, blocks)

    found = read("nightly/nightly")
    assert found.global_concurrency_limit.limit == 1
    assert found.concurrency_options.collision_strategy == "CANCEL_NEW"
    assert read("arrival/arrival").global_concurrency_limit is None


def test_paused_schedules_and_triggers_stay_off(survey: SurveyConfig, blocks: Blocks) -> None:
    from prefect.client.orchestration import get_client

    def switched_on() -> list[bool]:
        with get_client(sync_client=True) as client:
            return [
                client.read_automations_by_name(name)[0].enabled
                for name in ("shearline arrival", "shearline arrival after a crash")
            ]

    deployed(survey, blocks, active=False)
    assert switched_on() == [False, False]
    assert not any(schedule.active for schedule in read("arrival/arrival").schedules)

    deployed(survey, blocks)
    assert switched_on() == [True, True]
    assert all(schedule.active for schedule in read("arrival/arrival").schedules)


def test_copies_of_an_automation_are_removed(survey: SurveyConfig, blocks: Blocks) -> None:
    from prefect.client.orchestration import get_client

    from deployments.automations import crash_zombies

    deployed(survey, blocks)
    with get_client(sync_client=True) as client:
        client.create_automation(crash_zombies())
        deployed(survey, blocks)

        assert len(client.read_automations_by_name("shearline zombies")) == 1


def test_every_run_sends_heartbeats_as_often_as_the_automation_expects(
    survey: SurveyConfig, blocks: Blocks, tmp_path: Path
) -> None:
    from deployments.automations import HEARTBEAT_S, TAG
    from deployments.declared import read_deployments

    deployed(survey, blocks)

    for item in read_deployments():
        found = read(f"{item.name}/{item.name}")
        assert found.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_S)
        assert TAG in found.tags
    # runs of a shell too, unless its environment says otherwise
    shell = "from flows.cli.shell import set_up_prefect as s; s(None); import prefect.settings as p; "
    shell += "print(p.get_current_settings().flows.heartbeat_frequency)"
    for given, expected in (({}, HEARTBEAT_S), ({"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "77"}, 77)):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment = {**kept, "PREFECT_HOME": str(tmp_path), **given}
        assert subprocess.check_output([sys.executable, "-c", shell], env=environment, text=True) == f"{expected}\n"


def test_results_on_s3_are_json_and_never_pickles(survey: SurveyConfig, blocks: Blocks) -> None:
    from deployments.declared import POOL_TYPES, read_job_template

    deployed(survey, blocks, results=True)

    assert read("exposure/exposure").job_variables["env"] == {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": "remote-file-system/shearline-results",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
    }
    for pool_type in POOL_TYPES:
        environment = read_job_template(pool_type)["variables"]["properties"]["env"]["default"]
        assert environment["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"


def test_an_image_needs_a_pool_that_has_images(survey: SurveyConfig, blocks: Blocks) -> None:
    with pytest.raises(ConfigError, match="a process pool has no images"):
        deployed(survey, blocks, image="shearline:1")

    deployed(survey, blocks, pool="shearline-docker", pool_type="docker", image="shearline:1")
    assert read("tile/tile").job_variables["image"] == "shearline:1"
    assert read("tile/tile").work_pool_name == "shearline-docker"


def test_a_pool_of_another_type_is_named(survey: SurveyConfig, blocks: Blocks) -> None:
    deployed(survey, blocks)

    with pytest.raises(ConfigError, match="Work pool shearline is of type process, not docker"):
        deployed(survey, blocks, pool_type="docker")


def test_a_block_that_is_not_there_is_named(survey: SurveyConfig, blocks: Blocks) -> None:
    with pytest.raises(ConfigError, match="There is no block shearline-data-store/nowhere"):
        deployed(survey, ("nowhere", blocks[1]))


def changed(config: dict[str, Any], stage: str, **values: Any) -> dict[str, Any]:
    other = copy.deepcopy(config)
    other[stage].update(values)
    return other


REFUSED = [
    ("a negative threshold", {"exposure": "2113737"}, {"threshold_sigma": -1}, "threshold_sigma"),
    ("a misspelt setting", {"exposure": "2113737"}, {"treshold_sigma": 2}, "treshold_sigma"),
    ("a choice that is not offered", {"exposure": "2113737"}, {"background": "some"}, "background"),
    ("text for a number", {"exposure": "2113737"}, {"min_area_px": "five"}, "min_area_px"),
    ("a name that leaves the store", {"exposure": "../x"}, {}, "does not match"),
    ("an absolute name", {"exposure": "/etc/passwd"}, {}, "does not match"),
    ("a name with NUL", {"exposure": "a\0b"}, {}, "does not match"),
    ("a name of 10 kB", {"exposure": "x" * 10_000}, {}, "does not match"),
    ("no exposure", {}, {}, "'exposure' is a required property"),
    ("an unknown runner", {"exposure": "2113737", "runner": {"kind": "ray"}}, {}, "runner"),
]


@pytest.mark.parametrize(
    ("parameters", "detect", "sentence"), [item[1:] for item in REFUSED], ids=[i[0] for i in REFUSED]
)
@pytest.mark.usefixtures("as_usual")
def test_the_server_refuses_a_run_with(
    survey: SurveyConfig, parameters: dict[str, Any], detect: dict[str, Any], sentence: str
) -> None:
    config = changed(survey.exposure.model_dump(mode="json"), "detect", **detect)

    answer = create_run("exposure/exposure", config=config, **parameters)

    assert answer.startswith("409: ")
    assert sentence in answer


@pytest.mark.parametrize("tile", ["../x", "210", "210.296.1", "x" * 10_000])
@pytest.mark.usefixtures("as_usual")
def test_the_server_refuses_a_run_of_what_is_no_tile(tile: str) -> None:
    assert "does not match" in create_run("tile/tile", tile=tile)
    assert "does not match" in create_run("tile/tile", tile="210.296", exposures=["../x"])


@pytest.mark.usefixtures("as_usual")
def test_the_server_takes_a_run_with_good_values() -> None:
    assert create_run("exposure/exposure", exposure="2113737") == ""
    assert create_run("tile/tile", tile="210-296", exposures=["2113737"]) == ""
    assert create_run("survey/survey") == ""
    by_name = {"$ref": {"block_document_slug": "shearline-data-store/products"}}
    assert create_run("tile/tile", tile="210.296", store=by_name) == ""
