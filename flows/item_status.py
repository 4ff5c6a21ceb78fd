"""What there is of one exposure or tile; what is missing, and why. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from blocks.lease import FOLDER, LeaseOwner
from blocks.store import DataStore, ObjectNotFoundError
from flows.config import SurveyConfig
from flows.exposure_plan import ExposurePlan
from flows.plan import make_plan
from flows.tile_plan import TilePlan
from tasks.archive import keys
from tasks.archive.manifests import LOOKUPS, NAME, read_exposure_products, read_tile_products
from tasks.errors import DataError, MissingProductError
from tasks.products.identity import (
    ExposureId,
    ExposureProducts,
    ProductRef,
    SetAside,
    SummaryValue,
    TileId,
    TileProducts,
)

CCD_STAGES = {
    "image": "split",
    "dq": "dq_init",
    "mask": "mask",
    "sources": "detect",
    "stars": "stars",
    "psf": "psf_fit",
    "residuals": "psf_validate",
}


class Product(BaseModel):
    """One product as it was listed, and whether it is still there."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    stage: str
    """Stage that made it."""

    subject: str
    """What it is about."""

    key: str
    """Where it is in the collection."""

    size: int
    """Bytes when it was made."""

    is_there: bool
    """Whether the store has it with that size."""

    summary: dict[str, SummaryValue]
    """What is known of it in numbers."""


class ItemStatus(BaseModel):
    """What there is of one exposure or tile."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    subject: str
    """Name of the exposure or tile."""

    kind: Literal["exposure", "tile"]
    """Whether it is an exposure or a tile."""

    status: str
    """As the plan calls it; ``unknown`` if it is not part of the survey."""

    reasons: tuple[str, ...]
    """Why."""

    written: datetime | None = None
    """When the list of its products was written, in UTC; none if there is none."""

    products: tuple[Product, ...] = ()
    """Of a processed exposure or tile, every product."""

    set_aside: tuple[SetAside, ...] = ()
    """CCDs that are missing, and why."""

    belongs_to: tuple[str, ...] = ()
    """Of an exposure, the tiles that are made of it and what is to do with them; of a tile, its exposures."""

    objects: int = 0
    """Files in its folder, those of an unfinished run included."""

    working: tuple[str, ...] = ()
    """Who works on it now."""


def exposure_status(config: SurveyConfig, store: DataStore, raw: DataStore, exposure: ExposureId) -> ItemStatus:
    """Return what there is of an exposure, what is missing and why.

    Raises
    ------
    StoreError
        If a store cannot be read.
    """
    plan = make_plan(config, store, raw)
    entry = next((item for item in plan.exposures if item.exposure == exposure), None)
    tiles = [f"{item.tile} ({item.status.replace('_', ' ')})" for item in plan.tiles if exposure in item.exposures]
    unknown = f"there is no such exposure in {raw.url}, nor in {store.url}"
    return _item_status(store, exposure, entry, unknown, _read_exposure(store, exposure), tiles)


def tile_status(config: SurveyConfig, store: DataStore, raw: DataStore, tile: TileId) -> ItemStatus:
    """Return what there is of a tile, what is missing and why.

    Raises
    ------
    StoreError
        If a store cannot be read.
    """
    plan = make_plan(config, store, raw)
    entry = next((item for item in plan.tiles if item.tile == tile), None)
    status = {item.exposure: item.status for item in plan.exposures}
    exposures = [
        f"{name} ({status.get(name, 'done').replace('_', ' ')})" for name in (entry.exposures if entry else ())
    ]
    unknown = "no processed exposure touches it, and the settings do not name it"
    return _item_status(store, tile, entry, unknown, _read_tile(store, tile), exposures)


def _item_status(
    store: DataStore,
    name: ExposureId | TileId,
    entry: ExposurePlan | TilePlan | None,
    unknown: str,
    products: ExposureProducts | TileProducts | None,
    belongs_to: Sequence[str],
) -> ItemStatus:
    kind, listed = kind_and_list(name)
    return ItemStatus(
        subject=str(name),
        kind=kind,
        status=entry.status if entry else "unknown",
        reasons=entry.reasons if entry else (unknown,),
        written=written(store, name),
        products=_products(store, products) if products else (),
        set_aside=products.set_aside if products else (),
        belongs_to=tuple(belongs_to),
        objects=len(store.list_keys(listed.rpartition("/")[0])),
        working=working(store, f"{kind}-{name}"),
    )


def kind_and_list(name: ExposureId | TileId) -> tuple[Literal["exposure", "tile"], str]:
    """Return what a name is the name of, and the key of the list of its products."""
    if isinstance(name, ExposureId):
        return "exposure", keys.exposure(name, NAME)
    return "tile", keys.tile(name, NAME)


def written(store: DataStore, name: ExposureId | TileId) -> datetime | None:
    """Return when the list of products of an exposure or tile was written; none if there is none."""
    try:
        return store.modified(kind_and_list(name)[1])
    except ObjectNotFoundError:
        return None


def working(store: DataStore, subject: str = "") -> tuple[str, ...]:
    """Return who holds which lease, for people; of one subject, or of all."""
    held = [f"{FOLDER}/{subject}.json"] if subject else store.list_keys(FOLDER)
    sentences = []
    for key in held:
        try:
            owner = LeaseOwner.model_validate_json(store.read_bytes(key))
        except (ObjectNotFoundError, ValidationError):
            # it ended meanwhile, or is of another version
            continue
        dead = owner.process.is_alive() is False
        alive = "which is dead" if dead else f"last seen {owner.renewed:%Y-%m-%d %H:%M:%S} UTC"
        sentences.append(f"{owner.subject}: {owner}, {alive}")
    return tuple(sentences)


def _read_exposure(store: DataStore, exposure: ExposureId) -> ExposureProducts | None:
    try:
        return read_exposure_products(store, exposure)
    except (MissingProductError, DataError):
        return None


def _read_tile(store: DataStore, tile: TileId) -> TileProducts | None:
    try:
        return read_tile_products(store, tile)
    except (MissingProductError, DataError):
        return None


def _stages(products: ExposureProducts | TileProducts) -> Iterator[tuple[str, ProductRef]]:
    """Yield every product with the stage that made it."""
    if isinstance(products, TileProducts):
        yield from products.products.items()
        yield "catalog", products.catalog
        return
    yield "headers", products.headers
    for ccd in products.ccds:
        for name, stage in CCD_STAGES.items():
            yield stage, getattr(ccd, name)


def _products(store: DataStore, products: ExposureProducts | TileProducts) -> tuple[Product, ...]:
    wanted = list(_stages(products))
    with ThreadPoolExecutor(LOOKUPS) as threads:
        there = list(threads.map(lambda item: _is_there(store, item[1]), wanted))
    return tuple(
        Product(stage=stage, subject=ref.subject, key=ref.key, size=ref.size, is_there=here, summary=ref.summary)
        for (stage, ref), here in zip(wanted, there, strict=True)
    )


def _is_there(store: DataStore, ref: ProductRef) -> bool:
    try:
        return store.size(ref.key) == ref.size
    except ObjectNotFoundError:
        return False
