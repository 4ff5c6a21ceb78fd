"""Which tiles become complete as exposures are processed, without planning the whole survey after each of them."""

from __future__ import annotations

import threading

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.recipes import TileRecipes
from flows.sky import Sky
from flows.tile_plan import TilePlan, TilePlanner, is_in_survey
from tasks.archive.manifests import list_begun, read_exposure_summaries, read_exposure_summary
from tasks.products.identity import ExposureId, TileId
from tasks.products.recipe import Recipe

# a tile that is complete, and the processed exposures that may overlap it
Ready = tuple[TileId, tuple[ExposureId, ...]]


class Readiness:
    """Remembers where the processed exposures of a survey lie, and says which tiles have become complete or affected.

    A tile is given out once for the same exposures, code and settings; what it was given out for is forgotten with this
    object, and a tile that was processed meanwhile is then found to be up to date in the store. Whether exposures are
    stale is a question for `flows.plan`, not asked here.

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
        self._recipes = TileRecipes(config.tile, raw)
        self._planner = TilePlanner(config, store, self._sky, self._recipes, {})
        self._given: dict[TileId, Recipe] = {}
        self._planned: dict[ExposureId, list[TileId]] = {}
        for tile, names in config.tile_exposures.items():
            for name in names:
                self._planned.setdefault(name, []).append(tile)
        self._lock = threading.RLock()
        begun, self._begun = list_begun(store)
        for summary in read_exposure_summaries(store, [name for name in begun if is_in_survey(config, name)]).values():
            self._sky.add(summary)

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
            Tiles to run, each with its exposures, by name.

        Raises
        ------
        StoreError
            If the store cannot be read now; asking again later gives the same answer.
        """
        if not is_in_survey(self._config, exposure):
            return ()
        with self._lock:
            summary = read_exposure_summary(self._store, exposure)
            if summary is None:
                before = self.tiles_of(exposure)
                self._sky.discard(exposure)
                return self._ready(before)
            self._sky.add(summary)
            return self._ready(self.tiles_of(exposure))

    def complete(self) -> tuple[Ready, ...]:
        """Return all tiles that are complete or affected now and were not given out, each with its exposures.

        Raises
        ------
        StoreError
            If the store cannot be read now; asking again later gives the same answer.
        """
        with self._lock:
            touched = {tile for name in self._sky.exposures() for tile in self._sky.tiles_near(name)}
            wanted = touched | set(self._config.tile_exposures) | set(self._config.tiles) | set(self._begun)
            return self._ready(tuple(sorted((tile for tile in wanted if self._is_wanted(tile)), key=str)))

    def _is_wanted(self, tile: TileId) -> bool:
        return not self._config.tiles or tile in self._config.tiles

    def _ready(self, tiles: tuple[TileId, ...]) -> tuple[Ready, ...]:
        found = [
            (item, recipe)
            for item in self._planner.plan(tiles)
            if item.status in {"ready", "stale"} and (recipe := self._recipe(item)) != self._given.get(item.tile)
        ]
        self._given.update({item.tile: recipe for item, recipe in found})
        return tuple((item.tile, item.exposures) for item, _ in found)

    def _recipe(self, item: TilePlan) -> Recipe:
        """Return what a tile would be made of, without the exposures that only come near it."""
        summaries = [self._sky.summary(name) for name in item.exposures if self._sky.overlaps(item.tile, name)]
        return self._recipes.of(summary for summary in summaries if summary is not None)
