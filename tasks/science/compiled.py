"""Numba's decorator, with a cache that notices when a function that is called from another file changes.

Numba keeps compiled functions from run to run, and compiles one again when its own file changes. What it calls is
compiled into it but not watched: after an edit of a called function in another file the old numbers would come back,
silently. So the cache lies in a folder named by a checksum of all compiled sources of this package.
"""

import hashlib
import os
from pathlib import Path

import numba
from numba import njit

__all__ = ["njit", "source_digest"]


def source_digest(folder: Path) -> str:
    """Return a checksum of the sources of a folder that hold compiled functions, and of numba's version.

    Parameters
    ----------
    folder
        Folder with Python files.

    Returns
    -------
    str
        First 16 hexadecimal digits of a SHA-256.
    """
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(folder.glob("*.py")):
        source = path.read_bytes()
        if b"njit" in source:
            digest.update(hashlib.sha256(path.name.encode() + b"\0" + source).digest())
    return digest.hexdigest()[:16]


def _cache_folder() -> Path | None:
    """Choose where this version's compiled functions are kept; None leaves it to numba, if nothing can be written."""
    here = Path(__file__).parent
    asked_for = os.environ.get("NUMBA_CACHE_DIR")
    roots = [Path(asked_for)] if asked_for else [here / "__pycache__", Path.home() / ".cache" / "shearline"]
    for root in roots:
        folder = root / f"compiled-{source_digest(here)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


_folder = _cache_folder()
if _folder is not None:
    numba.config.CACHE_DIR = str(_folder)  # type: ignore[attr-defined]
