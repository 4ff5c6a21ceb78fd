"""The inbox of a collection: durable notes that an exposure has arrived.

A note lies under the exposure's name, so however often an exposure is announced there is one. Every announcement gives
it a new token; who has handled an exposure removes the note only if it still has the token that was read before the
work, so that files which came in the meantime are not forgotten. Notes are written from outside, so what is read is
checked as strictly as what came over the network.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from blocks.store import DataStore, ObjectNotFoundError
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId

INBOX = "inbox"
MAX_SOURCE_LENGTH = 300
LOOKUPS = 16


class Arrival(BaseModel):
    """The note that an exposure has arrived."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exposure: ExposureId
    """Name of the exposure."""

    token: str = Field(pattern=r"^[0-9a-f]{32}$")
    """Changes with every announcement."""

    announced_at: AwareDatetime
    """When it was announced."""

    source: str = Field(default="", max_length=MAX_SOURCE_LENGTH)
    """Who said so, or where the file is; for people, never used to find anything."""


def announce(store: DataStore, exposure: ExposureId | str, source: str = "") -> Arrival:
    """Leave a note that an exposure has arrived; when this returns, the note is in the store.

    Parameters
    ----------
    store
        Store of the products.
    exposure
        Name of the exposure; it is data from outside.
    source
        Where the news came from, for people.

    Raises
    ------
    ConfigError
        If that cannot be the name of an exposure.
    StoreError
        If the note cannot be written.
    """
    note = _note(exposure_name(exposure), source)
    store.put_bytes(_key(note.exposure), _json(note))
    return note


def replace_damaged(store: DataStore, exposure: ExposureId) -> Arrival | None:
    """Put a note in the place of something that cannot be read: that there is something means that it has arrived.

    Returns
    -------
    Arrival
        The new note; none if the note is gone, can be read, or was written again meanwhile.
    """
    key = _key(exposure)
    try:
        data, version = store.read_version(key)
    except ObjectNotFoundError:
        return None
    if _parse(data, exposure) is not None:
        return None
    note = _note(exposure, "replaces a note that could not be read")
    return note if store.put_if_unchanged(key, _json(note), version) else None


def _note(exposure: ExposureId, source: str) -> Arrival:
    return Arrival(
        exposure=exposure,
        token=uuid.uuid4().hex,
        announced_at=datetime.now(UTC),
        source=for_people(source, MAX_SOURCE_LENGTH),
    )


def exposure_name(name: ExposureId | str) -> ExposureId:
    """Return the name of an exposure that came from outside.

    Raises
    ------
    ConfigError
        If it does not match the pattern of names, and so must not become a key.
    """
    try:
        return ExposureId(str(name))
    except ValidationError as error:
        raise ConfigError(
            f"{for_people(str(name), 80)!r} cannot be the name of an exposure: "
            "at most 64 letters, digits, '_', '+' and '-', beginning with a letter or a digit."
        ) from error


def for_people(text: str, length: int) -> str:
    """Return text from outside for a log or a document: printable ASCII on one line, cut to a length, no passwords."""
    without_password = re.sub(r"//[^/@\s]{1,200}@", "//", text[: 4 * length])
    return re.sub(r"[^ -~]", "?", without_password)[:length]


def list_arrivals(store: DataStore) -> dict[ExposureId, str]:
    """Return the exposures with a note, by name, and the version of each note: one listing, nothing is read."""
    found = {}
    for key, version in sorted(store.list_versions(INBOX).items()):
        name = key.removeprefix(f"{INBOX}/").removesuffix(".json")
        try:
            exposure = ExposureId(name)
        except ValidationError:
            # somebody else's file: nothing of ours has such a name
            continue
        if key == _key(exposure):
            found[exposure] = version
    return found


def read_arrivals(store: DataStore, exposures: Iterable[ExposureId]) -> list[Arrival]:
    """Return notes, the earliest first; those that are gone or no notes are left out."""
    with ThreadPoolExecutor(LOOKUPS) as threads:
        notes = [note for note in threads.map(lambda name: read_arrival(store, name), exposures) if note is not None]
    return sorted(notes, key=lambda note: (note.announced_at, note.exposure.name))


def read_arrival(store: DataStore, exposure: ExposureId) -> Arrival | None:
    """Return the note of an exposure; none if there is none, or if what lies there is no note of it."""
    try:
        return _parse(store.read_bytes(_key(exposure)), exposure)
    except ObjectNotFoundError:
        return None


def forget_arrival(store: DataStore, note: Arrival) -> bool:
    """Remove a note that was handled.

    Returns
    -------
    bool
        False if the exposure was announced again since the note was read; the new note stays.
    """
    key = _key(note.exposure)
    try:
        data, version = store.read_version(key)
        if Arrival.model_validate_json(data).token != note.token:
            return False
    except (ObjectNotFoundError, ValidationError):
        return True
    return store.remove_if_unchanged(key, version)


def _parse(data: bytes, exposure: ExposureId) -> Arrival | None:
    try:
        note = Arrival.model_validate_json(data)
    except ValidationError:
        return None
    return note if note.exposure == exposure else None


def _json(note: Arrival) -> bytes:
    return (note.model_dump_json(indent=1) + "\n").encode()


def _key(exposure: ExposureId) -> str:
    return f"{INBOX}/{exposure}.json"
