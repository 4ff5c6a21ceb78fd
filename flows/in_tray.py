"""The notes of the inbox as the arrival flow sees them: those that wait, and those that are put off."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from blocks.store import DataStore
from flows.attempts import Note
from flows.put_off import PutOff
from tasks.archive.inbox import list_arrivals, read_arrivals, replace_damaged
from tasks.archive.raw_names import RawNames
from tasks.products.identity import ExposureId

LOOK_S = 1.0


@dataclass
class InTray:
    """The notes that wait, in the order in which they were announced."""

    store: DataStore
    names: RawNames
    """Tells which exposures there can be."""
    waiting: dict[ExposureId, Note] = field(default_factory=dict, init=False)
    put_off: PutOff = field(default_factory=PutOff, init=False)
    _looked: float = field(default=-math.inf, init=False)

    def look(self, running: Collection[object]) -> list[ExposureId]:
        """Look into the inbox, at most once a second.

        Parameters
        ----------
        running
            Exposures whose notes are being dealt with.

        Returns
        -------
        list of ExposureId
            Exposures whose notes could not be read and were written anew.
        """
        if time.monotonic() - self._looked < LOOK_S:
            return []
        now = list_arrivals(self.store)
        self._looked = time.monotonic()
        for gone in self.waiting.keys() - now.keys():
            del self.waiting[gone]
        self.put_off.keep(now.keys())
        new = [
            name
            for name, version in now.items()
            if name not in running
            and (name not in self.waiting or self.waiting[name].version != version)
            and not self.put_off.holds(name, version)
        ]
        found = read_arrivals(self.store, new)
        for arrival in found:
            self.waiting[arrival.exposure] = Note(arrival, now[arrival.exposure])
        unread = set(new) - {arrival.exposure for arrival in found}
        # whatever else lies there under the name of no exposure belongs to somebody else
        ours = [name for name in unread if self.names.exposure_named(name.name) is not None]
        return [name for name in ours if replace_damaged(self.store, name) is not None]

    def left(self) -> list[ExposureId]:
        """Return the exposures whose notes are in the inbox now and are the next run's to deal with."""
        versions = list_arrivals(self.store)
        return [name for name, version in versions.items() if not self.put_off.leaves(name, version)]

    def start_over(self) -> None:
        """Forget what the inbox can tell again."""
        self.waiting.clear()
        self._looked = -math.inf
