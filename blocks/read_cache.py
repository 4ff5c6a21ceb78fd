"""Copies of remote objects on this machine, as many as fit into a given number of bytes.

A copy is kept under the address and the version of its object, so an object that was written again is fetched again.
Its name also holds its checksum, which is compared with the bytes at every use: a damaged copy is thrown away. The
longest unused copies go first. Several processes may use one folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blocks.objects import ABANDONED_AFTER_S, CHUNK_BYTES, Found

BUSY = ".busy"
LOCK = ".lock"
COPY = re.compile(r"[0-9a-f]{40}\.[0-9a-f]{64}")

Download = Callable[[Path], str]


@dataclass(frozen=True)
class ReadCache:
    """A folder with copies of remote objects."""

    folder: Path
    max_bytes: int
    """Room for copies; what is being fetched or read comes on top of it."""

    @contextmanager
    def copy(self, url: str, found: Found, download: Download) -> Iterator[Path]:
        """Give a path at which an object can be read until the block ends, whatever happens to the cache.

        Parameters
        ----------
        url, found
            Address, version, size and, if known, checksum of the object.
        download
            Writes the object to a path and returns the version that it is.
        """
        own = self.folder / BUSY / f"{os.getpid()}-{uuid.uuid4().hex}"
        own.mkdir(parents=True)
        # readers look at what names end in
        mine = own / url.rsplit("/", 1)[-1]
        try:
            if not self._take(url, found, mine):
                version = download(mine)
                self._keep(url, found._replace(version=version), mine)
            yield mine
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def size(self) -> int:
        """Return the number of bytes of all copies."""
        return sum(size for _, size, _ in self._copies())

    def _take(self, url: str, found: Found, mine: Path) -> bool:
        """Link a good copy to a path of our own; tell whether there is one."""
        name = _name(url, found.version)
        for kept in self.folder.glob(f"{name}.*"):
            try:
                os.link(kept, mine)
            except FileNotFoundError:
                # another process has just thrown it away
                continue
            recorded = kept.name.split(".")[1]
            if _sha256(mine) == recorded and found.sha256 in {"", recorded} and mine.stat().st_size == found.size:
                os.utime(mine)
                return True
            mine.unlink()
            kept.unlink(missing_ok=True)
        return False

    def _keep(self, url: str, found: Found, fetched: Path) -> None:
        """Keep what was fetched, unless it is not what was announced or does not fit."""
        size, sha256 = fetched.stat().st_size, _sha256(fetched)
        if size != found.size or size > self.max_bytes or found.sha256 not in {"", sha256}:
            return
        fetched.chmod(0o444)
        with (self.folder / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._make_room(size)
            kept = self.folder / f"{_name(url, found.version)}.{sha256}"
            if not kept.exists():
                os.link(fetched, kept)

    def _make_room(self, size: int) -> None:
        copies = sorted(self._copies())
        room = self.max_bytes - sum(known for _, known, _ in copies)
        for _, known, path in copies:
            if room >= size:
                break
            path.unlink(missing_ok=True)
            room += known
        for path in (self.folder / BUSY).iterdir():
            # of a reader that was killed
            if time.time() - _changed(path) > ABANDONED_AFTER_S:
                shutil.rmtree(path, ignore_errors=True)

    def _copies(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time of the last use, size and path of every copy."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if COPY.fullmatch(entry.name):
                    try:
                        status = entry.stat()
                    except FileNotFoundError:
                        continue
                    yield status.st_mtime, status.st_size, Path(entry.path)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _name(url: str, version: str) -> str:
    return hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:40]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
