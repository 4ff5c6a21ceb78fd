"""Kills (SIGKILL) at random moments: the rerun must finish, redo only what was unfinished, and leave the same bytes."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fault_suite.runs import MODES, Mode, Place, Run, Target
from fault_suite.services import S3_BUCKET, S3_KEYS, S3Server
from fault_suite.watching import Bucket, Folder, Objects, Watcher, finished_stages, snapshot
from fault_suite.world import World

# kills before the first stage: while the program starts
EARLY = 0.1
LANES = 2
KILLS_PER_TARGET = 2


@dataclass
class Tally:
    """What the kills came to."""

    by_mode: Counter[str] = field(default_factory=Counter)
    by_collection: Counter[str] = field(default_factory=Counter)
    agrees: dict[str, bool] = field(default_factory=dict)
    """Whether a finished collection is the undisturbed one, to the bit."""
    differing: list[str] = field(default_factory=list)
    partial_objects: list[str] = field(default_factory=list)
    objects_watched: int = 0
    redone: list[str] = field(default_factory=list)
    finished_before_kills: int = 0
    orphans: int = 0
    failed_reruns: list[str] = field(default_factory=list)
    failed_recoveries: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def figures(self) -> dict[str, Any]:
        """Return what is printed at the end."""
        return {
            "kills": self.kills,
            "kills_by_mode": dict(self.by_mode),
            "collections": len(self.by_collection),
            "identical": self.identical,
            "differing": self.differing,
            "partial_objects": len(self.partial_objects),
            "partial_keys": self.partial_objects[:5],
            "objects_watched": self.objects_watched,
            "finished_stages_at_kills": self.finished_before_kills,
            "redone_finished_stages": len(self.redone),
            "redone": self.redone[:5],
            "orphan_processes": self.orphans,
            "failed_reruns": self.failed_reruns,
            "failed_recoveries": self.failed_recoveries,
        }

    @property
    def identical(self) -> int:
        """Number of kills after which the collection still came out as the undisturbed one, to the bit."""
        return sum(self.by_collection[name] for name, agrees in self.agrees.items() if agrees)

    @property
    def kills(self) -> int:
        """Number of kills until now."""
        return sum(self.by_mode.values())

    def killed(self, mode: str, collection: str) -> None:
        """Count one kill."""
        with self._lock:
            self.by_mode[mode] += 1
            self.by_collection[collection] += 1

    def compare(self, collection: str, expected: Mapping[str, str], found: Mapping[str, str]) -> None:
        """Compare the checksums of a finished collection with those of the undisturbed one."""
        keys = {key for key in expected.keys() | found.keys() if not is_shared(key)}
        differing = sorted(key for key in keys if expected.get(key) != found.get(key))
        with self._lock:
            self.agrees[collection] = self.agrees.get(collection, True) and not differing
            self.differing += differing[:5]

    def watched(self, watcher: Watcher) -> None:
        """Add what a watcher saw.

        Raises
        ------
        RuntimeError
            If it saw nothing because it failed.
        """
        if watcher.error is not None:
            raise RuntimeError(f"the watcher failed: {watcher.error!r}") from watcher.error
        with self._lock:
            self.partial_objects += watcher.partial
            self.objects_watched += watcher.n_read

    def check_redone(self, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        """Count the stages that had been finished and were run again: their records were written anew."""
        again = [key for key in before if key.startswith("records/") and now.get(key) != before[key]]
        with self._lock:
            self.finished_before_kills += len(finished_stages(before))
            self.redone += again


@dataclass(frozen=True)
class Reference:
    """An undisturbed run of the same survey: what it left, and how long it took."""

    expected: Mapping[str, str]
    work_s: Mapping[Target, float]
    n_stages: Mapping[Target, int]

    def of(self, done: Sequence[Target]) -> dict[str, str]:
        """Return what a collection must hold in which only these are done; what several share is left out."""
        return {key: sha256 for key, sha256 in self.expected.items() if any(map(partial(_is_of, key), done))}


def _is_of(key: str, target: Target) -> bool:
    parts = [part.removesuffix(".json") for part in key.split("/")]
    return any(part == target.name or part.startswith(f"{target.name}-") for part in parts)


def is_shared(key: str) -> bool:
    """Tell whether exposures share an object: the copies of reference files."""
    return key.startswith("references/")


def targets(world: World) -> list[Target]:
    """Return the exposures of a world and then its tiles."""
    exposures = [Target("exposure", str(name)) for name in world.exposures]
    return exposures + [Target("tile", str(name)) for name in world.tiles]


def make_reference(world: World, place: Place, objects: Objects) -> Reference:
    """Process a survey without disturbance; exposures side by side, as kills happen side by side too.

    Raises
    ------
    RuntimeError
        If a run fails.
    """
    work_s, n_stages = {}, {}
    for kind in ("exposure", "tile"):
        runs = [Run(place, target) for target in targets(world) if target.kind == kind]
        for run in runs:
            if run.wait() != 0 or run.first_stage is None or run.last_stage is None:
                raise RuntimeError(f"the undisturbed run of {run.target} failed: {run.lines[-3:]}")
            work_s[run.target] = run.last_stage - run.first_stage
            n_stages[run.target] = len(run.outcomes)
    return Reference(snapshot(objects), work_s, n_stages)


class Plan:
    """The kills that are still to be done, shared by the lanes."""

    def __init__(self, modes: Sequence[Mode]) -> None:
        self._modes = deque(modes)
        self._number = 0
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._modes)

    def take(self) -> Mode | None:
        """Return the next kill; none if all are done."""
        with self._lock:
            return self._modes.popleft() if self._modes else None

    def give_back(self, mode: Mode) -> None:
        """Put a kill back that could not be done."""
        with self._lock:
            self._modes.append(mode)

    def next_number(self) -> int:
        """Return a number that no other collection has."""
        with self._lock:
            self._number += 1
            return self._number


@dataclass
class Lane:
    """Kills one run after the other, in collections of its own."""

    world: World
    reference: Reference
    open_place: Callable[[str], tuple[Place, Objects]]
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
            mode = planned.take()
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
            planned.give_back(mode)
            run.wait()
            self.tally.check_redone(before, objects.versions())
            return objects.versions()
        self.tally.killed(mode, place.collection)
        code = run.wait()
        if mode == "pool worker" and code != 0:
            self.tally.failed_recoveries.append(f"{target.name}: {' '.join(run.lines[-1:])}")
        if mode == "flow":
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


@dataclass(frozen=True)
class Stores:
    """Opens collections in a folder, or in a bucket."""

    world: World
    env: Mapping[str, str]
    s3: S3Server | None = None

    def __call__(self, collection: str) -> tuple[Place, Objects]:
        """Return where runs work, and how a collection looks from outside."""
        raw = self.world.raw.url
        if self.s3 is None:
            root = Path(self.world.raw.root)
            place = Place(str(self.world.survey_file), str(root), raw, collection, self.env)
            return place, Folder(root / collection)
        env = {**self.env, **S3_KEYS, "AWS_ENDPOINT_URL": self.s3.url}
        place = Place(str(self.world.survey_file), f"s3://{S3_BUCKET}", raw, collection, env)
        return place, Bucket(self.s3.url, S3_BUCKET, collection, S3_KEYS)


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
    planned = Plan([MODES[k % len(MODES)] for k in range(n_kills)])

    def work(lane: Lane) -> None:
        while planned:
            lane.round(f"{name}-{planned.next_number()}", planned)

    with ThreadPoolExecutor(len(lanes)) as threads:
        for future in [threads.submit(work, lane) for lane in lanes]:
            future.result()
