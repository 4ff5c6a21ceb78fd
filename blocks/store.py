"""The data store: named, immutable-looking objects in a folder or an S3 bucket.

An object appears under its key whole or not at all. Locally it is written beside its place and renamed; on S3 one PUT
or one completed multipart upload publishes it. Keys are data from outside, so each is matched against a pattern.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from prefect.blocks.core import Block
from pydantic import Field, SecretStr, field_validator

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.-]*(/[A-Za-z0-9][A-Za-z0-9_+.-]*)*")
MAX_KEY_LENGTH = 512
CHUNK_BYTES = 4 << 20
INCOMING = ".incoming"
ABANDONED_AFTER_S = 24 * 3600


class StoreError(OSError):
    """The store answered with an error that may pass: retried."""


class ObjectNotFoundError(StoreError):
    """There is no object under that key."""


class StoreUnusableError(Exception):
    """The store cannot be written or reached at all: nothing is started."""


class BadKeyError(ValueError):
    """A name that must not become a key."""


class StoredObject(NamedTuple):
    """What the store says of one object."""

    key: str
    sha256: str
    size: int


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the file systems raise into the store's errors; ``doing`` says what could not be done, and where."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise ObjectNotFoundError(f"{doing}: there is no such object") from error
    except (OSError, BotoCoreError, ClientError) as error:
        raise StoreError(f"{doing}: {error}") from error


def open_file_system(root: str, endpoint_url: str | None, access_key: str | None, secret_key: SecretStr | None) -> Any:  # noqa: ANN401 (fsspec has no types)
    """Return the file system of a folder or an S3 bucket; listings are not remembered, as others write too."""
    if not root.startswith("s3://"):
        return fsspec.filesystem("file")
    return fsspec.filesystem(
        "s3",
        endpoint_url=endpoint_url,
        key=access_key,
        secret=secret_key.get_secret_value() if secret_key else None,
        use_listings_cache=False,
    )


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

    @field_validator("collection")
    @classmethod
    def _collection_is_a_name(cls, value: str) -> str:
        if value and not KEY.fullmatch(value):
            raise ValueError(f"{value!r} is not a collection name: use letters, digits, '.', '_', '+', '-'")
        return value

    @field_validator("root")
    @classmethod
    def _root_is_absolute(cls, value: str) -> str:
        if "://" in value:
            scheme = value.split("://")[0]
            if scheme not in {"file", "s3"}:
                raise ValueError(f"{value!r}: a store is a folder, file:// or s3://, not {scheme}://")
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
    def _base(self) -> str:
        return self.url.removeprefix("file://").removeprefix("s3://")

    @property
    def _fs(self) -> Any:  # noqa: ANN401 (fsspec has no types)
        return open_file_system(self.root, self.endpoint_url, self.access_key, self.secret_key)

    def _path(self, key: str) -> str:
        if len(key) > MAX_KEY_LENGTH or not KEY.fullmatch(key):
            raise BadKeyError(
                f"{key[:80]!r} cannot be the name of a product: keys are words of letters, digits and ._+-"
            )
        return f"{self._base}/{key}"

    # --- read ------------------------------------------------------------------------------------------------

    def exists(self, key: str) -> bool:
        """Tell whether there is an object under a key; an unreachable store raises."""
        try:
            with translated(f"{self.url}: cannot look up {key}"):
                self._fs.info(self._path(key))
        except ObjectNotFoundError:
            return False
        return True

    def open(self, key: str) -> BinaryIO:
        """Open an object for reading at any position; the caller closes it.

        Raises
        ------
        ObjectNotFoundError
            If there is no such object.
        StoreError
            If the store cannot be read now.
        """
        with translated(f"{self.url}: cannot read {key}"):
            handle: BinaryIO = self._fs.open(self._path(key), "rb")
        return handle

    def read_bytes(self, key: str) -> bytes:
        """Return the whole of an object."""
        with translated(f"{self.url}: cannot read {key}"), self.open(key) as handle:
            return handle.read()

    @contextmanager
    def local_copy(self, key: str) -> Iterator[Path]:
        """Give a path at which an object can be read: the file itself, or a copy that is removed afterwards."""
        if self.is_local:
            path = Path(self._path(key))
            if not path.is_file():
                raise ObjectNotFoundError(f"{self.url}: cannot read {key}: there is no such object")
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="shearline-") as folder:
            path = Path(folder) / key.rsplit("/", 1)[-1]
            with translated(f"{self.url}: cannot copy {key}"), self.open(key) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
            yield path

    def stat(self, key: str) -> StoredObject:
        """Return checksum and size: hashed from the bytes locally, from the metadata written with it on S3."""
        path = self._path(key)
        with translated(f"{self.url}: cannot look up {key}"):
            if not self.is_local:
                size, recorded = int(self._fs.info(path)["size"]), self._fs.metadata(path).get("sha256")
                if recorded:
                    return StoredObject(key, recorded, size)
            digest, size = hashlib.sha256(), 0
            with self.open(key) as handle:
                while chunk := handle.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
        return StoredObject(key, digest.hexdigest(), size)

    def size(self, key: str) -> int:
        """Return the number of bytes of an object."""
        path = self._path(key)
        with translated(f"{self.url}: cannot look up {key}"):
            return int(self._fs.info(path)["size"])

    def list_keys(self, prefix: str = "") -> list[str]:
        """Return the sorted keys below a prefix, which is a folder name or empty."""
        base = self._path(prefix) if prefix else self._base
        try:
            with translated(f"{self.url}: cannot list {prefix or 'the collection'}"):
                found = self._fs.find(base)
        except ObjectNotFoundError:
            return []
        names = (str(path)[len(self._base) + 1 :] for path in found)
        return sorted(name for name in names if KEY.fullmatch(name))

    # --- write ---------------------------------------------------------------------------------------------------

    def put_bytes(self, key: str, data: bytes) -> StoredObject:
        """Publish bytes under a key, whole or not at all, replacing what was there."""
        path, sha256 = self._path(key), hashlib.sha256(data).hexdigest()
        with translated(f"{self.url}: cannot write {key}"):
            if self.is_local:
                self._publish(path, data)
            else:
                self._fs.pipe_file(path, data, Metadata={"sha256": sha256})
        return StoredObject(key, sha256, len(data))

    def put_file(self, key: str, source: Path) -> StoredObject:
        """Publish a local file under a key, whole or not at all, replacing what was there."""
        path, digest, size = self._path(key), hashlib.sha256(), source.stat().st_size
        with source.open("rb") as handle:
            while chunk := handle.read(CHUNK_BYTES):
                digest.update(chunk)
        with translated(f"{self.url}: cannot write {key}"):
            if self.is_local:
                with self._incoming() as temporary:
                    shutil.copyfile(source, temporary)
                    self._rename(temporary, Path(path))
            else:
                self._fs.put_file(str(source), path, Metadata={"sha256": digest.hexdigest()})
        return StoredObject(key, digest.hexdigest(), size)

    def remove(self, key: str) -> None:
        """Remove an object; a key that does not exist is fine."""
        path = self._path(key)
        try:
            with translated(f"{self.url}: cannot remove {key}"):
                self._fs.rm_file(path)
        except ObjectNotFoundError:
            return

    def probe(self) -> None:
        """Write, read and delete a small object, so that a store that cannot keep products fails before any work.

        What writers that were killed a day ago or more left behind is cleared away.

        Raises
        ------
        StoreUnusableError
            If any of the three fails.
        """
        key, data = f"probe-{uuid.uuid4().hex}", b"Shearline can write here.\n"
        try:
            self.put_bytes(key, data)
            back = self.read_bytes(key)
            self.remove(key)
            self._clear_abandoned()
        except Exception as error:
            # credentials, DNS and TLS fail with errors of many libraries
            raise StoreUnusableError(
                f"The store {self.url} cannot be used: {error}. Check that it exists and that you may write to it."
            ) from error
        if back != data:
            raise StoreUnusableError(f"The store {self.url} does not return what was written to it.")

    def _clear_abandoned(self) -> None:
        folder = Path(self.root.removeprefix("file://")) / INCOMING
        if not self.is_local or not folder.is_dir():
            return
        for path in folder.iterdir():
            if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                path.unlink(missing_ok=True)

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        # in the root, so that the rename never crosses a file system
        folder = Path(self.root.removeprefix("file://")) / INCOMING
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def _rename(temporary: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)

    def _publish(self, path: str, data: bytes) -> None:
        with self._incoming() as temporary:
            temporary.write_bytes(data)
            self._rename(temporary, Path(path))
