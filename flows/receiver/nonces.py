"""The nonces of accepted requests, kept in the store for as long as a request could be sent again."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from blocks.store import DataStore
from flows.receiver.refusals import BusyError, ReplayedError
from flows.receiver.signatures import MAX_AGE_S, Stamp

FOLDER = "receiver/nonces"
MAX_NONCES = 100_000
KEY = re.compile(rf"{FOLDER}/(?P<timestamp>[0-9]+)-[0-9a-f]{{32}}")
LOOKUPS = 16


class NonceBook:
    """Remembers nonces in a store, so that neither a restart nor a second receiver accepts a request again.

    A nonce is kept until its request is too old to be accepted, and then removed; there are never more than
    `MAX_NONCES`. Only requests with a right signature get this far, so nobody else can fill the book.
    """

    def __init__(self, store: DataStore) -> None:
        self._store = store
        self._known: dict[str, int] = {}
        self._in_work: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def entering(self, stamp: Stamp) -> Iterator[None]:
        """Enter the nonce of a request when what is done with the request has succeeded, and not if it fails.

        Raises
        ------
        ReplayedError
            If it was entered before.
        BusyError
            If the same request is in work now, or there were too many in the last minutes.
        StoreError
            If the store cannot be used now.
        """
        key = f"{FOLDER}/{stamp.timestamp}-{hashlib.sha256(stamp.nonce.encode()).hexdigest()[:32]}"
        with self._lock:
            if key in self._known:
                raise _replayed()
            if key in self._in_work:
                raise BusyError("This very request is being dealt with; try again.")
            if len(self._known) + len(self._in_work) >= MAX_NONCES:
                raise BusyError(f"There were {MAX_NONCES} requests in {2 * MAX_AGE_S} s; try again later.")
            self._in_work.add(key)
        try:
            if self._store.exists(key):
                raise _replayed()
            yield
            # last: a request that is lost on the way to here can be sent again as it is
            if not self._store.put_new(key, b"\n"):
                raise _replayed()
            with self._lock:
                self._known[key] = stamp.timestamp
        finally:
            with self._lock:
                self._in_work.discard(key)

    def clear(self, now: float | None = None) -> None:
        """Read the book and remove what is too old to be accepted again; this may take a while.

        Raises
        ------
        StoreError
            If the store cannot be used now.
        """
        oldest = (time.time() if now is None else now) - 2 * MAX_AGE_S
        with self._lock:
            self._known = {key: timestamp for key, timestamp in self._known.items() if timestamp >= oldest}
        found = {key: int(match["timestamp"]) for key in self._store.list_keys(FOLDER) if (match := KEY.fullmatch(key))}
        with self._lock:
            self._known |= {key: timestamp for key, timestamp in found.items() if timestamp >= oldest}
        with ThreadPoolExecutor(LOOKUPS) as threads:
            list(threads.map(self._store.remove, [key for key, timestamp in found.items() if timestamp < oldest]))


def _replayed() -> ReplayedError:
    return ReplayedError("This request was accepted before; there is nothing left to do.")
