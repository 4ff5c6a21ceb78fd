"""A night of small exposures on two workers: throughput, the share of orchestration, and the memory of the server."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from blocks.store import DataStore
from fault_suite.services import Service
from fault_suite.world import NIGHT, make_world
from flows.nightly import run_night
from tasks.runner import Runner
from tasks.session import Outcome, session

WORKERS = 2
# each exposure waits for its slowest stage and for Prefect between stages, so more than two are under way
PARALLEL = 4
PER_TILE = 20
SAMPLE_S = 2.0
# samples before and after a moment
AROUND = 3


class MemoryTrace:
    """A thread that notes how much memory a service has."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[float] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.samples.append(self._service.memory_mb())

    def at(self, fraction: float) -> float | None:
        """Return the memory in MB after a fraction of the time, the median of some samples; none without samples."""
        if not self.samples:
            return None
        middle = min(int(fraction * len(self.samples)), len(self.samples) - 1)
        return round(statistics.median(self.samples[max(0, middle - AROUND) : middle + AROUND + 1]))


def overhead(busy_s: float, wall_s: float, workers: int) -> float:
    """Return the share of the workers' time in which no stage body ran: from the start of the flow run to its end."""
    return 1.0 - busy_s / (workers * wall_s)


def measure_night(folder: Path, server: Service, n_exposures: int) -> dict[str, Any]:
    """Process a night in this process, on a running server, and return its figures.

    Raises
    ------
    RuntimeError
        If not every exposure and tile was done.
    """
    folder.mkdir()
    raw = DataStore(root=str(folder / "store"), collection="raw")
    world = make_world(folder, NIGHT, raw, n_exposures, PER_TILE)
    store = DataStore(root=raw.root, collection="night")
    runner = Runner(workers=WORKERS)
    with MemoryTrace(server) as memory:
        started, cpu_s = time.monotonic(), time.process_time() + server.cpu_s()
        with session(runner) as current:
            report = run_night(world.config, store, raw, runner, None, PARALLEL)
        wall_s, cpu_s = time.monotonic() - started, time.process_time() + server.cpu_s() - cpu_s
    done = report.count("exposure", "done"), report.count("tile", "done")
    if done != (n_exposures, len(world.tiles)):
        raise RuntimeError(f"of {n_exposures} exposures and {len(world.tiles)} tiles {done} were done")
    ran = [event.seconds for event in current.events if event.outcome is Outcome.RUN]
    return {
        "night_exposures": n_exposures,
        "night_tiles": len(world.tiles),
        "night_wall_s": round(wall_s, 1),
        "night_exposures_per_hour": round(3600 * n_exposures / wall_s),
        "night_stages": len(ran),
        "night_stage_s_mean": round(sum(ran) / len(ran), 3),
        "overhead_fraction": round(overhead(sum(ran), wall_s, WORKERS), 3),
        "overhead_per_stage_s": round((WORKERS * wall_s - sum(ran)) / len(ran), 3),
        "orchestration_cpu_per_stage_s": round(cpu_s / len(ran), 3),
        "orchestration_cpu_fraction": round(cpu_s / ((os.cpu_count() or 1) * wall_s), 3),
        "server_rss_mb": {name: memory.at(at) for name, at in (("25%", 0.25), ("50%", 0.5), ("100%", 1.0))},
    }
