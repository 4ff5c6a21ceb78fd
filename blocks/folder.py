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
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from blocks.objects import ABANDONED_AFTER_S, Found

INCOMING = ".incoming"
LOCK = "lock"
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


@dataclass(frozen=True)
class Folder:
    """Objects in a folder; what is being written lies in ``.incoming`` until it is whole."""

    root: Path

    def find(self, path: str) -> Found:
        """Look up one object."""
        status = os.stat(path)  # noqa: PTH116 (Path.stat follows the same call)
        if not S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        return Found(status.st_size, _version(status), "")

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
        with self._written(data) as temporary:
            _rename(temporary, Path(path))

    def put_file(self, path: str, source: Path, sha256: str) -> None:
        """Publish a local file, replacing what was there."""
        with self._incoming() as temporary:
            shutil.copyfile(source, temporary)
            _rename(temporary, Path(path))

    def put_new(self, path: str, data: bytes, sha256: str) -> bool:
        """Publish bytes unless there is an object already; tell whether they were published."""
        target = Path(path)
        with self._written(data) as temporary:
            _flush(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                # unlike a rename, a link refuses to replace
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    def put_if_unchanged(self, path: str, data: bytes, sha256: str, version: str) -> bool:
        """Publish bytes in the place of one version of an object; tell whether they were published."""
        with self._written(data) as temporary, self._alone():
            if not self._is(path, version):
                return False
            _rename(temporary, Path(path))
        return True

    def remove(self, path: str) -> None:
        """Remove an object; that there is none is fine."""
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

    def clear_abandoned(self) -> None:
        """Remove what writers that were killed a day ago or more left behind."""
        folder = self.root / INCOMING
        for path in folder.iterdir() if folder.is_dir() else ():
            # housekeeping decides nothing: others rename theirs meanwhile, and may own what is old
            with suppress(OSError):
                if path.name != LOCK and time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
                    path.unlink()

    def _is(self, path: str, version: str) -> bool:
        try:
            return self.find(path).version == version
        except FileNotFoundError:
            return False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other conditional writers out, on this machine and on others that share the folder."""
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
    def _written(self, data: bytes) -> Iterator[Path]:
        with self._incoming() as temporary:
            temporary.write_bytes(data)
            yield temporary

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


def _rename(temporary: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _flush(temporary)
    temporary.replace(target)


def _flush(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"
