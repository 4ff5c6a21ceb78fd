"""The nonces of accepted requests, kept in the store for as long as a request could be sent again."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

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
        self._cleared_at = 0.0
        self._lock = threading.Lock()

    def remember(self, stamp: Stamp, now: float | None = None) -> None:
        """Enter a nonce.

        Raises
        ------
        ReplayedError
            If it was entered before.
        BusyError
            If there were too many in the last minutes.
        StoreError
            If the store cannot be used now.
        """
        now = time.time() if now is None else now
        key = f"{FOLDER}/{stamp.timestamp}-{hashlib.sha256(stamp.nonce.encode()).hexdigest()[:32]}"
        with self._lock:
            if now - self._cleared_at > MAX_AGE_S:
                self._clear(now)
            if len(self._known) >= MAX_NONCES:
                raise BusyError(f"There were {MAX_NONCES} requests in {2 * MAX_AGE_S} s; try again later.")
            known = key in self._known
            self._known[key] = stamp.timestamp
        if known or not self._store.put_new(key, b"\n"):
            raise ReplayedError("This request was accepted before; sign a new one.")

    def _clear(self, now: float) -> None:
        """Read the book and remove what is too old to be accepted again."""
        found = {key: int(match["timestamp"]) for key in self._store.list_keys(FOLDER) if (match := KEY.fullmatch(key))}
        old = [key for key, timestamp in found.items() if now - timestamp > 2 * MAX_AGE_S]
        with ThreadPoolExecutor(LOOKUPS) as threads:
            list(threads.map(self._store.remove, old))
        self._known = {key: timestamp for key, timestamp in found.items() if key not in set(old)}
        self._cleared_at = now
