"""The same exposures on 1 and 2 workers, with and without Dask; the last line that is printed is JSON.

A small survey is simulated once. Each row then processes its exposures from scratch, one after the other, in its own
collection. *Stages* is the time that workers spent in the bodies of stages; *overhead* is what the wall time is longer
than that time shared evenly by the workers, per task: starting workers, waiting for the last one, Prefect, the store.
*Flow CPU* is what the process of the flow computed per task: orchestration that no worker can take over.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blocks.store import DataStore
    from flows.config import SurveyConfig
    from tasks.runner import Runner

CHANGES = (
    "simulation.field={center_ra_deg: 150.0, center_dec_deg: 30.0, width_deg: 0.06, height_deg: 0.044}",
    "simulation.camera={n_columns: 2, n_rows: 2, ccd_width_px: 420, ccd_height_px: 420, gap_arcsec: 2,"
    " distortion_arcsec: 1}",
    "simulation.stars={density_arcmin2: 26, faint_magnitude: 21, n_bright: 1}",
    "exposure.instrument.n_ccds=4",
    "exposure.min_ccds=1",
)
ROWS = (("local", 1), ("local", 2), ("dask", 1), ("dask", 2))


@dataclass(frozen=True)
class Row:
    """One way to run the exposures, and what it took."""

    kind: str
    workers: int
    exposures: int
    tasks: int
    start_s: float
    """Until the workers had run their first body."""
    wall_s: float
    stages_s: float
    overhead_ms: float
    """Per task."""
    flow_cpu_ms: float
    """Per task."""


def main() -> None:
    """Measure every row in a temporary folder and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exposures", type=int, default=3, help="how many exposures to simulate and process")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shearline-scaling-") as folder:
        # Prefect reads these when it is imported
        os.environ |= {
            "PREFECT_HOME": f"{folder}/.prefect",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        os.environ.pop("PREFECT_API_URL", None)
        rows = measure(Path(folder), options.exposures)
    print("runner  workers  tasks  start s  wall s  stages s  overhead ms/task  flow CPU ms/task")
    for row in rows:
        print(
            f"{row.kind:6}  {row.workers:7}  {row.tasks:5}  {row.start_s:7.2f}  {row.wall_s:6.2f}  {row.stages_s:8.2f}"
            f"  {row.overhead_ms:16.1f}  {row.flow_cpu_ms:16.1f}"
        )
    print(json.dumps({"benchmark": "scaling", "cores": os.cpu_count(), "rows": [asdict(row) for row in rows]}))


def measure(folder: Path, exposures: int) -> list[Row]:
    """Simulate exposures in a folder and process them in every way."""
    from blocks.store import DataStore
    from flows.config import load_survey
    from flows.demo import simulate_survey
    from tasks.runner import Runner

    pointing = f"simulation.pointing={{n_per_pointing: {exposures}, dither_ra_arcsec: 6, dither_dec_arcsec: 6}}"
    config = load_survey("demo", [*CHANGES, pointing])
    raw = DataStore(root=str(folder / "store"), collection="raw")
    assert config.simulation is not None
    simulate_survey(config.simulation, raw, Runner(workers=2))
    return [process(config, folder, raw, Runner(kind=kind, workers=workers)) for kind, workers in ROWS]


def process(config: "SurveyConfig", folder: Path, raw: "DataStore", runner: "Runner") -> Row:
    """Process all exposures on the workers of a runner."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from blocks.store import DataStore
    from flows.exposure import process_exposure
    from tasks.archive.raw import list_exposures
    from tasks.session import session

    store, warm = (
        DataStore(root=str(folder / "store"), collection=f"{name}-{runner.kind}-{runner.workers}")
        for name in ("bench", "warm")
    )
    names = list_exposures(raw, config.exposure.instrument)
    # the heartbeat of a flow run is waited for at its end, which costs up to a second whatever the flow did
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), session(runner) as current:
        started = time.monotonic()
        first: list[float] = []
        current.on_event = lambda _event: first.append(time.monotonic()) if not first else None
        # workers import their libraries and compile their kernels once, however long the night
        process_exposure(names[0], config.exposure, warm, raw, runner)
        before = len(current.events)
        start, cpu = time.monotonic(), time.process_time()
        for name in names:
            process_exposure(name, config.exposure, store, raw, runner)
        wall_s, cpu_s = time.monotonic() - start, time.process_time() - cpu
        events = current.events[before:]
    return summarize(runner.kind, runner.workers, len(names), [event.seconds for event in events], wall_s, cpu_s,
                     first[0] - started)  # fmt: skip


def summarize(
    kind: str, workers: int, exposures: int, seconds: list[float], wall_s: float, cpu_s: float, start_s: float
) -> Row:
    """Return the row of one measurement.

    Parameters
    ----------
    kind, workers, exposures
        What was run, and where.
    seconds
        How long the body of every task took.
    wall_s, cpu_s
        Duration of the whole, and what the process of the flow computed.
    start_s
        Until the workers had run their first body.
    """
    n_tasks, stages_s = len(seconds), sum(seconds)
    return Row(
        kind=kind,
        workers=workers,
        exposures=exposures,
        tasks=n_tasks,
        start_s=round(start_s, 2),
        wall_s=round(wall_s, 2),
        stages_s=round(stages_s, 2),
        overhead_ms=round(1e3 * (wall_s - stages_s / workers) / n_tasks, 1),
        flow_cpu_ms=round(1e3 * cpu_s / n_tasks, 1),
    )


if __name__ == "__main__":
    main()
