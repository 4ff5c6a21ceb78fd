"""Whether the code changed while the suite ran: then its figures are of two versions.

A changed stage makes finished work stale, so that a rerun does it again; that must not be taken for a broken promise of
the code that was to be tested.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("blocks", "tasks", "flows", "deployments")


def source_checksums() -> dict[str, str]:
    """Return the SHA-256 of every file of the packages, by its path, as it is on disk now."""
    found = {}
    for package in PACKAGES:
        spec = find_spec(package)
        for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
            for file in sorted(folder.rglob("*")):
                if "__pycache__" not in file.parts and file.is_file():
                    name = file.relative_to(folder.parent).as_posix()
                    found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def changed_sources(before: Mapping[str, str]) -> list[str]:
    """Return the files that are not what they were, or that were not there, or are no more."""
    now = source_checksums()
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
