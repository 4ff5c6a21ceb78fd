"""Deployments in the Prefect server: what ``prefect.yaml`` declares, with the settings of a survey filled in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from blocks.store import DataStore
from deployments.automations import arrival_automations, crash_zombies, ensure_automation
from deployments.declared import Deployment, PoolType, Schedule, read_deployments, read_job_template
from deployments.registration import Change, block_id
from flows.config import SurveyConfig
from tasks.errors import ConfigError
from tasks.runner import Runner

if TYPE_CHECKING:
    from prefect import Flow

RESULTS_BLOCK = "shearline-results"
"""Name of the block that says where Prefect keeps the results of flow runs."""


@dataclass(frozen=True)
class Target:
    """Where the runs go, and when."""

    pool: str = "shearline"
    pool_type: PoolType = "process"
    image: str | None = None
    """Container image of the runs, for pools that have one."""
    cron: str | None = None
    """Another schedule of the nightly run than that of the file."""
    timezone: str | None = None
    """Time zone of the nightly run."""
    results: bool = False
    """Whether Prefect keeps the results of flow runs in the block ``shearline-results``."""
    active: bool = True
    """Whether schedules and triggers are switched on."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the runs."""


def deploy(config: SurveyConfig, store: str, raw: str, runner: Runner, target: Target) -> list[Change]:
    """Bring work pool, deployments and automations of a survey into the Prefect server; what is there stays or changes.

    Parameters
    ----------
    config
        Settings of the survey; they become the defaults of every run.
    store, raw
        Names of saved blocks.
    runner
        Where the stages of a run are executed.
    target
        Where the runs go, and when.

    Returns
    -------
    list
        What was created, changed or left as it was.

    Raises
    ------
    ConfigError
        If a block, a flow or the pool is not what it should be, or the server refuses something.
    """
    blocks = {"store": block_id(DataStore, store), "raw": block_id(DataStore, raw)}
    with get_client(sync_client=True) as client:
        changes = [ensure_pool(client, target)]
        for deployment in read_deployments():
            flow = deployment.load_flow()
            parameters = default_parameters(flow, config, blocks, runner)
            change, identifier = apply(client, deployment, flow, parameters, target)
            changes.append(change)
            changes += [
                ensure_automation(client, item) for item in arrival_automations(deployment, identifier, target.active)
            ]
        changes.append(ensure_automation(client, crash_zombies()))
    return changes


def ensure_pool(client: SyncPrefectClient, target: Target) -> Change:
    """Create the work pool if it is missing; one that is there keeps its template.

    Raises
    ------
    ConfigError
        If there is a pool of that name and another type.
    """
    if target.image and target.pool_type == "process":
        raise ConfigError(
            f"--image {target.image}: a process pool has no images; use --pool-type docker or kubernetes."
        )
    try:
        found = client.read_work_pool(target.pool)
    except ObjectNotFound:
        template = read_job_template(target.pool_type)
        client.create_work_pool(WorkPoolCreate(name=target.pool, type=target.pool_type, base_job_template=template))
        return Change("work pool", target.pool, "created", target.pool_type)
    if found.type != target.pool_type:
        raise ConfigError(
            f"Work pool {target.pool} is of type {found.type}, not {target.pool_type}; "
            "give another --pool or --pool-type."
        )
    return Change("work pool", target.pool, "unchanged", found.type)


def default_parameters(
    flow: Flow[..., Any], config: SurveyConfig, blocks: Mapping[str, str], runner: Runner
) -> dict[str, Any]:
    """Return what every run of a flow gets unless it is told otherwise.

    The settings are written out, so that the form of the UI shows each of them. Blocks are given by their identifiers,
    the one kind of reference that the form of the UI reads.
    """
    settings = {type(item).__name__: item for item in (config, config.exposure, config.tile)}
    parameters: dict[str, Any] = {}
    for name, parameter in inspect.signature(flow.fn, eval_str=True).parameters.items():
        if name == "config":
            parameters[name] = settings[parameter.annotation.__name__].model_dump(mode="json")
        elif name in blocks:
            parameters[name] = {"$ref": {"block_document_id": blocks[name]}}
        elif name == "runner":
            parameters[name] = runner.model_dump(mode="json")
    return parameters


def apply(
    client: SyncPrefectClient,
    deployment: Deployment,
    flow: Flow[..., Any],
    parameters: Mapping[str, Any],
    target: Target,
) -> tuple[Change, str]:
    """Create a deployment, or change it if it is not as it should be.

    Returns
    -------
    tuple
        What was done, and the identifier of the deployment.

    Raises
    ------
    ConfigError
        If the server refuses it.
    """
    full_name = f"{flow.name}/{deployment.name}"
    wanted = _wanted(deployment, flow, parameters, target)
    try:
        found: DeploymentResponse | None = client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        found = None
    if found is not None and _fields(found) == _normal(wanted):
        return Change("deployment", full_name, "unchanged", _when(deployment, target)), str(found.id)
    try:
        identifier = client.create_deployment(client.create_flow_from_name(flow.name), deployment.name, **wanted)
    except PrefectHTTPStatusError as error:
        reason = error.response.json().get("detail", str(error))
        raise ConfigError(f"The Prefect server refuses deployment {full_name}: {reason}") from error
    return Change("deployment", full_name, "changed" if found else "created", _when(deployment, target)), str(
        identifier
    )


def _wanted(
    deployment: Deployment, flow: Flow[..., Any], parameters: Mapping[str, Any], target: Target
) -> dict[str, Any]:
    limit = deployment.concurrency_limit
    return {
        "description": deployment.description,
        "tags": list(deployment.tags),
        "entrypoint": deployment.entrypoint,
        "pull_steps": [],
        "parameters": dict(parameters),
        "parameter_openapi_schema": parameter_schema(flow).model_dump(),
        "enforce_parameter_schema": True,
        "schedules": [_schedule(item, target) for item in deployment.schedules],
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": ConcurrencyOptions(collision_strategy=limit.collision_strategy) if limit else None,
        "work_pool_name": target.pool,
        "work_queue_name": deployment.work_pool.work_queue_name,
        "job_variables": _job_variables(deployment, target),
        "paused": False,
    }


def _job_variables(deployment: Deployment, target: Target) -> dict[str, Any]:
    declared = deployment.work_pool.job_variables
    environment = {**declared.get("env", {}), **target.environment}
    if target.results:
        environment["PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK"] = f"remote-file-system/{RESULTS_BLOCK}"
        environment["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] = "true"
    return {**declared, "env": environment} | ({"image": target.image} if target.image else {})


def _schedule(schedule: Schedule, target: Target) -> DeploymentScheduleCreate:
    timezone = schedule.timezone
    try:
        if schedule.cron is not None:
            timezone = target.timezone or timezone
            when: Any = CronSchedule(cron=target.cron or schedule.cron, timezone=timezone)
        else:
            when = IntervalSchedule.model_validate(
                {"interval": schedule.interval, "anchor_date": schedule.anchor_date, "timezone": timezone}
            )
        return DeploymentScheduleCreate(schedule=when, active=target.active, slug=schedule.slug)
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"Schedule {target.cron or schedule.cron!r} in time zone {timezone!r}: {fault}.") from error


def _when(deployment: Deployment, target: Target) -> str:
    words = []
    for item in deployment.schedules:
        if item.cron is not None:
            words.append(f"{target.cron or item.cron} {target.timezone or item.timezone}")
        else:
            words.append(f"every {item.interval:g} s")
    if deployment.triggers:
        words.append("on arrival")
    return ("" if target.active or not words else "off: ") + ", ".join(words)


def _normal(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is wanted in the form in which the server answers."""
    options = wanted["concurrency_options"]
    return {
        **wanted,
        "schedules": _schedules(wanted["schedules"]),
        "concurrency_options": options.model_dump(mode="json", exclude_none=True) if options else None,
    }


def _fields(found: DeploymentResponse) -> dict[str, Any]:
    limit, options = found.global_concurrency_limit, found.concurrency_options
    return {
        "description": found.description,
        "tags": found.tags,
        "entrypoint": found.entrypoint,
        "pull_steps": found.pull_steps or [],
        "parameters": found.parameters,
        "parameter_openapi_schema": found.parameter_openapi_schema,
        "enforce_parameter_schema": found.enforce_parameter_schema,
        "schedules": _schedules(found.schedules),
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": options.model_dump(mode="json", exclude_none=True) if options else None,
        "work_pool_name": found.work_pool_name,
        "work_queue_name": found.work_queue_name,
        "job_variables": found.job_variables,
        "paused": found.paused,
    }


def _schedules(schedules: Any) -> list[Any]:  # noqa: ANN401 (the two kinds of Prefect's schedules)
    return sorted(
        (str(item.slug), item.active, item.schedule.model_dump(mode="json", exclude_none=True)) for item in schedules
    )
