"""A burst of arrivals from four senders, with duplicates and in disorder, while server and worker are restarted."""

from __future__ import annotations

import json
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blocks.store import DataStore
from fault_suite.services import PrefectServer, Service, free_port
from fault_suite.station import Station
from fault_suite.watching import Folder, finished_stages
from fault_suite.world import ONE_CCD, make_world

SHARE_OF_DUPLICATES = 0.3
SENDERS = 4
PER_TILE = 10
# the senders leave room, as waiting for the processor is not what is measured
SHARE_OF_THROUGHPUT = 0.7
WARM_UP = 8
COLLECTION = "arrivals"
SECRET = "the secret of the fault suite only"
END_LIMIT_S = 900.0
SILENT_LIMIT_S = 400.0
SENDER = Path(__file__).with_name("sender.py")
ENDED_WELL = {"Completed"}


class RecordLog(threading.Thread):
    """Sees every stage that is finished: a record that is written twice is a stage that was run twice."""

    def __init__(self, objects: Folder) -> None:
        super().__init__(daemon=True)
        self._objects = objects
        self._ended = threading.Event()
        self._seen: dict[str, str] = {}
        self.written: Counter[str] = Counter()

    def run(self) -> None:
        """Look until told to end."""
        while not self._ended.wait(0.3):
            self.look()

    def look(self) -> None:
        """Count what was written since the last look."""
        for key, version in self._objects.versions().items():
            if key.startswith("records/") and self._seen.get(key) != version:
                self._seen[key] = version
                self.written[key] += 1

    def end(self) -> None:
        """Look once more and stop."""
        self._ended.set()
        self.join()
        self.look()


@dataclass
class Arrivals:
    """One burst."""

    folder: Path
    server: PrefectServer
    n_events: int
    rng: random.Random
    say: Callable[[str], None]
    short: bool = False
    first_sent: dict[str, float] = field(default_factory=dict)
    n_sent: int = 0
    restarts: list[str] = field(default_factory=list)

    def measure(self) -> dict[str, Any]:
        """Send the events, restart services in the middle, wait for the end and count."""
        self.folder.mkdir()
        n_exposures = round(self.n_events * (1 - SHARE_OF_DUPLICATES))
        raw = DataStore(root=str(self.folder / "store"), collection="raw")
        self.world = make_world(self.folder, ONE_CCD, raw, n_exposures, PER_TILE)
        self.objects = Folder(Path(raw.root) / COLLECTION)
        self.station = Station(self.server, self.folder)
        port = free_port()
        self.receiver_url = f"http://127.0.0.1:{port}"
        receiver = Service(
            (sys.executable, "-m", "deployments.cli", "receive", "--listen", f"127.0.0.1:{port}", *self._options()),
            self.server.client_environment(SHEARLINE_RECEIVER_SECRET=SECRET),
            self.folder / "receiver.log",
        )
        records = RecordLog(self.objects)
        try:
            self.station.deploy(self.world.survey_file, raw.root, raw.url, COLLECTION)
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
        rate = SHARE_OF_THROUGHPUT * per_s / (1 - SHARE_OF_DUPLICATES)
        begun = time.monotonic()
        self._send_and_restart(events, rate)
        sent_s = time.monotonic() - begun
        self._wait_for_end()
        records.end()
        return self._figures(records) | {
            "arrival_rate_per_s": round(len(events) / sent_s, 2),
            "arrival_wall_s": round(time.monotonic() - begun, 1),
            "exposures_per_s_measured": round(per_s, 2),
        }

    def _warm_up(self, names: Sequence[str]) -> float:
        """Announce a few by the command and return how many are processed in a second."""
        now = time.time()
        self.first_sent |= dict.fromkeys(names, now)
        self.n_sent += len(names)
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

    def _send_and_restart(self, events: Sequence[str], rate: float) -> None:
        """Let every sender send its share, and restart services meanwhile."""
        timed = [(number / rate, name) for number, name in enumerate(events)]
        senders = [self._sender(k, timed[k::SENDERS]) for k in range(SENDERS)]
        threads = [threading.Thread(target=self._listen, args=(sender,)) for sender in senders]
        for sender in senders:
            if sender.stdout is None or sender.stdout.readline().strip() != "ready":
                raise RuntimeError("a sender did not start")
        begin = time.time() + 0.5
        for sender, thread in zip(senders, threads, strict=True):
            if sender.stdin is not None:
                sender.stdin.write(f"{begin}\n")
                sender.stdin.flush()
            thread.start()
        plan = self._restart_plan()
        for share, restart in plan:
            time.sleep(max(0.0, begin + share * timed[-1][0] - time.time()))
            restart()
        for sender, thread in zip(senders, threads, strict=True):
            if sender.wait() != 0:
                raise RuntimeError("a sender failed")
            thread.join()

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
        from fault_suite.services import family

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

    def _sender(self, number: int, events: Sequence[tuple[float, str]]) -> subprocess.Popen[str]:
        plan = {
            "events": events,
            "receiver": self.receiver_url if number % 2 else None,
            "secret": SECRET,
            "survey": str(self.world.survey_file),
            "store": self.world.raw.root,
            "collection": COLLECTION,
        }
        file = self.folder / f"sender-{number}.json"
        file.write_text(json.dumps(plan))
        return subprocess.Popen(
            [sys.executable, str(SENDER), str(file)],
            env=self.server.client_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "senders.log").open("a"),
            text=True,
        )

    def _listen(self, sender: subprocess.Popen[str]) -> None:
        for line in sender.stdout or ():
            name, sent = line.split()
            self.n_sent += 1
            self.first_sent[name] = min(float(sent), self.first_sent.get(name, float("inf")))

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
        waits = self._waits()
        return {
            "events_sent": self.n_sent,
            "exposures": len(self.world.exposures),
            "exposures_once": self._once("exposures", [str(name) for name in self.world.exposures], done, twice),
            "tiles": len(self.world.tiles),
            "tiles_once": self._once("tiles", [str(name) for name in self.world.tiles], done, twice),
            "arrival_stages_finished": len(finished_stages(records.written)),
            "arrival_stages_run_twice": len(twice),
            "event_to_start_median_s": round(statistics.median(waits), 2) if waits else None,
            "event_to_start_p90_s": round(sorted(waits)[int(0.9 * len(waits))], 2) if waits else None,
            "restarts": self.restarts,
        }

    def _runs(self, kind: str) -> Mapping[str, int]:
        """Return how many runs of every exposure or tile Prefect knows to have been completed."""
        completed: Counter[str] = Counter()
        for run in self.station.runs_of(kind):
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

    def _waits(self) -> list[float]:
        """Return the seconds from the first announcement of every exposure to the start of its first flow run."""
        starts: dict[str, list[float]] = defaultdict(list)
        for run in self.station.runs_of("exposure"):
            if run.start_time is not None:
                starts[run.name.split()[-1]].append(run.start_time.timestamp())
        return [min(starts[name]) - sent for name, sent in self.first_sent.items() if starts.get(name)]
