"""A burst of arrivals from four senders, with duplicates and in disorder, while server and worker are restarted."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from blocks.store import DataStore
from fault_suite.promises import SHARE_OF_DUPLICATES
from fault_suite.record_log import RecordLog
from fault_suite.sender import deliver
from fault_suite.senders import Senders
from fault_suite.services import PrefectServer, Service, family, free_port
from fault_suite.starts import event_to_start
from fault_suite.station import Station
from fault_suite.watching import finished_stages
from fault_suite.world import FILES, ONE_CCD, make_world

PER_TILE = 10
SHORT_PER_TILE = 35
# the senders leave room for tiles, and to catch up after a restart; less in the short form, which measures no waiting
SHARE_OF_THROUGHPUT = 0.45
SHORT_SHARE = 0.9
WARM_UP = 8
COLLECTION = "arrivals"
SECRET = "the secret of the fault suite only"
END_LIMIT_S = 900.0
SILENT_LIMIT_S = 400.0
ENDED_WELL = {"Completed"}


@dataclass
class Arrivals:
    """One burst.

    Parameters
    ----------
    folder
        New folder to work in.
    server
        A running server.
    n_events
        Number of events, 30 % of them duplicates.
    rng
        Draws their order.
    say
        Told of progress.
    short
        Whether to restart each service once instead of twice.
    events_per_s
        How many events are sent in a second; none takes a share of what the machine is measured to process.
    """

    folder: Path
    server: PrefectServer
    n_events: int
    rng: random.Random
    say: Callable[[str], None]
    short: bool = False
    events_per_s: float | None = None
    restarts: list[str] = field(default_factory=list)

    def measure(self) -> dict[str, Any]:
        """Send the events, restart services in the middle, wait for the end and count."""
        self.begun = datetime.now(UTC)
        self.folder.mkdir()
        n_exposures = round(self.n_events * (1 - SHARE_OF_DUPLICATES))
        root = str(self.folder / "store")
        raw, self.staging = (DataStore(root=root, collection=name) for name in ("raw", "staging"))
        per_tile = SHORT_PER_TILE if self.short else PER_TILE
        self.world = make_world(self.folder, ONE_CCD, raw, n_exposures, per_tile, self.staging)
        self.station = Station(self.server, self.folder)
        receiver_url = f"127.0.0.1:{free_port()}"
        receiver = Service(
            (sys.executable, "-m", "deployments.cli", "receive", "--listen", receiver_url, *self._options()),
            self.server.client_environment(SHEARLINE_RECEIVER_SECRET=SECRET),
            self.folder / "receiver.log",
        )
        plan = {
            "secret": SECRET,
            "survey": str(self.world.survey_file),
            "root": root,
            "staging": self.staging.collection,
            "raw": raw.collection,
            "collection": COLLECTION,
            # the image comes last, as from a telescope
            "suffixes": FILES[::-1],
        }
        self.senders = Senders(self.folder, self.server.client_environment(), plan, f"http://{receiver_url}")
        records = RecordLog(Path(root) / COLLECTION)
        try:
            self.station.deploy(self.world.survey_file, root, raw.url, COLLECTION)
            self.station.worker.start()
            receiver.start()
            records.start()
            return self._burst(records)
        finally:
            receiver.kill()
            self.station.close()

    def _options(self) -> tuple[str, ...]:
        world, root = self.world, self.world.raw.root
        return ("--survey", str(world.survey_file), "--store", root, "--raw", world.raw.url, "--collection", COLLECTION)

    def _burst(self, records: RecordLog) -> dict[str, Any]:
        names = [str(name) for name in self.world.exposures]
        order = self.rng.sample(names, len(names))
        per_s = self._warm_up(order[:WARM_UP])
        self.say(f"{per_s:.2f} exposures per second without restarts")
        events = order[WARM_UP:] + self.rng.choices(names, k=self.n_events - len(names))
        self.rng.shuffle(events)
        share = SHORT_SHARE if self.short else SHARE_OF_THROUGHPUT
        events_per_s = self.events_per_s or share * per_s / (1 - SHARE_OF_DUPLICATES)
        begun = time.monotonic()
        sent_s = self.senders.send(events, events_per_s, self._restart_plan())
        self._wait_for_end()
        records.end()
        return self._figures(records) | {
            "events_per_s": round(events_per_s, 2),
            "events_sent_per_s": round(len(events) / sent_s, 2),
            "arrivals_after_last_event_s": round(time.monotonic() - begun - sent_s, 1),
            "exposures_per_s_measured": round(per_s, 2),
        }

    def _warm_up(self, names: Sequence[str]) -> float:
        """Deliver a few, announce them by the command, and return how many are processed in a second."""
        for name in names:
            deliver(self.staging, self.world.raw, [f"{name}{suffix}" for suffix in FILES[::-1]])
        now = time.time()
        for name in names:
            self.senders.note(name, now)
        survey, store = str(self.world.survey_file), self.world.raw.root
        self.station.command("notify", *names, "--survey", survey, "--store", store, "--collection", COLLECTION)
        first = self._wait_until(lambda: self._n_done() >= 2)
        last = self._wait_until(lambda: self._n_done() >= len(names))
        return (len(names) - 2) / max(last - first, 0.1)

    def _n_done(self) -> int:
        root = Path(self.world.raw.root) / COLLECTION / "exposures"
        return sum(1 for _ in root.glob("*/products.json"))

    def _wait_until(self, done: Callable[[], bool], limit_s: float = END_LIMIT_S) -> float:
        deadline = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing more happens:\n{self.station.worker.tail()}")
            time.sleep(0.1)
        return time.monotonic()

    def _restart_plan(self) -> list[tuple[float, Callable[[], None]]]:
        server, worker = self._restart_server, self._restart_worker
        if self.short:
            return [(0.4, lambda: server(signal.SIGKILL)), (0.6, lambda: worker(signal.SIGTERM))]
        return [
            (0.2, lambda: server(signal.SIGTERM)),
            (0.4, lambda: worker(signal.SIGTERM)),
            (0.6, lambda: server(signal.SIGKILL)),
            (0.8, lambda: worker(signal.SIGKILL)),
        ]

    def _restart_server(self, kind: signal.Signals) -> None:
        self.server.kill(kind)
        self.server.start()
        self._restarted("server", kind)

    def _restart_worker(self, kind: signal.Signals) -> None:
        """Restart the worker; killed, it takes the flows with it, as when a machine is switched off."""
        relatives = family(self.station.worker.pid)
        self.station.worker.kill(kind)
        for process in relatives if kind is signal.SIGKILL else ():
            if process.is_running():
                process.kill()
        self.station.worker.start()
        self._restarted("worker", kind)

    def _restarted(self, what: str, kind: signal.Signals) -> None:
        self.restarts.append(f"{what} {kind.name}")
        self.say(f"{what} restarted after {kind.name}; {self._n_done()} exposures done")

    def _wait_for_end(self) -> None:
        """Wait until the inbox is empty and every tile is there, or nothing has happened for long."""
        root = Path(self.world.raw.root) / COLLECTION
        last, since = -1, time.monotonic()
        while time.monotonic() - since < SILENT_LIMIT_S:
            n_tiles = sum(1 for _ in root.glob("tiles/*/products.json"))
            n_notes = sum(1 for _ in root.glob("inbox/*.json"))
            if n_tiles == len(self.world.tiles) and n_notes == 0 and self._n_done() == len(self.world.exposures):
                return
            now = n_tiles + self._n_done() - n_notes
            if now != last:
                last, since = now, time.monotonic()
            time.sleep(0.5)
        self.say(f"the end did not come: {self._n_done()} exposures, {n_tiles} tiles, {n_notes} notes in the inbox")

    def _figures(self, records: RecordLog) -> dict[str, Any]:
        twice = {key for key, number in records.written.items() if number > 1}
        done = {kind: self._runs(kind) for kind in ("exposure", "tile")}
        names = [str(name) for name in self.world.exposures]
        return {
            "events_sent": self.senders.n_sent,
            "exposures": len(self.world.exposures),
            "exposures_once": self._once("exposures", names, done, twice),
            "tiles": len(self.world.tiles),
            "tiles_once": self._once("tiles", [str(name) for name in self.world.tiles], done, twice),
            "arrival_stages_finished": len(finished_stages(records.written)),
            "arrival_stages_run_twice": len(twice),
            **event_to_start(names, self.senders.first_sent, self._starts()),
            "restarts": self.restarts,
        }

    def _runs(self, kind: str) -> Mapping[str, int]:
        """Return how many runs of every exposure or tile Prefect knows to have been completed."""
        completed: Counter[str] = Counter()
        for run in self.station.runs_of(kind, self.begun):
            completed[run.name.split()[-1]] += run.state_name in ENDED_WELL
        return completed

    def _once(
        self, folder: str, names: Sequence[str], completed: Mapping[str, Mapping[str, int]], twice: set[str]
    ) -> int:
        """Return how many were processed exactly once: one list of products, no stage twice, no second finished run."""
        root = Path(self.world.raw.root) / COLLECTION / folder
        again = {key.split("/")[2].removesuffix(".json") for key in twice}
        again |= {subject.rsplit("-", 1)[0] for subject in again}
        runs = completed[folder.removesuffix("s")]
        return sum(
            (root / name / "products.json").is_file() and name not in again and runs.get(name, 0) <= 1 for name in names
        )

    def _starts(self) -> Mapping[str, Sequence[float]]:
        """Return when the flow runs of every exposure started."""
        starts: dict[str, list[float]] = defaultdict(list)
        for run in self.station.runs_of("exposure", self.begun):
            if run.start_time is not None:
                starts[run.name.split()[-1]].append(run.start_time.timestamp())
        return starts
