"""Announcing exposures: a durable note in the store first, an event for Prefect second.

The note is what counts. The event only makes Prefect start the arrival flow at once; if it cannot be sent, the sweep of
the next scheduled run finds the note.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID, uuid4

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.inbox import Arrival, announce, exposure_name, for_people, list_arrivals
from tasks.archive.manifests import NAME, REFUSAL
from tasks.archive.raw_names import RawNames
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId
from tasks.products.instrument import Instrument

ARRIVED = "shearline.exposure.arrived"
EVENT_TIMEOUT_S = 10.0
EVENTS_PER_REQUEST = 100
LOOKUPS = 16
SETTLE_S = 2.0

log = logging.getLogger("shearline.announce")


def announce_exposure(
    store: DataStore, what: ExposureId | str, instrument: Instrument, *, survey: str, source: str = ""
) -> Arrival:
    """Announce one exposure: leave a note in the store, then tell Prefect.

    Parameters
    ----------
    store
        Store of the products.
    what
        Name of the exposure, or key, path or URI of one of its files.
    instrument
        Names of the camera's files.
    survey
        Name of the survey, for the event.
    source
        Where the news came from, for people; by default ``what``.

    Returns
    -------
    Arrival
        The note, which is in the store.

    Raises
    ------
    ConfigError
        If ``what`` names no exposure of this instrument.
    StoreError
        If the note cannot be written.
    """
    exposure = exposure_of(what, instrument)
    note = announce(store, exposure, source or str(what))
    emit_arrivals([note], survey)
    return note


def exposure_of(what: ExposureId | str, instrument: Instrument) -> ExposureId:
    """Return the exposure that a name, or the key, path or URI of a file means.

    Raises
    ------
    ConfigError
        If it means none of this instrument.
    """
    names, text = RawNames(instrument), str(what)
    exposure = names.exposure_named(text)
    if exposure is not None:
        return exposure
    file = names.file_named(text)
    if file is None:
        raise ConfigError(
            f"{for_people(text, 80)!r} is neither an exposure of {instrument.name}, which match "
            f"{instrument.exposure_pattern!r}, nor a file of one, such as {instrument.image_file}."
        )
    return file[0]


def announce_missed(
    store: DataStore, raw: DataStore, instrument: Instrument, *, settle_s: float = SETTLE_S
) -> list[Arrival]:
    """Leave notes of complete exposures in the raw store that nobody announced: the sweep.

    Two listings, ``settle_s`` apart, must agree on the files of an exposure, so that files which are being copied are
    left to the next sweep. An exposure that is processed, refused or announced already is passed by; what became stale
    is the nightly plan's affair.

    Returns
    -------
    list of Arrival
        The notes that were written.
    """
    names = RawNames(instrument)
    before = raw.list_versions()
    time.sleep(settle_s)
    complete = names.complete(settled(before, raw.list_versions()))
    known = set(list_arrivals(store))
    unknown = [exposure for exposure in complete if exposure not in known]
    with ThreadPoolExecutor(LOOKUPS) as threads:
        handled = list(threads.map(lambda name: is_handled(store, name), unknown))
        missed = [name for name, done in zip(unknown, handled, strict=True) if not done]
        return list(threads.map(lambda name: announce(store, name, "found by the sweep"), missed))


def is_handled(store: DataStore, exposure: ExposureId) -> bool:
    """Tell whether an exposure was processed or refused, whatever has changed since."""
    return any(store.exists(keys.exposure(exposure, name)) for name in (NAME, REFUSAL))


def settled(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the keys whose version is the same in two listings."""
    return [key for key, version in now.items() if before.get(key) == version]


def emit_arrivals(notes: Sequence[Arrival], survey: str, *, again: bool = False) -> bool:
    """Tell Prefect of arrivals, if an API is configured; that it cannot be told is a warning.

    The event's id is the token of the note, so a note that is told twice is one event, unless it is told ``again``.

    Returns
    -------
    bool
        Whether Prefect was told of all of them.
    """
    from prefect import get_client
    from prefect.settings import PREFECT_API_URL

    if not notes or not PREFECT_API_URL.value():
        return False
    try:
        with get_client(sync_client=True) as client:
            for first in range(0, len(notes), EVENTS_PER_REQUEST):
                events = [
                    _event(note, survey, uuid4() if again else UUID(note.token))
                    for note in notes[first : first + EVENTS_PER_REQUEST]
                ]
                client.request("POST", "/events", json=events, timeout=EVENT_TIMEOUT_S).raise_for_status()
    except Exception as error:  # noqa: BLE001 (whatever it is, the note is there and the sweep will find it)
        log.warning(
            "Prefect could not be told of %d arrivals (%s: %s); the sweep finds their notes.",
            len(notes),
            type(error).__name__,
            for_people(str(error), 200),
        )
        return False
    return True


def _event(note: Arrival, survey: str, event_id: UUID) -> dict[str, object]:
    return {
        "id": str(event_id),
        "occurred": datetime.now(UTC).isoformat(),
        "event": ARRIVED,
        "resource": {
            "prefect.resource.id": f"shearline.exposure.{note.exposure}",
            "prefect.resource.name": f"exposure {note.exposure}",
        },
        "related": [{"prefect.resource.id": f"shearline.survey.{survey}", "prefect.resource.role": "survey"}],
        "payload": {"exposure": note.exposure.name, "survey": survey, "source": note.source},
    }


def announce_files(
    store: DataStore, files: Iterable[str], instrument: Instrument, *, survey: str
) -> dict[ExposureId, Arrival]:
    """Announce the exposures of several files or names, each once; all are checked before the first note is written.

    Raises
    ------
    ConfigError
        If one of them names no exposure of this instrument.
    """
    wanted: dict[ExposureId, str] = {}
    for text in files:
        wanted.setdefault(exposure_name(exposure_of(text, instrument)), text)
    with ThreadPoolExecutor(LOOKUPS) as threads:
        notes = list(threads.map(lambda item: announce(store, item[0], item[1]), wanted.items()))
    emit_arrivals(notes, survey)
    return {note.exposure: note for note in notes}
