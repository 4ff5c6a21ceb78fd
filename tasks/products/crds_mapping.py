"""The text of the mapping files in which the Calibration Reference Data System (CRDS) keeps its rules."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.errors import DamagedRulesError, UnsupportedRulesError

Parameters = tuple[str, ...]
Dates = dict[str, str]
Cases = dict[Parameters, str | Dates]

SELECTORS = ("Match", "UseAfter")


@dataclass(frozen=True)
class NamesMapping:
    """A context or the rules of an instrument: names of further mappings, by instrument or reference type."""

    header: dict[str, object]
    names: dict[str, str]
    comment: str = ""

    def text(self) -> str:
        """Return the text of the file, with its checksum."""
        return _with_checksum(self.header, _dictionary(self.names), self.comment)


@dataclass(frozen=True)
class CasesMapping:
    """The rules of a reference type: values of header keywords, and dates from which on a file holds."""

    header: dict[str, object]
    cases: Cases
    comment: str = ""

    def text(self) -> str:
        """Return the text of the file, with its checksum."""
        rows = []
        for key, value in sorted(self.cases.items()):
            chosen = repr(value) if isinstance(value, str) else f"UseAfter({_dictionary(value, '    ')})"
            rows.append(f"    {key!r} : {chosen},\n")
        return _with_checksum(self.header, "Match({\n" + "".join(rows) + "})", self.comment)


def mapping_sha1(text: str) -> str:
    """Return the checksum of a mapping as CRDS defines it: SHA-1 of the text without the lines that say ``sha1sum``."""
    kept = "".join(line for line in text.splitlines(keepends=True) if "sha1sum" not in line)
    return hashlib.sha1(kept.encode(), usedforsecurity=False).hexdigest()


def read_names(name: str, text: str) -> NamesMapping:
    """Return what a ``.pmap`` or ``.imap`` says.

    Raises
    ------
    DamagedRulesError
        If the text is not such a mapping.
    """
    header, selector, comment = _parts(name, text)
    names = _literal(name, selector)
    if not isinstance(names, dict):
        raise DamagedRulesError(f"Mapping {name} is damaged: its selector names no mappings.")
    return NamesMapping(header, {str(key): str(value) for key, value in names.items()}, comment)


def read_cases(name: str, text: str) -> CasesMapping:
    """Return what an ``.rmap`` says that matches values and then dates.

    Raises
    ------
    DamagedRulesError
        If the text is not a mapping.
    UnsupportedRulesError
        If its rules are nested in another way.
    """
    header, selector, comment = _parts(name, text)
    cases: Cases = {}
    for key, value in _entries(name, selector, "Match"):
        values = key if isinstance(key, tuple) else (key,)
        cases[tuple(str(item) for item in values)] = (
            {str(date): str(_literal(name, file)) for date, file in _entries(name, value, "UseAfter")}
            if isinstance(value, ast.Call)
            else str(_literal(name, value))
        )
    return CasesMapping(header, cases, comment)


def _parts(name: str, text: str) -> tuple[dict[str, object], ast.expr, str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise DamagedRulesError(f"Mapping {name} is damaged: {error}. Copy it into the cache again.") from error
    found = {
        getattr(statement.targets[0], "id", ""): statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
    }
    if not {"header", "selector"} <= set(found):
        raise DamagedRulesError(f"Mapping {name} is damaged: it has no header and selector.")
    header = _literal(name, found["header"])
    if not isinstance(header, dict):
        raise DamagedRulesError(f"Mapping {name} is damaged: its header is not a dictionary.")
    comment = str(_literal(name, found["comment"])) if "comment" in found else ""
    return header, found["selector"], comment


def _literal(name: str, node: ast.expr) -> object:
    try:
        value: object = ast.literal_eval(node)
    except ValueError as error:
        raise DamagedRulesError(f"Mapping {name} is damaged: {error}.") from error
    return value


def _entries(name: str, node: ast.expr, selector: str) -> list[tuple[object, ast.expr]]:
    called = isinstance(node, ast.Call) and getattr(node.func, "id", "") == selector and len(node.args) == 1
    table = node.args[0] if isinstance(node, ast.Call) and called else None
    if not isinstance(table, ast.Dict):
        raise UnsupportedRulesError(
            f"Mapping {name} is not nested as {' and '.join(SELECTORS)}; add to it with the tools of its observatory."
        )
    keys = [key for key in table.keys if key is not None]
    return [(_literal(name, key), value) for key, value in zip(keys, table.values, strict=True)]


def _dictionary(items: Mapping[str, str], indent: str = "") -> str:
    rows = "".join(f"{indent}    {key!r} : {value!r},\n" for key, value in sorted(items.items()))
    return f"{{\n{rows}{indent}}}"


def _with_checksum(header: Mapping[str, object], selector: str, comment: str) -> str:
    def fill(sha1: str) -> str:
        stated = {**header, "sha1sum": sha1}
        lines = "".join(f"    {key!r} : {stated[key]!r},\n" for key in sorted(stated))
        said = f"comment = {comment!r}\n\n" if comment else ""
        return f"header = {{\n{lines}}}\n\n{said}selector = {selector}\n"

    return fill(mapping_sha1(fill("")))
