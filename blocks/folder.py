"""A folder as a store: objects are files, written beside their place and renamed into it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from blocks.objects import ABANDONED_AFTER_S, PROBE, PROBES_ABANDONED_AFTER_S, Found

INCOMING = ".incoming"
LOCK = "lock"
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
NO_LINKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK}


@dataclass(frozen=True)
class Folder:
    """Objects in a folder; what is being written lies in ``.incoming`` until it is whole."""

    root: Path

    def find(self, path: str) -> Found:
        """Look up one object."""
        status = os.stat(path)  # noqa: PTH116 (Path.stat follows the same call)
        if not S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        return Found(status.st_size, _version(status), "", datetime.fromtimestamp(status.st_mtime, UTC))

    def open(self, path: str, doing: str) -> BinaryIO:
        """Open an object for reading at any position."""
        return Path(path).open("rb")

    def read(self, path: str) -> tuple[bytes, str]:
        """Return the bytes of an object and the version that they are."""
        with Path(path).open("rb") as handle:
            # of the open file: another may be renamed into its place meanwhile
            return handle.read(), _version(os.fstat(handle.fileno()))

    def put(self, path: str, data: bytes, sha256: str) -> None:
        """Publish bytes, replacing what was there."""
        with self._incoming() as temporary:
            temporary.write_bytes(data)
            with self._ready(temporary, Path(path)):
                temporary.replace(path)

    def put_file(self, path: str, source: Path, sha256: str) -> None:
        """Publish a local file, replacing what was there."""
        with self._incoming() as temporary:
            shutil.copyfile(source, temporary)
            with self._ready(temporary, Path(path)):
                temporary.replace(path)

    def put_new(self, path: str, data: bytes, sha256: str) -> str | None:
        """Publish bytes unless there is an object already; return the version that they are, none if there was one."""
        with self._incoming() as temporary:
            temporary.write_bytes(data)
            version = _version(temporary.stat())
            with self._ready(temporary, Path(path)):
                return version if _create(temporary, Path(path)) else None

    def put_if_unchanged(self, path: str, data: bytes, sha256: str, version: str) -> str | None:
        """Publish bytes in the place of one version of an object; return the version that they are, or none."""
        with self._incoming() as temporary:
            temporary.write_bytes(data)
            new = _version(temporary.stat())
            with self._ready(temporary, Path(path)):
                if not self._is(path, version):
                    return None
                temporary.replace(path)
        return new

    def remove(self, path: str) -> None:
        """Remove an object; that there is none is fine."""
        with self._alone():
            Path(path).unlink(missing_ok=True)

    def remove_if_unchanged(self, path: str, version: str) -> bool:
        """Remove one version of an object; tell whether it was removed."""
        with self._alone():
            if not self._is(path, version):
                return False
            Path(path).unlink()
        return True

    def list_versions(self, path: str) -> dict[str, str]:
        """Return the version of every object below a folder, by path."""
        found: dict[str, str] = {}
        waiting = [path]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir():
                            waiting.append(entry.path)
                        elif entry.is_file():
                            # what others remove meanwhile is not there; the rest of the folder is
                            with suppress(FileNotFoundError):
                                found[entry.path] = _version(entry.stat())
            except (FileNotFoundError, NotADirectoryError):
                continue
        return found

    def list_folders(self, path: str) -> list[str]:
        """Return the names directly below a folder that are folders themselves."""
        try:
            with os.scandir(path) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def clear_abandoned(self, path: str) -> None:
        """Remove what killed writers left behind, and after a week the probes in the collection at a path."""
        for file in _files(self.root / INCOMING):
            if file.name != LOCK:
                _remove_if_older(file, ABANDONED_AFTER_S)
        for file in _files(Path(path)):
            if PROBE.fullmatch(file.name):
                _remove_if_older(file, PROBES_ABANDONED_AFTER_S)

    def _is(self, path: str, version: str) -> bool:
        try:
            return self.find(path).version == version
        except FileNotFoundError:
            return False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other writers out, on this machine and on others that share the folder."""
        folder = self.root / INCOMING
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("ab") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError as error:
                # some cluster file systems are mounted without locks; two writers may then both be told that they won
                if error.errno not in NO_LOCKS:
                    raise
            yield

    @contextmanager
    def _ready(self, temporary: Path, target: Path) -> Iterator[None]:
        """Keep other writers out while a file that is on the disk is put into its place."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        with self._alone():
            yield

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        # in the root, so that the rename never crosses a file system
        folder = self.root / INCOMING
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _create(temporary: Path, target: Path) -> bool:
    """Put a file into a place where there is none, while other writers are kept out."""
    try:
        # unlike a rename, a link refuses to replace, also where there are no locks
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(target):
            return False
        temporary.replace(target)
    return True


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _remove_if_older(path: Path, seconds: float) -> None:
    # housekeeping decides nothing: others rename theirs meanwhile, and may own what is old
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > seconds:
            path.unlink()


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
