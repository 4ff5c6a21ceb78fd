"""The tests with the marker `faults`, such as those of a network between Shearline and S3 that breaks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from fault_suite.services import environment

ROOT = Path(__file__).parents[2]
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)\b")


def run_tests(folder: Path, *selection: str) -> dict[str, Any]:
    """Run tests in an environment of their own and return how they ended; their output is kept in the folder.

    Parameters
    ----------
    folder
        New folder.
    selection
        Arguments of pytest that choose the tests.
    """
    folder.mkdir()
    log = folder / "tests.log"
    with log.open("w") as output:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "--basetemp",
                str(folder / "tmp"),
                *selection,
            ],
            cwd=ROOT,
            env=environment(folder / "prefect"),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    last_line = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
    counts = {kind.rstrip("s"): int(number) for number, kind in COUNT.findall(last_line)}
    return {
        "fault_tests_exit_code": done.returncode,
        "fault_tests_passed": counts.get("passed", 0),
        "fault_tests_failed": counts.get("failed", 0) + counts.get("error", 0),
        "fault_tests_skipped": counts.get("skipped", 0),
    }
