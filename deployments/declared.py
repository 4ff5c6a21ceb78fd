"""What is declared in ``prefect.yaml`` and in the templates of the work pools."""

from __future__ import annotations

import importlib
import importlib.resources
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import ConfigError

if TYPE_CHECKING:
    from prefect import Flow

PREFECT_FILE = "prefect.yaml"

PoolType = Literal["process", "docker", "kubernetes"]
POOL_TYPES: tuple[PoolType, ...] = ("process", "docker", "kubernetes")
"""Work pools that Shearline has a template for."""


class Declared(BaseModel):
    """A part of the file: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Schedule(Declared):
    """When a deployment runs: a cron line or an interval."""

    slug: str
    """Name of the schedule within its deployment."""

    cron: str | None = None
    """Minute, hour, day of month, month, day of week."""

    interval: Annotated[float, Field(gt=0)] | None = None
    """Seconds from one run to the next."""

    anchor_date: str | None = None
    """A time at which an interval begins."""

    timezone: str = "UTC"
    """Time zone of the cron line."""

    active: bool = True
    """Whether runs are scheduled."""


class ConcurrencyLimit(Declared):
    """How many runs of a deployment there may be at once."""

    limit: Annotated[int, Field(ge=1)]
    """Number of runs."""

    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]
    """What becomes of a run that is too many."""


class Pool(Declared):
    """Which work pool and queue the runs go to."""

    name: str
    """Work pool."""

    work_queue_name: str
    """Queue of the pool."""

    job_variables: dict[str, Any] = Field(default_factory=dict)
    """What the runs get beyond the template of the pool, such as environment variables."""


class Deployment(Declared):
    """One deployment of one flow."""

    name: str
    """Name of the deployment."""

    entrypoint: str
    """Module and name of the flow, with dots."""

    description: str
    """A sentence for the UI."""

    tags: tuple[str, ...]
    """Tags of the deployment and its runs."""

    work_pool: Pool
    """Where the runs go."""

    concurrency_limit: ConcurrencyLimit | None = None
    """How many runs at once; without it any number."""

    schedules: tuple[Schedule, ...] = ()
    """When it runs by itself."""

    triggers: tuple[dict[str, Any], ...] = ()
    """Events that start it, in Prefect's words."""

    def load_flow(self) -> Flow[..., Any]:
        """Import the flow.

        Raises
        ------
        ConfigError
            If the entry point does not name a flow.
        """
        from prefect import Flow

        module, _, name = self.entrypoint.rpartition(".")
        try:
            flow = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"Deployment {self.name}: there is no flow {self.entrypoint}: {error}.") from error
        if not isinstance(flow, Flow):
            raise ConfigError(f"Deployment {self.name}: {self.entrypoint} is not a flow.")
        return cast("Flow[..., Any]", flow)


class PrefectFile(Declared):
    """The whole file."""

    name: str
    """Name of the project."""

    pull: tuple[()] = ()
    """Steps that fetch the code before a run: none, as it is installed with the workers."""

    deployments: tuple[Deployment, ...]
    """The deployments."""


def read_deployments() -> tuple[Deployment, ...]:
    """Return the deployments of ``prefect.yaml``.

    Raises
    ------
    ConfigError
        If the file does not hold what it should.
    """
    text = (importlib.resources.files("deployments") / PREFECT_FILE).read_text(encoding="utf-8")
    try:
        return PrefectFile.model_validate(yaml.safe_load(text)).deployments
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"{PREFECT_FILE}: {' '.join(str(error).split())}") from error


def pool_type_of(text: str) -> PoolType:
    """Return the type of a work pool that the command line gave.

    Raises
    ------
    ConfigError
        If there is no template for it.
    """
    for known in POOL_TYPES:
        if text == known:
            return known
    raise ConfigError(f"--pool-type {text}: Shearline has templates for {', '.join(POOL_TYPES)}.")


def read_job_template(pool_type: PoolType) -> dict[str, Any]:
    """Return the base job template of a kind of work pool."""
    text = (importlib.resources.files("deployments") / "pools" / f"{pool_type}.json").read_text(encoding="utf-8")
    template: dict[str, Any] = json.loads(text)
    return template
