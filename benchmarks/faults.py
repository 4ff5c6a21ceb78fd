"""Faults on purpose: kills, restarts, bursts of arrivals and a whole night; the last line that is printed is JSON.

Everything is real: a Prefect server and worker, an S3 server, and the `shearline` command, each in processes of its
own. What must come out is described in docs/operations/faults.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fault_suite.services import PrefectServer, S3Server, family, is_alive
from fault_suite.sources import changed_sources, source_checksums

PARTS = ("kills", "night", "arrivals", "tests")
SHORT = ("kills", "arrivals")
STARTED = time.monotonic()


def main() -> int:
    """Run the parts that were asked for and print what they came to."""
    arguments = parse()
    # ended from outside, it must end what it started
    signal.signal(signal.SIGTERM, lambda _number, _frame: give_up())
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shearline-faults-")))
        folder.mkdir(parents=True, exist_ok=True)
        sources = source_checksums()
        record = Record()
        run_parts(folder, arguments, record)
        results = record.results | {
            "sources_changed_meanwhile": changed_sources(sources),
            "wall_s": round(time.monotonic() - STARTED, 1),
        }
    from fault_suite.promises import Asked, broken_promises

    asked = Asked(arguments.parts, arguments.kills, arguments.events, arguments.night, arguments.short)
    broken = broken_promises(results, asked)
    for sentence in broken:
        say(f"NOT AS PROMISED: {sentence}")
    print(json.dumps(results | {"broken_promises": broken}))
    return len(broken) > 0


@dataclass
class Record:
    """What the parts came to; one that stops does not keep the others from running."""

    results: dict[str, Any] = field(default_factory=lambda: {"errors": {}, "part_wall_s": {}})

    def run(self, name: str, part: Callable[[], dict[str, Any]]) -> None:
        """Run one part and keep its figures."""
        started = time.monotonic()
        try:
            figures = part()
            say(f"{name}: {json.dumps(figures)}")
            self.results |= figures
        except Exception as error:  # noqa: BLE001 (told at the end, where it fails the suite)
            traceback.print_exc()
            self.results["errors"][name] = f"{type(error).__name__}: {error}"
        self.results["part_wall_s"][name] = round(time.monotonic() - started, 1)


def run_parts(folder: Path, arguments: argparse.Namespace, record: Record) -> None:
    """Run the parts that were asked for: most on one server, the tests on servers of their own."""
    with_server = {"kills": kills, "night": night, "arrivals": arrivals}
    if not with_server.keys().isdisjoint(arguments.parts):
        with ExitStack() as stack:
            server = PrefectServer(folder / "prefect")
            # Prefect reads these when it is imported, which the parts do
            os.environ |= server.client_environment(PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL="CRITICAL")
            stack.callback(server.close)
            server.start()
            say(f"Prefect server at {server.api_url}, on {server.database}")
            record.results["database"] = server.database
            for name, part in with_server.items():
                if name in arguments.parts:
                    record.run(name, partial(part, folder, server, arguments))
    if "tests" in arguments.parts:
        record.run("tests", partial(tests, folder))


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
    parser.add_argument(
        "--events-per-s", type=float, help="rate of the senders; by default a share of what is measured to be possible"
    )
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
    from fault_suite.kills import Lane, kill_commands
    from fault_suite.reference import OpenPlace, Stores, make_reference
    from fault_suite.station import Station
    from fault_suite.tally import Tally
    from fault_suite.world import TWO_CCDS, make_world

    from blocks.store import DataStore

    home = folder / "kills"
    home.mkdir()
    # the short form has few kills, and some of them shall be of a tile
    n_exposures = n_lanes = 1 if arguments.short else 2
    world = make_world(home, TWO_CCDS, DataStore(root=str(home / "store"), collection="raw"), n_exposures, n_exposures)
    local = Stores(world, server.client_environment())
    reference = make_reference(world, local)
    say(
        f"undisturbed: {len(reference.expected)} objects; work in s: {[round(s, 1) for s in reference.work_s.values()]}"
    )
    tally = Tally()

    def kill_on(place: OpenPlace, n_kills: int, name: str) -> None:
        rngs = [random.Random(f"{arguments.seed} {name} {k}") for k in range(n_lanes)]
        lanes = [Lane(world, reference, place, tally, rng, say) for rng in rngs]
        kill_commands(n_kills, lanes, name)

    n_deployed, n_s3 = max(1, arguments.kills // 5), arguments.kills // 5
    with ExitStack() as stack:
        station = Station(server, home)
        stack.callback(station.close)
        station.deploy(world.survey_file, str(home / "store"), world.raw.url, "deployed", "--paused")
        station.worker.start()
        deployed = DeployedLane(world, reference, station, tally, random.Random(f"{arguments.seed} deployed"), say)
        deployed.kill(n_deployed)
    kill_on(local, arguments.kills - n_deployed - n_s3, "killed")
    if n_s3:
        with ExitStack() as stack:
            s3 = S3Server(home / "s3")
            stack.callback(s3.kill)
            s3.start()
            kill_on(Stores(world, server.client_environment(), s3), n_s3, "killed-s3")
    return tally.figures() | {"deaths_not_noticed": deployed.not_noticed}


def night(folder: Path, server: PrefectServer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Process a night."""
    from fault_suite.night import measure_night

    return measure_night(folder / "night", server, arguments.night)


def arrivals(folder: Path, server: PrefectServer, arguments: argparse.Namespace) -> dict[str, Any]:
    """Send arrival events and restart services meanwhile."""
    from fault_suite.arrivals import Arrivals

    rng = random.Random(f"{arguments.seed} arrivals")
    events_per_s = arguments.events_per_s
    return Arrivals(folder / "arrivals", server, arguments.events, rng, say, arguments.short, events_per_s).measure()


def tests(folder: Path) -> dict[str, Any]:
    """Run the tests with the marker `faults`; the short form of this suite has no such marker."""
    from fault_suite.pytest_run import run_tests

    return run_tests(folder / "tests", "-m", "faults", "tests")


if __name__ == "__main__":
    sys.exit(main())
