"""Data-quality initialisation beside ``DQInitStep`` of the public ``jwst`` package; the last line printed is JSON.

Every case is written with astropy, run through the step in the peer's own environment (``make peers``) and through
ours, in memory and from file to file, and all arrays of flags are compared bit for bit, types and shapes included. Then
both are timed on a MIRI ramp of 1 x 5 x 1024 x 1032 that the peer saved before, since it opens no other files; they
take turns, in fresh processes on one core. Times are medians of the calls after the first of every process. Peak memory
is the highest resident set (``VmHWM``) of a process that made one call, imports and ramp included, nothing subtracted;
``ru_maxrss`` would start at that of the process that started it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from dq_suite.cases import CASES, Case, Files, write_cases
from numpy.typing import NDArray
from sides import BENCHMARKS, peer_python, run_side

from flows.dq_file import initialize_dq_file
from tasks.archive.detector_files import read_detector_file
from tasks.archive.reference_bytes import read_dq_reference_file, read_user_flags
from tasks.dq_init import DQInitConfig, initialize_dq

SUITE = BENCHMARKS / "dq_suite"
ENDED_WELL = 0
WITHOUT_CRDS = {"STPIPE_DISABLE_CRDS_STEPPARS": "True"}


@dataclass(frozen=True)
class Row:
    """One case and whether the two agree."""

    case: Case
    status: str
    """What both say of the step."""
    n_flagged: int
    """Pixels with a flag in the peer's result."""
    differences: tuple[str, ...]


def main() -> int:
    """Compare and time, print the table and the line of JSON; the exit code says whether all cases are identical."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=peer_python("jwst"), help="Python with the jwst package")
    parser.add_argument("--rounds", type=int, default=4, help="processes of each side for every timing")
    parser.add_argument("--calls", type=int, default=6, help="calls in each of them")
    options = parser.parse_args()
    if not Path(options.peer).exists():
        parser.error(f"{options.peer} is not there; run `make peers`.")
    with tempfile.TemporaryDirectory(prefix="shearline-dq-") as folder:
        rows = compare(Path(folder), options.peer)
        timings = measure(Path(folder), options)
    identical = sum(not row.differences for row in rows)
    print_tables(rows, timings)
    print(json.dumps({"benchmark": "dq", "cases": len(rows), "identical": identical} | summary(timings)))
    return ENDED_WELL if identical == len(rows) else 1


def compare(folder: Path, peer: str) -> list[Row]:
    """Run every case through both sides."""
    written = list(write_cases(folder))
    listed = [
        {"exposure": str(files.exposure), "override": files.override, "user": files.user, "peer": peer_file(files)}
        for _, files in written
    ]
    (folder / "cases.json").write_text(json.dumps(listed), encoding="utf-8")
    statuses = run([peer, str(SUITE / "peer.py"), "results", str(folder / "cases.json")])
    return [compare_case(case, files, status) for (case, files), status in zip(written, statuses, strict=True)]


def peer_file(files: Files) -> str:
    """Return where the peer's flags of a case are kept."""
    return f"{files.exposure}.npz"


def compare_case(case: Case, files: Files, status: str) -> Row:
    """Compare the flags of one case, in memory and as written to a file."""
    before = files.exposure.read_bytes()
    with np.load(peer_file(files)) as stored:
        theirs = {name: stored[name] for name in stored.files}
    image = read_detector_file(files.exposure).image
    reference = None if files.override == "N/A" else read_dq_reference_file(files.override)
    user_dq = read_user_flags(files.user) if files.user else None
    done = initialize_dq(image, reference, DQInitConfig(), user_dq)
    pixel_name = "dq" if case.is_guider else "pixeldq"
    ours = {pixel_name: done.pixeldq} | ({} if done.groupdq is None else {"groupdq": done.groupdq})
    target = files.exposure.with_suffix(".ours.fits")
    outcome = initialize_dq_file(files.exposure, target, override=files.override, user_supplied_dq=files.user or None)
    with fits.open(target) as hdus:
        in_file = {name: np.asarray(hdus[name.upper()].data) for name in ours}
        science = np.array_equal(hdus["SCI"].data, fits.getdata(files.exposure, "SCI"))
    found = [*differences("in memory", ours, theirs), *differences("in the file", in_file, theirs)]
    found += [] if status == outcome.status else [f"status {outcome.status}, the peer's is {status}"]
    found += [] if science else ["the science values changed"]
    found += [] if before == files.exposure.read_bytes() else ["the input changed"]
    return Row(case, status, int(np.count_nonzero(theirs[pixel_name])), tuple(found))


def differences(where: str, ours: dict[str, NDArray[Any]], theirs: dict[str, NDArray[Any]]) -> list[str]:
    """Return a sentence for every array of flags that is not the same to the bit, in type and shape too."""
    found = [f"{where}: only one side has {name}" for name in sorted(set(ours) ^ set(theirs))]
    for name in sorted(set(ours) & set(theirs)):
        mine, other = ours[name], theirs[name]
        if mine.shape != other.shape or mine.dtype.newbyteorder("=") != other.dtype.newbyteorder("="):
            found.append(f"{where}: {name} is {mine.dtype} {mine.shape}, the peer's {other.dtype} {other.shape}")
        elif not np.array_equal(mine, other):
            found.append(f"{where}: {name} differs in {np.count_nonzero(mine != other)} places")
    return found


def measure(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Time both sides in turns on the first case; return seconds and MiB by kind and side."""
    files = next(files for _, files in write_cases(make_folder(folder / "timed"), CASES[:1]))
    prepared = str(folder / "timed" / "prepared.fits")
    run([options.peer, str(SUITE / "peer.py"), "prepare", str(files.exposure), prepared])
    sides = {"peer": [options.peer, str(SUITE / "peer.py")], "ours": [sys.executable, str(SUITE / "ours.py")]}
    timings: dict[str, dict[str, float]] = {}
    for kind in ("memory", "file"):
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        peaks: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(options.rounds):
            for side, command in sides.items():
                arguments = [*command, kind, prepared, files.override]
                seconds[side] += run([*arguments, str(options.calls)])["seconds"][1:]
                peaks[side].append(run([*arguments, "1"])["peak_kib"] / 1024)
        timings[kind] = {f"{side}_s": statistics.median(values) for side, values in seconds.items()}
        timings[kind] |= {f"{side}_mib": statistics.median(values) for side, values in peaks.items()}
    return timings


def make_folder(folder: Path) -> Path:
    """Make a folder and return it."""
    folder.mkdir()
    return folder


def run(command: list[str]) -> Any:  # noqa: ANN401
    """Run a side on one core and return what its last line of output says."""
    return run_side(command, environment=WITHOUT_CRDS)


def summary(timings: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the ratios: how many times faster, and our peak memory as a share of the peer's, the worse of the two."""
    memory, file = timings["memory"], timings["file"]
    shares = [timing["ours_mib"] / timing["peer_mib"] for timing in (memory, file)]
    return {
        "speedup_memory": round(memory["peer_s"] / memory["ours_s"], 2),
        "speedup_file": round(file["peer_s"] / file["ours_s"], 2),
        "memory_ratio": round(max(shares), 3),
    }


def print_tables(rows: list[Row], timings: dict[str, dict[str, float]]) -> None:
    """Print the cases and the timings as tables in Markdown."""
    print("| case | ramp | status | flagged pixels | flags |\n|---|---|---|---:|---|")
    for row in rows:
        shape = " x ".join(map(str, row.case.shape))
        verdict = "; ".join(row.differences) or "identical"
        print(f"| {row.case.name} | {shape} | {row.status} | {row.n_flagged} | {verdict} |")
    print("\n| MIRI 1 x 5 x 1024 x 1032 | jwst | Shearline | ratio |\n|---|---:|---:|---:|")
    for kind, name in (("memory", "in memory, reference read included"), ("file", "from file to file")):
        timing = timings[kind]
        ratio = timing["peer_s"] / timing["ours_s"]
        print(
            f"| {name} | {timing['peer_s'] * 1e3:.0f} ms | {timing['ours_s'] * 1e3:.1f} ms | {ratio:.1f} times faster |"
        )
        share = timing["ours_mib"] / timing["peer_mib"]
        print(
            f"| peak memory of the process | {timing['peer_mib']:.0f} MiB | {timing['ours_mib']:.0f} MiB "
            f"| {share:.2f} |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
