"""The rule engine of the crds package, freed of its observatories, servers, environment variables and log handlers.

crds is imported when the first context is loaded: the import takes half a second and leaves 29 variables in the
environment, which are removed again.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from tasks.errors import (
    ConfigError,
    DamagedRulesError,
    RulesChecksumError,
    UnsupportedRulesError,
    WrongObservatoryError,
)
from tasks.products.crds_mapping import mapping_sha1

logger = logging.getLogger("shearline.crds")

ChecksumPolicy = Literal["strict", "warn", "ignore"]

EXTRA_PARAMETERS = {"jwst": ("META.VISIT.TSOVISIT", "META.INSTRUMENT.LAMP_STATE")}
"""Parameters that the conditions in the rules of an observatory may name although no rule matches them."""

_lock = threading.RLock()


class Engine(NamedTuple):
    """What is needed of crds, imported."""

    classes: dict[str, Any]
    exceptions: Any
    condition: Callable[[str], str]
    version: str


@contextmanager
def crds_at_work() -> Iterator[None]:
    """Let one thread at a time import crds and load mappings, and undo what crds writes to the environment."""
    with _lock:
        before = dict(os.environ)
        try:
            yield
        finally:
            for name in [name for name in os.environ if name.startswith("CRDS_") or name == "PASS_INVALID_VALUES"]:
                if name in before:
                    os.environ[name] = before[name]
                else:
                    os.environ.pop(name, None)


def engine() -> Engine:
    """Return what is needed of crds."""
    with crds_at_work():
        return _import_engine()


@functools.cache
def _import_engine() -> Engine:
    was_imported = "crds" in sys.modules
    import crds

    # the engine imports it at the first selection, where other threads may be at work
    from crds import data_file  # noqa: F401
    from crds.core import exceptions, rmap, utils

    if not was_imported:
        _silence(logging.getLogger("CRDS"))

    class Independent:
        """Replaces what ties a mapping to the observatories that crds has built in."""

        locate = SimpleNamespace(fits_to_parkeys=dict)
        instr_package = SimpleNamespace()
        observatory: str

        @property
        def obs_package(self) -> SimpleNamespace:
            return SimpleNamespace(extra_keys=EXTRA_PARAMETERS.get(self.observatory.lower(), ()))

        def _check_hash(self, text: str) -> None:
            """Leave checksums to the loader: crds takes its policy from the environment."""

        def force_load(self) -> None:
            """Load on demand only: a context may name mappings of instruments that are not in the cache."""

    bases = {"pmap": rmap.PipelineContext, "imap": rmap.InstrumentContext, "rmap": rmap.ReferenceMapping}
    classes = {suffix: type(base.__name__, (Independent, base), {}) for suffix, base in bases.items()}
    return Engine(classes, exceptions, utils.condition_value, crds.__version__)


def _silence(crds_logger: logging.Logger) -> None:
    # crds writes to stderr by a handler of its own; ours decide what is shown
    for handler in list(crds_logger.handlers):
        crds_logger.removeHandler(handler)
    crds_logger.propagate = True
    crds_logger.setLevel(logging.WARNING)


def parse_mapping(name: str, text: str, load: Callable[..., Any]) -> Any:  # noqa: ANN401 (crds has no types)
    """Return a mapping of crds.

    Parameters
    ----------
    name
        Name of the mapping; its ending says of what kind it is.
    text
        Text of the mapping. No program in it is run: crds checks the syntax tree before it evaluates it.
    load
        Returns a mapping that this one names, when it is first needed.

    Raises
    ------
    ConfigError
        If this is not the name of a mapping.
    DamagedRulesError
        If the text is not a mapping of that kind.
    """
    crds = engine()
    kind = name.rpartition(".")[2]
    if kind not in crds.classes:
        raise ConfigError(f"{name!r} is not the name of a CRDS mapping: they end in .pmap, .imap or .rmap.")
    problems = (
        crds.exceptions.CrdsError, AssertionError, AttributeError, LookupError, SyntaxError, TypeError, ValueError
    )  # fmt: skip
    try:
        mapping = crds.classes[kind].from_string(text, name, loader=load)
        mapping._check_type()
    except problems as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedRulesError(f"Mapping {name} is damaged: {reason}. Copy it into the cache again.") from error
    mapping.text_sha1 = mapping_sha1(text)
    return mapping


def check_mapping(mapping: Any, observatory: str, checksum: ChecksumPolicy) -> str:  # noqa: ANN401
    """Refuse a mapping of another observatory, one that was changed, and one that needs programs; return its SHA-1.

    Raises
    ------
    WrongObservatoryError, UnsupportedRulesError, RulesChecksumError
        If it is one of these.
    """
    name, actual = mapping.basename, str(mapping.text_sha1)
    if str(mapping.observatory).lower() != observatory.lower():
        raise WrongObservatoryError(
            f"Mapping {name} belongs to observatory {mapping.observatory!r}, not to {observatory.lower()!r}; "
            "set the context of the right observatory."
        )
    hooks = {hook for hook in mapping.header.get("hooks", {}).values() if hook != "none"}
    if hooks:
        raise UnsupportedRulesError(
            f"Mapping {name} needs the program hooks {', '.join(sorted(hooks))}, which are not supported."
        )
    stated = mapping.header.get("sha1sum", None)
    if checksum != "ignore" and stated != actual:
        problem = (
            f"Mapping {name} has the checksum {actual} but states {stated}: it was changed after it was written. "
            f"If the change is wanted, run `crds checksum {name}`, or set checksum to 'warn' or 'ignore'."
        )
        if checksum == "strict":
            raise RulesChecksumError(problem)
        logger.warning("%s", problem)
    return actual
