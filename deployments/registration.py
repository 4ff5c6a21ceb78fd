"""Blocks in the Prefect server: stores and caches under names that the UI and deployments use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound
from prefect.filesystems import RemoteFileSystem
from pydantic import SecretStr, ValidationError

from blocks.crds import CrdsCache
from blocks.store import DataStore, open_file_system, translated
from tasks.errors import ConfigError

Outcome = Literal["created", "changed", "unchanged"]

DOCUMENT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
FIRST_COLLECTION = "main"
"""Collection of products where nothing is said about it."""

BLOCK_TYPES: tuple[type[Block], ...] = (DataStore, CrdsCache)
"""The block types of Shearline."""


@dataclass(frozen=True)
class Change:
    """One line of what a command did to the server."""

    kind: str
    name: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class S3Access:
    """How an S3-compatible service is reached; nothing given means AWS with the credentials of the environment."""

    endpoint_url: str | None = None
    access_key: str | None = None
    secret_key: SecretStr | None = None


def is_address(text: str) -> bool:
    """Tell whether a text is a folder or URL; else it is the name of a block."""
    return "://" in text or "/" in text or text.startswith((".", "~"))


def checked_name(name: str) -> str:
    """Return the name of a block document.

    Raises
    ------
    ConfigError
        If Prefect would refuse it.
    """
    if not DOCUMENT_NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:80]!r} cannot be the name of a block: use lower-case letters, digits and '-'; a folder is written "
            f"with a '/', such as ./{name[:40]}."
        )
    return name


def register_types() -> list[Change]:
    """Make the block types known to the server, so that the UI offers them."""
    for kind in BLOCK_TYPES:
        kind.register_type_and_schema()
    return [Change("block type", str(kind._block_type_slug), "unchanged", "registered") for kind in BLOCK_TYPES]


def make_store(root: str, collection: str | None, access: S3Access) -> DataStore:
    """Return a store for a folder or an S3 bucket; what is None is left open, see `save_block`.

    Raises
    ------
    ConfigError
        If the root or the collection cannot be used.
    """
    try:
        return DataStore(root=root, **_given(collection=collection), **_access(root, access))
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from error


def make_cache(root: str, observatory: str, context: str | None, access: S3Access) -> CrdsCache:
    """Return a CRDS cache for a folder or an S3 bucket; what is None is left open, see `save_block`.

    Raises
    ------
    ConfigError
        If the root, the observatory or the context cannot be used.
    """
    try:
        return CrdsCache(root=root, observatory=observatory, **_given(context=context), **_access(root, access))
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from error


def make_results(root: str, endpoint_url: str | None) -> RemoteFileSystem:
    """Return the place of the results that Prefect keeps of flow runs.

    Prefect shows the settings of this block to whoever may read its API, so credentials are not among them: they come
    from the environment of the workers.

    Raises
    ------
    ConfigError
        If it is not an S3 URL: a folder of one machine cannot be read from the others.
    """
    if not root.startswith("s3://"):
        raise ConfigError(f"{root!r} is not a place for results: give an s3:// URL, such as s3://shearline/results.")
    settings = _given(settings={"endpoint_url": endpoint_url} if endpoint_url else None)
    return RemoteFileSystem(basepath=root.rstrip("/"), **settings)


def save_block(block: Block, name: str) -> Change:
    """Save a block under a name.

    A document that has the name already keeps what the block was not given, such as a time limit that somebody set in
    the UI; one that holds the same is left alone.
    """
    slug = str(type(block)._block_type_slug)
    before = _document(type(block), checked_name(name))
    if before is not None:
        block = _completed(block, before)
    if before is not None and _same(before, block):
        return Change("block", f"{slug}/{name}", "unchanged", describe(block))
    block.save(name, overwrite=True)
    return Change("block", f"{slug}/{name}", "created" if before is None else "changed", describe(block))


def store_block(block_or_url: str, name: str, collection: str | None, access: S3Access) -> tuple[str, list[Change]]:
    """Return the name of a store's block; a folder or URL is saved under a name first.

    Parameters
    ----------
    block_or_url
        Name of a block that is there, or a folder or URL.
    name
        Name for what is saved.
    collection
        Collection of what is saved; None keeps that of the block which has the name, or is `main`.
    access
        How S3 is reached.

    Returns
    -------
    tuple
        Name of the block, and what was done.
    """
    if not is_address(block_or_url):
        return block_or_url, []
    if collection is None and _document(DataStore, name) is None:
        collection = FIRST_COLLECTION
    return name, [save_block(make_store(block_or_url, collection, access), name)]


def make_bucket(root: str, access: S3Access) -> list[Change]:
    """Create the bucket of an S3 URL if it is missing; a folder needs none.

    Raises
    ------
    StoreError
        If the service does not let us.
    """
    if not root.startswith("s3://"):
        return []
    bucket = root.removeprefix("s3://").split("/")[0]
    system = open_file_system(root, access.endpoint_url, access.access_key, access.secret_key)
    with translated(f"s3://{bucket}: cannot create the bucket"):
        if system.exists(bucket):
            return [Change("bucket", bucket, "unchanged")]
        system.mkdir(bucket)
    return [Change("bucket", bucket, "created")]


def block_id(kind: type[Block], name: str) -> str:
    """Return the identifier of a saved block.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    document = _document(kind, checked_name(name))
    if document is None:
        raise ConfigError(
            f"There is no block {kind._block_type_slug}/{name} in the Prefect server; save it with "
            "`shearline blocks register`, or give a folder or URL."
        )
    return str(document.id)


def _document(kind: type[Block], name: str) -> BlockDocument | None:
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(name, str(kind._block_type_slug))
        except ObjectNotFound:
            return None


def _completed(block: Block, before: BlockDocument) -> Block:
    """Return a block that has from a document what it was not given itself."""
    fields = set(type(block).model_fields)
    given = {name: getattr(block, name) for name in fields & block.model_fields_set}
    kept = {name: value for name, value in before.data.items() if name in fields}
    try:
        return type(block).model_validate(kept | given)
    except ValidationError:
        # saved by a version of Shearline whose blocks had other bounds
        return block


def _same(document: BlockDocument, block: Block) -> bool:
    try:
        return type(block).model_validate(document.data).model_dump() == block.model_dump()
    except ValidationError:
        # saved by a version of Shearline whose blocks had other fields
        return False


def describe(block: Block) -> str:
    """Return where a block points to, without what is secret."""
    if isinstance(block, DataStore):
        return block.url
    return str(getattr(block, "root", getattr(block, "basepath", "")))


def _access(root: str, access: S3Access) -> Mapping[str, Any]:
    if not root.startswith("s3://"):
        # given as none: a folder needs no secret of the bucket that had its name before
        return dict.fromkeys(("endpoint_url", "access_key", "secret_key"))
    return _given(endpoint_url=access.endpoint_url, access_key=access.access_key, secret_key=access.secret_key)


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _sentence(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ") + "."
