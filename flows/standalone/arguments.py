"""Works out the arguments of a stage body from the files and names that a single stage is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.recipes import reference_cache
from flows.standalone.caches import open_cache
from flows.standalone.inputs import InputFile
from flows.standalone.options import ProductOptions, ReferencesOptions
from flows.standalone.stages import FILES_OF_ALL_KINDS, IN_ORDER, StageBody, Takes
from tasks.archive import keys
from tasks.archive.documents import read_document
from tasks.archive.manifests import (
    list_processed_exposures,
    list_processed_tiles,
    read_exposure_products,
    read_tile_products,
)
from tasks.archive.raw import find_raw_exposure
from tasks.archive.raw_stacks import find_raw_stack
from tasks.errors import ConfigError
from tasks.external_stack import ExternalStackConfig
from tasks.products.config import StageConfig
from tasks.products.identity import CcdId, CcdProducts, ExposureId, ProductRef, RawStack, TileId
from tasks.products.wcs_index import TileExposures

Names = Mapping[str, str]
NAMES: Mapping[Takes, str] = {
    Takes.TILE: "tile",
    Takes.EXPOSURE: "exposure",
    Takes.CCD: "ccd",
    Takes.TILE_PRODUCTS: "tile",
    Takes.EXPOSURE_PRODUCTS: "exposure",
    Takes.RAW_EXPOSURE: "exposure",
    Takes.RAW_STACK: "tile",
}
"""Options that name what a stage is about."""


@dataclass(frozen=True)
class Surroundings:
    """What the arguments of a stage come from, besides its files."""

    stage: str
    options: ProductOptions
    names: Names
    """Tile, exposure and CCD, as far as they were named."""
    store: DataStore | None
    """Where the products around are; none if the files lie anywhere else."""
    raw: DataStore | None
    survey: SurveyConfig | None
    config: StageConfig | None = None
    """Settings of the stage."""

    def require_store(self) -> DataStore:
        """Return the store, or say that it is needed."""
        if self.store is None:
            raise ConfigError(
                f"{self.stage} needs more products than its files: say where they are with store and collection."
            )
        return self.store

    def require_survey(self, what: str) -> SurveyConfig:
        """Return the settings of the survey, or say that they are needed."""
        if self.survey is None:
            raise ConfigError(f"{self.stage} needs {what}: name the survey file as survey.")
        return self.survey

    def require_raw(self) -> DataStore:
        """Return the raw store, or say that it is needed."""
        if self.raw is None:
            raise ConfigError(f"{self.stage} reads the raw store: say where it is with raw.")
        return self.raw


def assign_files(
    body: StageBody, stage: str, files: Sequence[str], named: Mapping[str, str | Sequence[str]]
) -> dict[str, list[str]]:
    """Return the files of every argument: those that were named, and the others in the order of the signature.

    Raises
    ------
    ConfigError
        If there are too few or too many.
    """
    unknown = sorted(set(named) - set(body.named(*FILES_OF_ALL_KINDS)))
    if unknown:
        raise ConfigError(f"{stage} has no input {', '.join(unknown)} here; it has {', '.join(body.named(*IN_ORDER))}.")
    assigned: dict[str, list[str]] = {
        name: [value] if isinstance(value, str) else list(value) for name, value in named.items()
    }
    rest = list(files)
    for name in body.named(*IN_ORDER):
        if name in assigned:
            continue
        taken, rest = (rest, []) if body.arguments[name] is Takes.FILES else (rest[:1], rest[1:])
        if not taken:
            wanted = " ".join(body.named(*IN_ORDER)).upper()
            raise ConfigError(f"{stage} needs {name}: its files are {wanted}, in this order or as --{name} FILE.")
        assigned[name] = taken
    if rest:
        wanted = " ".join(body.named(*IN_ORDER)).upper() or "none"
        raise ConfigError(f"{stage} has no use for {rest[0]}; its files are {wanted}.")
    return assigned


def name_of(kind: type[Any], option: str, around: Surroundings, files: Sequence[InputFile]) -> Any:  # noqa: ANN401
    """Return the identity that an option names, or else the one that all files are of.

    Raises
    ------
    ConfigError
        If there is none, there are several, or it is no such name.
    """
    given = around.names.get(option)
    subjects = sorted({item.subject for item in files})
    if given is None and option == "exposure":
        subjects = sorted({subject.rpartition("-")[0] or subject for subject in subjects})
    if given is None and len(subjects) != 1:
        said = f"the files are of {', '.join(subjects)}" if subjects else "no file says it"
        raise ConfigError(f"{around.stage} needs the name of the {option}, and {said}; give it as {option}.")
    text = given if given is not None else subjects[0]
    try:
        if kind is CcdId:
            exposure, _, ccd = text.rpartition("-")
            return CcdId(exposure=exposure, ccd=int(ccd))
        return kind(text)
    except (ValidationError, ValueError) as error:
        raise ConfigError(f"{text[:80]!r} cannot be the name of the {option}; give it as {option}.") from error


def fill(
    body: StageBody, around: Surroundings, files: Mapping[str, Sequence[InputFile]]
) -> Iterator[tuple[str, object]]:
    """Return every argument that is neither a file, nor settings, nor a store.

    Raises
    ------
    ConfigError
        If something is needed that was not named.
    MissingProductError
        If the store lacks what the stage reads from it.
    """
    given = [item for items in files.values() for item in items]
    sources: dict[Takes, Callable[[], object]] = {
        Takes.TILE: lambda: name_of(TileId, "tile", around, given),
        Takes.EXPOSURE: lambda: name_of(ExposureId, "exposure", around, given),
        Takes.CCD: lambda: name_of(CcdId, "ccd", around, given),
        Takes.CCD_PRODUCTS: lambda: _ccds(around, given),
        Takes.EXPOSURE_PRODUCTS: lambda: read_exposure_products(
            around.require_store(), name_of(ExposureId, "exposure", around, given)
        ),
        Takes.TILE_PRODUCTS: lambda: read_tile_products(around.require_store(), name_of(TileId, "tile", around, given)),
        Takes.ALL_EXPOSURES: lambda: [
            read_exposure_products(around.require_store(), name)
            for name in list_processed_exposures(around.require_store())
        ],
        Takes.ALL_TILES: lambda: [
            read_tile_products(around.require_store(), name) for name in list_processed_tiles(around.require_store())
        ],
        Takes.SET_ASIDE: list,
        Takes.RAW_EXPOSURE: lambda: find_raw_exposure(
            around.require_raw(),
            ExposureId(name_of(CcdId, "ccd", around, given).exposure),
            around.require_survey("the description of the camera").exposure.instrument,
        ),
        Takes.RAW_STACK: lambda: _stack(around, given),
        Takes.INSTRUMENT: lambda: around.require_survey("the description of the camera").exposure.instrument,
        Takes.CACHE: lambda: _cache(around),
        Takes.TITLE: lambda: around.require_survey("the name of the survey").name,
    }
    for name, kind in body.arguments.items():
        if kind in sources:
            yield name, sources[kind]()


def _ccds(around: Surroundings, files: Sequence[InputFile]) -> list[CcdProducts]:
    """Return what the store has of the CCDs of a tile, which its list of exposures names."""
    store, tile = around.require_store(), name_of(TileId, "tile", around, files)
    key = keys.tile(tile, "exposures.json")
    if not store.exists(key):
        raise ConfigError(f"{store.url} has no {key}, which lists the CCDs of the tile; run find_exposures first.")
    found = store.stat(key)
    listed = read_document(
        store, ProductRef(key=key, sha256=found.sha256, size=found.size, subject=str(tile)), TileExposures
    )
    wanted = {record.ccd for record in listed.ccds}
    return [ccd for name in listed.exposures for ccd in read_exposure_products(store, name).ccds if ccd.ccd in wanted]


def _stack(around: Surroundings, files: Sequence[InputFile]) -> RawStack:
    """Return the stack of a tile, where the settings of the stage say that it is."""
    config = around.config
    if not isinstance(config, ExternalStackConfig):
        raise TypeError(f"{around.stage} takes a stack, and its settings do not say where it is")
    return find_raw_stack(around.require_raw(), name_of(TileId, "tile", around, files), config.image, config.weight)


def _cache(around: Surroundings) -> object:
    cache = open_cache(around.options) if isinstance(around.options, ReferencesOptions) else None
    if cache is not None or around.survey is None:
        return cache
    settings = around.survey.exposure.reference_cache
    return None if settings is None else reference_cache(settings, around.require_raw())


def base_settings(body: StageBody, survey: SurveyConfig | None) -> StageConfig | None:
    """Return the settings that a survey has for a stage; none if it has none."""
    if survey is None:
        return None
    of_tile = Takes.TILE in body.arguments.values() or "coadd" in body.arguments
    groups = (survey.tile, survey.exposure) if of_tile else (survey.exposure, survey.tile)
    name = body.task.fn.__module__.rsplit(".", 1)[-1]
    found = (getattr(group, name, None) for group in (*groups, survey))
    simulation = survey.simulation
    return next((item for item in (*found, simulation) if type(item) is body.config), None)


def references_in(value: object) -> Iterator[ProductRef]:
    """Return every reference of a product in an argument, at any depth."""
    if isinstance(value, ProductRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from references_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references_in(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from references_in(item)
