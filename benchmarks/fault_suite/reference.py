"""A survey that nothing disturbed: what the killed ones must come to, and how long the work takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fault_suite.runs import Place, Run, Target
from fault_suite.services import S3_BUCKET, S3_KEYS, S3Server
from fault_suite.tally import is_shared
from fault_suite.watching import Bucket, Folder, Objects, snapshot
from fault_suite.world import World

OpenPlace = Callable[[str], tuple[Place, Objects]]


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


def targets(world: World) -> list[Target]:
    """Return the exposures of a world and then its tiles."""
    exposures = [Target("exposure", str(name)) for name in world.exposures]
    return exposures + [Target("tile", str(name)) for name in world.tiles]


def make_reference(world: World, open_place: OpenPlace) -> Reference:
    """Process a survey twice without disturbance; exposures side by side, as kills happen side by side too.

    The first time, kernels may have to be compiled: how long the work takes is seen the second time.

    Raises
    ------
    RuntimeError
        If a run fails, or the two leave different bytes: then there is nothing to compare with.
    """
    runs: list[Run] = []
    bytes_left = []
    for collection in ("first", "reference"):
        place, objects = open_place(collection)
        runs = process_undisturbed(world, place)
        bytes_left.append({key: sha256 for key, sha256 in snapshot(objects).items() if not is_shared(key)})
    first, second = bytes_left
    differing = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    if differing:
        raise RuntimeError(f"two undisturbed runs differ in {len(differing)} objects, such as {differing[0]}")
    return Reference(
        snapshot(objects),
        {run.target: run.work_s for run in runs},
        {run.target: len(run.outcomes) for run in runs},
    )


def process_undisturbed(world: World, place: Place) -> list[Run]:
    """Process all exposures and then all tiles, and return the runs.

    Raises
    ------
    RuntimeError
        If one fails.
    """
    done: list[Run] = []
    for kind in ("exposure", "tile"):
        runs = [Run(place, target) for target in targets(world) if target.kind == kind]
        for run in runs:
            if run.wait() != 0 or not run.outcomes:
                raise RuntimeError(f"the undisturbed run of {run.target} failed: {run.lines[-3:]}")
        done += runs
    return done
