"""Complete tiles that wait to be started: in the order in which they became complete, behind what came before them."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from flows.readiness import Ready
from tasks.products.identity import ExposureId, TileId


@dataclass
class _Place:
    ready: Ready
    behind: set[ExposureId]
    """Exposures that were announced before the tile became complete, may belong to it, and are not dealt with."""
    not_before: float = -math.inf


@dataclass
class TileQueue:
    """The tiles that are not started.

    A tile that is complete waits for the exposures which were announced by then and may belong to it, so that it is not
    made with every one of a burst. It does not wait for what is announced later, nor for what is put off.
    """

    _places: dict[TileId, _Place] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._places)

    def add(self, tiles: Iterable[Ready], expected: Mapping[TileId, Collection[ExposureId]]) -> None:
        """Take in tiles that have become complete.

        Parameters
        ----------
        tiles
            The tiles; one that is here already keeps its place, and waits for no more than before.
        expected
            Announced exposures that may belong to each.
        """
        for ready in tiles:
            place = self._places.get(ready.tile)
            if place is None:
                self._places[ready.tile] = _Place(ready, set(expected.get(ready.tile, ())))
            else:
                changed = place.ready.version != ready.version
                place.ready, place.not_before = ready, -math.inf if changed else place.not_before

    def next(self, announced: Collection[ExposureId], running: Collection[TileId]) -> Ready | None:
        """Return the tile to start now; it stays here until it is taken.

        Parameters
        ----------
        announced
            Exposures that run or wait to be started, without those that are put off.
        running
            Tiles that run; one of them is started again when it has ended, with the exposures that have come since.
        """
        found, now = None, time.monotonic()
        for tile, place in self._places.items():
            place.behind.intersection_update(announced)
            if found is None and not place.behind and tile not in running and place.not_before <= now:
                found = place.ready
        return found

    def take(self, tile: TileId) -> None:
        """Remove a tile that is started, or needs not be."""
        del self._places[tile]

    def put_back(self, ready: Ready, wait_s: float = 0.0) -> None:
        """Take a tile back that ran without success, to be started again after a while."""
        # if it was given out anew meanwhile, that is another try
        self._places.setdefault(ready.tile, _Place(ready, set(), time.monotonic() + wait_s))
