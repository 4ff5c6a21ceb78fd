"""Which tiles become complete as exposures are processed, without planning the whole survey after each of them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.recipes import TileRecipes
from flows.sky import Sky
from flows.tile_plan import TilePlan, TilePlanner, is_in_survey
from tasks.archive.manifests import list_begun, read_exposure_summaries
from tasks.products.identity import ExposureId, TileId


class Ready(NamedTuple):
    """A tile that is complete, or affected by an exposure."""

    tile: TileId
    exposures: tuple[ExposureId, ...]
    """Processed exposures that may overlap it."""
    version: str
    """Changes when an exposure that overlaps it changes, comes or goes."""


class Readiness:
    """Remembers where the processed exposures of a survey lie, and says which tiles have become complete or affected.

    Only exposures count: that code or settings changed is no reason to make a tile again; that is a question for
    `flows.plan`, as is whether exposures are stale. A tile is given out once for the same exposures; what it was given
    out for is forgotten with this object, and a tile that was processed meanwhile is then found to be up to date in the
    store.

    It may be used by several threads.

    Parameters
    ----------
    config
        Settings of every flow; it may name the tiles, and the exposures that each waits for.
    store
        Where the products are.
    raw
        Where the star catalogue is.

    Raises
    ------
    ConfigError
        If the settings name a file that is not in the raw store.
    StoreError
        If a store cannot be read now.
    """

    def __init__(self, config: SurveyConfig, store: DataStore, raw: DataStore) -> None:
        self._config, self._store = config, store
        self._sky = Sky(config.tile.find_exposures, store)
        recipes = TileRecipes(config.tile, raw)
        self._planner = TilePlanner(config, store, self._sky, recipes, {}, by_exposures_only=True)
        self._given: dict[TileId, str] = {}
        self._planned: dict[ExposureId, list[TileId]] = {}
        for tile, names in config.tile_exposures.items():
            for name in names:
                self._planned.setdefault(name, []).append(tile)
        self._lock = threading.RLock()
        begun, self._begun = list_begun(store)
        self._read([name for name in begun if is_in_survey(config, name)])

    def tiles_of(self, exposure: ExposureId) -> tuple[TileId, ...]:
        """Return the tiles of the survey that an exposure touches or that wait for it, by name."""
        with self._lock:
            touched = set(self._planned.get(exposure, ()))
            if self._sky.summary(exposure) is not None:
                touched |= set(self._sky.tiles_near(exposure))
        return tuple(sorted((tile for tile in touched if self._is_wanted(tile)), key=str))

    def after(self, exposure: ExposureId) -> tuple[Ready, ...]:
        """Return the tiles that have become complete, or are affected, by an exposure that was processed or set aside.

        Parameters
        ----------
        exposure
            The exposure; what the store says of it is read again.

        Returns
        -------
        tuple
            Tiles to run, by name.

        Raises
        ------
        StoreError
            If the store cannot be read now; asking again later gives the same answer.
        """
        if not is_in_survey(self._config, exposure):
            return ()
        with self._lock:
            before = self.tiles_of(exposure)
            self._read([exposure])
            return self._give_out(tuple(sorted({*before, *self.tiles_of(exposure)}, key=str)))

    def complete(self) -> tuple[Ready, ...]:
        """Return all tiles that are complete or affected now and were not given out.

        Raises
        ------
        StoreError
            If the store cannot be read now; asking again later gives the same answer.
        """
        with self._lock:
            touched = {tile for name in self._sky.exposures() for tile in self._sky.tiles_near(name)}
            wanted = touched | set(self._config.tile_exposures) | set(self._config.tiles) | set(self._begun)
            return self._give_out(tuple(sorted((tile for tile in wanted if self._is_wanted(tile)), key=str)))

    def again(self, ready: Ready) -> Ready | None:
        """Return a tile that was given out as it is to be made now.

        Its exposures are looked up again, as others work on the survey too.

        Returns
        -------
        Ready
            The tile; none if it is up to date, or one of its exposures is being made again.

        Raises
        ------
        StoreError
            If the store cannot be read now.
        """
        with self._lock:
            self._read(ready.exposures)
            found = self._ready((ready.tile,))
            if not found:
                self._given.pop(ready.tile, None)
                return None
            self._given[ready.tile] = found[0].version
            return found[0]

    def expected(self, tiles: Iterable[TileId], exposures: Iterable[ExposureId]) -> dict[TileId, set[ExposureId]]:
        """Return which exposures that are still to be processed may belong to tiles.

        Where an exposure lies is known if it was processed before or the settings name it for a tile. Another one may
        belong to every tile for which the settings name no exposures.
        """
        found: dict[TileId, set[ExposureId]] = {tile: set() for tile in tiles}
        unknown: set[ExposureId] = set()
        with self._lock:
            for exposure in exposures:
                if not is_in_survey(self._config, exposure):
                    continue
                if exposure not in self._planned and self._sky.summary(exposure) is None:
                    unknown.add(exposure)
                for tile in self.tiles_of(exposure):
                    if tile in found:
                        found[tile].add(exposure)
        for tile in found.keys() - self._config.tile_exposures.keys():
            found[tile] |= unknown
        return found

    def _read(self, exposures: Sequence[ExposureId]) -> None:
        summaries = read_exposure_summaries(self._store, exposures)
        for exposure in exposures:
            if exposure in summaries:
                self._sky.add(summaries[exposure])
            else:
                self._sky.discard(exposure)

    def _is_wanted(self, tile: TileId) -> bool:
        return not self._config.tiles or tile in self._config.tiles

    def _give_out(self, tiles: tuple[TileId, ...]) -> tuple[Ready, ...]:
        found = tuple(item for item in self._ready(tiles) if item.version != self._given.get(item.tile))
        self._given.update({item.tile: item.version for item in found})
        return found

    def _ready(self, tiles: tuple[TileId, ...]) -> tuple[Ready, ...]:
        plans = [item for item in self._planner.plan(tiles) if item.status in {"ready", "stale"}]
        return tuple(Ready(item.tile, item.exposures, self._version(item)) for item in plans)

    def _version(self, item: TilePlan) -> str:
        """Return a checksum of the exposures of a tile, without those that only come near it."""
        summaries = [self._sky.summary(name) for name in item.exposures if self._sky.overlaps(item.tile, name)]
        lines = "".join(f"{summary.exposure} {summary.fingerprint}\n" for summary in summaries if summary is not None)
        return hashlib.sha256(lines.encode()).hexdigest()[:16]
