"""Faults on purpose: kills, restarts, bursts of arrivals and a whole night; the last line that is printed is JSON.

Everything is real: a Prefect server and worker, an S3 server, and the `shearline` command, each in processes of its
own. What must come out is described in docs/operations/faults.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fault_suite.services import PrefectServer, S3Server, family, is_alive

PARTS = ("kills", "night", "arrivals", "tests")
SHORT = ("kills", "arrivals")
MAX_OVERHEAD = 0.15
MAX_EVENT_TO_START_S = 10.0
# of the server's memory, from the middle of the night to its end
MAX_GROWTH = 1.2
STARTED = time.monotonic()


def main() -> int:
    """Run the parts that were asked for and print what they came to."""
    arguments = parse()
    # ended from outside, it must end what it started
    signal.signal(signal.SIGTERM, lambda _number, _frame: give_up())
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shearline-faults-")))
        server = PrefectServer(folder / "prefect")
        # Prefect reads these when it is imported, which the parts do
        os.environ |= server.client_environment(PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL")
        stack.callback(server.close)
        server.start()
        say(f"Prefect server at {server.api_url}, on {server.database}")
        results: dict[str, Any] = {"database": server.database}
        if "kills" in arguments.parts:
            results |= kills(folder, server, arguments)
        if "night" in arguments.parts:
            results |= night(folder, server, arguments)
        if "arrivals" in arguments.parts:
            results |= arrivals(folder, server, arguments)
    if "tests" in arguments.parts:
        results |= tests()
    results["wall_s"] = round(time.monotonic() - STARTED, 1)
    broken = broken_promises(results, arguments.short)
    for sentence in broken:
        say(f"NOT AS PROMISED: {sentence}")
    print(json.dumps(results | {"broken_promises": broken}))
    return len(broken) > 0


def give_up() -> None:
    """End everything that was started, and this program."""
    for process in family(os.getpid())[1:]:
        if is_alive(process):
            process.kill()
    sys.exit(1)


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="number of kills")
    parser.add_argument("--events", type=int, default=1000, help="number of arrival events, 30 %% of them duplicates")
    parser.add_argument("--night", type=int, default=200, help="number of exposures of the night")
    parser.add_argument("--short", action="store_true", help="5 kills and 100 events, no night")
    parser.add_argument("--only", dest="parts", choices=PARTS, action="append", help="run this part only; repeatable")
    parser.add_argument("--folder", type=Path, help="new folder to work in and to keep; by default a temporary one")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random moments")
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or (SHORT if arguments.short else PARTS)
    if arguments.short:
        arguments.kills, arguments.events = min(arguments.kills, 5), min(arguments.events, 100)
    return arguments


def say(text: str) -> None:
    """Print progress."""
    print(f"{time.monotonic() - STARTED:6.0f} s  {text}", file=sys.stderr, flush=True)


def kills(folder: Path, server: PrefectServer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Kill runs of the command on a local store and on S3, and deployed runs and their worker."""
    from fault_suite.deployed import DeployedLane
    from fault_suite.kills import LANES, Lane, Stores, Tally, kill_commands, make_reference
    from fault_suite.station import Station
    from fault_suite.world import TWO_CCDS, make_world

    from blocks.store import DataStore

    home = folder / "kills"
    home.mkdir()
    world = make_world(home, TWO_CCDS, DataStore(root=str(home / "store"), collection="raw"), 2, 2)
    local = Stores(world, server.client_environment())
    reference = make_reference(world, *local("reference"))
    say(
        f"undisturbed: {len(reference.expected)} objects; work in s: {[round(s, 1) for s in reference.work_s.values()]}"
    )
    tally = Tally()
    n_deployed, n_s3 = max(2, arguments.kills // 5), arguments.kills // 5
    with ExitStack() as stack:
        station = Station(server, home)
        stack.callback(station.close)
        station.deploy(world.survey_file, str(home / "store"), world.raw.url, "deployed", "--paused")
        station.worker.start()
        deployed = DeployedLane(world, reference, station, tally, random.Random(f"{arguments.seed} deployed"), say)
        deployed.kill(n_deployed)
    lanes = [Lane(world, reference, local, tally, random.Random(f"{arguments.seed} {k}"), say) for k in range(LANES)]
    kill_commands(arguments.kills - n_deployed - n_s3, lanes, "killed")
    if n_s3:
        with ExitStack() as stack:
            s3 = S3Server(home / "s3")
            stack.callback(s3.kill)
            s3.start()
            remote = Stores(world, server.client_environment(), s3)
            lanes = [
                Lane(world, reference, remote, tally, random.Random(f"{arguments.seed} s3 {k}"), say)
                for k in range(LANES)
            ]
            kill_commands(n_s3, lanes, "killed")
    return tally.figures() | {"deaths_not_noticed": deployed.not_noticed}


def night(folder: Path, server: PrefectServer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Process a night."""
    from fault_suite.night import measure_night

    results = measure_night(folder / "night", server, arguments.night)
    say(f"a night of {arguments.night} exposures took {results['night_wall_s']} s")
    return results


def arrivals(folder: Path, server: PrefectServer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Send arrival events and restart services meanwhile."""
    from fault_suite.arrivals import Arrivals

    rng = random.Random(f"{arguments.seed} arrivals")
    return Arrivals(folder / "arrivals", server, arguments.events, rng, say, arguments.short).measure()


def tests() -> dict[str, Any]:
    """Run the tests with the marker `faults`, such as those of a network between Shearline and S3 that breaks."""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "faults", "-q", "tests"], cwd=root, capture_output=True, text=True
    )
    say(done.stdout[-2000:])
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    return {
        "fault_tests_passed": counts.get("passed", 0),
        "fault_tests_failed": sum(counts.values()) - counts.get("passed", 0),
    }


def broken_promises(results: dict[str, Any], short: bool) -> list[str]:
    """Return a sentence for everything that did not come out as docs/operations/faults.md promises."""
    wanted: dict[str, Any] = {
        "identical": results.get("kills"),
        "partial_objects": 0,
        "redone_finished_stages": 0,
        "orphan_processes": 0,
        "failed_reruns": [],
        "failed_recoveries": [],
        "deaths_not_noticed": [],
        "exposures_once": results.get("exposures"),
        "tiles_once": results.get("tiles"),
        "arrival_stages_run_twice": 0,
        "fault_tests_failed": 0,
    }
    broken = [
        f"{key} is {results[key]}, not {value}" for key, value in wanted.items() if results.get(key, value) != value
    ]
    limits = (
        {"overhead_fraction": MAX_OVERHEAD}
        if short
        else {"overhead_fraction": MAX_OVERHEAD, "event_to_start_median_s": MAX_EVENT_TO_START_S}
    )
    broken += [
        f"{key} is {results[key]}, above {top}" for key, top in limits.items() if (results.get(key) or 0.0) > top
    ]
    memory = results.get("server_rss_mb")
    if memory and memory["100%"] > MAX_GROWTH * memory["50%"]:
        broken.append(f"the server grew from {memory['50%']} to {memory['100%']} MB in the second half of the night")
    return broken


if __name__ == "__main__":
    sys.exit(main())
