"""Settings of the flows: one field per stage, loaded from YAML; errors name the key and the nearest valid name."""

from __future__ import annotations

import copy
import difflib
import importlib.resources
import re
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from tasks.catalog import CatalogConfig
from tasks.coadd import CoaddConfig
from tasks.detect import DetectConfig
from tasks.dq_init import DQInitConfig
from tasks.epochs import EpochsConfig
from tasks.errors import ConfigError
from tasks.external_stack import ExternalStackConfig
from tasks.find_exposures import FindExposuresConfig
from tasks.headers import HeadersConfig
from tasks.mask import MaskConfig
from tasks.mean_shear import MeanShearConfig
from tasks.merge import MergeConfig
from tasks.products.config import StageConfig
from tasks.products.identity import ExposureId, NamedIdentity, TileId
from tasks.products.instrument import Instrument
from tasks.psf_fit import PsfFitConfig
from tasks.psf_interp import PsfInterpConfig
from tasks.psf_validate import PsfValidateConfig
from tasks.references import ReferencesConfig
from tasks.report import ReportConfig
from tasks.shapes import ShapesConfig
from tasks.simulate import SimulationConfig
from tasks.split import SplitConfig
from tasks.spread_model import SpreadModelConfig
from tasks.stamps import StampsConfig
from tasks.stars import StarsConfig

SURVEYS = "surveys"
GROUPS = ("exposure", "tile")


class ReferenceCache(StageConfig):
    """Where the CRDS rules and reference files of the instrument are."""

    root: str
    """Folder of the CRDS cache; ``{raw}`` stands for the raw store."""

    observatory: Annotated[str, Field(pattern=r"^[a-z]{2,9}$")]
    """Observatory whose rules are used, such as ``jwst``."""

    context: Annotated[str, Field(pattern=r"^[a-z0-9_]+\.pmap$")]
    """Pipeline context, such as ``jwst_1300.pmap``."""

    checksum: typing.Literal["strict", "warn", "ignore"] = "strict"
    """What a rule file with a wrong checksum means."""


class ExposureConfig(StageConfig):
    """Settings of the exposure flow: from a raw exposure to PSF models, CCD by CCD."""

    instrument: Instrument
    """The camera's files and header keywords."""

    reference_cache: ReferenceCache | None = None
    """CRDS cache of the static detector flags; none skips ``dq_init``."""

    star_catalog: str | None = None
    """Star catalogue in the raw store for halo and spike masks, a FITS table with RA, DEC, MAG."""

    min_ccds: Annotated[int, Field(ge=1)] = 1
    """Fewest good CCDs with which an exposure still stands."""

    split: SplitConfig = SplitConfig()
    """Raw file to one image per CCD."""

    headers: HeadersConfig = HeadersConfig()
    """WCS index."""

    references: ReferencesConfig = ReferencesConfig()
    """Choice of reference files."""

    dq_init: DQInitConfig = DQInitConfig()
    """Static detector flags."""

    mask: MaskConfig = MaskConfig()
    """Lensing mask."""

    detect: DetectConfig = DetectConfig()
    """Source detection."""

    stars: StarsConfig = StarsConfig()
    """Star selection."""

    psf_fit: PsfFitConfig = PsfFitConfig()
    """PSF model."""

    psf_validate: PsfValidateConfig = PsfValidateConfig()
    """PSF residuals."""

    report: ReportConfig = ReportConfig()
    """Report of an exposure."""


class TileConfig(StageConfig):
    """Settings of the tile flow: from the exposures of a tile to its shape catalogue."""

    star_catalog: str | None = None
    """Star catalogue in the raw store for halo and spike masks, a FITS table with RA, DEC, MAG."""

    find_exposures: FindExposuresConfig = FindExposuresConfig()
    """Survey grid, and which CCDs overlap a tile."""

    coadd: CoaddConfig = CoaddConfig()
    """Drizzle coaddition."""

    external_stack: ExternalStackConfig | None = None
    """Images of tiles that were stacked elsewhere, which are taken instead of coadding; none coadds."""

    mask: MaskConfig = MaskConfig()
    """Lensing mask of the tile."""

    detect: DetectConfig = DetectConfig()
    """Source detection on the tile."""

    epochs: EpochsConfig = EpochsConfig()
    """Which CCD saw which source."""

    psf_interp: PsfInterpConfig = PsfInterpConfig()
    """PSF of every source in every epoch."""

    stamps: StampsConfig = StampsConfig()
    """Multi-epoch stamps."""

    spread_model: SpreadModelConfig = SpreadModelConfig()
    """Star-galaxy separation."""

    shapes: ShapesConfig = ShapesConfig()
    """Metacalibration shapes."""

    catalog: CatalogConfig = CatalogConfig()
    """Final catalogue of the tile."""

    report: ReportConfig = ReportConfig()
    """Report of a tile."""


class SurveyConfig(StageConfig):
    """Settings of a whole survey."""

    name: str
    """Name of the survey, for reports."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all random choices; a stage that has a seed of its own follows it unless that is set."""

    exposures: tuple[ExposureId, ...] = ()
    """Exposures of the survey; empty takes all in the raw store."""

    tiles: tuple[TileId, ...] = ()
    """Tiles of the survey; empty makes the nightly flow process all that its exposures touch."""

    tile_exposures: dict[TileId, tuple[ExposureId, ...]] = Field(default_factory=dict)
    """Exposures that a tile waits for, by tile: the observing plan. A tile that is not named here is complete when
    enough processed exposures overlap it, and none that is known to overlap it has still to be processed."""

    timezone: str = "UTC"
    """Time zone of the telescope, such as ``Pacific/Honolulu``: a night lasts from noon to noon there."""

    exposure: ExposureConfig
    """The exposure flow."""

    tile: TileConfig = TileConfig()
    """The tile flow."""

    merge: MergeConfig = MergeConfig()
    """Merging of the tiles' catalogues."""

    mean_shear: MeanShearConfig = MeanShearConfig()
    """Response-corrected mean shear."""

    truth: str | None = None
    """Catalogue of the true galaxies of a simulated survey in the raw store; none for real data."""

    report: ReportConfig = ReportConfig()
    """Report of the survey."""

    simulation: SimulationConfig | None = None
    """The simulated survey of `shearline demo`; none for real data."""

    @model_validator(mode="before")
    @classmethod
    def _hand_the_seed_on(cls, settings: object) -> object:
        if not isinstance(settings, dict) or "seed" not in settings:
            return settings
        handed_on = copy.deepcopy(settings)
        for group, stage in (("exposure", "stars"), ("tile", "shapes")):
            inner = handed_on.setdefault(group, {})
            if isinstance(inner, dict) and isinstance(inner.setdefault(stage, {}), dict):
                inner[stage].setdefault("seed", settings["seed"])
        return handed_on

    @field_validator("exposures", "tiles", mode="before")
    @classmethod
    def _names_are_text(cls, value: object) -> object:
        return [_name_as_text(item) for item in value] if isinstance(value, list) else value

    @field_validator("tile_exposures", mode="wrap")
    @classmethod
    def _tiles_and_their_exposures_occur_once(
        cls, value: object, validate: Callable[[object], dict[TileId, tuple[ExposureId, ...]]]
    ) -> dict[TileId, tuple[ExposureId, ...]]:
        if not isinstance(value, dict):
            return validate(value)
        named = validate({_name_as_text(tile): cls._names_are_text(names) for tile, names in value.items()})
        if len(named) < len(value):
            raise ValueError("has one tile under two names: 210.296 and 210-296 are the same")
        for tile, names in named.items():
            if len(set(names)) < len(names):
                raise ValueError(f"names occur twice: {_names_that_occur_twice(names)} of tile {tile}")
        return named

    @field_validator("timezone")
    @classmethod
    def _timezone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, KeyError, OSError) as error:
            # what is not known is a KeyError
            raise ValueError("is not the name of a time zone, such as Pacific/Honolulu or UTC") from error
        return value

    @field_validator("exposures", "tiles")
    @classmethod
    def _names_occur_once(cls, value: tuple[NamedIdentity, ...]) -> tuple[NamedIdentity, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"names occur twice: {_names_that_occur_twice(value)}")
        return value


def _names_that_occur_twice(names: Sequence[NamedIdentity]) -> str:
    return ", ".join(sorted(str(name) for name, number in Counter(names).items() if number > 1))


def _name_as_text(value: object) -> object:
    """Return the name that YAML read as a number, such as 2113737; one with a point has lost its zeros."""
    if isinstance(value, float):
        raise ValueError(f"{value} is a number: write names with a point in quotes, such as '210.290'")  # noqa: TRY004
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class SettingsLoader(yaml.SafeLoader):
    """YAML without octal numbers, so that the exposure 0012345 keeps its name."""


SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:int"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789")
)


def survey_files() -> list[str]:
    """Return the names of the survey files that come with Shearline."""
    folder = importlib.resources.files("deployments") / SURVEYS
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def load_survey(name: str, changes: Sequence[str] = ()) -> SurveyConfig:
    """Read a survey file and apply changes from the command line.

    Parameters
    ----------
    name
        Path of a YAML file, or the name of one that comes with Shearline, such as ``cfis``.
    changes
        Texts ``stage.field=value``; values are read as YAML.

    Raises
    ------
    ConfigError
        If the file cannot be read, or a key or value is wrong: every fault with the path of its key.
    """
    settings = _read_yaml(name)
    for change in changes:
        _apply(settings, change)
    try:
        return SurveyConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{name}: " + "; ".join(_sentences(error))) from error


def _read_yaml(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        text = _read_survey_file(path)
    elif name in survey_files():
        text = (importlib.resources.files("deployments") / SURVEYS / f"{name}.yaml").read_text()
    else:
        raise ConfigError(
            f"There is no survey {name[:80]!r}{_nearest(name, survey_files())}; give a .yaml file or one of them."
        )
    try:
        settings = SettingsLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{name} holds {type(settings).__name__}, not settings by name.")
    return settings


def _read_survey_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"There is no survey file {path}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text, so it is no survey file.") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"The survey file {str(path)[:80]!r} cannot be read: {reason}.") from error


def _apply(settings: dict[str, Any], change: str) -> None:
    path, separator, text = change.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set {change!r} is not of the form stage.field=value.")
    keys = _full_path(keys, change)
    try:
        value = SettingsLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change!r}: the value is not valid YAML.") from error
    target = settings
    for key in keys[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            inner = target[key] = {}
        target = inner
    target[keys[-1]] = value


def _full_path(keys: list[str], change: str) -> list[str]:
    """Let ``stars.snr_min`` stand for ``exposure.stars.snr_min``; a stage of both flows must be spelt out."""
    if keys[0] in SurveyConfig.model_fields:
        return keys
    groups = [group for group, model in _groups() if keys[0] in model.model_fields]
    if len(groups) > 1:
        names = " or ".join(f"{group}.{'.'.join(keys)}" for group in groups)
        raise ConfigError(f"--set {change!r} is ambiguous: say {names}.")
    if not groups:
        known = [*SurveyConfig.model_fields, *(name for _, model in _groups() for name in model.model_fields)]
        raise ConfigError(f"--set {change!r}: there is no {keys[0]!r}{_nearest(keys[0], known)}.")
    return [groups[0], *keys]


def _groups() -> Iterator[tuple[str, type[BaseModel]]]:
    yield "exposure", ExposureConfig
    yield "tile", TileConfig


def _sentences(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        location = fault["loc"]
        path = ".".join(str(part) for part in location)
        if fault["type"] == "extra_forbidden":
            names = _valid_names(SurveyConfig, location[:-1])
            yield f"{path} is not a setting{_nearest(str(location[-1]), names)}"
        elif fault["type"] == "missing":
            yield f"{path} is missing"
        else:
            yield f"{path} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _valid_names(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the field names of the model at a location; empty where there is none."""
    current: object = model
    for part in location:
        models = list(_models(current))
        fields: Mapping[str, Any] = {name: item for found in models for name, item in found.model_fields.items()}
        if isinstance(part, int):
            continue
        if part not in fields:
            continue
        current = fields[part].annotation
    return [name for found in _models(current) for name in found.model_fields]


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in {typing.Union, types.UnionType, tuple, list, dict, Annotated}:
        for inner in typing.get_args(annotation):
            yield from _models(inner)


def _nearest(name: str, names: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if found:
        return f"; did you mean {found[0]!r}?"
    return f"; there are {', '.join(sorted(set(names)))}" if names else ""


def dump_survey(config: SurveyConfig) -> str:
    """Return the resolved settings as YAML, every default written out."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text
