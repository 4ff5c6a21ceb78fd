"""Which exposures have to be processed, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.recipes import ExposureRecipes
from tasks.archive.manifests import LOOKUPS, read_refusal
from tasks.archive.raw import RawKeys, RawListing, read_mjd
from tasks.errors import DataError, MissingProductError, UnknownExposureError
from tasks.products.identity import ExposureId, Refusal
from tasks.products.processed import ExposureSummary
from tasks.products.recipe import Recipe

ExposureStatus = Literal["new", "stale", "done", "set_aside", "incomplete"]

MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)
NOON_H = 12


class ExposurePlan(BaseModel):
    """What to do with one exposure, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exposure: ExposureId
    """Name of the exposure."""

    status: ExposureStatus
    """Not processed; processed from other things than today's; up to date; refused, and nothing has changed since; or
    without one of its files."""

    reasons: tuple[str, ...] = ()
    """Sentences that say why."""


class ExposurePlanner:
    """Compares what there is of exposures with what would be made today.

    Parameters
    ----------
    config
        Settings of every flow.
    store, raw
        Where products and raw files are.
    listing
        What lies in the raw store.
    summaries
        The exposures that are processed.
    """

    def __init__(
        self,
        config: SurveyConfig,
        store: DataStore,
        raw: DataStore,
        listing: RawListing,
        summaries: Mapping[ExposureId, ExposureSummary],
    ) -> None:
        self._config, self._store, self._raw = config, store, raw
        self._listing, self._summaries = listing, summaries
        self._recipes = ExposureRecipes(config.exposure, raw, listing.versions)

    def plan(self, names: Sequence[ExposureId]) -> tuple[ExposurePlan, ...]:
        """Return what to do with exposures, in their order."""
        unprocessed = [name for name in names if name not in self._summaries]
        with ThreadPoolExecutor(LOOKUPS) as threads:
            found = threads.map(lambda name: read_refusal(self._store, name), unprocessed)
            refusals = dict(zip(unprocessed, found, strict=True))
        return tuple(self._plan_one(name, refusals.get(name)) for name in names)

    def _plan_one(self, name: ExposureId, refusal: Refusal | None) -> ExposurePlan:
        before = self._summaries.get(name)
        try:
            files = self._listing.files_of(name)
        except UnknownExposureError as error:
            return ExposurePlan(exposure=name, status="set_aside", reasons=(str(error),))
        missing = (*files.missing, *self._recipes.star_lists.missing(name))
        if missing and before is not None:
            reason = f"processed; {', '.join(missing)} {_are(missing)} not in {self._listing.url} any more"
            return ExposurePlan(exposure=name, status="done", reasons=(reason,))
        if missing:
            reason = f"{', '.join(missing)} {_have(missing)} not arrived in {self._listing.url}"
            return ExposurePlan(exposure=name, status="incomplete", reasons=(reason,))
        return self._compare(name, files, before, refusal)

    def _compare(
        self, name: ExposureId, files: RawKeys, before: ExposureSummary | None, refusal: Refusal | None
    ) -> ExposurePlan:
        now = self._recipes.of(files)
        if before is not None:
            changes = before.recipe.changes(now) if before.recipe != now else ()
            return ExposurePlan(exposure=name, status="stale" if changes else "done", reasons=changes)
        if refusal is None:
            return ExposurePlan(exposure=name, status="new", reasons=("not processed yet",))
        return self._try_again(name, refusal, now)

    @staticmethod
    def _try_again(name: ExposureId, refusal: Refusal, now: Recipe) -> ExposurePlan:
        changes = refusal.recipe.changes(now)
        if not changes:
            return ExposurePlan(exposure=name, status="set_aside", reasons=(refusal.reason,))
        return ExposurePlan(exposure=name, status="new", reasons=(f"was set aside: {refusal.reason}", *changes))

    def of_night(self, exposures: Sequence[ExposurePlan], night: date | None) -> tuple[ExposurePlan, ...]:
        """Return the exposures of a night, and those whose night cannot be told; all if there is no night."""
        if night is None:
            return tuple(exposures)
        first, last = (_mjd_of_noon(day, self._config.timezone) for day in (night, night + timedelta(days=1)))
        with ThreadPoolExecutor(LOOKUPS) as threads:
            dates = threads.map(self._date, exposures)
            pairs = zip(exposures, dates, strict=True)
            return tuple(
                item if mjd is not None else item.model_copy(update={"reasons": (*item.reasons, UNKNOWN_NIGHT)})
                for item, mjd in pairs
                if mjd is None or first <= mjd < last
            )

    def _date(self, item: ExposurePlan) -> float | None:
        """Return when an exposure was begun; none if that is not known."""
        summary = self._summaries.get(item.exposure)
        if summary is not None and _is_date(summary.mjd):
            return summary.mjd
        try:
            image = self._listing.files_of(item.exposure).found.get("image")
            mjd = None if image is None else read_mjd(self._raw, image, self._config.exposure.instrument)
        except (DataError, MissingProductError):
            return None
        return mjd if _is_date(mjd) else None


UNKNOWN_NIGHT = "its night is not known"


def _is_date(mjd: float | None) -> bool:
    """Tell whether a number is a date: cameras without a clock write zero, or no number."""
    return mjd is not None and math.isfinite(mjd) and mjd > 0


def _mjd_of_noon(day: date, timezone: str) -> float:
    noon = datetime(day.year, day.month, day.day, NOON_H, tzinfo=ZoneInfo(timezone))
    return (noon - MJD_ZERO) / timedelta(days=1)


def night_of(moment: datetime, timezone: str) -> date:
    """Return the observing night of a moment: the date of its evening in a time zone."""
    local = moment.astimezone(ZoneInfo(timezone))
    return local.date() if local.hour >= NOON_H else local.date() - timedelta(days=1)


def moment_of(mjd: float) -> datetime:
    """Return the moment of a modified Julian date."""
    return MJD_ZERO + timedelta(days=mjd)


def _are(items: Sequence[str]) -> str:
    return "is" if len(items) == 1 else "are"


def _have(items: Sequence[str]) -> str:
    return "has" if len(items) == 1 else "have"
