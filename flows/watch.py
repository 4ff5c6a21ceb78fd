"""Watching the raw store for exposures that nobody announces."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from blocks.store import DataStore, StoreError, StoreUnusableError
from flows.announce import LOOKUPS, emit_arrivals, settled
from flows.config import ExposureConfig
from flows.standing import Standings
from tasks.archive.inbox import Arrival, announce, list_arrivals
from tasks.archive.raw_names import RawNames
from tasks.products.identity import ExposureId

LONGEST_WAIT_S = 300.0


@dataclass
class Watch:
    """What was seen of a raw store so far.

    A file counts when two looks in a row saw the same version of it, so that one which is still being copied is not
    announced. An exposure is announced when all its files count, unless it has been processed or refused with these
    files, or has a note already.
    """

    store: DataStore
    """Store of the products."""
    raw: DataStore
    """The raw store; never written."""
    config: ExposureConfig
    """Settings of the exposure flow: names of the camera's files, and what an exposure would be made by today."""
    survey: str
    """Name of the survey, for the events."""
    _before: Mapping[str, str] = field(default_factory=dict, init=False)
    _standings: Standings = field(init=False)
    _dealt_with: dict[ExposureId, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._standings = Standings(self.config, self.store, self.raw)

    def look(self) -> list[Arrival]:
        """Look once and announce what is new, in the order of the names.

        Raises
        ------
        StoreError
            If a store cannot be used now; what was not announced is announced at the next look.
        """
        versions = self.raw.list_versions()
        complete = RawNames(self.config.instrument).complete(settled(self._before, versions))
        self._before = versions
        # a checksum of the files instead of the files: of every exposure of a season one number stays in memory
        states = {name: hash(tuple((key, versions[key]) for key in files)) for name, files in complete.items()}
        new = [name for name, state in states.items() if self._dealt_with.get(name) != state]
        if not new:
            return []
        waiting = set(list_arrivals(self.store))
        with ThreadPoolExecutor(LOOKUPS) as threads:
            notes = [note for note in threads.map(lambda name: self._announce(name, waiting), new) if note is not None]
        emit_arrivals(notes, self.survey)
        self._dealt_with |= states
        return notes

    def _announce(self, exposure: ExposureId, waiting: set[ExposureId]) -> Arrival | None:
        if exposure in waiting and exposure not in self._dealt_with:
            return None
        if self._standings.of(exposure) != "new":
            return None
        return announce(self.store, exposure, self.raw.url)


def watch(
    current: Watch,
    interval_s: float,
    stop: threading.Event,
    tell: Callable[[str], None],
    *,
    once: bool = False,
) -> int:
    """Look at the raw store again and again until told to stop; a store that cannot be used is waited for.

    Parameters
    ----------
    current
        What to watch.
    interval_s
        Time between two looks; after failures up to 5 minutes.
    stop
        Ends the watch, also in the middle of waiting.
    tell
        Gets a line for every announced exposure, and for every failure.
    once
        Whether to end after the second look, which is the first that can announce anything.

    Returns
    -------
    int
        Number of announced exposures.

    Raises
    ------
    StoreError
        With ``once``, if a store cannot be used.
    """
    announced, failures, looks = 0, 0, 0
    while not stop.is_set():
        try:
            notes = current.look()
        except (StoreError, StoreUnusableError) as error:
            if once:
                raise
            failures += 1
            wait_s = min(interval_s * 2**failures, max(LONGEST_WAIT_S, interval_s))
            tell(f"{error}; trying again in {wait_s:.0f} s")
            stop.wait(wait_s)
            continue
        failures, looks, announced = 0, looks + 1, announced + len(notes)
        for note in notes:
            tell(f"announced {note.exposure}")
        if once and looks > 1:
            break
        stop.wait(interval_s)
    return announced
