"""Kills (SIGKILL) of deployed runs on a real worker, and of the worker itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import UUID

from fault_suite.kills import rarest
from fault_suite.reference import Reference, targets
from fault_suite.runs import Target
from fault_suite.services import family, is_alive
from fault_suite.station import Station
from fault_suite.tally import Tally
from fault_suite.watching import Folder, Watcher, snapshot
from fault_suite.world import World

START_LIMIT_S = 120.0
RUN_LIMIT_S = 300.0
FINAL = ("Completed", "Failed", "Crashed", "Cancelled")
# a single kill is of both
DEPLOYED_MODES = ("worker and flow", "worker", "deployed flow")


class DeployedLane:
    """Kills deployed runs, one collection after the other."""

    def __init__(
        self,
        world: World,
        reference: Reference,
        station: Station,
        tally: Tally,
        rng: random.Random,
        say: Callable[[str], None],
    ) -> None:
        self._world, self._reference, self._station = world, reference, station
        self._tally, self._rng, self._say = tally, rng, say
        self.not_noticed: list[str] = []

    def kill(self, n_kills: int) -> None:
        """Kill so many runs, at most one of every exposure and tile of a collection."""
        done, number = 0, 0
        while done < n_kills:
            number += 1
            collection = f"deployed-{number}"
            place = Folder(Path(self._world.raw.root) / collection)
            with Watcher(place, self._reference.expected) as watcher:
                finished = []
                for target in targets(self._world):
                    if done < n_kills:
                        mode = rarest(self._tally.by_target, target.kind, DEPLOYED_MODES)
                        done += self._target(collection, place, target, mode)
                        finished.append(target)
            self._tally.watched(watcher)
            self._tally.compare(collection, self._reference.of(finished), snapshot(place))

    def _target(self, collection: str, objects: Folder, target: Target, mode: str) -> bool:
        """Process one exposure or tile, killing once on the way; tell whether there was a kill."""
        parameters = {
            target.kind: target.name,
            "store": {"root": self._world.raw.root, "collection": collection},
        }
        run = self._station.start_run(f"{target.kind}/{target.kind}", parameters)
        killed = self._kill(run, collection, objects, target, mode)
        before: Mapping[str, str] = objects.versions() if killed else {}
        if killed:
            ended = self._end_of_killed(run, mode)
            self._say(f"kill {self._tally.kills}: {mode} of {target.kind} {target.name}; its run is {ended}")
            if ended != "Completed":
                # what an operator does: the same run once more
                again = self._station.start_run(f"{target.kind}/{target.kind}", parameters)
                self._check_end(again, target)
                if self._station.wait_for(run, FINAL, 30) not in FINAL:
                    self.not_noticed.append(f"{mode} of {target.name}: the killed run is still Running")
        else:
            self._check_end(run, target)
        self._tally.check_redone(before, objects.versions())
        return killed

    def _check_end(self, run: UUID, target: Target) -> None:
        ended = self._station.wait_for(run, FINAL, RUN_LIMIT_S)
        if ended != "Completed":
            self._tally.failed_reruns.append(f"deployed {target.kind} {target.name} is {ended}")

    def _kill(self, run: UUID, collection: str, objects: Folder, target: Target, mode: str) -> bool:
        """Kill at a random moment of the work; false if the run was faster."""
        ended = self._station.wait_for(run, ("Running", *FINAL), START_LIMIT_S)
        process = self._station.process_of(run)
        if ended in FINAL or process is None:
            return False
        self._wait_for_work(objects, target)
        time.sleep(self._rng.uniform(0.0, self._reference.work_s[target]))
        relatives = family(process.pid)
        if not is_alive(process) or self._station.state_of(run) in FINAL:
            return False
        if mode != "deployed flow":
            self._station.worker.kill_alone()
        if mode != "worker":
            process.kill()
        self._tally.killed(target.kind, mode, collection)
        if mode != "worker":
            gone_by = time.monotonic() + 10
            while any(map(is_alive, relatives)) and time.monotonic() < gone_by:
                time.sleep(0.05)
            self._tally.orphans += sum(map(is_alive, relatives))
        if mode != "deployed flow":
            self._station.worker.start()
        return True

    def _end_of_killed(self, run: UUID, mode: str) -> str:
        """Return what became of a killed run: a worker notices the death of its flow; a flow may outlive its worker."""
        if mode != "worker":
            return self._station.wait_for(run, FINAL, 20 if mode == "deployed flow" else 1)
        deadline = time.monotonic() + RUN_LIMIT_S
        while time.monotonic() < deadline and self._station.process_of(run) is not None:
            time.sleep(0.2)
        return self._station.wait_for(run, FINAL, 5)

    def _wait_for_work(self, objects: Folder, target: Target) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        folder = f"{target.kind}s/{target.name}/"
        while time.monotonic() < deadline and not any(key.startswith(folder) for key in objects.versions()):
            time.sleep(0.05)
