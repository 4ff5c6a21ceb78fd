"""What `shearline up` does, in order: server, blocks, deployments, something to process, a worker, and watching."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.deploy import Target, deploy
from deployments.registration import FIRST_COLLECTION, S3Access, register_types, store_block
from deployments.server import refuse_another_survey
from deployments.up import (
    Place,
    Say,
    Supervisor,
    is_healthy,
    server_service,
    shearline_service,
    simulation_service,
    worker_service,
)
from flows.config import load_survey
from tasks.errors import ConfigError
from tasks.runner import Runner

if TYPE_CHECKING:
    from flows.config import SurveyConfig

POOL = "shearline"


@dataclass(frozen=True)
class Trial:
    """What is tried, and with how much of the machine."""

    survey: str
    """Survey that is deployed: a file, or the name of one."""
    changes: tuple[str, ...] = ()
    """Changes of its settings."""
    workers: int = 2
    """Worker processes of a flow run."""
    runs: int = 2
    """Flow runs at the same time."""
    simulate: bool = False
    """Whether the raw exposures are simulated first."""
    watch: bool = False
    """Whether files that arrive in the raw store are noticed."""
    replace: bool = False
    """Whether the survey may take the place of another one that was tried in the same folder."""


def run_trial(place: Place, trial: Trial, say: Say) -> None:
    """Run server, worker and store until the process is asked to stop.

    Parameters
    ----------
    place
        Folder and address, claimed for this run.
    trial
        What is tried.
    say
        Prints one line.

    Raises
    ------
    ConfigError
        If the settings cannot be used, or the server does not start.
    """
    config = load_survey(trial.survey, trial.changes)
    if trial.simulate and config.simulation is None:
        raise ConfigError(f"Survey {config.name} has no `simulation` settings, so there is nothing to simulate.")
    with Supervisor(place.environment(), say) as supervisor:
        say(f"Starting a Prefect server in {place.root} …")
        server = server_service(place)
        supervisor.start(server)
        supervisor.wait_for(lambda: is_healthy(place), server)
        if not trial.replace:
            refuse_another_survey(config.name)
        _deploy(place, config, Runner(workers=trial.workers))
        supervisor.start(worker_service(place, POOL, trial.runs))
        if trial.watch:
            supervisor.start(shearline_service(place, "watch", _watched(place, trial)))
        if trial.simulate:
            say("Simulating raw exposures …")
            supervisor.run_to_end(simulation_service(place, trial.survey, trial.workers, trial.changes))
        for line in greeting(place, trial):
            say(line)
        supervisor.run()
    say("Stopped. The same command goes on where this one ended.")


def _deploy(place: Place, config: SurveyConfig, runner: Runner) -> None:
    register_types()
    store, _ = store_block(str(place.store), "products", FIRST_COLLECTION, S3Access())
    raw, _ = store_block(str(place.store), "raw", "raw", S3Access())
    deploy(config, store, raw, runner, Target(pool=POOL))


def _settings(trial: Trial) -> list[str]:
    return ["--survey", trial.survey, *(word for change in trial.changes for word in ("--set", change))]


def _watched(place: Place, trial: Trial) -> list[str]:
    products = ["--store", str(place.store), "--collection", FIRST_COLLECTION]
    return [str(place.store / "raw"), *_settings(trial), *products]


def greeting(place: Place, trial: Trial) -> list[str]:
    """Return what is said when everything runs: addresses, folders, commands to try, and who else may use them."""
    again = shlex.join(["shearline", "deploy", *_settings(trial), "--workers", str(trial.workers)])
    lines = [
        "",
        f"The UI is at {place.ui_url}",
        f"Raw files belong in {place.store / 'raw'}, products go to {place.store / FIRST_COLLECTION}.",
        "In another terminal:",
        "",
        f"  export PREFECT_API_URL={place.api_url}",
        "  prefect deployment run survey/survey --watch",
        "  prefect deployment run nightly/nightly --watch",
        f"  {again} --set exposure.detect.threshold_sigma=2",
        "",
    ]
    if not place.is_private:
        lines += [
            f"The server listens at {place.host} and has no authentication: whoever reaches port {place.port} can "
            "start runs here and read what the blocks keep. Leave out --host, or see that only you reach it.",
            "",
        ]
    return [*lines, "Ctrl-C stops everything."]
