"""Runs one case: both sides in processes of their own, in turns, and what they say about each other."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sides import run_side

from resample_suite.cases import TUNED, WITH_STARS, Case
from resample_suite.comparing import PlaneDifference, compare_results, differing_numbers, same_bytes
from resample_suite.inputs import make_stars
from resample_suite.photometry import StarFigures, measure_coadd
from resample_suite.sky import PIXEL_ARCSEC, output_header

PEER, PEER_TUNED, OURS_1, OURS_2 = "stcal", "stcal tuned", "1 thread", "2 threads"
"""The ways in which a case is run."""


@dataclass(frozen=True)
class Way:
    """One way to run a case."""

    interpreter: str
    module: str
    settings: dict[str, Any] = field(default_factory=dict)
    n_cores: int = 1


@dataclass(frozen=True)
class Measured:
    """What several runs of one way came to."""

    wall_s: float
    cpu_s: float
    above_baseline_mib: float
    peak_mib: float
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a case showed."""

    case: Case
    measured: dict[str, Measured]
    differences: dict[str, PlaneDifference]
    """Ours on one thread beside the peer's, by plane."""
    differing_numbers: list[str]
    same_bytes: bool
    """Whether ours gives on two threads what it gives on one."""
    stars: StarFigures | None = None
    """The stars in our coadd, in the cases of `WITH_STARS`."""

    def speedup(self, ours: str, peer: str = PEER) -> float:
        """Return how many times faster ours is."""
        return self.measured[peer].wall_s / self.measured[ours].wall_s

    def memory_ratio(self, ours: str) -> float:
        """Return our peak memory above the baseline as a share of the peer's with its defaults."""
        return self.measured[ours].above_baseline_mib / self.measured[PEER].above_baseline_mib


def ways(peer: str) -> dict[str, Way]:
    """Return the ways to run a case; the peer has no threads."""
    return {
        PEER: Way(peer, "resample_suite.peer"),
        PEER_TUNED: Way(peer, "resample_suite.peer", TUNED),
        OURS_1: Way(sys.executable, "resample_suite.ours", {"n_threads": 1}),
        OURS_2: Way(sys.executable, "resample_suite.ours", {"n_threads": 2}, 2),
    }


def run_case(case: Case, folder: Path, size: int, warm_up_size: int, *, peer: str, rounds: int) -> Result:
    """Run a case in all ways; the inputs lie in ``inputs`` and ``warm_up`` of the folder.

    Parameters
    ----------
    case
        What to run.
    folder
        Where the inputs are; a folder named like the case is there while it runs.
    size, warm_up_size
        Width of the exposures in both, pixels.
    peer
        Python with the peer.
    rounds
        How often every way is run, each time in a fresh process; all ways take turns.
    """
    kept = folder / case.name
    kept.mkdir()
    inputs = {
        name: describe(folder / name, width, case.scale_ratio)
        for name, width in (("inputs", size), ("warm_up", warm_up_size))
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways(peer)}
    for way in ways(peer).values():
        # compiled code is kept on disk from here on, so that no process that counts compiles anything
        run_way(way, inputs | {"inputs": inputs["warm_up"]} | told(case, way), kept / "job.json")
    for number in range(rounds):
        for name, way in ways(peer).items():
            keep = str(kept / name) if number == 0 and name != PEER_TUNED else None
            runs[name].append(run_way(way, inputs | told(case, way, keep), kept / "job.json"))
    measured = {name: best(values) for name, values in runs.items()}
    result = Result(
        case,
        measured,
        compare_results(kept / OURS_1, kept / PEER),
        differing_numbers(measured[OURS_1].numbers, measured[PEER].numbers),
        same_bytes(kept / OURS_1, kept / OURS_2),
        measure_coadd(np.load(kept / OURS_1 / "data.npy"), make_stars(size)) if case.name in WITH_STARS else None,
    )
    shutil.rmtree(kept)
    return result


def told(case: Case, way: Way, keep: str | None = None) -> dict[str, Any]:
    """Return what a side is told beside its inputs."""
    return {"settings": case.all_settings | way.settings, "keep": keep}


def run_way(way: Way, job: dict[str, Any], file: Path) -> Any:  # noqa: ANN401
    """Run a job, which is told through a file."""
    file.write_text(json.dumps(job), encoding="utf-8")
    return run_side([way.interpreter, "-P", "-m", way.module, str(file)], n_cores=way.n_cores)


def describe(inputs: Path, size: int, scale_ratio: float) -> dict[str, Any]:
    """Return what a side is told of its inputs."""
    header = output_header(size, scale_ratio).tostring(sep="\n")
    return {"folder": str(inputs), "output_header": header, "output_scale": PIXEL_ARCSEC * scale_ratio}


def best(runs: list[dict[str, Any]]) -> Measured:
    """Return the least time of several runs, as all else is the machine's, and the median of the memory."""
    return Measured(
        wall_s=min(run["wall_s"] for run in runs),
        cpu_s=min(run["cpu_s"] for run in runs),
        above_baseline_mib=statistics.median(run["above_baseline_kib"] for run in runs) / 1024,
        peak_mib=statistics.median(run["peak_kib"] for run in runs) / 1024,
        numbers=runs[0]["numbers"],
    )
