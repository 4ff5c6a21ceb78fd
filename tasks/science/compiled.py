"""Numba's decorator, with a cache that notices changes in called functions and that several processes fill together.

Numba keeps compiled functions from run to run, and compiles one again when its own file changes. What it calls is
compiled into it but not watched: after an edit of a called function in another file the old numbers would come back,
silently. So the cache lies in a folder named by a checksum of all compiled sources of this package.

Processes that start together need the same functions at the same time. One of them compiles each, and the others wait
for it and take it from the cache.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock

try:
    from fcntl import LOCK_EX, flock
except ImportError:  # not everywhere: then every process compiles for itself
    flock = None  # type: ignore[assignment]

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
        if b"njit" in source or b"numba" in source:
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


def njit(**options: bool | str) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function when it is first called, as `numba.njit` does; of several processes, one compiles it.

    Parameters
    ----------
    **options
        Those of `numba.njit`.
    """
    compile_later: Any = numba.njit(**options)  # type: ignore[call-overload]

    def decorate(function: Callable[..., Any]) -> object:
        compiled = compile_later(function)
        place = f"{function.__module__}.{function.__qualname__}-{function.__code__.co_firstlineno}"
        compile_now = compiled.compile

        @wraps(compile_now)
        def compile_in_turn(signature: object) -> object:
            # numba's own lock first: a thread that waited for it with a file locked could block the one that holds it
            with global_compiler_lock, _locked(place):
                return compile_now(signature)

        compiled.compile = compile_in_turn
        return compiled

    return decorate


@contextmanager
def _locked(place: str) -> Iterator[None]:
    """Keep other processes from compiling the same function."""
    if _folder is None or flock is None:
        yield
        return
    # no two can wait for each other: a caller's file is always locked before those of the functions that it calls
    with (_folder / f"{place}.lock").open("a") as file:
        # a file system that knows no locks costs the others' time only
        with suppress(OSError):
            flock(file, LOCK_EX)
        yield
