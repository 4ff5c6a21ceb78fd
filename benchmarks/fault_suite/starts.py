"""From the first event of an exposure to the start of its flow run."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def event_to_start(
    names: Iterable[str], first_sent: Mapping[str, float], starts: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return how long exposures waited for their start; what cannot be measured is counted, not left out.

    Parameters
    ----------
    names
        All exposures.
    first_sent
        When the first event of every exposure was sent, in seconds.
    starts
        When the flow runs of every exposure started, by the same clock.

    Returns
    -------
    dict
        Median and 90th percentile in seconds (none without measurements), and the number of exposures whose wait is
        unknown, or negative: one that was started before anybody said so was not started by an event.
    """
    waits = {name: min(starts[name]) - first_sent[name] for name in names if name in first_sent and starts.get(name)}
    good = sorted(wait for wait in waits.values() if wait >= 0.0)
    return {
        "event_to_start_median_s": round(statistics.median(good), 2) if good else None,
        "event_to_start_p90_s": round(good[int(0.9 * len(good))], 2) if good else None,
        "event_to_start_measured": len(good),
        "started_before_event": len(waits) - len(good),
    }
