"""Runs one side of a comparison in a process of its own, on as many cores as it may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
HOUSE = BENCHMARKS.parent
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def peer_python(package: str) -> str:
    """Return the Python of the environment that ``make peers`` sets up for a package."""
    return str(HOUSE / ".peers" / package / "bin" / "python")


def run_side(command: Sequence[str], *, n_cores: int = 1, environment: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401
    """Run a side and return what its last line of output says.

    Parameters
    ----------
    command
        What to run, the interpreter first; only ours finds the packages of this project.
    n_cores
        Cores it may use, the last ones of those that this process may use. Libraries are kept to one thread each.
    environment
        Further variables.

    Returns
    -------
    Any
        The JSON in the last line of its output.

    Raises
    ------
    SystemExit
        If it fails; what it said is in the sentence.
    """
    done = subprocess.run(
        [*pinned(n_cores), *command],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | ONE_THREAD | {"PYTHONPATH": search_path(command[0])} | dict(environment or {}),
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def search_path(interpreter: str) -> str:
    """Return the folders in which an interpreter finds the suites, and the project if it is ours."""
    folders = [HOUSE, BENCHMARKS] if interpreter == sys.executable else [BENCHMARKS]
    return os.pathsep.join(map(str, folders))


def pinned(n_cores: int) -> list[str]:
    """Return the command that keeps another one to some cores; empty where the system has none."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))[-n_cores:]
    return ["taskset", "-c", ",".join(map(str, cores))]
