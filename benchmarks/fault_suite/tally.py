"""What kills came to: how many there were, and what was not as it must be afterwards."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fault_suite.watching import Watcher, finished_stages


@dataclass
class Tally:
    """What the kills came to."""

    by_target: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kills by what was worked on and what was killed."""
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
            "kills_by_kind": self._by(0),
            "kills_by_mode": self._by(1),
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
        return self.by_target.total()

    def _by(self, part: int) -> dict[str, int]:
        found: Counter[str] = Counter()
        for target, number in self.by_target.items():
            found[target[part]] += number
        return dict(found)

    def killed(self, kind: str, mode: str, collection: str) -> None:
        """Count one kill."""
        with self._lock:
            self.by_target[kind, mode] += 1
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


def is_shared(key: str) -> bool:
    """Tell whether exposures share an object: the copies of reference files."""
    return key.startswith("references/")
