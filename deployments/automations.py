"""Automations: what the Prefect server does by itself when something happens, or ceases to happen."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import DeploymentTriggerTypes, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore
from pydantic import TypeAdapter, ValidationError

from deployments.declared import Deployment
from deployments.registration import Change
from tasks.errors import ConfigError

HEARTBEAT_S = 30
"""Seconds between the heartbeats of a flow run, as ``prefect.yaml`` sets it for every deployment."""

SILENCE_S = 8 * HEARTBEAT_S
"""Seconds without a heartbeat after which a flow run counts as dead: more than the 180 s between two of Prefect's own,
so that a run which was not told ours is not taken for dead."""

TAG = "shearline"
"""Tag of every deployment of ``prefect.yaml``, and so of its runs."""

ENDED = tuple(f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "TimedOut", "Cancelled", "Crashed"))


def crash_zombies(name: str = "shearline zombies", silence_s: float = SILENCE_S) -> AutomationCore:
    """Return the automation that marks runs of the deployments as crashed whose heartbeat stopped.

    A run whose process was killed together with its worker says nothing, and would stay Running for good. Runs without
    the tag are left alone: on a server that others use too, nobody knows how often they send heartbeats.
    """
    return AutomationCore(
        name=name,
        description="Mark runs of Shearline as crashed whose heartbeat stopped: the machine or the worker died.",
        trigger=EventTrigger(
            # also of a run that dies before its first heartbeat has arrived
            after={"prefect.flow-run.Running", "prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ENDED},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": ["tag"], "prefect.resource.id": [f"prefect.tag.{TAG}"]}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No heartbeat for {silence_s:g} s: the process or its machine died.",
            )
        ],
    )


def arrival_automations(deployment: Deployment, identifier: str, active: bool) -> list[AutomationCore]:
    """Return the automations that start a deployment when something happens.

    Raises
    ------
    ConfigError
        If a trigger is not one that Prefect knows.
    """
    adapter: TypeAdapter[DeploymentTriggerTypes] = TypeAdapter(DeploymentTriggerTypes)
    automations = []
    for declared in deployment.triggers:
        try:
            trigger = adapter.validate_python({**declared, "enabled": active})
        except ValidationError as error:
            raise ConfigError(
                f"Deployment {deployment.name}: trigger {declared}: {error.errors()[0]['msg']}"
            ) from error
        trigger.set_deployment_id(UUID(identifier))
        automations.append(trigger.as_automation())
    return automations


def ensure_automation(client: SyncPrefectClient, wanted: AutomationCore) -> Change:
    """Create an automation, or change the one that has its name; copies of it are removed."""
    found = client.read_automations_by_name(wanted.name)
    if not found:
        client.create_automation(wanted)
        return Change("automation", wanted.name, "created")
    for copy in found[1:]:
        client.delete_automation(copy.id)
    if _described(found[0]) == _described(wanted):
        return Change("automation", wanted.name, "unchanged")
    # every field set: the client leaves out what is not, and the server cannot tell the kind of an action then
    complete = AutomationCore.model_validate(wanted.model_dump(exclude={"owner_resource"}))
    client.update_automation(found[0].id, complete)
    return Change("automation", wanted.name, "changed")


def _described(automation: AutomationCore) -> dict[str, object]:
    """Return the automation as JSON, without what the server adds."""
    fields = {name for name in AutomationCore.model_fields if name != "owner_resource"}
    described = automation.model_dump(mode="json", include=fields)
    described["trigger"].pop("id", None)
    for name in ("after", "expect", "for_each"):
        described["trigger"][name] = sorted(described["trigger"].get(name, ()))
    return described
