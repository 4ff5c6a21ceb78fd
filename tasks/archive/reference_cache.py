"""Mappings and reference files of a CRDS cache: opened, located and copied, with the errors of the house."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from blocks.crds import CacheError, CrdsCache, ReferenceMarkedBadError, ReferenceNotFoundError
from blocks.crds_sync import SYNCED
from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.fits_files import put_bytes
from tasks.archive.reference_bytes import check_reference_bytes
from tasks.errors import BadReferenceError, BadRulesError, MissingReferenceError, MissingRulesError
from tasks.products.identity import ProductRef
from tasks.products.references import ReferenceRecord


def open_mappings(cache: CrdsCache) -> tuple[str, Callable[[str], str]]:
    """Return the name of the context to use, and a function that reads a mapping by its name.

    Raises
    ------
    MissingRulesError
        If there is no such cache or context; the function raises it of a mapping.
    BadRulesError
        By the function, if a mapping is marked as bad.
    """
    try:
        context, bad = cache.resolve_context(), cache.bad_files()
    except CacheError as error:
        raise MissingRulesError(str(error)) from error

    def read_mapping(name: str) -> str:
        if name in bad:
            raise BadRulesError(
                f"Mapping {name} is marked as bad in config/{cache.observatory}/server_config of the CRDS cache "
                f"{cache.root}; choose a context without it."
            )
        try:
            return cache.read_mapping(name)
        except CacheError as error:
            raise MissingRulesError(str(error)) from error

    return context, read_mapping


def locate_reference(cache: CrdsCache, record: ReferenceRecord) -> str:
    """Return the path or URL of the selected file.

    Raises
    ------
    MissingReferenceError
        If the file is not in the cache.
    BadReferenceError
        If it is marked as bad.
    """
    try:
        return cache.locate_reference(record.name, record.instrument)
    except ReferenceMarkedBadError as error:
        raise BadReferenceError(f"{error} {record.rule} chose it.") from error
    except ReferenceNotFoundError as error:
        remedy = "fetch it with `shearline references sync`" if cache.observatory in SYNCED else "copy it there"
        raise MissingReferenceError(f"{error} {record.rule} chose it; {remedy}.") from error


def copy_reference(store: DataStore, cache: CrdsCache, record: ReferenceRecord) -> ReferenceRecord:
    """Keep a copy of the selected file in the store, and return the record with its reference; the same bytes are kept.

    Raises
    ------
    MissingReferenceError, BadReferenceError
        If the file is not in the cache, or marked as bad.
    BadFileError
        If it is not the file itself, or truncated.
    """
    locate_reference(cache, record)
    data = cache.read_reference(record.name, record.instrument)
    check_reference_bytes(data, record.name)
    key, sha256 = keys.reference(record.observatory, record.name), hashlib.sha256(data).hexdigest()
    copy = ProductRef(key=key, sha256=sha256, size=len(data), subject=record.name)
    if not store.exists(key) or store.stat(key).sha256 != sha256:
        copy = put_bytes(store, key, data, subject=record.name)
    return record.model_copy(update={"reference": copy})
