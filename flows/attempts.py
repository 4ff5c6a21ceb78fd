"""Tries of exposures and tiles: counted before they start, repeated after unexpected errors, given up in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from blocks.store import DataStore
from flows.readiness import Ready
from tasks.archive.inbox import Arrival, for_people
from tasks.archive.tries import Tries, forget_tries, read_tries, write_tries
from tasks.products.identity import ExposureId, TileId

MAX_ATTEMPTS = 3
RETRY_S = 30.0
"""Wait before what met an unexpected error is tried again; longer every time."""
MAX_REASON_LENGTH = 300


class Note(NamedTuple):
    """A note as it was read."""

    arrival: Arrival
    version: str
    """Changes when the exposure is announced again."""


Work = Note | Ready


@dataclass(frozen=True)
class Attempt:
    """One try of an exposure or tile."""

    work: Work
    """Note of the exposure, or the tile with its exposures."""
    before: Tries | None = None
    """Tries before this one."""

    @property
    def subject(self) -> ExposureId | TileId:
        """The exposure or tile."""
        return self.work.arrival.exposure if isinstance(self.work, Note) else self.work.tile

    @property
    def token(self) -> str:
        """What is tried: with another note or other exposures, counting starts anew."""
        return self.work.arrival.token if isinstance(self.work, Note) else self.work.version

    @property
    def number(self) -> int:
        """Which try it is, from 1."""
        return self.before.attempts + 1 if self.before else 1

    @property
    def has_to_be_alone(self) -> bool:
        """Whether nothing may run beside it: it may be what killed the process, and others must not be blamed."""
        return self.before is not None and self.before.unended and self.number >= MAX_ATTEMPTS


@dataclass
class Attempts:
    """The tries of everything that arrives; they are kept in the store."""

    store: DataStore
    given_up: dict[ExposureId | TileId, str] = field(default_factory=dict, init=False)
    """What was tried so often that it is left alone, and why: sentences for people."""

    def next(self, work: Work) -> Attempt | None:
        """Return the try that comes next; none if the exposure or tile is given up."""
        first = Attempt(work)
        before = read_tries(self.store, first.subject, first.token)
        return None if self._is_given_up(first.subject, before) else Attempt(work, before)

    def begin(self, attempt: Attempt) -> None:
        """Count a try that is about to start."""
        tries = Tries(token=attempt.token, attempts=attempt.number, unended=True)
        write_tries(self.store, attempt.subject, tries)

    def fail(self, attempt: Attempt, reason: str) -> float | None:
        """Record that a try ended with an unexpected error.

        Returns
        -------
        float
            How long to wait before the next try, in seconds; none if there is to be none.
        """
        sentence = for_people(reason, MAX_REASON_LENGTH)
        tries = Tries(token=attempt.token, attempts=attempt.number, reason=sentence)
        write_tries(self.store, attempt.subject, tries)
        return None if self._is_given_up(attempt.subject, tries) else RETRY_S * attempt.number

    def take_back(self, attempt: Attempt) -> None:
        """Forget a try that was stopped by something else, such as a store that was away; doing so twice is fine."""
        if attempt.before is None:
            forget_tries(self.store, attempt.subject)
        else:
            write_tries(self.store, attempt.subject, attempt.before)

    def end(self, subject: ExposureId | TileId) -> None:
        """Forget the tries of something that came to an end."""
        forget_tries(self.store, subject)

    def _is_given_up(self, subject: ExposureId | TileId, tries: Tries | None) -> bool:
        if tries is None or tries.attempts < MAX_ATTEMPTS:
            self.given_up.pop(subject, None)
            return False
        is_tile = isinstance(subject, TileId)
        self.given_up[subject] = (
            f"{'Tile' if is_tile else 'Exposure'} {subject} was tried {tries.attempts} times and is left alone until "
            f"{'an exposure of it changes' if is_tile else 'it is announced again'}: {tries.reason}"
        )
        return True
