"""Whether an exposure that was announced has to be processed: a few lookups in the store, no flow run."""

from __future__ import annotations

import time
from typing import Literal

from pydantic import ValidationError

from blocks.lease import FOLDER, LeaseOwner
from blocks.store import DataStore, ObjectNotFoundError
from flows.config import ExposureConfig
from flows.recipes import ExposureRecipes
from tasks.archive.manifests import read_exposure_summary, read_refusal
from tasks.archive.raw import RawKeys, RawListing
from tasks.archive.raw_names import RawNames, Role
from tasks.archive.star_lists import StarLists
from tasks.errors import UnknownExposureError
from tasks.products.identity import ExposureId
from tasks.products.recipe import Recipe

Standing = Literal["new", "handled", "incomplete", "foreign"]
"""To be processed; processed or refused with these files; without one of its files; not of this instrument."""

LISTING_S = 5.0
"""How long a listing of the raw store is believed."""
FILES = ("raw file ", "star lists")
"""How the inputs of a recipe begin that are files of the exposure itself."""


class Standings:
    """Tells which exposures have to be processed.

    A processed exposure is handled while its files are what they were: new code, settings or reference files are
    reasons for the nightly plan, not for an announcement that came twice. A refused one is tried again when anything
    has changed.

    Parameters
    ----------
    config
        Settings of the exposure flow.
    store
        Where the products are.
    raw
        Where the raw files are.
    """

    def __init__(self, config: ExposureConfig, store: DataStore, raw: DataStore) -> None:
        self._config, self._store, self._raw = config, store, raw
        self._names, self._star_lists = RawNames(config.instrument), StarLists(config.instrument, raw)
        self._listing: RawListing | None = None
        self._listed_at = 0.0

    def of(self, exposure: ExposureId) -> Standing:
        """Return whether an exposure has to be processed.

        Raises
        ------
        ConfigError
            If the settings name a file that is not in the raw store.
        StoreError
            If a store cannot be read now.
        """
        if self._names.exposure_named(exposure.name) is None:
            return "foreign"
        try:
            files = self._files(exposure)
        except UnknownExposureError:
            # several files of one kind: the flow says so, and the exposure is set aside
            return "new"
        if files.missing or self._star_lists.missing(exposure):
            return "incomplete"
        summary, refusal = read_exposure_summary(self._store, exposure), read_refusal(self._store, exposure)
        if summary is None and refusal is None:
            return "new"
        now = ExposureRecipes(self._config, self._raw).of(files)
        processed = summary is not None and _files_of(summary.recipe) == _files_of(now)
        refused = refusal is not None and not refusal.recipe.changes(now)
        return "handled" if processed or refused else "new"

    def _files(self, exposure: ExposureId) -> RawKeys:
        """Return where the files of an exposure are: looked up in the root, else in a listing of everything."""
        found: dict[Role, str] = {}
        for role in self._names.roles:
            template = str(getattr(self._config.instrument, f"{role}_file"))
            key = template.replace("{exposure}", exposure.name)
            if "*" in key or not self._raw.exists(key):
                return self._list().files_of(exposure)
            found[role] = key
        return RawKeys(exposure, found, ())

    def _list(self) -> RawListing:
        if self._listing is None or time.monotonic() - self._listed_at > LISTING_S:
            self._listing, self._listed_at = RawListing(self._raw, self._config.instrument), time.monotonic()
        return self._listing


def _files_of(recipe: Recipe) -> dict[str, str]:
    return {name: version for name, version in recipe.inputs.items() if name.startswith(FILES)}


def is_worked_on(store: DataStore, exposure: ExposureId) -> bool:
    """Tell whether another run holds the lease of an exposure, as far as can be seen from here."""
    try:
        holder = LeaseOwner.model_validate_json(store.read_bytes(f"{FOLDER}/exposure-{exposure}.json"))
    except (ObjectNotFoundError, ValidationError):
        return False
    return holder.process.is_alive() is not False
