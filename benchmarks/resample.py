"""Resample beside ``Resample`` of the public ``stcal`` package; the last line printed is JSON.

The same exposures go through the peer in its own environment (``make peers``) and through ours, one after the other,
every time in a fresh process: with the peer's defaults, with its best settings, and with ours on one thread and on two.
Timed are the making of the object, all calls of ``add_model``, and ``finalize``; exposures are read while the clock
stands, and a small run before loads and compiles. Memory is the highest resident set from then on, above what the
process holds with one exposure read. Times are the least of several rounds, memory is their median. All planes that
come out are compared. On the exposures with TPV, SWarp runs as well if it is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resample_suite.cases import CASES, Case
from resample_suite.inputs import write_inputs
from resample_suite.measures import Result, run_case
from resample_suite.promises import broken_promises, summary
from resample_suite.sky import FULL_SIZE
from resample_suite.swarp import SwarpResult, find_swarp, run_swarp
from resample_suite.tables import memory_table, number_table, star_table, swarp_table, time_table
from sides import peer_python

QUICK_SIZE = 512
WARM_UP_SIZE, WARM_UP_EXPOSURES = 192, 2
ENDED_WELL = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and time, print the tables and the line of JSON; the exit code says whether all promises were kept."""
    options = parse(arguments)
    size = QUICK_SIZE if options.quick else FULL_SIZE
    with tempfile.TemporaryDirectory(prefix="shearline-resample-", dir=options.folder) as folder:
        results, swarp = run_all(options.cases, Path(folder), size, options)
    tables = (number_table(results), time_table(results), memory_table(results), star_table(results, swarp))
    print("\n\n".join("\n".join(table) for table in (*tables, swarp_table(results, swarp))))
    broken = broken_promises(results, timed=not options.quick)
    print("\n" + "\n".join(broken or ["Everything came out as promised."]))
    if options.quick:
        print("The images were small: times and memory do not count.")
    cases = {result.case.name: case_figures(result) for result in results}
    head = {"benchmark": "resample", "image_size": size, "rounds": options.rounds}
    print(json.dumps(finite(head | summary(results) | {"broken": broken, "cases": cases}), allow_nan=False))
    return 1 if broken else ENDED_WELL


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=peer_python("stcal"), help="Python with the stcal package")
    parser.add_argument("--cases", type=chosen_cases, default=CASES, help="some of " + ",".join(c.name for c in CASES))
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind for every case")
    parser.add_argument("--quick", action="store_true", help=f"images of {QUICK_SIZE} pixels; times do not count")
    parser.add_argument("--folder", type=Path, help="where to write up to 3 GB, which are removed at the end")
    options = parser.parse_args(arguments)
    if not Path(options.peer).exists():
        parser.error(f"{options.peer} is not there; run `make peers`.")
    return options


def chosen_cases(names: str) -> tuple[Case, ...]:
    """Return the cases of a comma-separated list."""
    unknown = set(names.split(",")) - {case.name for case in CASES}
    if unknown:
        raise argparse.ArgumentTypeError(f"no case is called {', '.join(sorted(unknown))}")
    return tuple(case for case in CASES if case.name in names.split(","))


def run_all(
    cases: Sequence[Case], folder: Path, size: int, options: argparse.Namespace
) -> tuple[list[Result], SwarpResult | None]:
    """Run the cases, those of one distortion after another; return them, and what SWarp did."""
    results: list[Result] = []
    swarp, program = None, find_swarp()
    for distortion in dict.fromkeys(case.distortion for case in cases):
        place = folder / distortion
        write_inputs(place / "inputs", distortion, size)
        write_inputs(place / "warm_up", distortion, WARM_UP_SIZE, WARM_UP_EXPOSURES)
        for case in cases:
            if case.distortion == distortion:
                results.append(run_case(case, place, size, WARM_UP_SIZE, peer=options.peer, rounds=options.rounds))
                print(f"{case.name}: {case_figures(results[-1])['seconds']}", file=sys.stderr)
        if distortion == "TPV" and program is not None:
            swarp = run_swarp(program, place / "inputs", size, rounds=options.rounds)
        shutil.rmtree(place)
    return results, swarp


def case_figures(result: Result) -> dict[str, Any]:
    """Return what the line of JSON says of a case."""
    return {
        "seconds": {way: round(measured.wall_s, 3) for way, measured in result.measured.items()},
        "cpu_seconds": {way: round(measured.cpu_s, 3) for way, measured in result.measured.items()},
        "mib": {way: round(measured.above_baseline_mib, 1) for way, measured in result.measured.items()},
        "process_mib": {way: round(measured.peak_mib, 1) for way, measured in result.measured.items()},
        "planes": {name: dataclasses.asdict(plane) for name, plane in result.differences.items()},
        "same_bytes": result.same_bytes,
        "stars": None if result.stars is None else dataclasses.asdict(result.stars),
    }


def finite(value: Any) -> Any:  # noqa: ANN401
    """Return what JSON can say of a value: null for infinities and NaN, of which it knows nothing."""
    if isinstance(value, dict):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    raise SystemExit(main())
