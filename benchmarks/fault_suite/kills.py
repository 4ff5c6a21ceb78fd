"""Kills (SIGKILL) at random moments: the rerun must finish, redo only what was unfinished, and leave the same bytes."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from fault_suite.reference import OpenPlace, Reference, targets
from fault_suite.runs import MODES, Mode, Place, Run, Target
from fault_suite.tally import Tally
from fault_suite.watching import Objects, Watcher, finished_stages, snapshot
from fault_suite.world import World

M = TypeVar("M", bound=str)
# kills before the first stage: while the program starts
EARLY = 0.1
KILLS_PER_TARGET = 2


class Plan:
    """The kills that are still to be done, shared by the lanes.

    Parameters
    ----------
    n_kills
        Number of kills.
    done
        Those that were done before, by what was worked on and what was killed.
    kinds
        What is worked on; each of these is killed at least once, if there are kills enough.
    """

    def __init__(
        self, n_kills: int, done: Mapping[tuple[str, str], int] | None = None, kinds: Sequence[str] = ()
    ) -> None:
        self._left = n_kills
        self._given: Counter[tuple[str, str]] = Counter(done or {})
        self._kinds = kinds
        self._number = 0
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return self._left > 0

    def take(self, kind: str) -> Mode | None:
        """Return what to kill next; none if all kills are done, or those that are left are for another kind."""
        with self._lock:
            met = {one for (one, _), number in self._given.items() if number > 0}
            kept = len(set(self._kinds) - met - {kind})
            if self._left == 0 or (kind in met and self._left <= kept):
                return None
            self._left -= 1
            mode = rarest(self._given, kind, MODES)
            self._given[kind, mode] += 1
            return mode

    def give_back(self, kind: str, mode: Mode) -> None:
        """Put a kill back that could not be done."""
        with self._lock:
            self._left += 1
            self._given[kind, mode] -= 1

    def next_number(self) -> int:
        """Return a number that no other collection has."""
        with self._lock:
            self._number += 1
            return self._number


def rarest(done: Mapping[tuple[str, str], int], kind: str, modes: Sequence[M]) -> M:
    """Return the way to kill that a kind of target has met least often until now; of several that which all have."""

    def met(mode: M) -> tuple[int, int]:
        return done.get((kind, mode), 0), sum(number for (_, other), number in done.items() if other == mode)

    return min(modes, key=met)


@dataclass
class Lane:
    """Kills one run after the other, in collections of its own."""

    world: World
    reference: Reference
    open_place: OpenPlace
    tally: Tally
    rng: random.Random
    say: Callable[[str], None]

    def round(self, name: str, planned: Plan) -> None:
        """Process one collection, killing on the way, and compare it with the reference."""
        place, objects = self.open_place(name)
        with Watcher(objects, self.reference.expected) as watcher:
            done = []
            for target in targets(self.world):
                if planned:
                    self._target(place, objects, target, planned)
                    done.append(target)
        self.tally.watched(watcher)
        self.tally.compare(name, self.reference.of(done), snapshot(objects))

    def _target(self, place: Place, objects: Objects, target: Target, planned: Plan) -> None:
        before: Mapping[str, str] = {}
        for _ in range(KILLS_PER_TARGET):
            mode = planned.take(target.kind)
            if mode is not None:
                before = self._one_kill(place, objects, target, mode, before, planned)
        run = Run(place, target)
        code = run.wait()
        outcomes = Counter(outcome for _, _, outcome in run.outcomes)
        self.say(f"{place.collection}: {target.kind} {target.name} ended with {code}: {dict(outcomes)}")
        if code != 0:
            self.tally.failed_reruns.append(f"{target.name}: {' '.join(run.lines[-1:])}")
        self.tally.check_redone(before, objects.versions())

    def _one_kill(
        self, place: Place, objects: Objects, target: Target, mode: Mode, before: Mapping[str, str], planned: Plan
    ) -> Mapping[str, str]:
        """Start a run and kill it; return what was there then."""
        run = Run(place, target)
        if mode != "pool worker" and self.rng.random() < EARLY:
            time.sleep(self.rng.uniform(0.0, 3.0))
            moment = "while it starts"
        else:
            left = 1.0 - _n_finished(before, target) / self.reference.n_stages[target]
            moment_s = self.rng.uniform(0.0, self.reference.work_s[target] * max(left, 0.1))
            run.sleep_until(moment_s)
            moment = f"{moment_s:.1f} s after its first stage"
        relatives = run.relatives()
        seen = objects.versions() if mode == "pool worker" else {}
        if not run.kill(mode, self.rng):
            # it was faster than thought: that is no kill
            planned.give_back(target.kind, mode)
            run.wait()
            self.tally.check_redone(before, objects.versions())
            return objects.versions()
        self.tally.killed(target.kind, mode, place.collection)
        code = run.wait()
        if mode == "pool worker" and code != 0:
            self.tally.failed_recoveries.append(f"{target.name}: {' '.join(run.lines[-1:])}")
        if mode != "pool worker":
            self.tally.orphans += len(run.orphans_after([item for item in relatives if item.pid != run.pid]))
        self.say(
            f"kill {self.tally.kills}: {mode} of {target.kind} {target.name}, {moment}, {len(run.outcomes)} stages"
        )
        now = objects.versions()
        self.tally.check_redone(seen or before, now)
        return now


def _n_finished(versions: Mapping[str, str], target: Target) -> int:
    """Return how many stages of an exposure, its CCDs included, or of a tile have a record."""
    subjects = [subject for _, subject in finished_stages(versions)]
    return sum(subject == target.name or subject.startswith(f"{target.name}-") for subject in subjects)


def kill_commands(n_kills: int, lanes: Sequence[Lane], name: str) -> None:
    """Kill runs of the command so many times, side by side in every lane.

    Parameters
    ----------
    n_kills
        Number of kills in all lanes together.
    lanes
        Each works on one collection after the other.
    name
        Beginning of the names of the collections.
    """
    planned = Plan(n_kills, lanes[0].tally.by_target, [target.kind for target in targets(lanes[0].world)])

    def work(lane: Lane) -> None:
        while planned:
            lane.round(f"{name}-{planned.next_number()}", planned)

    with ThreadPoolExecutor(len(lanes)) as threads:
        for future in [threads.submit(work, lane) for lane in lanes]:
            future.result()
