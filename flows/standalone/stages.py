"""Every stage by name: where its body is, what it takes, and what it can run on alone."""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from tasks.errors import ConfigError
from tasks.products.config import StageConfig
from tasks.products.identity import (
    CcdId,
    CcdProducts,
    ExposureId,
    ExposureProducts,
    ProductRef,
    RawExposure,
    RawStack,
    SetAside,
    TileId,
    TileProducts,
)
from tasks.products.instrument import Instrument

if TYPE_CHECKING:
    from tasks.stage import StageTask

DQ_INIT = "dq_init"


@dataclass(frozen=True)
class StageEntry:
    """Where a stage is found."""

    name: str
    meaning: str
    """What it does, in one sentence."""
    tasks: tuple[str, ...]
    """Its tasks as ``module:name``; one for CCDs and one for tiles if there are two."""
    fills_store: bool = False
    """Whether it writes many files, which only a store can take."""


STAGES: Mapping[str, StageEntry] = {
    entry.name: entry
    for entry in (
        StageEntry(DQ_INIT, "Give a detector file its static flags.", ("tasks.dq_init:initialize_dq_task",)),
        StageEntry(
            "dq_plane", "Make the DQ plane of a CCD, as the exposure flow does.", ("tasks.dq_init:initialize_dq_task",)
        ),
        StageEntry("references", "Choose the reference file of a CCD.", ("tasks.references:select_reference_task",)),
        StageEntry("split", "Take one CCD out of a raw exposure.", ("tasks.split:split_ccd_task",)),
        StageEntry("mask", "Make the lensing mask.", ("tasks.mask:mask_ccd_task", "tasks.mask:mask_tile_task")),
        StageEntry("detect", "Find the sources.", ("tasks.detect:detect_ccd_task", "tasks.detect:detect_tile_task")),
        StageEntry("stars", "Choose the stars of a CCD.", ("tasks.stars:select_stars_task",)),
        StageEntry("psf_fit", "Fit the PSF model of a CCD.", ("tasks.psf_fit:fit_psf_task",)),
        StageEntry("psf_validate", "Measure the PSF at reserved stars.", ("tasks.psf_validate:validate_psf_task",)),
        StageEntry("headers", "Index the CCDs of an exposure.", ("tasks.headers:index_headers_task",)),
        StageEntry("merge_headers", "Merge the indexes of exposures.", ("tasks.headers:merge_headers_task",)),
        StageEntry(
            "find_exposures", "List the CCDs that overlap a tile.", ("tasks.find_exposures:find_exposures_task",)
        ),
        StageEntry("coadd", "Coadd the CCDs of a tile.", ("tasks.coadd:coadd_tile_task",)),
        StageEntry(
            "external_stack",
            "Take the image of a tile that was stacked elsewhere.",
            ("tasks.external_stack:accept_stack_task",),
        ),
        StageEntry("epochs", "Find which CCD saw which source.", ("tasks.epochs:find_epochs_task",)),
        StageEntry("psf_interp", "Evaluate the PSF at every epoch.", ("tasks.psf_interp:interpolate_psf_task",)),
        StageEntry("stamps", "Cut the stamps of every epoch.", ("tasks.stamps:cut_stamps_task",)),
        StageEntry("spread_model", "Separate stars and galaxies.", ("tasks.spread_model:measure_spread_task",)),
        StageEntry("shapes", "Measure shapes by metacalibration.", ("tasks.shapes:measure_shapes_task",)),
        StageEntry("catalog", "Join the tables of a tile.", ("tasks.catalog:make_catalog_task",)),
        StageEntry("merge", "Merge the catalogues of tiles.", ("tasks.merge:merge_catalogs_task",)),
        StageEntry("export_parquet", "Write a catalogue as Parquet.", ("tasks.merge:export_parquet_task",)),
        StageEntry("mean_shear", "Measure the mean shear.", ("tasks.mean_shear:measure_mean_shear_task",)),
        StageEntry("report", "Write the report of a survey.", ("tasks.report:write_report_task",)),
        StageEntry("exposure_report", "Write the report of an exposure.", ("tasks.report:write_exposure_report_task",)),
        StageEntry("tile_report", "Write the report of a tile.", ("tasks.report:write_tile_report_task",)),
        StageEntry("simulate", "Simulate a survey.", ("tasks.simulate:simulate_survey_task",), True),
        StageEntry("simulate_sky", "Draw the sky of a survey.", ("tasks.simulate:simulate_sky_task",), True),
        StageEntry(
            "simulate_exposure", "Take one simulated exposure.", ("tasks.simulate:simulate_exposure_task",), True
        ),
        StageEntry(
            "simulate_manifest", "Join the lists of simulated files.", ("tasks.simulate:list_survey_task",), True
        ),
    )
}


class Takes(Enum):
    """What an argument of a stage body is, and so where it comes from."""

    FILE = "a product"
    RAW_FILE = "a file of the raw store, or none"
    FILES = "several products"
    STORE = "the store of products"
    RAW = "the raw store"
    CONFIG = "settings"
    TILE = "the name of a tile"
    EXPOSURE = "the name of an exposure"
    CCD = "the name of a CCD"
    CCD_PRODUCTS = "what the store has of the CCDs of a tile"
    EXPOSURE_PRODUCTS = "what the store has of an exposure"
    TILE_PRODUCTS = "what the store has of a tile"
    ALL_EXPOSURES = "what the store has of every exposure"
    ALL_TILES = "what the store has of every tile"
    SET_ASIDE = "what a run went on without"
    RAW_EXPOSURE = "the raw files of an exposure"
    RAW_STACK = "the stack of a tile in the raw store"
    INSTRUMENT = "the camera"
    CACHE = "a cache of reference files"
    TITLE = "the name of the survey"


FILES_OF_ALL_KINDS = frozenset({Takes.FILE, Takes.FILES, Takes.RAW_FILE})
IN_ORDER = frozenset({Takes.FILE, Takes.FILES})
FROM_STORE = frozenset(
    {
        Takes.CCD_PRODUCTS,
        Takes.EXPOSURE_PRODUCTS,
        Takes.TILE_PRODUCTS,
        Takes.ALL_EXPOSURES,
        Takes.ALL_TILES,
    }
)
SINGLE: Mapping[Any, Takes] = {
    ProductRef: Takes.FILE,
    TileId: Takes.TILE,
    ExposureId: Takes.EXPOSURE,
    CcdId: Takes.CCD,
    ExposureProducts: Takes.EXPOSURE_PRODUCTS,
    TileProducts: Takes.TILE_PRODUCTS,
    RawExposure: Takes.RAW_EXPOSURE,
    RawStack: Takes.RAW_STACK,
    Instrument: Takes.INSTRUMENT,
    str: Takes.TITLE,
}
SEVERAL: Mapping[Any, Takes] = {
    ProductRef: Takes.FILES,
    CcdProducts: Takes.CCD_PRODUCTS,
    ExposureProducts: Takes.ALL_EXPOSURES,
    TileProducts: Takes.ALL_TILES,
    SetAside: Takes.SET_ASIDE,
}


@dataclass(frozen=True)
class StageBody:
    """One task of a stage, and what its arguments are."""

    task: StageTask[...]
    arguments: Mapping[str, Takes]
    config: type[StageConfig]

    @property
    def reads_store(self) -> bool:
        """Whether it needs more of the store than the files that it is given."""
        return bool(FROM_STORE & set(self.arguments.values()))

    def named(self, *kinds: Takes) -> list[str]:
        """Return the names of the arguments of some kinds, in the order of the signature."""
        return [name for name, kind in self.arguments.items() if kind in kinds]


def find_stage(name: str) -> StageEntry:
    """Return a stage by its name; ``dq-init`` is ``dq_init``.

    Raises
    ------
    ConfigError
        If there is none.
    """
    entry = STAGES.get(name.strip().lower().replace("-", "_"))
    if entry is None:
        raise ConfigError(f"There is no stage {name[:80]!r}; stages are {', '.join(STAGES)}.")
    return entry


def load_bodies(entry: StageEntry) -> tuple[StageBody, ...]:
    """Import the tasks of a stage and work out what they take."""
    return tuple(_load(*address.split(":")) for address in entry.tasks)


def _load(module: str, name: str) -> StageBody:
    task = getattr(importlib.import_module(module), name)
    body: Callable[..., ProductRef] = inspect.unwrap(task.fn)
    hints = typing.get_type_hints(body)
    arguments = {name: _takes(name, hints[name]) for name in inspect.signature(body).parameters}
    return StageBody(task, arguments, hints["config"])


def _takes(name: str, hint: Any) -> Takes:  # noqa: ANN401 (any annotation)
    from blocks.crds import CrdsCache
    from blocks.store import DataStore

    if hint is DataStore:
        return Takes.STORE if name == "store" else Takes.RAW
    if isinstance(hint, type) and hint not in SINGLE and issubclass(hint, StageConfig):
        return Takes.CONFIG
    inner = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return Takes.CACHE if CrdsCache in inner else Takes.RAW_FILE
    return SEVERAL[inner[0]] if inner else SINGLE[hint]
