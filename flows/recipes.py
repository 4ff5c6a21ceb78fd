"""What an exposure or a tile would be made by and from today.

The flow that makes products writes their recipe, and the plan compares it with the recipe of today; both ask here.
Input files count by their version in the store, which one listing tells of all of them, not by their checksum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from blocks.crds import CacheError, CrdsCache
from blocks.store import DataStore
from flows.config import ExposureConfig, ReferenceCache, TileConfig
from flows.sky import Sky
from tasks.archive.manifests import (
    LOOKUPS,
    list_processed_exposures,
    read_exposure_products,
    read_exposure_summaries,
)
from tasks.archive.raw import RawKeys, raw_version
from tasks.archive.raw_stacks import stack_keys, stack_version
from tasks.archive.star_lists import StarLists
from tasks.errors import ConfigError, MissingProductError
from tasks.find_exposures import FindExposuresConfig
from tasks.fingerprint import code_fingerprint
from tasks.products.config import StageConfig
from tasks.products.identity import ExposureId, ExposureProducts, RawExposure, TileId
from tasks.products.processed import ExposureSummary, summarize_exposure
from tasks.products.recipe import Recipe

# settings without a stage of their own; and the report, which is no product and made again by every run
NOT_STAGES = frozenset({"instrument", "reference_cache", "report"})


class ExposureRecipes:
    """Recipes of exposures; what many have in common is worked out once.

    Parameters
    ----------
    config
        Settings of every stage.
    raw
        Where the raw files are.
    versions
        Version of every raw file, if they are known; otherwise they are looked up one by one.

    Raises
    ------
    ConfigError
        If the settings name a file or a reference cache that is not there.
    """

    def __init__(self, config: ExposureConfig, raw: DataStore, versions: Mapping[str, str] | None = None) -> None:
        self._config, self._raw, self._versions = config, raw, versions
        self.star_lists = StarLists(config.instrument, raw, versions)
        """The star lists that there are."""
        self._code = _code(config)
        self._settings = _settings(config) | {"min_ccds": str(config.min_ccds)}
        self._shared = dict(self._shared_inputs())

    def of(self, files: RawExposure | RawKeys) -> Recipe:
        """Return what the products of an exposure would be made by and from today."""
        if isinstance(files, RawKeys):
            keys = files.keys()
        else:
            keys = tuple(item.key for item in (files.image, files.weight, files.flag) if item is not None)
        inputs = {f"raw file {key}": self._version(key) for key in keys}
        lists = self.star_lists.of(files.exposure)
        if lists:
            lines = "".join(f"{key} {version}\n" for key, version in sorted(lists.items()))
            inputs["star lists"] = hashlib.sha256(lines.encode()).hexdigest()[:16]
        return Recipe(code=self._code, settings=self._settings, inputs=inputs | self._shared)

    def _version(self, key: str) -> str:
        return raw_version(self._raw, key) if self._versions is None else self._versions[key]

    def _shared_inputs(self) -> Iterable[tuple[str, str]]:
        config = self._config
        if config.star_catalog is not None and config.instrument.star_list_file is None:
            yield f"star catalogue {config.star_catalog}", raw_version(self._raw, config.star_catalog)
        cache = reference_cache(config.reference_cache, self._raw) if config.references.enabled else None
        if cache is not None:
            try:
                yield f"reference rules {cache.context}", cache.fingerprint()
            except CacheError as error:
                raise ConfigError(str(error)) from error


class TileRecipes:
    """Recipes of tiles; what many have in common is worked out once.

    Parameters
    ----------
    config
        Settings of every stage.
    raw
        Where star catalogue and external stacks are.
    versions
        Version of every raw file, if they are known; otherwise they are looked up one by one.
    """

    def __init__(self, config: TileConfig, raw: DataStore, versions: Mapping[str, str] | None = None) -> None:
        self._stack, self._raw, self._versions = config.external_stack, raw, versions
        self._code = _code(config) | {"headers": code_fingerprint("tasks.headers")}
        self._settings = _settings(config)
        catalog = config.star_catalog
        self._shared = {} if catalog is None else {f"star catalogue {catalog}": raw_version(raw, catalog)}

    def of(self, tile: TileId, exposures: Iterable[ExposureSummary]) -> Recipe:
        """Return what the products of a tile would be made by and from today.

        Parameters
        ----------
        tile
            The tile.
        exposures
            Those that may overlap it, as `flows.sky.Sky.near` finds them.
        """
        inputs = {f"exposure {item.exposure}": item.fingerprint for item in exposures}
        stack = {f"external stack {key}": version for key, version in self._stack_files(tile) if version is not None}
        return Recipe(code=self._code, settings=self._settings, inputs=inputs | stack | self._shared)

    def missing(self, tile: TileId) -> tuple[str, ...]:
        """Return the files of a tile's external stack that are not in the raw store."""
        return tuple(key for key, version in self._stack_files(tile) if version is None)

    def _stack_files(self, tile: TileId) -> Iterable[tuple[str, str | None]]:
        """Return the files that an external stack of a tile has, with their versions."""
        keys = () if self._stack is None else stack_keys(tile, self._stack.image, self._stack.weight)
        for key in keys:
            yield key, stack_version(self._raw, key) if self._versions is None else self._versions.get(key)


def exposure_recipe(files: RawExposure | RawKeys, config: ExposureConfig, raw: DataStore) -> Recipe:
    """Return what the products of one exposure would be made by and from today."""
    return ExposureRecipes(config, raw).of(files)


def tile_recipe(tile: TileId, exposures: Sequence[ExposureProducts], config: TileConfig, raw: DataStore) -> Recipe:
    """Return what the products of one tile would be made by and from today."""
    return TileRecipes(config, raw).of(tile, [summarize_exposure(item) for item in exposures])


def read_near(
    store: DataStore, tile: TileId, grid: FindExposuresConfig, names: Sequence[ExposureId] = ()
) -> list[ExposureProducts]:
    """Return the products of the exposures that may overlap a tile, by name.

    Parameters
    ----------
    store
        Where they are.
    tile, grid
        Which tile.
    names
        Exposures to choose from; empty takes all that are processed.

    Raises
    ------
    MissingProductError
        If one of the named exposures is not processed.
    """
    summaries = read_exposure_summaries(store, names or list_processed_exposures(store))
    sky = Sky(grid, store)
    for summary in summaries.values():
        sky.add(summary)
    for name, fault in sky.unreadable.items():
        raise MissingProductError(
            f"It is not known whether exposure {name} overlaps tile {tile}: {fault} Process the exposure again."
        )
    wanted = [*sky.near(tile), *(name for name in names if name not in summaries)]
    with ThreadPoolExecutor(LOOKUPS) as threads:
        return list(threads.map(lambda name: read_exposure_products(store, name), wanted))


def reference_cache(settings: ReferenceCache | None, raw: DataStore) -> CrdsCache | None:
    """Return the CRDS cache of the settings; ``{raw}`` in its root stands for the raw store.

    Raises
    ------
    ConfigError
        If its root is not a folder or URL.
    """
    if settings is None:
        return None
    try:
        return CrdsCache(
            root=settings.root.replace("{raw}", raw.url),
            observatory=settings.observatory,
            context=settings.context,
            checksum=settings.checksum,
            endpoint_url=raw.endpoint_url,
            access_key=raw.access_key,
            secret_key=raw.secret_key,
        )
    except ValidationError as error:
        raise ConfigError(f"reference_cache.root = {settings.root!r}: {error.errors()[0]['msg']}") from error


def _stages(config: ExposureConfig | TileConfig) -> dict[str, StageConfig]:
    fields = {name: getattr(config, name) for name in type(config).model_fields if name not in NOT_STAGES}
    return {name: item for name, item in fields.items() if isinstance(item, StageConfig)}


def _code(config: ExposureConfig | TileConfig) -> dict[str, str]:
    return {name: code_fingerprint(f"tasks.{name}") for name in _stages(config)}


def _settings(config: ExposureConfig | TileConfig) -> dict[str, str]:
    settings = {name: item.fingerprint() for name, item in _stages(config).items()}
    if isinstance(config, ExposureConfig):
        settings["instrument"] = config.instrument.fingerprint()
    return settings
