"""Fetch rules and reference files from a CRDS server into a local cache: the one way in which a cache is written.

Serial and explicit: stages and flows only read, since crds lets processes that download the same file at once go on
without it. The crds package does the work in a process with an environment of its own, see `blocks.crds_download`.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.store import StoreError

SYNCED = ("hst", "jwst", "roman")
"""Observatories that the crds package can fetch from a server."""

EVERY_REFERENCE = ("*",)
"""Instead of names: every reference of a context."""

LOCK = ".sync.lock"
DEFAULT_TIMEOUT_S = 60.0
ATTEMPTS = 3
HOUSE = Path(__file__).resolve().parents[1]


class SyncSettingsError(Exception):
    """The server, observatory or context cannot be synchronised: nothing was fetched."""


class SyncError(StoreError):
    """The server cannot be reached, a file cannot be fetched, or another process is writing the cache: try again."""


@dataclass(frozen=True)
class Fetched:
    """What a synchronisation did."""

    context: str
    """Context whose files were asked for."""
    names: tuple[str, ...]
    """Every file that was asked for; all of them are in the cache now."""
    fetched: tuple[str, ...]
    """Those that were fetched now; the others were there."""
    n_bytes: int
    """Size of those that were fetched now."""


def fetch_rules(
    root: str | Path,
    observatory: str,
    server: str,
    context: str = "",
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    tell: Callable[[str], None] = lambda _: None,
) -> Fetched:
    """Fetch every mapping of a context, and the configuration that names the operational one and bad files.

    Parameters
    ----------
    root
        Folder of the cache; created if it is missing.
    observatory
        One of `SYNCED`.
    server
        Address of its CRDS server, such as ``https://jwst-crds.stsci.edu``.
    context
        Context to fetch; the one that the server uses if empty.
    timeout_s
        Seconds without an answer after which the server counts as unreachable.
    tell
        Is given one line for each file that was fetched.

    Raises
    ------
    SyncSettingsError
        If crds cannot fetch files of this observatory, or the server is not its server or does not know the context.
    SyncError
        If the server cannot be reached, a file cannot be fetched, or another process is synchronising the cache.
    """
    return _fetch(Path(root), observatory, server, context, None, timeout_s, tell)


def fetch_references(
    root: str | Path,
    observatory: str,
    server: str,
    context: str,
    names: Sequence[str],
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    tell: Callable[[str], None] = lambda _: None,
) -> Fetched:
    """Fetch reference files that are not in the cache, or whose size there is wrong; otherwise as `fetch_rules`."""
    return _fetch(Path(root), observatory, server, context, sorted(set(names)), timeout_s, tell)


def _fetch(
    root: Path,
    observatory: str,
    server: str,
    context: str,
    references: list[str] | None,
    timeout_s: float,
    tell: Callable[[str], None],
) -> Fetched:
    if observatory not in SYNCED:
        raise SyncSettingsError(
            f"The crds package has no server for observatory {observatory!r}, only for {', '.join(SYNCED)}; clone the "
            "repository of its cache with git, and run `git lfs pull` in it."
        )
    if not server.startswith(("http://", "https://")) or "serverless" in server:
        raise SyncSettingsError(
            f"{server[:200]!r} is not the address of a CRDS server, such as https://{observatory}-crds.stsci.edu."
        )
    order = {
        "observatory": observatory, "server": server, "context": context, "references": references,
        "timeout_s": timeout_s,
    }  # fmt: skip
    fetched: list[tuple[str, int]] = []
    with alone(root):
        last: dict[str, Any] = {}
        for last in _messages(root, order, timeout_s):
            if "fetched" in last:
                fetched.append((last["fetched"], last["size"]))
                again = " again, as its size was wrong" if last["damaged"] else ""
                tell(f"{last['number']}/{last['total']} {last['fetched']} ({last['size']} bytes){again}")
    _refuse_problem(last, order)
    return Fetched(
        last["context"], tuple(last["names"]), tuple(name for name, _ in fetched), sum(size for _, size in fetched)
    )


def _messages(root: Path, order: dict[str, Any], timeout_s: float) -> Iterator[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRDS_")}
    environment |= {
        "CRDS_PATH": str(root.resolve()),
        "CRDS_SERVER_URL": order["server"],
        "CRDS_OBSERVATORY": order["observatory"],
        "CRDS_CLIENT_TIMEOUT_SECONDS": str(max(1, round(timeout_s))),
        "CRDS_CLIENT_RETRY_COUNT": str(ATTEMPTS),
        "CRDS_CLIENT_RETRY_DELAY_SECONDS": "1",
        "PYTHONPATH": os.pathsep.join([str(HOUSE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "blocks.crds_download"]
    # to a file: a full pipe would stop a process that nobody listens to
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
            process.wait()
        except BaseException:
            process.kill()
            raise
        log.seek(0)
        words = log.read().split("\n")
    if process.returncode != 0:
        said = next((line for line in reversed(words) if line.strip()), "nothing")
        raise SyncError(f"The process of crds ended with {process.returncode}; it said: {said.strip()[:500]}")


def _refuse_problem(last: dict[str, Any], order: dict[str, Any]) -> None:
    server, observatory = order["server"], order["observatory"]
    match last.get("problem", "silence"):
        case "":
            return
        case "unreachable":
            raise SyncError(
                f"The CRDS server {server} cannot be reached: {last['reason']}. The cache is as it was; what it has "
                "can be used offline."
            )
        case "observatory":
            raise SyncSettingsError(
                f"{server} is the CRDS server of {last['reason']!r}, not of {observatory!r}; correct --server."
            )
        case "context":
            raise SyncSettingsError(
                f"The CRDS server {server} does not give the mappings of {last['context']}: {last['reason']}."
            )
        case "file":
            raise SyncError(
                f"{last['name']} cannot be fetched from {server}: {last['reason']}. Give the same command again: what "
                "was fetched stays."
            )
        case other:
            raise SyncError(f"crds ended without a result ({other}); give the same command again.")


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Be the only process that writes a cache.

    Raises
    ------
    SyncError
        If another one is, or the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("a")
    except OSError as error:
        raise SyncError(f"The CRDS cache {root} cannot be written: {error.strerror}; see to its folder.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SyncError(f"Another process is writing the CRDS cache {root}; wait until it has finished.") from error
        yield
