"""Copies of remote objects on this machine, as many as fit into a given number of bytes.

A copy is kept under the address and the version of its object, so an object that was written again is fetched again.
Its name is its checksum, which is compared with the bytes at every use: a damaged copy is thrown away. The longest
unused copies go first. Several processes may use one folder. A folder that fails costs time and nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from blocks.objects import ABANDONED_AFTER_S, CHUNK_BYTES, Found, LocalCopyError

BUSY = ".busy"
LOCK = ".lock"
COPIES, COPY = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
# who looks through all copies for the longest unused makes room for more than one
FILLED = 0.9
LOGGER = logging.getLogger("shearline")

Download = Callable[[Path], str]

_told: set[Path] = set()


@dataclass(frozen=True)
class ReadCache:
    """A folder with copies of remote objects."""

    folder: Path
    max_bytes: int
    """Room for copies; what is being fetched or read comes on top of it."""

    @contextmanager
    def copy(self, url: str, found: Found, download: Download) -> Iterator[Path | None]:
        """Give a path at which an object can be read until the block ends, whatever others do to the cache.

        If its folder cannot be used, there is none; that is said once per process.

        Parameters
        ----------
        url, found
            Address, version, size and, if known, checksum of the object.
        download
            Writes the object to a path and returns the version that it is; raises `LocalCopyError` if it is the path
            that fails.
        """
        # readers look at what names end in
        mine = self.folder / BUSY / f"{os.getpid()}-{uuid.uuid4().hex}" / url.rsplit("/", 1)[-1]
        try:
            yield mine if self._bring(url, found, download, mine) else None
        finally:
            shutil.rmtree(mine.parent, ignore_errors=True)

    def size(self) -> int:
        """Return the number of bytes of all copies."""
        return sum(size for _, size, _ in self._copies())

    def _bring(self, url: str, found: Found, download: Download, mine: Path) -> bool:
        """Put the object at a path of our own; tell whether the folder let us."""
        try:
            mine.parent.mkdir(parents=True)
            if self._take(url, found, mine):
                return True
        except OSError as error:
            self._tell(error)
            return False
        try:
            version = download(mine)
        except LocalCopyError as error:
            self._tell(error)
            return False
        try:
            self._keep(url, found._replace(version=version), mine)
        except OSError as error:
            self._tell(error)
            return mine.is_file()
        return True

    def _tell(self, error: Exception) -> None:
        if self.folder not in _told:
            _told.add(self.folder)
            LOGGER.warning("The read cache %s cannot be used, all is read from the store: %s", self.folder, error)

    def _take(self, url: str, found: Found, mine: Path) -> bool:
        """Link a good copy to a path of our own; tell whether there is one."""
        for kept in _files(self._place(url, found.version)):
            try:
                os.link(kept, mine)
            except FileNotFoundError:
                # another process has just thrown it away
                continue
            recorded = kept.name
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
        kept = self._place(url, found.version) / sha256
        with (self.folder / LOCK).open("a+", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if kept.exists():
                return
            # before the copy is there: who is killed between leaves a number that is too large, and is corrected
            _note(lock, self._make_room(_noted(lock), size) + size)
            kept.parent.mkdir(exist_ok=True)
            os.link(fetched, kept)
        for path in _files(self.folder / BUSY):
            # of a reader that was killed
            if time.time() - _changed(path) > ABANDONED_AFTER_S:
                shutil.rmtree(path, ignore_errors=True)

    def _make_room(self, noted: int | None, size: int) -> int:
        """Return how many bytes all copies have, after the longest unused were removed if there was no room."""
        if noted is not None and noted + size <= self.max_bytes:
            return noted
        copies = sorted(self._copies())
        total = sum(known for _, known, _ in copies)
        if total + size > self.max_bytes:
            for _, known, path in copies:
                if total + size <= FILLED * self.max_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= known
                with suppress(OSError):
                    path.parent.rmdir()
        return total

    def _place(self, url: str, version: str) -> Path:
        """Return the folder with the copy of one version of an object, so that nobody looks through all copies."""
        return self.folder / hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:40]

    def _copies(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time of the last use, size and path of every copy."""
        for folder in _files(self.folder):
            for path in _files(folder) if COPIES.fullmatch(folder.name) else ():
                if COPY.fullmatch(path.name):
                    try:
                        status = path.stat()
                    except FileNotFoundError:
                        continue
                    yield status.st_mtime, status.st_size, path


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _noted(lock: TextIO) -> int | None:
    """Return the number of bytes of all copies; none if nobody has counted them."""
    lock.seek(0)
    text = lock.read()
    return int(text) if text.isdecimal() else None


def _note(lock: TextIO, total: int) -> None:
    lock.truncate(0)
    lock.write(str(total))
    lock.flush()


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
