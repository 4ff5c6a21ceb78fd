"""SHA-256 of local files that are asked for again and again, remembered across processes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path

LARGE = 1 << 20
"""Files of this size or more are remembered on disk too; smaller ones are hashed in no time."""
MAX_REMEMBERED = 10_000

_known: dict[str, str] = {}
_lock = threading.Lock()


def memory_file() -> Path:
    """Return where checksums are remembered: in the cache folder of the user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shearline" / "checksums.json"


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file; it is read again only if its inode, size or time of change differ.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    status = path.stat()
    state = f"{path.resolve()} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    with _lock:
        if state in _known:
            return _known[state]
    remembered = _recall() if status.st_size >= LARGE else {}
    sha256 = remembered.get(state) or _read(path)
    with _lock:
        _known[state] = sha256
    if status.st_size >= LARGE and state not in remembered:
        _remember(remembered | {state: sha256})
    return sha256


def _read(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _recall() -> dict[str, str]:
    try:
        found = json.loads(memory_file().read_text())
    except (OSError, ValueError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(checksums: dict[str, str]) -> None:
    kept = dict(list(checksums.items())[-MAX_REMEMBERED:])
    try:
        place = memory_file()
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as handle:
            json.dump(kept, handle)
        Path(handle.name).replace(place)
    except (OSError, RuntimeError):
        # only speed is lost
        return
