"""Fingerprints of code: which sources and library versions a stage's result depends on."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
import threading
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

PACKAGE = "tasks"
# what carries stages and products about without touching a number
WITHOUT_ARITHMETIC = frozenset(
    {
        "tasks.stage",
        "tasks.session",
        "tasks.runner",
        "tasks.records",
        "tasks.fingerprint",
        "tasks.errors",
        "tasks.archive.provenance",
        "tasks.products.recipe",
    }
)
_parsing = threading.Lock()
NOT_ARITHMETIC = frozenset({"blocks", "tasks", "prefect", "pydantic", "fsspec", "s3fs", "typer", "rich"})


def code_fingerprint(module: str) -> str:
    """Return a checksum of everything in the code that a stage's result can depend on.

    That is the source of its module and of every module of ``tasks`` that it imports, directly or not, and the
    versions of the libraries that these import. A changed function so makes exactly the stages that use it stale.

    Parameters
    ----------
    module
        Name of the stage's module, such as ``tasks.detect``.

    Returns
    -------
    str
        First 16 hexadecimal digits of a SHA-256.
    """
    # the parser of Python 3.11 fails now and then if several threads use it at once
    with _parsing:
        return _fingerprint(module)


@functools.cache
def _fingerprint(module: str) -> str:
    sources, libraries = _reachable(module)
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name} {hashlib.sha256(sources[name]).hexdigest()}\n".encode())
    for library in sorted(libraries):
        digest.update(f"{library} {_version(library)}\n".encode())
    return digest.hexdigest()[:16]


def _reachable(start: str) -> tuple[dict[str, bytes], set[str]]:
    sources: dict[str, bytes] = {}
    libraries: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in sources or name in WITHOUT_ARITHMETIC:
            continue
        path = _source_path(name)
        if path is None:
            continue
        sources[name], imported_names = _read_module(path)
        for imported in imported_names:
            top = imported.split(".")[0]
            if top == PACKAGE:
                waiting.append(imported)
            elif top not in NOT_ARITHMETIC and top not in sys.stdlib_module_names:
                libraries.add(top)
    return sources, libraries


@functools.cache
def _read_module(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """Return the source of a module, with that of the data files that it reads from its package, and its imports."""
    source = path.read_bytes()
    imported = _imports(ast.parse(source))
    if "importlib.resources" in imported:
        data = sorted(item for item in (path.parent / "data").glob("*") if item.is_file())
        source += b"".join(hashlib.sha256(item.read_bytes()).digest() for item in data)
    return source, tuple(imported)


def _source_path(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _imports(tree: ast.Module) -> list[str]:
    """Return imported module names; ``from tasks.science import robust`` counts as both of its readings."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def _version(library: str) -> str:
    try:
        return version(_distributions().get(library, [library])[0])
    except PackageNotFoundError:
        return "absent"
