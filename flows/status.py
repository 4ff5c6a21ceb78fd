"""What there is of an exposure, a tile, a night or the whole store; what is missing, and why. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from blocks.lease import FOLDER, LeaseOwner
from blocks.store import DataStore, ObjectNotFoundError
from flows.config import SurveyConfig
from flows.night_report import NightReport, NotDone, read_night_report
from flows.plan import Plan, make_plan
from tasks.archive.manifests import LOOKUPS, read_exposure_products, read_tile_products
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

NIGHTS = "nights"
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


class StoreStatus(BaseModel):
    """What there is of a survey, or of one night."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    survey: str
    """Name of the survey."""

    store: str
    """Where the products are."""

    raw: str
    """Where the raw files are."""

    night: date | None = None
    """The night; none for everything."""

    exposures: dict[str, int]
    """Number of exposures by status."""

    tiles: dict[str, int]
    """Number of tiles by status."""

    open: tuple[NotDone, ...]
    """Every exposure and tile that is not done, and why."""

    working: tuple[str, ...]
    """Who works on what now."""

    nights: tuple[date, ...] = ()
    """Nights of which there is a report."""

    report: NightReport | None = None
    """Report of the night, if a nightly run was made for it."""


def exposure_status(config: SurveyConfig, store: DataStore, raw: DataStore, exposure: ExposureId) -> ItemStatus:
    """Return what there is of an exposure, what is missing and why.

    Raises
    ------
    StoreError
        If a store cannot be read.
    """
    plan = make_plan(config, store, raw)
    entry = next((item for item in plan.exposures if item.exposure == exposure), None)
    products = _read_exposure(store, exposure)
    tiles = [f"{item.tile} ({item.status.replace('_', ' ')})" for item in plan.tiles if exposure in item.exposures]
    return ItemStatus(
        subject=str(exposure),
        kind="exposure",
        status=entry.status if entry else "unknown",
        reasons=entry.reasons if entry else (f"there is no such exposure in {raw.url}, nor in {store.url}",),
        products=_products(store, _of_exposure(products)) if products else (),
        set_aside=products.set_aside if products else (),
        belongs_to=tuple(tiles),
        objects=len(store.list_keys(f"exposures/{exposure}")),
        working=_working(store, f"exposure-{exposure}"),
    )


def tile_status(config: SurveyConfig, store: DataStore, raw: DataStore, tile: TileId) -> ItemStatus:
    """Return what there is of a tile, what is missing and why.

    Raises
    ------
    StoreError
        If a store cannot be read.
    """
    plan = make_plan(config, store, raw)
    entry = next((item for item in plan.tiles if item.tile == tile), None)
    products = _read_tile(store, tile)
    status = {item.exposure: item.status for item in plan.exposures}
    names = entry.exposures if entry else ()
    return ItemStatus(
        subject=str(tile),
        kind="tile",
        status=entry.status if entry else "unknown",
        reasons=entry.reasons if entry else ("no processed exposure touches it, and the settings do not name it",),
        products=_products(store, _of_tile(products)) if products else (),
        set_aside=products.set_aside if products else (),
        belongs_to=tuple(f"{name} ({status.get(name, 'done').replace('_', ' ')})" for name in names),
        objects=len(store.list_keys(f"tiles/{tile}")),
        working=_working(store, f"tile-{tile}"),
    )


def store_status(config: SurveyConfig, store: DataStore, raw: DataStore, night: date | None = None) -> StoreStatus:
    """Return what there is of a survey, or of one night of it.

    Raises
    ------
    StoreError
        If a store cannot be read.
    """
    plan = make_plan(config, store, raw, night=night)
    return StoreStatus(
        survey=config.name,
        store=store.url,
        raw=raw.url,
        night=night,
        exposures=plan.count("exposure"),
        tiles=plan.count("tile"),
        open=tuple(_open(plan)),
        working=_working(store),
        nights=tuple(_nights(store)),
        report=None if night is None else read_night_report(store, night),
    )


def _open(plan: Plan) -> Iterator[NotDone]:
    for item in plan.exposures:
        if item.status != "done":
            yield NotDone(subject=str(item.exposure), kind="exposure", status=item.status, reasons=item.reasons)
    for tile in plan.tiles:
        if tile.status != "done":
            yield NotDone(subject=str(tile.tile), kind="tile", status=tile.status, reasons=tile.reasons)


def _nights(store: DataStore) -> Iterator[date]:
    for name in sorted(store.list_folders(NIGHTS)):
        try:
            yield date.fromisoformat(name)
        except ValueError:
            # not a folder of ours
            continue


def _working(store: DataStore, subject: str = "") -> tuple[str, ...]:
    """Return who holds which lease, for people; of one subject, or of all."""
    keys = [f"{FOLDER}/{subject}.json"] if subject else store.list_keys(FOLDER)
    sentences = []
    for key in keys:
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


def _of_exposure(products: ExposureProducts) -> list[tuple[str, ProductRef]]:
    per_ccd = [(stage, getattr(ccd, name)) for ccd in products.ccds for name, stage in CCD_STAGES.items()]
    return [("headers", products.headers), *per_ccd]


def _of_tile(products: TileProducts) -> list[tuple[str, ProductRef]]:
    return [*products.products.items(), ("catalog", products.catalog)]


def _products(store: DataStore, refs: Iterable[tuple[str, ProductRef]]) -> tuple[Product, ...]:
    wanted: Sequence[tuple[str, ProductRef]] = list(refs)
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
