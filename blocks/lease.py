"""Leases in a store: of several runs that want to work on one thing, one does.

A lease is a small object that says who works on what. It is created only if there is none, renewed by a thread while
its owner lives, replaced only in the version that was seen, and removed at the end. It spares double work and is not
what keeps products right: these are published whole and come out the same whoever makes them.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from blocks.process_identity import ProcessIdentity, this_process
from blocks.store import DataStore, ObjectNotFoundError, StoreError

FOLDER = "leases"
EXPIRY_S = 60.0
RENEWALS = 4
FIRST_POLL_S, LONGEST_POLL_S = 0.2, 5.0
# a store that hangs must not keep the thread that renews from its other leases
HEARTBEAT_TIMEOUT_S, HEARTBEAT_ATTEMPTS = 5.0, 2
LOGGER = logging.getLogger("shearline")


class LeaseHeldError(Exception):
    """Somebody else works on it, and it was not worth waiting longer."""


class LeaseOwner(BaseModel):
    """Who works on something, since when, and whether they still live."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    subject: str
    """What is being worked on."""

    process: ProcessIdentity
    """The process that works."""

    owner: str = ""
    """For whom it works, such as the id of a flow run."""

    token: str
    """What no other lease has."""

    since: datetime
    """When the work began, by the clock of that machine."""

    renewed: datetime
    """When the owner last lived, by the clock of that machine."""

    def __str__(self) -> str:
        run = f"run {self.owner}" if self.owner else f"process {self.process.pid}"
        return f"{run} on {self.process.host} since {self.since:%Y-%m-%d %H:%M:%S} UTC"


@dataclass
class Lease:
    """A lease that this process holds."""

    store: DataStore
    key: str
    document: LeaseOwner
    expiry_s: float
    thread: int
    version: str = ""
    taken_from: LeaseOwner | None = None
    """The dead owner whose lease was taken over."""
    users: int = 1
    renew_at: float = 0.0
    lost: bool = False
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def renew(self) -> None:
        """Tell that the owner lives; a lease that somebody has taken is lost and stays so."""
        with self._changing:
            if self.users and not self.lost:
                self._renew()

    def _renew(self) -> None:
        document = self.document.model_copy(update={"renewed": datetime.now(UTC)})
        version = self.store.put_if_unchanged(self.key, _json(document), self.version)
        if version is None:
            seen = _read(self.store, self.key)
            # refused because of our own renewal, whose answer was lost on the way
            self.lost = seen is None or seen[0] is None or seen[0].token != self.document.token
            if self.lost:
                LOGGER.warning("The lease of %s is lost: it was taken for dead.", self.document.subject)
            elif seen is not None:
                self.version = seen[1]
            return
        self.document, self.version = document, version

    def release(self) -> None:
        """Remove the lease, if it is still this one."""
        with self._changing:
            seen = _read(self.store, self.key)
            if seen is not None and seen[0] is not None and seen[0].token == self.document.token:
                self.store.remove_if_unchanged(self.key, seen[1])


@dataclass
class _Held:
    """The leases of this process and the thread that renews them."""

    leases: dict[tuple[str, str], Lease] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    wake: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


_held = _Held()


def _forget() -> None:
    # a child holds nothing, and the parent's thread does not run in it
    global _held
    _held = _Held()


os.register_at_fork(after_in_child=_forget)


@contextmanager
def lease(
    store: DataStore,
    name: str,
    *,
    owner: str = "",
    wait_s: float | None = None,
    on_wait: Callable[[LeaseOwner], None] | None = None,
    expiry_s: float = EXPIRY_S,
    yields: bool = False,
) -> Iterator[Lease]:
    """Hold a lease while the block runs; wait until nobody else does.

    The same owner, or the same thread, may hold a lease several times over. The lease of an owner who died is taken
    over: at once if it was a process of this machine that is gone, else when it was not renewed for ``expiry_s``
    seconds that this process has watched, so that the clocks of machines need not agree.

    Parameters
    ----------
    store, name
        Which lease: ``leases/<name>.json`` in the store.
    owner
        For whom, such as the id of a flow run.
    wait_s
        How long to wait; none waits for ever.
    on_wait
        Called with whom we wait for, once for each of them.
    expiry_s
        After how many seconds without renewal an owner counts as dead; the same in all processes.
    yields
        Whether to give up as soon as it is known that the owner lives; one that may be dead is still waited for.

    Raises
    ------
    LeaseHeldError
        If somebody else still holds it after ``wait_s``, or lives and this one yields.
    StoreError
        If the store cannot be used now.
    """
    place = (store.place, name)
    mine = _again(place, owner) or _acquire(store, name, owner, wait_s, on_wait, expiry_s, yields)
    try:
        yield mine
    finally:
        _give_back(place, mine)


def _again(place: tuple[str, str], owner: str) -> Lease | None:
    """Return the lease if this owner or thread holds it already."""
    with _held.lock:
        mine = _held.leases.get(place)
        ours = mine is not None and (
            mine.thread == threading.get_ident() or (owner != "" and mine.document.owner == owner)
        )
        if mine is None or not ours:
            return None
        mine.users += 1
        return mine


def _acquire(
    store: DataStore,
    name: str,
    owner: str,
    wait_s: float | None,
    on_wait: Callable[[LeaseOwner], None] | None,
    expiry_s: float,
    yields: bool,
) -> Lease:
    now, key = datetime.now(UTC), f"{FOLDER}/{name}.json"
    document = LeaseOwner(
        subject=name, process=this_process(), owner=owner, token=uuid.uuid4().hex, since=now, renewed=now
    )
    mine = Lease(store, key, document, expiry_s, threading.get_ident())
    watch = _Watch(expiry_s)
    begun, told, pause_s = time.monotonic(), "", FIRST_POLL_S
    # before the object is there: another thread would take a lease without a holder for a forgotten one
    _held.tokens.add(document.token)
    try:
        while not _try(mine, watch):
            if watch.holder is not None and watch.holder.token != told:
                told = watch.holder.token
                if on_wait is not None:
                    on_wait(watch.holder)
            _give_up(wait_s, begun, name, watch, yields=yields)
            # waiters that began together do not ask together for ever
            time.sleep(min(pause_s, expiry_s / 4) * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 1.5, LONGEST_POLL_S)
    except LeaseHeldError:
        _held.tokens.discard(document.token)
        raise
    except BaseException:
        _held.tokens.discard(document.token)
        # what was written although no answer came would keep others waiting
        mine.store = _impatient(store)
        with suppress(StoreError):
            mine.release()
        raise
    mine.store = _impatient(store)
    with _held.lock:
        _held.leases[(store.place, name)] = mine
    _keep_renewing(mine)
    return mine


def _give_up(wait_s: float | None, begun: float, name: str, watch: _Watch, *, yields: bool) -> None:
    """Raise if it is not worth waiting longer."""
    waited_s = time.monotonic() - begun
    if (yields and watch.lives) or (wait_s is not None and waited_s >= wait_s):
        holder = watch.holder or "somebody"
        raise LeaseHeldError(f"{name} is being worked on by {holder}; waited {waited_s:.1f} s for it.")


class _Watch:
    """Sees by this process's own clock whether a holder renews."""

    def __init__(self, expiry_s: float) -> None:
        self.holder: LeaseOwner | None = None
        self.lives = False
        """Whether the holder is known to live: it has renewed while we watched, or lately on this machine."""
        self._expiry_s = expiry_s
        self._seen = b""
        self._since = 0.0

    def is_dead(self, data: bytes, holder: LeaseOwner | None) -> bool:
        if data != self._seen:
            self.lives = holder is not None and self.holder is not None and holder.token == self.holder.token
            self._seen, self._since, self.holder = data, time.monotonic(), holder
        if holder is not None:
            alive = holder.process.is_alive()
            # a process may live and have forgotten its lease; the clock is ours, as the machine is
            age_s = abs((datetime.now(UTC) - holder.renewed).total_seconds())
            self.lives = self.lives or (alive is True and age_s < self._expiry_s)
            if alive is False or (holder.process == this_process() and holder.token not in _held.tokens):
                return True
        return time.monotonic() - self._since > self._expiry_s


def _try(mine: Lease, watch: _Watch) -> bool:
    """Create the lease, or take it from a dead owner; tell whether it is ours now."""
    new = mine.store.put_new(mine.key, _json(mine.document))
    if new is not None:
        mine.version, mine.taken_from = new, None
        return True
    try:
        data, version = mine.store.read_version(mine.key)
    except ObjectNotFoundError:
        return False
    holder = _parse(data)
    if holder is not None and holder.token == mine.document.token:
        # written by a request that was taken for lost
        mine.version = version
        return True
    if not watch.is_dead(data, holder):
        return False
    mine.taken_from = holder
    mine.version = mine.store.put_if_unchanged(mine.key, _json(mine.document), version) or ""
    return mine.version != ""


def _give_back(place: tuple[str, str], mine: Lease) -> None:
    if mine.document.process != this_process():
        # a child that was forked in the block leaves it, and its parent still works
        return
    with _held.lock:
        mine.users -= 1
        if mine.users:
            return
        _held.leases.pop(place, None)
    try:
        mine.release()
    except StoreError as error:
        # the work is done; others wait until the lease expires, or until this process is gone
        LOGGER.warning("The lease of %s could not be given back: %s", mine.document.subject, error)
    finally:
        _held.tokens.discard(mine.document.token)


def _keep_renewing(mine: Lease) -> None:
    mine.renew_at = time.monotonic() + mine.expiry_s / RENEWALS
    with _held.lock:
        if _held.thread is None or not _held.thread.is_alive():
            _held.thread = threading.Thread(target=_renew_all, args=(_held,), name="leases", daemon=True)
            _held.thread.start()
    _held.wake.set()


def _impatient(store: DataStore) -> DataStore:
    return store.model_copy(
        update={
            "timeout_s": min(store.timeout_s, HEARTBEAT_TIMEOUT_S),
            "attempts": min(store.attempts, HEARTBEAT_ATTEMPTS),
        }
    )


def _renew_all(held: _Held) -> None:
    while True:
        with held.lock:
            leases = [item for item in held.leases.values() if not item.lost]
        now = time.monotonic()
        for item in leases:
            if item.renew_at <= now:
                item.renew_at = now + item.expiry_s / RENEWALS
                try:
                    item.renew()
                except Exception as error:  # noqa: BLE001 (without this thread all leases of the process are lost)
                    LOGGER.warning("The lease of %s could not be renewed: %s", item.document.subject, error)
        soonest = min((item.renew_at for item in leases), default=now + EXPIRY_S)
        held.wake.wait(max(soonest - time.monotonic(), 0.01))
        held.wake.clear()


def _read(store: DataStore, key: str) -> tuple[LeaseOwner | None, str] | None:
    try:
        data, version = store.read_version(key)
    except ObjectNotFoundError:
        return None
    return _parse(data), version


def _parse(data: bytes) -> LeaseOwner | None:
    try:
        return LeaseOwner.model_validate_json(data)
    except ValidationError:
        # of another version of this program: it counts as dead when nobody renews it
        return None


def _json(document: LeaseOwner) -> bytes:
    return (document.model_dump_json(indent=1) + "\n").encode()
