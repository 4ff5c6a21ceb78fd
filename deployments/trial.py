"""What `shearline up` does, in order: server, blocks, deployments, something to process, a worker, and watching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deployments.deploy import Target, deploy
from deployments.registration import S3Access, register_types, store_block
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


def run_trial(
    place: Place,
    survey: str,
    changes: Sequence[str],
    workers: int,
    runs: int,
    simulate: bool,
    watch: bool,
    say: Say,
) -> None:
    """Run server, worker and store until the process is asked to stop.

    Parameters
    ----------
    place
        Folder and address, claimed for this run.
    survey, changes
        The survey that is deployed.
    workers
        Worker processes of a flow run.
    runs
        Flow runs at the same time.
    simulate
        Whether the raw exposures are simulated first.
    watch
        Whether files that arrive in the raw store are noticed.
    say
        Prints one line.

    Raises
    ------
    ConfigError
        If the settings cannot be used, or the server does not start.
    """
    config = load_survey(survey, changes)
    if simulate and config.simulation is None:
        raise ConfigError(f"Survey {config.name} has no `simulation` settings, so there is nothing to simulate.")
    runner = Runner(workers=workers)
    with Supervisor(place.environment(), say) as supervisor:
        say(f"Starting a Prefect server in {place.root} …")
        server = server_service(place)
        supervisor.start(server)
        supervisor.wait_for(lambda: is_healthy(place), server)
        _deploy(place, config, runner)
        supervisor.start(worker_service(place, POOL, runs))
        if watch:
            supervisor.start(shearline_service(place, "watch", _watched(place, survey, changes)))
        if simulate:
            say("Simulating raw exposures …")
            supervisor.run_to_end(simulation_service(place, survey, workers, changes))
        for line in _greeting(place, config):
            say(line)
        supervisor.run()
    say("Stopped. The same command goes on where this one ended.")


def _deploy(place: Place, config: SurveyConfig, runner: Runner) -> None:
    register_types()
    store, _ = store_block(str(place.store), "products", "main", S3Access())
    raw, _ = store_block(str(place.store), "raw", "raw", S3Access())
    deploy(config, store, raw, runner, Target(pool=POOL))


def _watched(place: Place, survey: str, changes: Sequence[str]) -> list[str]:
    settings = [word for change in changes for word in ("--set", change)]
    return [
        str(place.store / "raw"),
        "--survey",
        survey,
        *settings,
        "--store",
        str(place.store),
        "--collection",
        "main",
    ]


def _greeting(place: Place, config: SurveyConfig) -> list[str]:
    return [
        "",
        f"The UI is at {place.ui_url}",
        f"Raw files belong in {place.store / 'raw'}, products go to {place.store / 'main'}.",
        "In another terminal:",
        "",
        f"  export PREFECT_API_URL={place.api_url}",
        "  prefect deployment run survey/survey --watch",
        "  prefect deployment run nightly/nightly --watch",
        f"  shearline deploy --survey {config.name.lower()} --set exposure.detect.threshold_sigma=2",
        "",
        "Ctrl-C stops everything.",
    ]
