"""Choose the reference file of an observation by the rules of a CRDS cache.

The Calibration Reference Data System (CRDS) keeps its rules in mapping files: a context (``.pmap``) names a mapping for
each instrument (``.imap``), which names one for each reference type (``.rmap``), which matches header values and dates
to file names. The public ``crds.getreferences`` knows only the observatories that are built into it, is steered by
environment variables and ends the process with `SystemExit` when there is no cache. So its rule engine
``crds.core.rmap`` is used here with classes and a loader of our own: any observatory, several at a time, from many
threads, without environment, server or network. The texts of the mappings come from the caller.

crds is imported when the first context is loaded: the import takes half a second and leaves 29 variables in the
environment, which are removed again.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from tasks.errors import ConfigError, ReferenceSelectionError
from tasks.science.observation_dates import split_date

logger = logging.getLogger("shearline.crds")

ChecksumPolicy = Literal["strict", "warn", "ignore"]
Outcome = Literal["selected", "not_applicable"]

DATE_SELECTORS = {"UseAfter", "ClosestTime"}
UNDEFINED = "UNDEFINED"

FAR_FUTURE = ("9999-12-31", "23:59:59")

_lock = threading.RLock()


@dataclass(frozen=True)
class Selection:
    """What the rules say of one image and one reference type."""

    outcome: Outcome
    """Whether a file was selected, or the rules say that none applies."""

    name: str
    """Name of the reference file; ``N/A`` if none applies."""

    rule: str
    """Name of the mapping that decided."""

    reason: str
    """Why no reference applies; empty if one was selected."""

    instrument: str
    """Instrument in the spelling of the rules, lower case."""

    mappings: tuple[tuple[str, str], ...]
    """Name and SHA-1 of the mappings from the context to the rule, the checksum line left out as CRDS does."""

    parameters: tuple[tuple[str, str], ...]
    """Parameters of the rule and the values of this image, as they were matched."""


class _Engine(NamedTuple):
    """What is needed of crds, imported."""

    classes: dict[str, Any]
    exceptions: Any
    condition: Callable[[str], str]
    version: str


@contextmanager
def _crds_at_work() -> Iterator[None]:
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


@functools.cache
def _import_engine() -> _Engine:
    was_imported = "crds" in sys.modules
    import crds
    from crds.core import exceptions, rmap, utils

    if not was_imported:
        _silence(logging.getLogger("CRDS"))

    class Independent:
        """Replaces what ties a mapping to the observatories that crds has built in."""

        locate = SimpleNamespace(fits_to_parkeys=dict)
        obs_package = SimpleNamespace()
        instr_package = SimpleNamespace()

        def _check_hash(self, text: str) -> None:
            """Leave checksums to the loader: crds takes its policy from the environment."""

        def force_load(self) -> None:
            """Load on demand only: a context may name mappings of instruments that are not in the cache."""

    bases = {"pmap": rmap.PipelineContext, "imap": rmap.InstrumentContext, "rmap": rmap.ReferenceMapping}
    classes = {suffix: type(base.__name__, (Independent, base), {}) for suffix, base in bases.items()}
    return _Engine(classes, exceptions, utils.condition_value, crds.__version__)


def _silence(crds_logger: logging.Logger) -> None:
    # crds writes to stderr by a handler of its own; ours decide what is shown
    for handler in list(crds_logger.handlers):
        crds_logger.removeHandler(handler)
    crds_logger.propagate = True
    crds_logger.setLevel(logging.WARNING)


def _engine() -> _Engine:
    with _crds_at_work():
        return _import_engine()


def mapping_sha1(text: str) -> str:
    """Return the checksum of a mapping as CRDS defines it: SHA-1 of the text without the lines that say ``sha1sum``."""
    kept = "".join(line for line in text.splitlines(keepends=True) if "sha1sum" not in line)
    return hashlib.sha1(kept.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Rules:
    """A loaded context of one observatory; may be used from many threads."""

    observatory: str
    """Name of the observatory, lower case."""

    context: str
    """Name of the context, such as ``jwst_0535.pmap``."""

    crds_version: str
    """Version of the crds package."""

    _pmap: Any = field(repr=False)
    _sha1: dict[str, str] = field(repr=False)

    @property
    def instruments(self) -> tuple[str, ...]:
        """Instruments that the context has rules for, lower case."""
        return tuple(sorted(self._pmap.selections.keys()))

    def select(
        self,
        reference_type: str,
        header: Mapping[str, object],
        *,
        keywords: Mapping[str, str] | None = None,
        subject: str = "the image",
    ) -> Selection:
        """Choose the reference file of an image.

        Parameters
        ----------
        reference_type
            Type as the rules call it, such as ``mask`` or ``dq``; upper and lower case are the same.
        header
            Header values of the image by keyword.
        keywords
            Header keyword of every parameter of the rules that has another name in the header, such as
            ``{"META.INSTRUMENT.DETECTOR": "DETECTOR"}``.
        subject
            How messages call the image.

        Returns
        -------
        Selection
            The file, or that the rules say that none applies (``N/A`` or ``OMIT``).

        Raises
        ------
        ReferenceSelectionError
            If the header lacks what the rules need, or no rule fits it.
        ConfigError
            If the rules have no such reference type, or are themselves damaged.
        """
        values = _Header(header, keywords or {})
        instrument, imap = self._instrument_rules(values, subject)
        if imap is None:
            return self._not_applicable(instrument, (self._pmap,), (), "no rules for this instrument")
        rule = self._type_rules(imap, reference_type)
        if rule is None:
            return self._not_applicable(instrument, (self._pmap, imap), (), "not applicable to this instrument")
        return self._apply(rule, imap, instrument, values, subject)

    def _instrument_rules(self, values: _Header, subject: str) -> tuple[str, Any]:
        parameter = str(self._pmap.instrument_key)
        instrument = values.get(parameter).lower()
        if not instrument:
            raise ReferenceSelectionError(
                f"The instrument of {subject} is unknown, because it has no {values.keyword(parameter)}; "
                f"{self.context} has rules for {', '.join(self.instruments)}."
            )
        if instrument not in self.instruments:
            raise ReferenceSelectionError(
                f"{self.context} has no rules for the instrument of {subject}, {instrument!r}; "
                f"it has rules for {', '.join(self.instruments)}."
            )
        with _crds_at_work():
            imap = self._pmap.selections[instrument]
        return instrument, None if isinstance(imap, str) else imap

    def _type_rules(self, imap: Any, reference_type: str) -> Any:  # noqa: ANN401 (crds has no types)
        wanted = reference_type.lower()
        if wanted not in imap.selections.keys():  # noqa: SIM118 (iterating the mapping itself would load every rule)
            raise ConfigError(
                f"The rules of {imap.basename} have no reference type {reference_type!r}; they have "
                f"{', '.join(sorted(imap.selections.keys()))}."
            )
        with _crds_at_work():
            rule = imap.selections[wanted]
        return None if isinstance(rule, str) else rule

    def _apply(self, rule: Any, imap: Any, instrument: str, values: _Header, subject: str) -> Selection:  # noqa: ANN401
        engine = _engine()
        parameters = _matching_parameters(rule, values, engine.condition)
        path = (self._pmap, imap, rule)
        try:
            name = rule._get_best_ref(parameters)
        except (engine.exceptions.IrrelevantReferenceTypeError, engine.exceptions.OmitReferenceTypeError) as answer:
            return self._not_applicable(instrument, path, tuple(parameters.items()), str(answer).rstrip("."))
        except (engine.exceptions.CrdsError, LookupError, ValueError) as error:
            reason = _reason(rule, parameters, values, error)
            shown = ", ".join(f"{name}={value!r}" for name, value in parameters.items() if value != UNDEFINED)
            raise ReferenceSelectionError(
                f"No {rule.filekind} reference of {self.observatory} fits {subject}: rule {rule.basename} was asked "
                f"for {shown or 'nothing'}; {reason}."
            ) from error
        if not isinstance(name, str):
            raise ReferenceSelectionError(
                f"Rule {rule.basename} answers {name!r} for {subject}; one reference file is needed."
            )
        return Selection(
            "selected", name, rule.basename, "", instrument, self._checksums(path), tuple(parameters.items())
        )

    def _not_applicable(
        self, instrument: str, path: tuple[Any, ...], parameters: tuple[tuple[str, str], ...], reason: str
    ) -> Selection:
        return Selection(
            "not_applicable", "N/A", path[-1].basename, reason, instrument, self._checksums(path), parameters
        )

    def _checksums(self, path: tuple[Any, ...]) -> tuple[tuple[str, str], ...]:
        return tuple((mapping.basename, self._sha1[mapping.basename]) for mapping in path)


@dataclass(frozen=True)
class _Header:
    """Header values as strings, looked up by the parameters of rules."""

    values: Mapping[str, object]
    keywords: Mapping[str, str]

    def keyword(self, parameter: str) -> str:
        """Return the header keyword of a parameter."""
        return {name.upper(): key for name, key in self.keywords.items()}.get(parameter.upper(), parameter)

    def get(self, parameter: str) -> str:
        """Return the value of a parameter; empty if the header has none."""
        by_name = {name.upper(): value for name, value in self.values.items()}
        for name in (self.keyword(parameter).upper(), parameter.upper()):
            if name in by_name and by_name[name] is not None:
                return str(by_name[name]).strip()
        return ""


def _matching_parameters(rule: Any, values: _Header, condition: Callable[[str], str]) -> dict[str, str]:  # noqa: ANN401
    parameters = {}
    for name in rule.get_required_parkeys():
        value = values.get(name)
        parameters[name] = condition(value) if value else UNDEFINED
    return parameters | _date_parameters(_date_names(rule), values)


def _date_names(rule: Any) -> tuple[str, ...]:  # noqa: ANN401 (crds has no types)
    for selector, names in zip(rule.header.get("classes", ()), rule.parkey, strict=False):
        if selector in DATE_SELECTORS:
            return (names,) if isinstance(names, str) else tuple(names)
    return ()


def _date_parameters(names: tuple[str, ...], values: _Header) -> dict[str, str]:
    raw = [values.get(name) for name in names]
    date = split_date(*raw) if 1 <= len(names) <= len(FAR_FUTURE) and raw[0] else None
    if date is None:  # left to crds, which knows more formats and refuses the rest
        missing = "" if any(raw) else UNDEFINED
        return {name: value or missing for name, value in zip(names, raw, strict=True)}
    return dict(zip(names, date, strict=True)) if len(names) > 1 else {names[0]: " ".join(date)}


def _reason(rule: Any, parameters: dict[str, str], values: _Header, error: Exception) -> str:  # noqa: ANN401
    missing = [values.keyword(name) for name, value in parameters.items() if value == UNDEFINED]
    if missing:
        return f"the header has no {', '.join(missing)}"
    dates = _date_names(rule)
    date = " ".join(parameters[name] for name in dates)
    later = parameters | dict(zip(dates, FAR_FUTURE, strict=False))
    if split_date(date) and rule.get_best_ref(later) in rule.reference_names():
        return f"{date} lies before the first date of the rule that matches"
    return " ".join(str(error).split()).rstrip(".")


def load_context(
    read_mapping: Callable[[str], str], observatory: str, context: str, checksum: ChecksumPolicy = "strict"
) -> Rules:
    """Load a context; the mappings below it are loaded when they are first needed.

    Parameters
    ----------
    read_mapping
        Returns the text of a mapping file by its name. What it raises is passed on.
    observatory
        Name of the observatory that the context must belong to, such as ``jwst`` or ``ligeriri``.
    context
        Name of the context, such as ``jwst_0535.pmap``.
    checksum
        What to do with a mapping whose checksum does not match its text: refuse it, log a warning, or nothing.

    Raises
    ------
    ConfigError
        If the context is damaged, has a wrong checksum or belongs to another observatory; the same may be raised by
        ``select`` when it comes to a mapping further down.
    """
    sha1: dict[str, str] = {}

    def load(name: str, **_: object) -> Any:  # noqa: ANN401 (crds has no types)
        mapping = _load_mapping(name, read_mapping(name), load)
        sha1[name] = _check_mapping(mapping, observatory, checksum)
        return mapping

    if not context.endswith(".pmap"):
        raise ConfigError(f"{context!r} is not a CRDS context: the name of a context ends in .pmap.")
    with _crds_at_work():
        return Rules(observatory.lower(), context, _engine().version, load(context), sha1)


def _load_mapping(name: str, text: str, load: Callable[..., Any]) -> Any:  # noqa: ANN401 (crds has no types)
    engine = _engine()
    kind = name.rpartition(".")[2]
    if kind not in engine.classes:
        raise ConfigError(f"{name!r} is not the name of a CRDS mapping: they end in .pmap, .imap or .rmap.")
    problems = (
        engine.exceptions.CrdsError, AssertionError, AttributeError, LookupError, SyntaxError, TypeError, ValueError
    )  # fmt: skip
    try:
        mapping = engine.classes[kind].from_string(text, name, loader=load)
        mapping._check_type()
    except problems as error:
        raise ConfigError(f"Mapping {name} is damaged: {' '.join(str(error).split())}") from error
    mapping.text_sha1 = mapping_sha1(text)
    return mapping


def _check_mapping(mapping: Any, observatory: str, checksum: ChecksumPolicy) -> str:  # noqa: ANN401
    name, actual = mapping.basename, str(mapping.text_sha1)
    if mapping.observatory != observatory.lower():
        raise ConfigError(
            f"Mapping {name} belongs to observatory {mapping.observatory!r}, not to {observatory.lower()!r}; "
            "set the context of the right observatory."
        )
    hooks = {hook for hook in mapping.header.get("hooks", {}).values() if hook != "none"}
    if hooks:
        raise ConfigError(
            f"Mapping {name} needs the program hooks {', '.join(sorted(hooks))}, which are not supported."
        )
    stated = mapping.header.get("sha1sum", None)
    if checksum != "ignore" and stated != actual:
        problem = (
            f"Mapping {name} has the checksum {actual} but states {stated}: it was changed after it was written. "
            f"If the change is wanted, run `crds checksum {name}`, or set checksum to 'warn' or 'ignore'."
        )
        if checksum == "strict":
            raise ConfigError(problem)
        logger.warning("%s", problem)
    return actual
