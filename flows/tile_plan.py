"""Which tiles can be processed, which have to be processed again, what the others wait for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pydantic import BaseModel, ConfigDict

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.exposure_plan import ExposurePlan
from flows.recipes import TileRecipes
from flows.sky import Sky
from tasks.archive.manifests import LOOKUPS, read_refusal, read_tile_products
from tasks.errors import DataError, MissingProductError
from tasks.products.identity import ExposureId, Refusal, TileId, TileProducts
from tasks.products.recipe import Recipe

TileStatus = Literal["ready", "stale", "done", "waiting", "set_aside"]

EXPOSURE = "exposure "
STACK = "external stack "
MAX_NAMED = 5


class TilePlan(BaseModel):
    """What to do with one tile, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tile: TileId
    """Name of the tile."""

    status: TileStatus
    """Complete and not processed; processed from other things than today's; up to date; not complete yet; or refused,
    and nothing has changed since."""

    reasons: tuple[str, ...] = ()
    """Sentences that say why."""

    exposures: tuple[ExposureId, ...] = ()
    """Processed exposures that may overlap it: those that it is to be made of."""


class TilePlanner:
    """Compares what there is of tiles with what would be made today.

    Parameters
    ----------
    config
        Settings of every flow.
    store
        Where the products are.
    sky
        The processed exposures.
    recipes
        What tiles would be made by.
    exposures
        What is to be done with the exposures of the survey, as far as it is planned.
    by_exposures_only
        Whether a tile counts as up to date while its exposures are what they were, whatever became of code, settings
        and star catalogue.
    """

    def __init__(
        self,
        config: SurveyConfig,
        store: DataStore,
        sky: Sky,
        recipes: TileRecipes,
        exposures: Mapping[ExposureId, ExposurePlan],
        *,
        by_exposures_only: bool = False,
    ) -> None:
        self._config, self._store, self._sky = config, store, sky
        self._recipes, self._exposures, self._by_exposures_only = recipes, exposures, by_exposures_only

    def plan(self, tiles: Sequence[TileId]) -> tuple[TilePlan, ...]:
        """Return what to do with tiles, in their order; of those that nobody named, only those of some exposure."""
        with ThreadPoolExecutor(LOOKUPS) as threads:
            found = list(threads.map(self._read, tiles))
        plans = [self._plan_one(tile, *item) for tile, item in zip(tiles, found, strict=True)]
        return tuple(item for item in plans if item is not None)

    def _read(self, tile: TileId) -> tuple[TileProducts | None, Refusal | None]:
        try:
            return read_tile_products(self._store, tile), None
        except (MissingProductError, DataError):
            return None, read_refusal(self._store, tile)

    def _plan_one(self, tile: TileId, products: TileProducts | None, refusal: Refusal | None) -> TilePlan | None:
        try:
            near = tuple(self._sky.near(tile))
        except DataError as error:
            return TilePlan(tile=tile, status="set_aside", reasons=(str(error),))
        now = self._recipes.of(tile, (summary for name in near if (summary := self._sky.summary(name)) is not None))
        absent = self._recipes.missing(tile)
        if products is not None and _was_made_of(products, absent):
            reason = f"processed; its external stack {', '.join(absent)} is not in the raw store any more"
            return TilePlan(tile=tile, status="done", reasons=(reason,), exposures=near)
        recorded = products.recipe if products else refusal.recipe if refusal else None
        changes = self._changes(tile, recorded, now) if recorded else ()
        waits = self._pending(tile, near, recorded, now)
        if recorded is not None and not changes and not waits:
            reasons = (refusal.reason,) if refusal else ()
            return TilePlan(tile=tile, status="set_aside" if refusal else "done", reasons=reasons, exposures=near)
        found = [name for name in near if self._sky.overlaps(tile, name)]
        if not (found or waits or recorded or self._is_named(tile)):
            return None
        needed = self._config.tile.find_exposures.min_exposures
        if absent:
            waits.append(f"waits for its external stack: {', '.join(absent)} has not arrived in the raw store")
        if len(found) < needed:
            waits.append(f"{len(found) or 'none'} of the {needed} processed exposures that it needs overlap it")
        if waits:
            return TilePlan(tile=tile, status="waiting", reasons=tuple(waits), exposures=near)
        if products is not None:
            return TilePlan(tile=tile, status="stale", reasons=changes, exposures=near)
        again = (f"was set aside: {refusal.reason}", *changes) if refusal else ()
        ready = (*again, f"complete with {names_of(found)}", *self._refused(tile))
        return TilePlan(tile=tile, status="ready", reasons=ready, exposures=near)

    def _changes(self, tile: TileId, before: Recipe, now: Recipe) -> tuple[str, ...]:
        """Return what is different now; exposures that only come near the tile are no difference."""
        if self._by_exposures_only:
            before, now = exposures_of(before), exposures_of(now)
        if before == now:
            return ()
        differing = {name for name in before.inputs.keys() | now.inputs.keys() if _differs(name, before, now)}
        beside = {
            name
            for name in differing
            if name.startswith(EXPOSURE) and name in now.inputs and not self._overlaps(tile, name)
        }
        kept = {name: version for name, version in before.inputs.items() if name not in beside}
        wanted = {name: version for name, version in now.inputs.items() if name not in beside}
        return before.model_copy(update={"inputs": kept}).changes(now.model_copy(update={"inputs": wanted}))

    def _overlaps(self, tile: TileId, name: str) -> bool:
        return self._sky.overlaps(tile, ExposureId(name.removeprefix(EXPOSURE)))

    def _pending(self, tile: TileId, near: Sequence[ExposureId], recorded: Recipe | None, now: Recipe) -> list[str]:
        """Return what a tile waits for, as far as exposures are known to belong to it."""
        named = self._config.tile_exposures.get(tile, ())
        again = [name for name in near if self._is_to_do(name) and self._sky.overlaps(tile, name)]
        gone = set(recorded.inputs) - set(now.inputs) if recorded else set()
        expected = {ExposureId(name.removeprefix(EXPOSURE)) for name in gone if name.startswith(EXPOSURE)}
        absent = {name for name in expected | set(named) if self._sky.summary(name) is None}
        return [self._wait_for(name) for name in again] + [
            self._wait_for(name) for name in sorted(absent, key=str) if self._can_come(name, name in named)
        ]

    def _is_to_do(self, name: ExposureId) -> bool:
        plan = self._exposures.get(name)
        return plan is not None and plan.status in {"new", "stale"}

    def _can_come(self, name: ExposureId, is_named: bool) -> bool:
        """Tell whether an exposure that is not processed is worth waiting for: not if it was set aside."""
        plan = self._exposures.get(name)
        if plan is not None:
            return plan.status != "set_aside"
        # of a planned survey, what is not in the plan is not in the raw store any more
        return (is_named or not self._exposures) and read_refusal(self._store, name) is None

    def _wait_for(self, name: ExposureId) -> str:
        plan = self._exposures.get(name)
        if plan is None:
            return f"waits for exposure {name}, which is not processed"
        return f"waits for exposure {name}, which is {plan.status.replace('_', ' ')}"

    def _is_named(self, tile: TileId) -> bool:
        return tile in self._config.tiles or tile in self._config.tile_exposures

    def _refused(self, tile: TileId) -> list[str]:
        plans = [self._exposures.get(name) for name in self._config.tile_exposures.get(tile, ())]
        return [
            f"goes on without exposure {plan.exposure}, which is set aside: {'; '.join(plan.reasons)}"
            for plan in plans
            if plan is not None and plan.status == "set_aside"
        ]


def exposures_of(recipe: Recipe) -> Recipe:
    """Return what a recipe says of the exposures of a tile."""
    return Recipe(inputs={name: version for name, version in recipe.inputs.items() if name.startswith(EXPOSURE)})


def _was_made_of(products: TileProducts, stack: Sequence[str]) -> bool:
    """Tell whether a tile was made of these files of an external stack, of which there is at least one."""
    return bool(stack) and all(f"{STACK}{key}" in products.recipe.inputs for key in stack)


def _differs(name: str, before: Recipe, now: Recipe) -> bool:
    return before.inputs.get(name) != now.inputs.get(name)


def is_in_survey(config: SurveyConfig, exposure: ExposureId) -> bool:
    """Tell whether an exposure belongs to a survey: all do if it names none."""
    return not config.exposures or exposure in config.exposures


def names_of(items: Iterable[ExposureId | TileId]) -> str:
    """Return names for a sentence, only the first of many."""
    names = [str(item) for item in items]
    return ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
