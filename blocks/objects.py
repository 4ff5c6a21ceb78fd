"""What a folder and a bucket have in common: the errors of a store, and what either of them can do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

CHUNK_BYTES = 4 << 20
ABANDONED_AFTER_S = 24 * 3600
# a run may look for its own for as long as it lasts
PROBES_ABANDONED_AFTER_S = 7 * 24 * 3600
PROBE = re.compile(r"probe-(conditions-)?[0-9a-f]{32}")


class StoreError(OSError):
    """The store answered with an error that may pass: retried."""


class ObjectNotFoundError(StoreError):
    """There is no object under that key."""


class StoreUnusableError(Exception):
    """The store cannot be written or reached at all: nothing is started."""


class LocalCopyError(Exception):
    """A copy of an object could not be written on this machine; the store is not to blame."""


class BadKeyError(ValueError):
    """A name that must not become a key."""


class StoredObject(NamedTuple):
    """What the store says of one object."""

    key: str
    sha256: str
    size: int


class Found(NamedTuple):
    """What a folder or bucket says of one object without reading it."""

    size: int
    version: str
    sha256: str
    """Checksum that was recorded with the object; empty if none was."""
    modified: datetime
    """When it was written, in UTC."""


class Storage(Protocol):
    """A folder or a bucket: objects by path, each there whole or not at all."""

    def find(self, path: str) -> Found:
        """Look up one object."""
        ...

    def open(self, path: str, doing: str) -> BinaryIO:
        """Open an object for reading at any position; ``doing`` is for the error of a later read."""
        ...

    def read(self, path: str) -> tuple[bytes, str]:
        """Return the bytes of an object and the version that they are."""
        ...

    def put(self, path: str, data: bytes, sha256: str) -> None:
        """Publish bytes, replacing what was there."""
        ...

    def put_file(self, path: str, source: Path, sha256: str) -> None:
        """Publish a local file, replacing what was there."""
        ...

    def put_new(self, path: str, data: bytes, sha256: str) -> str | None:
        """Publish bytes unless there is an object already; return the version that they are, none if there was one."""
        ...

    def put_if_unchanged(self, path: str, data: bytes, sha256: str, version: str) -> str | None:
        """Publish bytes in the place of one version of an object; return the version that they are, or none."""
        ...

    def remove(self, path: str) -> None:
        """Remove an object; that there is none is fine."""
        ...

    def remove_if_unchanged(self, path: str, version: str) -> bool:
        """Remove one version of an object; tell whether it was removed."""
        ...

    def list_versions(self, path: str) -> Mapping[str, str]:
        """Return the version of every object below a folder, by path."""
        ...

    def list_folders(self, path: str) -> list[str]:
        """Return the names directly below a folder that are folders themselves."""
        ...

    def clear_abandoned(self, path: str) -> None:
        """Remove what killed writers left behind, and after a week the probes in the collection at a path."""
        ...


@contextmanager
def translated(doing: str, *, writing: bool = False) -> Iterator[None]:
    """Turn what the file systems raise into the store's errors.

    Parameters
    ----------
    doing
        What could not be done, and where.
    writing
        Whether something was written: what is not there then is the place for it, and no object.
    """
    try:
        yield
    except (StoreError, BadKeyError):
        raise
    except FileNotFoundError as error:
        if writing:
            raise StoreError(f"{doing}: {error}") from error
        raise ObjectNotFoundError(f"{doing}: there is no such object") from error
    except (OSError, BotoCoreError, ClientError, aiohttp.ClientError) as error:
        raise StoreError(f"{doing}: {str(error) or type(error).__name__}") from error
