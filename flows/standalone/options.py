"""Options of a single stage, with the names that the observatories' pipelines gave them."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from tasks.errors import ConfigError
from tasks.products.config import StageConfig

Settings = TypeVar("Settings", bound=StageConfig)


def _with_dot(extension: str) -> str:
    return extension if extension.startswith(".") else f".{extension}"


Extension = Annotated[str, Field(pattern=r"^\.?[A-Za-z0-9]{1,16}$"), AfterValidator(_with_dot)]
Suffix = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$")]
HookName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]


class OutputOptions(StageConfig):
    """Where a stage writes, what its file is called, and what runs before and after it."""

    output_file: str | None = None
    """Name for the output; the suffix is added to it. Its folder counts unless output_dir is given."""

    output_dir: str | None = None
    """Folder or s3:// URL of the output; made if it is missing. By default that of the input."""

    output_ext: Extension | None = None
    """Extension of the output, such as .fits; by default that of the product."""

    save_results: bool | None = None
    """Whether to write the result; by default the command does, and a call from Python if output_file is given."""

    skip: bool = False
    """Leave the step out: S_DQINIT is then SKIPPED."""

    suffix: Suffix | None = None
    """End of the output's name, in the place of one such as _uncal; by default the name of the stage."""

    input_dir: str | None = None
    """Folder of inputs that are named without one."""

    pre_hooks: tuple[HookName, ...] = ()
    """Functions, as package.module:function, that get the input first and may return another."""

    post_hooks: tuple[HookName, ...] = ()
    """Functions, as package.module:function, that get the result before it is written and may return another."""


class CacheOptions(StageConfig):
    """Which rules choose reference files."""

    cache: str | None = None
    """Folder or s3:// URL of the CRDS cache."""

    observatory: str | None = None
    """Observatory of the cache, such as jwst or ligeriri; by default the only one in it."""

    context: str = ""
    """Rules to use, such as jwst_0535.pmap; by default the operational ones of the cache, or its only ones."""

    checksum: Literal["strict", "warn", "ignore"] = "strict"
    """What to do with rules whose checksum does not match their text."""


class DQInitOptions(OutputOptions, CacheOptions):
    """Options of ``dq_init`` for one file."""

    output_use_model: bool = False
    """Name the output after the keyword FILENAME of the input."""

    output_use_index: bool = True
    """Number the outputs if there are several and output_file names them all."""

    search_output_file: bool = True
    """Use the output_file of a pipeline around the stage. A single stage has none, so that false only makes the
    keyword FILENAME name the output if output_file does not."""

    override_mask: str | None = None
    """Reference file to use in place of the one that the rules choose, or N/A for none."""

    override_dq: str | None = None
    """The same by the name that Liger and IRIS use."""

    user_supplied_dq: str | None = None
    """FITS file whose first image holds further flags of the pixels."""

    reference_type: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")] | None = None
    """What the rules call the reference; by default mask for JWST and TMT, dq for Liger and IRIS."""

    @property
    def override(self) -> str | None:
        """The override, by whichever name it was given."""
        return self.override_mask or self.override_dq or None


class ProductOptions(OutputOptions):
    """Options of the stages that work on products of Shearline."""

    store: str | None = None
    """Folder or s3:// URL of the products; by default the one that the files lie in."""

    collection: str = "main"
    """Processing version: a folder of the store."""

    raw: str | None = None
    """Folder or s3:// URL of the raw files; by default `raw` in the store."""

    survey: str | None = None
    """Survey file, or the name of one that comes along, whose settings are used where no option says otherwise."""

    subject: str | None = None
    """CCD, exposure or tile that the files are of, such as 2113737-10, if they do not say."""


class ReferencesOptions(ProductOptions, CacheOptions):
    """Options of ``references``."""


def validated(
    kind: type[Settings], values: Mapping[str, Any], origin: str = "", base: Settings | None = None
) -> Settings:
    """Return settings from values or texts by name.

    Parameters
    ----------
    kind
        Which settings.
    values
        Values by field; texts are read as YAML where the field is no text itself.
    origin
        What messages begin with.
    base
        Settings of what is not given; the defaults if none.

    Raises
    ------
    ConfigError
        If a value is wrong: every fault with the name of its option.
    """
    given = {name: read_text(value, kind.model_fields[name], name) for name, value in values.items()}
    known = {} if base is None else base.model_dump()
    try:
        return kind.model_validate(known | given)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise ConfigError(f"{origin}{'; '.join(faults)}.") from error


def read_text(value: Any, field: FieldInfo, name: str) -> Any:  # noqa: ANN401 (values of any type)
    """Return what a text from a shell or a .cfg file means for a field; other values as they are."""
    if not isinstance(value, str):
        return list(value) if isinstance(value, tuple) else value
    kinds = _kinds(field.annotation)
    if type(None) in kinds and value.strip().lower() in {"none", "null"}:
        return None
    if str in kinds or typing.Literal in kinds:
        return value
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {value[:80]!r} is not a valid value.") from error
    if isinstance(read, str) and kinds & {tuple, list}:
        return [part.strip() for part in read.split(",") if part.strip()]
    return [] if read is None and kinds & {tuple, list} else read


def _kinds(annotation: Any) -> set[Any]:  # noqa: ANN401 (any annotation)
    """Return the types of a field: ``str | None`` is str and NoneType, ``tuple[int, ...]`` is tuple."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _kinds(inner[0])
    if origin in (types.UnionType, typing.Union):
        return set().union(*map(_kinds, inner))
    return {origin or annotation}


def words(annotation: Any) -> str:  # noqa: ANN401 (any annotation)
    """Say the type of a field for a help page, such as ``TRUE|FALSE``."""
    kinds = _kinds(annotation) - {type(None)}
    names = {bool: "TRUE|FALSE", int: "INTEGER", float: "NUMBER", str: "TEXT", tuple: "LIST", list: "LIST"}
    if kinds == {typing.Literal}:
        return "|".join(str(item) for part in _literals(annotation) for item in typing.get_args(part))
    return "|".join(sorted({names.get(kind, "YAML") for kind in kinds}))


def _literals(annotation: Any) -> list[Any]:  # noqa: ANN401 (any annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _literals(part)]


def default_words(field: FieldInfo) -> str:
    """Say the default of a field for a help page, as a value that the option takes."""
    if field.is_required():
        return "none, it must be given"
    return _value_words(field.get_default(call_default_factory=True, validated_data={}))


def _value_words(value: object) -> str:
    if isinstance(value, BaseModel):
        return _value_words(value.model_dump(mode="json"))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_value_words(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_value_words, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None or value == "" else str(value)
