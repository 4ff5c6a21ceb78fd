"""What the header of every product says of how it was made.

A stage sets the provenance around its body; writers put it into the FITS header. It holds no time and no host, so that
the same inputs give the same bytes anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version

from astropy.io import fits


@dataclass(frozen=True)
class Provenance:
    """How one product was made."""

    stage: str
    code: str
    """Fingerprint of the code of the stage and of the libraries that do its arithmetic."""
    config: str
    """Fingerprint of the resolved settings."""
    inputs: tuple[tuple[str, str], ...]
    """Key and SHA-256 of every input."""


_current: ContextVar[Provenance | None] = ContextVar("provenance", default=None)


@contextmanager
def provenance(value: Provenance) -> Iterator[None]:
    """Let every product that is written inside the block carry this provenance."""
    token = _current.set(value)
    try:
        yield
    finally:
        _current.reset(token)


def provenance_cards() -> fits.Header:
    """Return the header cards of the current provenance; only the software version outside a stage."""
    header = fits.Header()
    header["SOFTWARE"] = (f"Shearline {version('shearline')}", "software that wrote this file")
    value = _current.get()
    if value is None:
        return header
    header["STAGE"] = (value.stage, "stage that made this product")
    header["CODEHASH"] = (value.code, "fingerprint of code and libraries")
    header["CONFHASH"] = (value.config, "fingerprint of the settings")
    for number, (key, sha256) in enumerate(value.inputs[:MAX_INPUT_CARDS], start=1):
        header[f"INPUT{number}"] = (f"{sha256[:16]} {key[-48:]}", "SHA-256 and key of an input")
    header["NINPUTS"] = (len(value.inputs), "number of inputs")
    return header


MAX_INPUT_CARDS = 999
