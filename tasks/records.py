"""Records: how the product of a stage was made, and whether it can be reused.

A record lies in the store beside the products. It holds what the product depends on in parts, not as one hash, so that
it can also be said *why* a product is stale. The records are the persisted results: Prefect's own result store reports
COMPLETED when persisting failed, and takes an outage of the store for a cache miss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ValidationError

from blocks.store import DataStore, ObjectNotFoundError
from tasks.archive import keys
from tasks.fingerprint import code_fingerprint
from tasks.products.config import StageConfig
from tasks.products.identity import Identity, ProductRef

Arguments = Mapping[str, Any]
Parts = Callable[[DataStore, ProductRef], Sequence[ProductRef]]


@runtime_checkable
class Fingerprinted(Protocol):
    """An outside resource, such as a reference-file cache, that can say which state it is in."""

    def fingerprint(self) -> str:
        """Return a checksum of everything that results can depend on."""
        ...


class Record(BaseModel):
    """How the product of a stage was made; kept in the store beside the products."""

    stage: str
    subject: str
    code: str
    config: str
    inputs: dict[str, str]
    product: ProductRef

    def matches(self, other: Record) -> bool:
        """Tell whether the same work was asked for."""
        return (self.stage, self.code, self.config, self.inputs) == (
            other.stage,
            other.code,
            other.config,
            other.inputs,
        )


NO_PRODUCT = ProductRef(key="none", sha256="0" * 64, size=0)


def wanted_record(module: str, name: str, subject: str, arguments: Arguments) -> Record:
    """Return the record of what is asked for, its product still open.

    Parameters
    ----------
    module
        Module of the stage.
    name, subject
        Which stage, of what.
    arguments
        The arguments of the body; stores do not count, as the same bytes may lie anywhere.

    Raises
    ------
    TypeError
        If an argument is of a type whose value cannot be recorded.
    """
    settings: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    for argument, value in arguments.items():
        if not isinstance(value, DataStore):
            _describe(argument, value, settings, inputs)
    config = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return Record(
        stage=name,
        subject=subject,
        code=code_fingerprint(module),
        config=config,
        inputs=inputs,
        product=NO_PRODUCT,
    )


def _describe(path: str, value: object, settings: dict[str, Any], inputs: dict[str, str]) -> None:
    """Sort one argument into settings and inputs; references are found at any depth."""
    if isinstance(value, ProductRef):
        inputs[f"{path}:{value.key}"] = value.sha256
    elif isinstance(value, StageConfig):
        settings[path] = value.effective()
    elif isinstance(value, Identity):
        settings[path] = value.model_dump(mode="json")
    elif isinstance(value, Fingerprinted):
        settings[path] = value.fingerprint()
    elif isinstance(value, BaseModel):
        for field_name in type(value).model_fields:
            _describe(f"{path}.{field_name}", getattr(value, field_name), settings, inputs)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _describe(f"{path}.{key}", item, settings, inputs)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        settings[f"{path}.length"] = len(value)
        for number, item in enumerate(value):
            _describe(f"{path}.{number}", item, settings, inputs)
    elif value is None or isinstance(value, (str, int, float, bool)):
        settings[path] = value
    else:
        raise TypeError(f"argument {path} of type {type(value).__name__} cannot be part of a record")


def reusable_product(store: DataStore, wanted: Record, parts: Parts | None) -> ProductRef | None:
    """Return the recorded product if it was made as asked for and is still there to the bit."""
    try:
        found = Record.model_validate_json(store.read_bytes(keys.record(wanted.stage, wanted.subject)))
        if not found.matches(wanted):
            return None
        if not _is_there(store, found.product):
            return None
        whole = parts is None or all(_is_there(store, part) for part in parts(store, found.product))
    except (ObjectNotFoundError, ValidationError):
        return None
    return found.product if whole else None


def _is_there(store: DataStore, ref: ProductRef) -> bool:
    return store.stat(ref.key).sha256 == ref.sha256
