"""Looking at a collection while it is written, for objects that are visible and not whole."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

# not products: who works on what, whether the store can be written, what has arrived
PASSING = ("leases/", "inbox/", "probe-")
RECORDS = "records/"


class Objects(Protocol):
    """A collection as others see it."""

    def versions(self) -> dict[str, str]:
        """Return a mark of the version of every object that is visible now."""
        ...

    def read(self, key: str) -> bytes | None:
        """Return the bytes of an object; none if it has gone meanwhile."""
        ...


class Folder:
    """A collection in a folder, read as files, not through Shearline."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def versions(self) -> dict[str, str]:
        """Return inode and time of every file."""
        return dict(self._walk(str(self._path)))

    def _walk(self, folder: str) -> Iterator[tuple[str, str]]:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(entry.path)
                    continue
                status = entry.stat()
            except OSError:
                continue
            key = str(Path(entry.path).relative_to(self._path))
            yield key, f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"

    def read(self, key: str) -> bytes | None:
        """Return the bytes of a file."""
        try:
            return (self._path / key).read_bytes()
        except OSError:
            return None


class Bucket:
    """A collection in a bucket, read with the plain S3 client, not through Shearline."""

    def __init__(self, endpoint_url: str, bucket: str, prefix: str, keys: Mapping[str, str]) -> None:
        import boto3

        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint_url,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            region_name=keys["AWS_DEFAULT_REGION"],
        )
        self._bucket, self._prefix = bucket, prefix + "/"

    def versions(self) -> dict[str, str]:
        """Return entity tag and time of every object."""
        found: dict[str, str] = {}
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        for page in pages:
            for item in page.get("Contents", ()):
                found[item["Key"].removeprefix(self._prefix)] = f"{item['ETag']} {item['LastModified']}"
        return found

    def read(self, key: str) -> bytes | None:
        """Return the bytes of an object."""
        try:
            data: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None
        return data


def is_product(key: str) -> bool:
    """Tell whether a key is of what flows leave for good."""
    return not key.startswith(PASSING)


def snapshot(objects: Objects) -> dict[str, str]:
    """Return the checksum of everything that flows have left."""
    found = {}
    for key in objects.versions():
        data = objects.read(key) if is_product(key) else None
        if data is not None:
            found[key] = hashlib.sha256(data).hexdigest()
    return found


def finished_stages(keys: Iterable[str]) -> set[tuple[str, str]]:
    """Return stage and subject of every record."""
    parts = [key.removeprefix(RECORDS).removesuffix(".json").split("/") for key in keys if key.startswith(RECORDS)]
    return {(part[0], part[1]) for part in parts if len(part) == 2}


class Watcher:
    """A thread that reads every new version of every object as fast as it can and compares it with what it must be.

    Parameters
    ----------
    objects
        The collection.
    expected
        Checksum by key of what an undisturbed run leaves.
    """

    def __init__(self, objects: Objects, expected: Mapping[str, str]) -> None:
        self._objects, self._expected = objects, expected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self.n_read = 0
        self.partial: list[str] = []
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        seen: dict[str, str] = {}
        try:
            while not self._stop.is_set():
                now = self._objects.versions()
                for key, version in now.items():
                    if is_product(key) and seen.get(key) != version:
                        seen[key] = version
                        self._check(key)
                # an object that is removed and comes back is new
                seen = {key: version for key, version in seen.items() if key in now}
                time.sleep(0.002)
        except Exception as error:  # noqa: BLE001 (told at the end, where it fails the suite)
            self.error = error

    def _check(self, key: str) -> None:
        data = self._objects.read(key)
        if data is None:
            return
        self.n_read += 1
        expected = self._expected.get(key)
        if expected is not None and hashlib.sha256(data).hexdigest() == expected:
            return
        if expected is not None and key.endswith(".json") and _is_json(data):
            return
        self.partial.append(f"{key} ({len(data)} bytes)")


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
