"""What a flow left behind: the list of an exposure's or a tile's products, written last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from blocks.store import DataStore, ObjectNotFoundError
from tasks.archive import keys
from tasks.errors import BadFileError, MissingProductError
from tasks.products.identity import ExposureId, ExposureProducts, Identity, Refusal, TileId, TileProducts
from tasks.products.processed import ExposureSummary, summarize_exposure

Name = TypeVar("Name", bound=Identity)

NAME = "products.json"
SUMMARY = "summary.json"
REFUSAL = "set_aside.json"

# lookups of objects wait for the network, not for the processor
LOOKUPS = 32


def write_exposure_products(store: DataStore, products: ExposureProducts) -> None:
    """Publish the list of an exposure's products: from now on the exposure counts as processed."""
    # the summary first: while there is a list, the summary is of it
    store.put_bytes(keys.exposure(products.exposure, SUMMARY), _json(summarize_exposure(products)))
    store.put_bytes(keys.exposure(products.exposure, NAME), _json(products))


def forget_exposure_products(store: DataStore, exposure: ExposureId) -> None:
    """Remove the list of an exposure's products: it does not count as processed any more."""
    store.remove(keys.exposure(exposure, NAME))


def write_tile_products(store: DataStore, products: TileProducts) -> None:
    """Publish the list of a tile's products: from now on the tile counts as processed."""
    store.put_bytes(keys.tile(products.tile, NAME), _json(products))


def read_exposure_products(store: DataStore, exposure: ExposureId) -> ExposureProducts:
    """Return the products of a processed exposure.

    Raises
    ------
    MissingProductError
        If the exposure was not processed in this collection.
    """
    key = keys.exposure(exposure, NAME)
    try:
        return ExposureProducts.model_validate_json(store.read_bytes(key))
    except ObjectNotFoundError as error:
        raise MissingProductError(
            f"Exposure {exposure} is not processed in {store.url}; run `shearline run exposure {exposure}` first."
        ) from error
    except ValidationError as error:
        raise BadFileError(f"{key} is not a list of products: {error.errors()[0]['msg']}.") from error


def list_processed_exposures(store: DataStore) -> list[ExposureId]:
    """Return the exposures that were processed in this collection, sorted by name."""
    names = _named(ExposureId, store.list_folders("exposures"))
    return _those_with_a_list(store, names, keys.exposure)


def list_processed_tiles(store: DataStore) -> list[TileId]:
    """Return the tiles that were processed in this collection, sorted by name."""
    return _those_with_a_list(store, _named(TileId, store.list_folders("tiles")), keys.tile)


def list_begun(store: DataStore) -> tuple[list[ExposureId], list[TileId]]:
    """Return the exposures and tiles of which there is anything, processed or not, sorted by name."""
    return _named(ExposureId, store.list_folders("exposures")), _named(TileId, store.list_folders("tiles"))


def _named(kind: Callable[[str], Name], names: Iterable[str]) -> list[Name]:
    found = []
    for name in sorted(names):
        # a folder that somebody else made is not an exposure
        with contextlib.suppress(ValidationError):
            found.append(kind(name))
    return found


def _those_with_a_list(store: DataStore, names: Sequence[Name], key: Callable[[Name, str], str]) -> list[Name]:
    with ThreadPoolExecutor(LOOKUPS) as threads:
        there = threads.map(lambda name: store.exists(key(name, NAME)), names)
        return [name for name, is_there in zip(names, there, strict=True) if is_there]


def read_exposure_summary(store: DataStore, exposure: ExposureId) -> ExposureSummary | None:
    """Return what a plan must know of a processed exposure; none if it is not processed."""
    if not store.exists(keys.exposure(exposure, NAME)):
        return None
    try:
        return ExposureSummary.model_validate_json(store.read_bytes(keys.exposure(exposure, SUMMARY)))
    except (ObjectNotFoundError, ValidationError):
        pass
    try:
        return summarize_exposure(read_exposure_products(store, exposure))
    except (MissingProductError, BadFileError):
        # it was just taken away, or is damaged: it has to be made again
        return None


def read_exposure_summaries(store: DataStore, exposures: Sequence[ExposureId]) -> dict[ExposureId, ExposureSummary]:
    """Return what a plan must know of those exposures that are processed; quick for thousands."""
    with ThreadPoolExecutor(LOOKUPS) as threads:
        found = threads.map(lambda name: read_exposure_summary(store, name), exposures)
        return {name: item for name, item in zip(exposures, found, strict=True) if item is not None}


def read_tile_products(store: DataStore, tile: TileId) -> TileProducts:
    """Return the products of a processed tile.

    Raises
    ------
    MissingProductError
        If the tile was not processed in this collection.
    """
    key = keys.tile(tile, NAME)
    try:
        return TileProducts.model_validate_json(store.read_bytes(key))
    except ObjectNotFoundError as error:
        raise MissingProductError(
            f"Tile {tile} is not processed in {store.url}; run `shearline run tile {tile}` first."
        ) from error
    except ValidationError as error:
        raise BadFileError(f"{key} is not a list of products: {error.errors()[0]['msg']}.") from error


def write_refusal(store: DataStore, name: ExposureId | TileId, refusal: Refusal) -> None:
    """Record that an exposure or tile cannot be processed, and why."""
    store.put_bytes(_refusal_key(name), _json(refusal))


def forget_refusal(store: DataStore, name: ExposureId | TileId) -> None:
    """Remove the record of a refusal; that there is none is fine."""
    store.remove(_refusal_key(name))


def read_refusal(store: DataStore, name: ExposureId | TileId) -> Refusal | None:
    """Return why an exposure or tile could not be processed; none if it was not refused, or the record is damaged."""
    try:
        return Refusal.model_validate_json(store.read_bytes(_refusal_key(name)))
    except (ObjectNotFoundError, ValidationError):
        # what cannot be read keeps nobody from trying again, and the next try replaces it
        return None


def _refusal_key(name: ExposureId | TileId) -> str:
    return keys.tile(name, REFUSAL) if isinstance(name, TileId) else keys.exposure(name, REFUSAL)


def _json(products: BaseModel) -> bytes:
    return (products.model_dump_json(indent=1) + "\n").encode()
