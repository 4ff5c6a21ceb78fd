"""How often an announced exposure, or a complete tile, was tried without coming to an end.

A try is written down before it starts, so that also what takes its whole process with it is not tried for ever.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blocks.store import DataStore, ObjectNotFoundError
from tasks.products.identity import ExposureId, TileId

EXPOSURES = "inbox-failures"
TILES = "tile-failures"
UNENDED = "the process that it ran in ended first, or its machine did"


class Tries(BaseModel):
    """How often something was tried since it was announced or became complete, and how that ended."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    token: str
    """What was tried: token of the note of an exposure, version of a tile; with another one counting starts anew."""

    attempts: int = Field(ge=1)
    """Number of tries that were begun."""

    reason: str = UNENDED
    """The sentence of the last error."""

    unended: bool = False
    """Whether the last try has no end yet: it runs, or its process was killed."""


def read_tries(store: DataStore, subject: ExposureId | TileId, token: str) -> Tries | None:
    """Return how often something was tried without success; none if it was not."""
    try:
        found = Tries.model_validate_json(store.read_bytes(_key(subject)))
    except (ObjectNotFoundError, ValidationError):
        return None
    return found if found.token == token else None


def write_tries(store: DataStore, subject: ExposureId | TileId, tries: Tries) -> None:
    """Record how often something was tried."""
    store.put_bytes(_key(subject), (tries.model_dump_json(indent=1) + "\n").encode())


def forget_tries(store: DataStore, subject: ExposureId | TileId) -> None:
    """Forget the tries of something that came to an end; that there were none is fine."""
    store.remove(_key(subject))


def _key(subject: ExposureId | TileId) -> str:
    return f"{TILES if isinstance(subject, TileId) else EXPOSURES}/{subject}.json"
