"""What docs/operations/faults.md promises, and what of it did not come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from fault_suite.deployed import DEPLOYED_MODES
from fault_suite.runs import MODES, Kind

SHARE_OF_DUPLICATES = 0.3
MAX_OVERHEAD = 0.15
MAX_EVENT_TO_START_S = 10.0
# of the server's memory, from the first quarter of the night to its end
MAX_GROWTH = 1.2

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the suite was asked to do."""

    parts: Sequence[str]
    kills: int
    events: int
    night: int
    short: bool = False

    @property
    def exposures(self) -> int:
        """How many exposures the events announce."""
        return round(self.events * (1 - SHARE_OF_DUPLICATES))


def broken_promises(results: Results, asked: Asked) -> list[str]:
    """Return a sentence for everything that did not come out as promised; a figure that is missing did not."""
    checks: dict[str, Callable[[Results, Asked], list[str]]] = {
        "kills": of_kills,
        "night": of_night,
        "arrivals": of_arrivals,
        "tests": of_tests,
    }
    broken = [f"the part {part} stopped: {sentence}" for part, sentence in results.get("errors", {}).items()]
    for part in asked.parts:
        if part not in results.get("errors", {}):
            broken += checks[part](results, asked)
    changed = results.get("sources_changed_meanwhile")
    if changed != []:
        which = ", ".join((changed or ["nobody looked"])[:5])
        broken.append(
            f"the code changed while the suite ran ({which}), so its figures are of two versions: run it again on a "
            "copy that nobody edits"
        )
    return broken


def of_kills(results: Results, asked: Asked) -> list[str]:
    """Return what the kills broke."""
    broken = differing(
        results,
        {
            "kills": asked.kills,
            "identical": asked.kills,
            "partial_objects": 0,
            "redone_finished_stages": 0,
            "orphan_processes": 0,
            "failed_reruns": [],
            "failed_recoveries": [],
            "deaths_not_noticed": [],
        },
    )
    broken += missing(results, ("objects_watched", "finished_stages_at_kills"))
    kinds, modes = results.get("kills_by_kind") or {}, results.get("kills_by_mode") or {}
    broken += [f"no {kind} was killed" for kind in get_args(Kind) if not kinds.get(kind)]
    if not asked.short:
        broken += [f"there was no kill of {mode}" for mode in (*MODES, *DEPLOYED_MODES) if not modes.get(mode)]
    return broken


def of_night(results: Results, asked: Asked) -> list[str]:
    """Return what the night broke."""
    broken = differing(results, {"night_exposures": asked.night})
    broken += above(results, {"overhead_fraction": MAX_OVERHEAD})
    memory = results.get("server_rss_mb") or {}
    first, last = memory.get("25%"), memory.get("100%")
    if not first or not last:
        broken.append("the server's memory was not measured")
    elif last > MAX_GROWTH * first:
        broken.append(f"the server grew from {first} to {last} MB after the first quarter of the night")
    return broken


def of_arrivals(results: Results, asked: Asked) -> list[str]:
    """Return what the arrivals broke."""
    broken = differing(
        results,
        {
            "events_sent": asked.events,
            "exposures": asked.exposures,
            "exposures_once": asked.exposures,
            "tiles_once": results.get("tiles"),
            "arrival_stages_run_twice": 0,
            "event_to_start_measured": asked.exposures,
            "started_before_event": 0,
        },
    )
    broken += missing(results, ("tiles", "restarts", "event_to_start_median_s"))
    # the short burst is not much longer than its restarts
    return broken if asked.short else broken + above(results, {"event_to_start_median_s": MAX_EVENT_TO_START_S})


def of_tests(results: Results, asked: Asked) -> list[str]:
    """Return what the tests broke."""
    return differing(results, {"fault_tests_exit_code": 0}) + missing(results, ("fault_tests_passed",))


def differing(results: Results, wanted: Mapping[str, Any]) -> list[str]:
    """Return a sentence for every figure that is not what it must be."""
    return [f"{key} is {results.get(key)}, not {value}" for key, value in wanted.items() if results.get(key) != value]


def missing(results: Results, keys: Sequence[str]) -> list[str]:
    """Return a sentence for every figure that must say something and does not."""
    return [f"{key} is {results.get(key)}, so nothing was shown" for key in keys if not results.get(key)]


def above(results: Results, tops: Mapping[str, float]) -> list[str]:
    """Return a sentence for every figure that is above its limit, or was not measured."""
    broken = []
    for key, top in tops.items():
        value = results.get(key)
        if value is None:
            broken.append(f"{key} was not measured")
        elif not value <= top:
            broken.append(f"{key} is {value}, above {top}")
    return broken
