"""What there is to do, and why: worked out from the store alone, without Prefect and without writing anything."""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.exposure_plan import ExposurePlan, ExposurePlanner
from flows.recipes import TileRecipes
from flows.sky import Sky
from flows.tile_plan import TilePlan, TilePlanner, is_in_survey
from tasks.archive.manifests import list_begun, read_exposure_summaries
from tasks.archive.raw import RawListing
from tasks.products.identity import ExposureId, TileId

EXPOSURES_TO_DO = ("new", "stale")
TILES_TO_DO = ("ready", "stale")


class Plan(BaseModel):
    """The exposures and tiles of a survey, or of one night of it: what to do, what not, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    survey: str
    """Name of the survey."""

    night: date | None = None
    """The night that it is of, by the date of its evening; none for everything."""

    exposures: tuple[ExposurePlan, ...]
    """By name."""

    tiles: tuple[TilePlan, ...]
    """By name."""

    def exposures_to_do(self) -> tuple[ExposurePlan, ...]:
        """Return the exposures that are new or stale."""
        return tuple(item for item in self.exposures if item.status in EXPOSURES_TO_DO)

    def tiles_to_do(self) -> tuple[TilePlan, ...]:
        """Return the tiles that are ready or stale."""
        return tuple(item for item in self.tiles if item.status in TILES_TO_DO)

    def count(self, kind: Literal["exposure", "tile"]) -> dict[str, int]:
        """Return how many exposures or tiles have which status, the most frequent first."""
        items: tuple[ExposurePlan | TilePlan, ...] = self.exposures if kind == "exposure" else self.tiles
        return dict(Counter(str(item.status) for item in items).most_common())


def make_plan(config: SurveyConfig, store: DataStore, raw: DataStore, *, night: date | None = None) -> Plan:
    """Work out what there is to do.

    Parameters
    ----------
    config
        Settings of every flow.
    store
        Where the products are.
    raw
        Where the raw files are.
    night
        Restricts the plan to the exposures of one observing night, from noon of that date to noon of the next in the
        time zone of the survey, and to the tiles that these touch.

    Returns
    -------
    Plan
        Exposures and tiles by name.

    Raises
    ------
    ConfigError
        If the settings name a file that is not in the raw store.
    StoreError
        If a store cannot be read.
    """
    listing = RawListing(raw, config.exposure.instrument)
    begun, tiles_begun = list_begun(store)
    summaries = read_exposure_summaries(store, [name for name in begun if is_in_survey(config, name)])
    planner = ExposurePlanner(config, store, raw, listing, summaries)
    names = config.exposures or sorted({*listing.exposures(), *summaries}, key=str)
    sky = Sky(config.tile.find_exposures, store)
    for summary in summaries.values():
        sky.add(summary)
    exposures = _with_unreadable(planner.plan(names), sky)
    chosen = planner.of_night(exposures, night)
    wanted = _tiles_of(config, sky, tiles_begun, None if night is None else {item.exposure for item in chosen})
    recipes = TileRecipes(config.tile, raw, listing.versions)

    def plan_tiles(exposures: tuple[ExposurePlan, ...]) -> tuple[TilePlan, ...]:
        by_name = {item.exposure: item for item in exposures}
        return TilePlanner(config, store, sky, recipes, by_name).plan(wanted)

    known = set(sky.unreadable)
    tiles = plan_tiles(exposures)
    if sky.unreadable.keys() != known:
        # most indexes are read only where a tile depends on them
        tiles = plan_tiles(_with_unreadable(exposures, sky))
    return Plan(survey=config.name, night=night, exposures=_with_unreadable(chosen, sky), tiles=tiles)


def _with_unreadable(exposures: tuple[ExposurePlan, ...], sky: Sky) -> tuple[ExposurePlan, ...]:
    """Let processed exposures be made again whose place on the sky cannot be read."""
    return tuple(
        _with_fault(item, sky.unreadable[item.exposure]) if item.exposure in sky.unreadable else item
        for item in exposures
    )


def _with_fault(item: ExposurePlan, fault: str) -> ExposurePlan:
    if fault in item.reasons:
        return item
    # what is done although something is to be said of it lacks raw files
    status = "incomplete" if item.status == "done" and item.reasons else "stale"
    return item.model_copy(update={"status": status, "reasons": (*item.reasons, fault)})


def _tiles_of(config: SurveyConfig, sky: Sky, begun: list[TileId], exposures: set[ExposureId] | None) -> list[TileId]:
    """Return the tiles of the survey, or those of some exposures, by name."""
    if exposures is None:
        if config.tiles:
            return list(config.tiles)
        touched = {tile for name in sky.exposures() for tile in sky.tiles_near(name)}
        return sorted(touched | set(config.tile_exposures) | set(begun), key=str)
    here = [name for name in exposures if sky.summary(name) is not None]
    touched = {tile for name in here for tile in sky.tiles_overlapped(name)}
    planned = {tile for tile, names in config.tile_exposures.items() if exposures & set(names)}
    return sorted((touched | planned) & set(config.tiles) if config.tiles else touched | planned, key=str)
