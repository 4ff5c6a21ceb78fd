"""The data store: named, immutable-looking objects in a folder or an S3 bucket.

An object appears under its key whole or not at all. Locally it is written beside its place and renamed; on S3 one PUT
or one completed multipart upload publishes it. Keys are data from outside, so each is matched against a pattern.
"""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import fsspec
from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

from blocks.bucket import Bucket
from blocks.folder import Folder
from blocks.objects import (
    CHUNK_BYTES,
    BadKeyError,
    Found,
    LocalCopyError,
    ObjectNotFoundError,
    Storage,
    StoredObject,
    StoreError,
    StoreUnusableError,
    translated,
)
from blocks.read_cache import ReadCache
from blocks.s3_access import DEFAULT_ATTEMPTS, DEFAULT_TIMEOUT_S, S3Access

__all__ = [
    "BadKeyError",
    "DataStore",
    "ObjectNotFoundError",
    "StoreError",
    "StoreUnusableError",
    "StoredObject",
    "open_file_system",
    "translated",
]

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]*(/[A-Za-z0-9][A-Za-z0-9_+.-]*)*")
MAX_KEY_LENGTH = 512
LOGGER = logging.getLogger("shearline")
NO_CONDITIONS = (
    "The S3 service of {url} ignores the conditions of conditional writes (If-None-Match, If-Match): two runs that "
    "start in the same second may both work on one exposure or tile. Products are not at risk."
)


def open_file_system(root: str, endpoint_url: str | None, access_key: str | None, secret_key: SecretStr | None) -> Any:  # noqa: ANN401 (fsspec has no types)
    """Return the file system of a folder or an S3 bucket; listings are not remembered, as others write too."""
    if not root.startswith("s3://"):
        return fsspec.filesystem("file")
    secret = secret_key.get_secret_value() if secret_key else None
    return S3Access(endpoint_url, access_key, secret).file_system(repeat=True)


class DataStore(Block):
    """A folder or an S3 bucket that holds raw data, or the products of one collection."""

    _block_type_name: ClassVar[str] = "Shearline data store"
    _block_type_slug: ClassVar[str] = "shearline-data-store"
    _description: ClassVar[str] = "Where exposures, products and records live: a folder or an S3 bucket."

    root: str = Field(description="Folder, file:// URL or s3:// URL.")
    collection: str = Field(default="", description="Processing version below the root; empty for the root itself.")
    endpoint_url: str | None = Field(default=None, description="Address of an S3-compatible service; none for AWS.")
    access_key: str | None = Field(default=None, description="S3 access key; none uses the environment's.")
    secret_key: SecretStr | None = Field(default=None, description="S3 secret key; none uses the environment's.")
    timeout_s: float = Field(
        default=DEFAULT_TIMEOUT_S, gt=0, le=3600, description="Seconds without an answer of S3 after which it is late."
    )
    attempts: int = Field(
        default=DEFAULT_ATTEMPTS, ge=1, le=20, description="How often a request to S3 is sent before it has failed."
    )
    read_cache: str | None = Field(
        default=None, description="Local folder for copies of S3 objects that are read again; none keeps no copies."
    )
    read_cache_bytes: int = Field(default=20_000_000_000, ge=0, description="Room for these copies, in bytes.")

    @field_validator("collection")
    @classmethod
    def _collection_is_a_name(cls, value: str) -> str:
        if value and not KEY.fullmatch(value):
            raise ValueError(f"{value!r} is not a collection name: use letters, digits, '.', '_', '+', '-'")
        return value

    @field_validator("root")
    @classmethod
    def _root_is_absolute(cls, value: str) -> str:
        if not value:
            raise ValueError("a store needs a folder, file:// or s3:// URL, and this one has none")
        if "://" in value:
            scheme, _, place = value.partition("://")
            if scheme not in {"file", "s3"}:
                raise ValueError(f"{value!r}: a store is a folder, file:// or s3://, not {scheme}://")
            if not place.strip("/"):
                raise ValueError(f"{value!r} names no {'bucket' if scheme == 's3' else 'folder'}")
            return value.rstrip("/")
        return str(Path(value).expanduser().resolve())

    # --- where -----------------------------------------------------------------------------------------------

    @property
    def is_local(self) -> bool:
        """Whether objects are files on this machine."""
        return not self.root.startswith("s3://")

    @property
    def url(self) -> str:
        """Root and collection, for people."""
        return f"{self.root}/{self.collection}" if self.collection else self.root

    @property
    def place(self) -> str:
        """What no other store has: endpoint, bucket or folder, and collection."""
        return self._base if self.is_local else f"{self.endpoint_url or ''} {self._base}"

    @property
    def _base(self) -> str:
        return self.url.removeprefix("file://").removeprefix("s3://")

    @property
    def _objects(self) -> Storage:
        return Folder(Path(self.root.removeprefix("file://"))) if self.is_local else self._bucket

    @property
    def _bucket(self) -> Bucket:
        secret = self.secret_key.get_secret_value() if self.secret_key else None
        access = S3Access(self.endpoint_url, self.access_key, secret, self.timeout_s, self.attempts)
        return Bucket(access, self._base)

    @property
    def _cache(self) -> ReadCache | None:
        if self.is_local or self.read_cache is None:
            return None
        return ReadCache(Path(self.read_cache).expanduser(), self.read_cache_bytes)

    def _path(self, key: str) -> str:
        if len(key) > MAX_KEY_LENGTH or not KEY.fullmatch(key):
            raise BadKeyError(
                f"{key[:80]!r} cannot be the name of a product: keys are words of letters, digits and ._+-"
            )
        return f"{self._base}/{key}"

    def _key(self, path: str) -> str:
        return path[len(self._base) + 1 :]

    # --- read ------------------------------------------------------------------------------------------------

    def exists(self, key: str) -> bool:
        """Tell whether there is an object under a key; an unreachable store raises."""
        try:
            self.version(key)
        except ObjectNotFoundError:
            return False
        return True

    def open(self, key: str, *, whole: bool = False) -> BinaryIO:
        """Open an object for reading at any position; the caller closes it.

        Parameters
        ----------
        key
            Which object.
        whole
            Whether all of it will be read, so that it may come from the read cache; else, and without a cache that
            can be used, of an object on S3 only what is read is fetched.

        Raises
        ------
        ObjectNotFoundError
            If there is no such object.
        StoreError
            If the store cannot be read now; later reads may raise it too.
        """
        path, doing = self._path(key), f"{self.url}: cannot read {key}"
        if whole:
            # the folder of the cache may fail at any time, and what is open stays readable when its name is gone
            with self._cached(key) as copy, suppress(OSError):
                if copy is not None:
                    return copy.open("rb")
        with translated(doing):
            return self._objects.open(path, doing)

    def read_bytes(self, key: str, *, cached: bool = False) -> bytes:
        """Return the whole of an object.

        Parameters
        ----------
        key
            Which object.
        cached
            Whether it is large and read again, so that it may come from the read cache; a small one is fetched
            faster than it is found there.

        Raises
        ------
        ObjectNotFoundError
            If there is no such object.
        StoreError
            If the store cannot be read now.
        """
        if cached:
            with self._cached(key) as copy, suppress(OSError):
                if copy is not None:
                    return copy.read_bytes()
        return self.read_version(key)[0]

    def read_version(self, key: str) -> tuple[bytes, str]:
        """Return the whole of an object and the version that it is; never from the cache."""
        path = self._path(key)
        with translated(f"{self.url}: cannot read {key}"):
            return self._objects.read(path)

    @contextmanager
    def local_copy(self, key: str) -> Iterator[Path]:
        """Give a path at which an object can be read: the file itself, or a copy that is removed afterwards."""
        path, doing = self._path(key), f"{self.url}: cannot copy {key}"
        if self.is_local:
            if not Path(path).is_file():
                raise ObjectNotFoundError(f"{self.url}: cannot read {key}: there is no such object")
            yield Path(path)
            return
        with self._cached(key) as copy:
            if copy is not None:
                yield copy
                return
        with tempfile.TemporaryDirectory(prefix="shearline-") as folder:
            fetched = Path(folder) / key.rsplit("/", 1)[-1]
            try:
                with translated(doing):
                    self._bucket.download(path, fetched)
            except LocalCopyError as error:
                raise StoreError(f"{doing}: {error}") from error
            yield fetched

    @contextmanager
    def _cached(self, key: str) -> Iterator[Path | None]:
        """Give a path at which a copy is kept on this machine; none without a cache whose folder can be used."""
        cache = self._cache
        if cache is None:
            yield None
            return
        path, doing = self._path(key), f"{self.url}: cannot copy {key}"

        def download(target: Path) -> str:
            with translated(doing):
                return self._bucket.download(path, target)

        with translated(doing):
            found = self._bucket.find(path)
        with cache.copy(f"{self.place}/{key}", found, download) as copy:
            yield copy

    def stat(self, key: str) -> StoredObject:
        """Return checksum and size: hashed from the bytes locally, from the metadata written with it on S3."""
        path = self._path(key)
        with translated(f"{self.url}: cannot look up {key}"):
            found = self._objects.find(path)
            if found.sha256:
                return StoredObject(key, found.sha256, found.size)
            digest, size = hashlib.sha256(), 0
            with self.open(key) as handle:
                while chunk := handle.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
        return StoredObject(key, digest.hexdigest(), size)

    def size(self, key: str) -> int:
        """Return the number of bytes of an object."""
        return self._find(key).size

    def version(self, key: str) -> str:
        """Return what changes when an object is written again: its ETag on S3, size and time locally.

        Raises
        ------
        ObjectNotFoundError
            If there is no such object.
        """
        return self._find(key).version

    def modified(self, key: str) -> datetime:
        """Return when an object was written, in UTC; by the clock of the S3 service, or of who wrote the file.

        Raises
        ------
        ObjectNotFoundError
            If there is no such object.
        """
        return self._find(key).modified

    def _find(self, key: str) -> Found:
        path = self._path(key)
        with translated(f"{self.url}: cannot look up {key}"):
            return self._objects.find(path)

    def list_versions(self, prefix: str = "") -> dict[str, str]:
        """Return the version of every object below a prefix, which is a folder name or empty, by sorted key."""
        base = self._path(prefix) if prefix else self._base
        with translated(f"{self.url}: cannot list {prefix or 'the collection'}"):
            found = self._objects.list_versions(base)
        versions = {self._key(path): version for path, version in sorted(found.items())}
        return {key: version for key, version in versions.items() if KEY.fullmatch(key)}

    def list_keys(self, prefix: str = "") -> list[str]:
        """Return the sorted keys below a prefix, which is a folder name or empty."""
        return sorted(self.list_versions(prefix))

    def list_folders(self, prefix: str = "") -> list[str]:
        """Return the sorted names directly below a prefix that hold objects, without listing these."""
        base = self._path(prefix) if prefix else self._base
        with translated(f"{self.url}: cannot list {prefix or 'the collection'}"):
            return [name for name in self._objects.list_folders(base) if KEY.fullmatch(name)]

    # --- write ---------------------------------------------------------------------------------------------------

    def put_bytes(self, key: str, data: bytes) -> StoredObject:
        """Publish bytes under a key, whole or not at all, replacing what was there.

        Raises
        ------
        StoreError
            If the store cannot be written now, or does not have what it said it has taken.
        """
        path, sha256 = self._path(key), hashlib.sha256(data).hexdigest()
        with translated(f"{self.url}: cannot write {key}", writing=True):
            self._objects.put(path, data, sha256)
        return StoredObject(key, sha256, len(data))

    def put_file(self, key: str, source: Path) -> StoredObject:
        """Publish a local file under a key, whole or not at all, replacing what was there; large ones in parts.

        Raises
        ------
        StoreError
            If the store cannot be written now, or does not have what it said it has taken.
        """
        path, digest, size = self._path(key), hashlib.sha256(), source.stat().st_size
        with source.open("rb") as handle:
            while chunk := handle.read(CHUNK_BYTES):
                digest.update(chunk)
        with translated(f"{self.url}: cannot write {key}", writing=True):
            self._objects.put_file(path, source, digest.hexdigest())
        return StoredObject(key, digest.hexdigest(), size)

    def put_new(self, key: str, data: bytes) -> str | None:
        """Publish bytes under a key unless there is an object already; of several writers one succeeds.

        Returns
        -------
        str or None
            The version that they are, as `version` says; none if there was an object, and nothing was published.

        Raises
        ------
        StoreError
            If the store cannot be written now; whether the bytes were published is then not known.
        """
        path = self._path(key)
        with translated(f"{self.url}: cannot write {key}", writing=True):
            return self._objects.put_new(path, data, hashlib.sha256(data).hexdigest())

    def put_if_unchanged(self, key: str, data: bytes, version: str) -> str | None:
        """Publish bytes in the place of one version of an object; of several writers one succeeds.

        Returns
        -------
        str or None
            The version that they are; none if the object is gone or was written again since, and stays so.

        Raises
        ------
        StoreError
            If the store cannot be written now; whether the bytes were published is then not known.
        """
        path = self._path(key)
        with translated(f"{self.url}: cannot write {key}", writing=True):
            return self._objects.put_if_unchanged(path, data, hashlib.sha256(data).hexdigest(), version)

    def remove(self, key: str) -> None:
        """Remove an object; a key that does not exist is fine."""
        path = self._path(key)
        with translated(f"{self.url}: cannot remove {key}"):
            self._objects.remove(path)

    def remove_if_unchanged(self, key: str, version: str) -> bool:
        """Remove one version of an object; tell whether it was removed."""
        path = self._path(key)
        with translated(f"{self.url}: cannot remove {key}"):
            return self._objects.remove_if_unchanged(path, version)

    def probe(self) -> None:
        """Write, list, read and delete a small object, so that a useless store fails before any work.

        What writers left behind that were killed a day ago or more is cleared away, and probes that are a week old.

        Raises
        ------
        StoreUnusableError
            If any of the four fails.
        """
        key, data = f"probe-{uuid.uuid4().hex}", b"Shearline can write here.\n"
        try:
            self.put_bytes(key, data)
            self.list_folders()
            back = self.read_version(key)[0]
            self.remove(key)
            self._objects.clear_abandoned(self._base)
            if not self.is_local and not self._bucket.honours_conditions():
                LOGGER.warning("%s", NO_CONDITIONS.format(url=self.url))
        except Exception as error:
            # credentials, DNS and TLS fail with errors of many libraries
            raise StoreUnusableError(
                f"The store {self.url} cannot be used: {error}. Check that it exists and that you may write to it."
            ) from error
        if back != data:
            raise StoreUnusableError(f"The store {self.url} does not return what was written to it.")
