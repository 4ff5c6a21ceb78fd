"""Directives that write tables from the code, so that no page can disagree with it.

``{config-table} tasks.mask.MaskConfig``
    The settings of a config class: name, type, default, bounds, meaning.
``{document-table} tasks.products.shear.SurveyShear``
    The entries of a JSON document: name, type, meaning.
``{columns-table} SOURCES``
    The columns of a table schema of ``tasks.products.columns``.
``{flags-table} tasks.products.dq.MaskFlag``
    The bits of a flag registry and what they mean.
``{codes-table} flows.cli.Exit``
    The exit codes of a command and what they mean.
``{alone-table} flows.standalone.stages.STAGES``
    The stages that run alone: what they do, their files, and what else they need.
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

Row = Sequence[str]


class TableDirective(SphinxDirective):
    """A directive with one argument, the name of a thing of the code, that becomes a table."""

    required_arguments = 1
    header: Row = ()

    def rows(self, name: str) -> Iterable[Row]:
        """Return the cells of the table as Markdown."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Write the table as Markdown and have it parsed in place."""
        name = self.arguments[0]
        try:
            rows = list(self.rows(name))
        except (ImportError, AttributeError, KeyError) as error:
            raise self.error(f"{self.name}: cannot find {name}: {error}") from error
        if not rows:
            raise self.error(f"{self.name}: {name} is empty")
        lines = [self.header, ["---"] * len(self.header), *rows]
        container = nodes.container(classes=["generated-table"])
        text = StringList(["| " + " | ".join(map(cell, line)) + " |" for line in lines], source=name)
        self.state.nested_parse(text, 0, container)
        return [container]


class ConfigTable(TableDirective):
    """The settings of a config class."""

    header = ("setting", "type", "default", "bounds", "meaning")

    def rows(self, name: str) -> Iterable[Row]:
        """One row per field."""
        for field_name, field in import_name(name).model_fields.items():
            yield (
                code(field_name),
                type_words(field.annotation),
                default_words(field),
                ", ".join(bounds_words(field.metadata, field.annotation)),
                (field.description or "").strip(),
            )


class DocumentTable(TableDirective):
    """The entries of a JSON document."""

    header = ("entry", "type", "meaning")

    def rows(self, name: str) -> Iterable[Row]:
        """One row per entry."""
        for entry, field in import_name(name).model_fields.items():
            yield code(entry), type_words(field.annotation), (field.description or "").strip()


class ColumnsTable(TableDirective):
    """The columns of a table schema."""

    header = ("column", "in FITS", "dtype", "unit", "meaning")

    def rows(self, name: str) -> Iterable[Row]:
        """One row per column."""
        columns = import_module("tasks.products.columns")
        for column in columns.SCHEMAS[name].columns:
            shape = f" ({', '.join('n' if size == 0 else str(size) for size in column.shape)})" if column.shape else ""
            counts_from_one = " (counts from 1)" if column.origin_one else ""
            yield (
                code(column.name),
                code(column.ttype) + counts_from_one,
                code(column.dtype) + shape,
                column.unit,
                column.meaning,
            )


class FlagsTable(TableDirective):
    """The bits of a flag registry."""

    header = ("flag", "bit", "value", "meaning")

    def rows(self, name: str) -> Iterable[Row]:
        """One row per bit."""
        registry = import_name(name)
        meanings = flag_meanings(registry)
        for flag in registry:
            yield code(flag.name), str(flag.value.bit_length() - 1), str(flag.value), meanings[flag.name]


class CodesTable(TableDirective):
    """The exit codes of a command."""

    header = ("code", "meaning")

    def rows(self, name: str) -> Iterable[Row]:
        """One row per code."""
        codes = import_name(name)
        meanings = attribute_docstrings(codes)
        for member in codes:
            yield str(int(member)), meanings[member.name]


class AloneTable(TableDirective):
    """The stages that run alone."""

    header = ("stage", "what it does", "files, in order", "or by name", "what else it needs")

    def rows(self, name: str) -> Iterable[Row]:
        """One row per stage, or per task of a stage that has several."""
        stages = import_module(name.rpartition(".")[0])
        for entry in import_name(name).values():
            for body in stages.load_bodies(entry):
                yield code(entry.name), entry.meaning, *self.needs(stages, entry, body)

    @staticmethod
    def needs(stages: Any, entry: Any, body: Any) -> Row:
        """Say what one task takes."""
        if entry.name == stages.DQ_INIT:
            return "detector files", "", "a cache of reference files, or an override"
        takes = stages.Takes
        several = {True: " …", False: ""}
        files = [code(item) + several[body.arguments[item] is takes.FILES] for item in body.named(*stages.IN_ORDER)]
        optional = [code(f"--{item}") for item in body.named(takes.RAW_FILE)]
        words = {
            takes.TILE: "`--tile`",
            takes.TILE_PRODUCTS: "`--tile`",
            takes.EXPOSURE: "`--exposure`",
            takes.EXPOSURE_PRODUCTS: "`--exposure`",
            takes.CCD: "`--ccd`",
            takes.CACHE: "`--cache`",
            takes.INSTRUMENT: "`--survey`",
            takes.TITLE: "`--survey`",
            takes.RAW_EXPOSURE: "the raw store",
            takes.RAW_STACK: "the raw store",
        }
        told = [words[kind] for kind in body.arguments.values() if kind in words]
        store = ["the products around, in the store"] if body.reads_store else []
        store += ["a store for its many files"] if entry.fills_store else []
        return ", ".join(files), ", ".join(optional), ", ".join([*told, *store])


def flag_meanings(registry: type[enum.IntFlag]) -> dict[str, str]:
    """Return what the flags mean: from the table beside the registry, else from the docstrings of its members."""
    for value in vars(import_module(registry.__module__)).values():
        if isinstance(value, Mapping) and value and all(isinstance(flag, registry) for flag in value):
            return {flag.name: meaning for flag, meaning in value.items()}
    return attribute_docstrings(registry)


def attribute_docstrings(cls: type) -> dict[str, str]:
    """Return the docstrings that follow the attributes of a class in its source."""
    documented = ModuleAnalyzer.for_module(cls.__module__).find_attr_docs()
    return {name: " ".join(lines).strip() for (owner, name), lines in documented.items() if owner == cls.__qualname__}


def import_name(name: str) -> Any:
    """Import ``package.module.Thing``."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def cell(text: str) -> str:
    """Make one line of a text and let it stand in a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    return f"`{text}`"


def type_words(annotation: Any) -> str:
    """Say a type in words: ``tuple[int, ...]`` is "list of integer"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_words(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(argument) for argument in arguments)
    if origin is typing.Literal:
        return ", ".join(code(str(argument)) for argument in arguments)
    if origin in (tuple, list, set, frozenset, dict):
        return collection_words(origin, arguments)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(code(str(member.value)) for member in annotation)
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return linked(annotation)
    words = {bool: "true or false", int: "integer", float: "number", str: "text", type(None): "none"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def linked(model: type[BaseModel]) -> str:
    """Name a settings class, with a link if it belongs to a stage."""
    package, _, stage = model.__module__.partition(".")
    page = Path(__file__).parents[1] / "stages" / f"{stage}.md"
    return f"[{model.__name__}](/stages/{stage}.md)" if package == "tasks" and page.exists() else code(model.__name__)


def collection_words(origin: type, arguments: tuple[Any, ...]) -> str:
    """Say a collection in words."""
    if origin is dict:
        return f"{type_words(arguments[0])} → {type_words(arguments[1])}"
    if origin is tuple and Ellipsis not in arguments:
        return f"({', '.join(type_words(argument) for argument in arguments)})"
    return f"list of {type_words(arguments[0])}"


def default_words(field: FieldInfo) -> str:
    """Say what a setting is if nobody sets it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return "its defaults"
    return code(value_words(value))


def value_words(value: Any) -> str:
    """Write a value as in a YAML file."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case enum.Enum():
            return str(value.value)
        case tuple() | list() | set() | frozenset():
            return f"[{', '.join(value_words(item) for item in value)}]"
        case dict():
            return "{" + ", ".join(f"{key}: {value_words(item)}" for key, item in value.items()) + "}"
        case float():
            return f"{value:g}" if float(f"{value:g}") == value else repr(value)
        case "":
            return '""'
        case BaseModel():
            return value_words(value.model_dump(mode="json"))
        case _:
            return str(value)


def bounds_words(metadata: Iterable[Any], annotation: Any) -> list[str]:
    """Say the bounds of a field, and of the elements of a collection."""
    signs = (("ge", "≥ "), ("gt", "> "), ("le", "≤ "), ("lt", "< "), ("multiple_of", "a multiple of "))
    words = []
    for bound in metadata:
        words += [f"{sign}{getattr(bound, name)}" for name, sign in signs if getattr(bound, name, None) is not None]
        if getattr(bound, "min_length", None):
            words.append(f"at least {bound.min_length} long")
        if getattr(bound, "max_length", None) is not None:
            words.append(f"at most {bound.max_length} long")
        if getattr(bound, "pattern", None):
            words.append(f"matches {code(str(bound.pattern))}")
    for argument in typing.get_args(annotation):
        if typing.get_origin(argument) is typing.Annotated:
            base, *extra = typing.get_args(argument)
            inner = bounds_words([item for entry in extra for item in getattr(entry, "metadata", [entry])], base)
            words += [f"each {word}" for word in inner] if typing.get_origin(annotation) in (tuple, list) else inner
    return words


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("config-table", ConfigTable)
    app.add_directive("document-table", DocumentTable)
    app.add_directive("columns-table", ColumnsTable)
    app.add_directive("flags-table", FlagsTable)
    app.add_directive("codes-table", CodesTable)
    app.add_directive("alone-table", AloneTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
