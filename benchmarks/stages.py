"""Wall time of every stage of a demo from scratch; the last line that is printed is JSON.

One worker process runs one body at a time. So a stage takes the time from when the worker became free, or from when the
stage was asked for if that was later, to when its product was in the store.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path


def main() -> None:
    """Run the demo in a temporary folder and print the times."""
    with tempfile.TemporaryDirectory(prefix="shearline-bench-") as folder:
        # Prefect reads these when it is imported
        os.environ |= {
            "PREFECT_HOME": f"{folder}/.prefect",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        os.environ.pop("PREFECT_API_URL", None)
        print(json.dumps(measure(Path(folder))))


def measure(folder: Path) -> dict[str, object]:
    """Return the wall time of the demo and of its stages in seconds."""
    from blocks.store import DataStore
    from flows.config import load_survey
    from flows.demo import run_demo
    from tasks.session import StageEvent, session

    finished: list[tuple[float, StageEvent]] = []
    store, raw = (DataStore(root=str(folder / "store"), collection=name) for name in ("bench", "raw"))
    started = time.monotonic()
    with session(1, lambda event: finished.append((time.monotonic(), event))) as current:
        _, summary = run_demo(load_survey("demo"), store, raw, folder, 1, current)
    wall_s = time.monotonic() - started
    spans = busy_spans((end, event.seconds) for end, event in finished)
    stages: dict[str, dict[str, float]] = {}
    for (_, event), span in zip(finished, spans, strict=True):
        entry = stages.setdefault(event.stage, {"runs": 0, "wall_s": 0.0})
        entry["runs"] += 1
        entry["wall_s"] += span
    return {
        "benchmark": "stages",
        "workers": 1,
        "wall_s": round(wall_s, 2),
        "outside_stages_s": round(wall_s - sum(spans), 2),
        "n_exposures": summary.n_exposures,
        "n_ccds": summary.n_ccds,
        "n_objects": summary.n_objects,
        "stages": {name: {key: round(value, 2) for key, value in entry.items()} for name, entry in stages.items()},
    }


def busy_spans(intervals: Iterable[tuple[float, float]]) -> list[float]:
    """Return how long a single worker was busy with each of its jobs.

    Parameters
    ----------
    intervals
        End and length of every job, the time in the queue included, in the order of the ends.
    """
    spans, free = [], 0.0
    for end, length in intervals:
        spans.append(max(0.0, end - max(free, end - length)))
        free = max(free, end)
    return spans


if __name__ == "__main__":
    main()
