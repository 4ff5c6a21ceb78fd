"""The demo: simulate a small survey, process it all the way, and compare the recovered shear with the input."""

from __future__ import annotations

import time
from pathlib import Path

from prefect import flow
from pydantic import BaseModel, ConfigDict

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.outcome import TASK_RUNNER
from flows.survey import SurveyProducts, process_survey
from tasks.archive.documents import read_document
from tasks.errors import ConfigError
from tasks.products.identity import ProductRef, SetAside
from tasks.products.shear import SurveyShear
from tasks.runner import LOCAL, Runner
from tasks.session import Outcome, Session, session
from tasks.simulate import (
    SimulationConfig,
    list_simulated_exposures,
    list_survey_task,
    simulate_exposure_task,
    simulate_sky_task,
)

REPORT = "report.html"
SUMMARY = "summary.json"


class Recovered(BaseModel):
    """One shear component: what was put in and what came out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    true: float
    recovered: float
    error: float

    @property
    def sigmas(self) -> float:
        """Difference in units of the error."""
        return (self.recovered - self.true) / self.error


class RecoveredShear(BaseModel):
    """Both components."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    g1: Recovered
    g2: Recovered


class DemoSummary(BaseModel):
    """The demo in numbers, for machines; written as ``summary.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shear: RecoveredShear
    n_exposures: int
    n_ccds: int
    n_objects: int
    n_measured: int
    set_aside: tuple[SetAside, ...]
    stages_run: int
    stages_reused: int
    stage_seconds: dict[str, float]
    wall_s: float
    catalog: str
    report: str


@flow(name="simulate", task_runner=TASK_RUNNER)
def simulate_survey(config: SimulationConfig, raw: DataStore, runner: Runner = LOCAL) -> ProductRef:
    """Simulate a survey into the raw store: the sky and each exposure independently of the others."""
    with session(runner):
        exposures = [simulate_exposure_task.submit(name, config, raw) for name in list_simulated_exposures(config)]
        sky = simulate_sky_task.submit(config, raw)
        return list_survey_task([part.result() for part in (sky, *exposures)], config, raw)


@flow(name="demo", task_runner=TASK_RUNNER)
def process_demo(config: SurveyConfig, store: DataStore, raw: DataStore, runner: Runner = LOCAL) -> SurveyProducts:
    """Simulate a survey and process it."""
    if config.simulation is None:
        raise ConfigError(f"Survey {config.name} has no `simulation` settings, so there is nothing to simulate.")
    with session(runner):
        simulate_survey(config.simulation, raw, runner)
        return process_survey(config, store, raw, runner)


def run_demo(
    config: SurveyConfig, store: DataStore, raw: DataStore, root: Path, runner: Runner, current: Session
) -> tuple[SurveyProducts, DemoSummary]:
    """Run the demo and leave ``report.html`` and ``summary.json`` in its folder.

    Parameters
    ----------
    config
        Settings, with those of the simulation.
    store, raw
        Where products and raw files go.
    root
        The demo's folder.
    runner
        Where the stages run.
    current
        The session that counts the stages.

    Returns
    -------
    tuple
        Products and summary.
    """
    started = time.monotonic()
    products = process_demo(config, store, raw, runner)
    report = root / REPORT
    report.write_bytes(store.read_bytes(products.report.key))
    summary = summarize_demo(products, store, current, time.monotonic() - started, report)
    (root / SUMMARY).write_text(summary.model_dump_json(indent=1) + "\n")
    return products, summary


def summarize_demo(
    products: SurveyProducts, store: DataStore, current: Session, wall_s: float, report: Path
) -> DemoSummary:
    """Return the demo in numbers.

    Raises
    ------
    ConfigError
        If the survey has no truth to compare with.
    """
    shear = read_document(store, products.shear, SurveyShear)
    if shear.truth is None:
        raise ConfigError("The demo needs the catalogue of true galaxies; name it under `truth:`.")
    seconds: dict[str, float] = {}
    for event in current.events:
        seconds[event.stage] = round(seconds.get(event.stage, 0.0) + event.seconds, 3)
    found = shear.truth.recovered
    return DemoSummary(
        shear=RecoveredShear(
            g1=Recovered(true=shear.truth.g1, recovered=found.g1, error=found.g1_error),
            g2=Recovered(true=shear.truth.g2, recovered=found.g2, error=found.g2_error),
        ),
        n_exposures=len(products.exposures),
        n_ccds=sum(len(exposure.ccds) for exposure in products.exposures),
        n_objects=int(products.catalog.summary["n_objects"]),
        n_measured=int(products.catalog.summary["n_measured"]),
        set_aside=products.set_aside,
        stages_run=current.count(Outcome.RUN),
        stages_reused=current.count(Outcome.REUSED),
        stage_seconds=seconds,
        wall_s=round(wall_s, 2),
        catalog=f"{store.url}/{products.catalog.key}",
        report=str(report),
    )
