"""Choose the reference file of an observation by the rules of a CRDS cache.

The Calibration Reference Data System (CRDS) keeps its rules in mapping files: a context (``.pmap``) names a mapping for
each instrument (``.imap``), which names one for each reference type (``.rmap``), which matches header values and dates
to file names. The public ``crds.getreferences`` knows only the observatories that are built into it, is steered by
environment variables and ends the process with `SystemExit` when there is no cache. So its rule engine
``crds.core.rmap`` is used here with classes and a loader of our own: any observatory, several at a time, from many
threads, without environment, server or network. The texts of the mappings come from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.errors import ConfigError, NoReferenceError, UnknownReferenceTypeError
from tasks.products.crds_mapping import mapping_sha1
from tasks.science.crds_engine import ChecksumPolicy, check_mapping, crds_at_work, engine, parse_mapping
from tasks.science.observation_dates import split_date

__all__ = ["ChecksumPolicy", "Outcome", "Rules", "Selection", "load_context", "mapping_sha1"]

Outcome = Literal["selected", "not_applicable"]

DATE_SELECTORS = {"UseAfter", "ClosestTime"}
UNDEFINED = "UNDEFINED"
AMBIGUOUS = "several of its cases match equally well and cannot be combined, as only some of them have dates"
NO_ANSWER = (LookupError, ValueError, AttributeError, TypeError)
"""What the engine raises besides its own errors, such as when one of two rules that match equally well has no dates."""

FAR_FUTURE = ("9999-12-31", "23:59:59")

ALTERNATIVE = "|"


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
            ``{"META.INSTRUMENT.DETECTOR": "DETECTOR"}``; of several, ``"DATE-OBS|EXPDTST"``, the first that the header
            has.
        subject
            How messages call the image.

        Returns
        -------
        Selection
            The file, or that the rules say that none applies (``N/A`` or ``OMIT``).

        Raises
        ------
        NoReferenceError
            If the header lacks what the rules need, or no rule fits it.
        UnknownReferenceTypeError
            If the rules have no such reference type.
        RulesError
            If a mapping that is needed now is damaged, has a wrong checksum or belongs to another observatory.
        """
        values = _Header(header, keywords or {})
        instrument, imap = self._instrument_rules(values, subject)
        if imap is None:
            return self._not_applicable(instrument, (self._pmap,), (), "no rules for this instrument")
        rule = self._type_rules(imap, reference_type)
        if rule is None:
            return self._not_applicable(instrument, (self._pmap, imap), (), _reason_of_imap(imap, reference_type))
        return self._apply(rule, imap, instrument, values, subject)

    def explain(self, selection: Selection) -> tuple[str, ...]:
        """Return for which values and from which date on the rules give the file that they selected.

        One line for each such rule, whatever image the file was selected for; none if no file was selected.
        """
        if selection.outcome != "selected":
            return ()
        with crds_at_work():
            imap = self._pmap.selections[selection.instrument]
            rule = next(rule for rule in imap.selections.values() if getattr(rule, "basename", "") == selection.rule)
        lines = []
        for _, *path in rule.file_matches(selection.name):
            pairs = [pair for step in path for pair in step]
            values = [f"{name}={value!r}" for name, value in pairs if name not in _date_names(rule)]
            dates = [value for name, value in pairs if f"{name}={value!r}" not in values]
            lines.append(f"{', '.join(values)} from {' '.join(dates)} on" if dates else ", ".join(values))
        return tuple(lines)

    def _instrument_rules(self, values: _Header, subject: str) -> tuple[str, Any]:
        parameter = str(self._pmap.instrument_key)
        instrument = values.get(parameter).lower()
        if not instrument:
            raise NoReferenceError(
                f"The instrument of {subject} is unknown, because it has no {values.keyword(parameter)}; "
                f"{self.context} has rules for {', '.join(self.instruments)}."
            )
        if instrument not in self.instruments:
            raise NoReferenceError(
                f"{self.context} has no rules for the instrument of {subject}, {instrument!r}; "
                f"it has rules for {', '.join(self.instruments)}."
            )
        with crds_at_work():
            imap = self._pmap.selections[instrument]
        return instrument, None if isinstance(imap, str) else imap

    def _type_rules(self, imap: Any, reference_type: str) -> Any:  # noqa: ANN401 (crds has no types)
        wanted = reference_type.lower()
        if wanted not in imap.selections.keys():  # noqa: SIM118 (iterating the mapping itself would load every rule)
            raise UnknownReferenceTypeError(
                f"The rules of {imap.basename} have no reference type {reference_type!r}; they have "
                f"{', '.join(sorted(imap.selections.keys()))}."
            )
        with crds_at_work():
            rule = imap.selections[wanted]
        return None if isinstance(rule, str) else rule

    def _apply(self, rule: Any, imap: Any, instrument: str, values: _Header, subject: str) -> Selection:  # noqa: ANN401
        crds = engine()
        parameters = _matching_parameters(rule, values, crds.condition)
        path = (self._pmap, imap, rule)
        try:
            name = rule._get_best_ref(parameters)
        except (crds.exceptions.IrrelevantReferenceTypeError, crds.exceptions.OmitReferenceTypeError) as answer:
            return self._not_applicable(instrument, path, tuple(parameters.items()), str(answer).rstrip("."))
        except (crds.exceptions.CrdsError, *NO_ANSWER) as error:
            reason = _reason(rule, parameters, values, error)
            shown = ", ".join(f"{name}={value!r}" for name, value in parameters.items() if value != UNDEFINED)
            raise NoReferenceError(
                f"No {rule.filekind} reference of {self.observatory} fits {subject}: rule {rule.basename} was asked "
                f"for {shown or 'nothing'}; {reason}."
            ) from error
        if not isinstance(name, str):
            files = isinstance(name, tuple) and all(isinstance(file, str) for file in name)
            raise NoReferenceError(
                f"Rule {rule.basename} answers {name!r} for {subject}; one reference file is needed."
                if files
                else f"Rule {rule.basename} gives no answer for {subject}: {AMBIGUOUS}."
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
        """Return the header keyword of a parameter, for people."""
        return " or ".join(self._names(parameter))

    def get(self, parameter: str) -> str:
        """Return the value of a parameter; empty if the header has none."""
        by_name = {name.upper(): value for name, value in self.values.items()}
        for name in (*(name.upper() for name in self._names(parameter)), parameter.upper()):
            text = "" if by_name.get(name) is None else str(by_name[name]).strip()
            if text:
                return text
        return ""

    def _names(self, parameter: str) -> list[str]:
        translated = {name.upper(): keys for name, keys in self.keywords.items()}
        return translated.get(parameter.upper(), parameter).split(ALTERNATIVE)


def _matching_parameters(rule: Any, values: _Header, condition: Callable[[str], str]) -> dict[str, str]:  # noqa: ANN401
    parameters = {}
    for name in rule.get_required_parkeys():
        value = values.get(name)
        parameters[name] = condition(value) if value else UNDEFINED
    return parameters | _date_parameters(_date_names(rule), values)


def _reason_of_imap(imap: Any, reference_type: str) -> str:  # noqa: ANN401 (crds has no types)
    omitted = str(imap.selections[reference_type.lower()]).lower() == "omit"
    return "omitted for this instrument" if omitted else "not applicable to this instrument"


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
    matched = {name for names in rule.parkey for name in ([names] if isinstance(names, str) else names)}
    missing = [values.keyword(name) for name, value in parameters.items() if value == UNDEFINED and name in matched]
    if missing:
        return f"the header has no {', '.join(missing)}"
    if isinstance(error, (AttributeError, TypeError)):
        return AMBIGUOUS
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
        If this is not the name of a context.
    RulesError
        If the context is damaged, has a wrong checksum or belongs to another observatory; the same may be raised by
        ``select`` when it comes to a mapping further down.
    """
    sha1: dict[str, str] = {}

    def load(name: str, **_: object) -> Any:  # noqa: ANN401 (crds has no types)
        mapping = parse_mapping(name, read_mapping(name), load)
        sha1[name] = check_mapping(mapping, observatory, checksum)
        return mapping

    if not context.endswith(".pmap"):
        raise ConfigError(f"{context!r} is not a CRDS context: the name of a context ends in .pmap.")
    with crds_at_work():
        return Rules(observatory.lower(), context, engine().version, load(context), sha1)
