"""What a flow left behind: the list of an exposure's or a tile's products, written last."""

from __future__ import annotations

from pydantic import ValidationError

from blocks.store import DataStore, ObjectNotFoundError
from tasks.archive import keys
from tasks.errors import BadFileError, MissingProductError
from tasks.products.identity import ExposureId, ExposureProducts, TileId, TileProducts

NAME = "products.json"


def write_exposure_products(store: DataStore, products: ExposureProducts) -> None:
    """Publish the list of an exposure's products: from now on the exposure counts as processed."""
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
    suffix = f"/{NAME}"
    names = (key.removesuffix(suffix) for key in store.list_keys("exposures") if key.endswith(suffix))
    return [ExposureId(name.split("/")[1]) for name in sorted(names) if name.count("/") == 1]


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


def _json(products: ExposureProducts | TileProducts) -> bytes:
    return (products.model_dump_json(indent=1) + "\n").encode()
