"""Put a reference file of one's own into a local CRDS cache, with a rule that picks it up.

Mappings are never changed: as CRDS does, new ones with the next number are written, and the new context becomes the
operational one. What used the old context still finds it.
"""

from __future__ import annotations

import pprint
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from blocks.crds import FILE_NAME, OBSERVATORY, CacheError, CrdsCache
from blocks.crds_sync import SYNCED, alone
from blocks.store import StoreError
from tasks.archive.dq_reference_writing import write_new_file
from tasks.archive.reference_bytes import check_reference_bytes
from tasks.errors import ConfigError, MissingRulesError, UnsupportedRulesError
from tasks.products.crds_mapping import SELECTORS, CasesMapping, NamesMapping, read_cases, read_names
from tasks.products.references import MODEL_KEYWORDS

MODEL_OBSERVATORIES = {"jwst", "tmt", "ligeriri"}
"""Observatories whose rules speak of ``META.INSTRUMENT.DETECTOR`` where the header says ``DETECTOR``."""

DATES = ("DATE-OBS", "TIME-OBS")
ANY_VALUE = "N/A"
"""Matches every value, and gives way to a rule that names the value."""
ORIGIN = "added with Shearline"
WORD = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")


@dataclass(frozen=True)
class AddedReference:
    """Where a reference is now, and which rules choose it."""

    path: Path
    context: str
    """The new context, which is the operational one now."""
    rule: str
    """The new mapping that chooses the file."""


def add_reference(
    root: str | Path,
    observatory: str,
    name: str,
    data: bytes,
    *,
    instrument: str,
    reference_type: str,
    match: Mapping[str, str],
    use_after: str,
    context: str = "",
) -> AddedReference:
    """Put a reference file into a cache and make the rules choose it; a cache that does not exist is begun.

    Parameters
    ----------
    root
        Folder of the cache.
    observatory
        Name of the observatory, such as ``ligeriri``.
    name, data
        Name and bytes of the file.
    instrument, reference_type
        What the file is for, such as ``IRIS`` and ``dq``.
    match
        Header values of the images that it is for, such as ``{"DETECTOR": "IMG1", "SUBARRAY": "FULL|CUSTOM"}``, by
        header keyword or by parameter of the rules; what is not named matches every value.
    use_after
        Date from which on it is used, ISO 8601.
    context
        Context to begin with; that of the cache if empty.

    Raises
    ------
    ConfigError
        If a name or the date is none, the rules match by other values, there is such a file or rule already, or the
        cache is one that a server fills.
    BadFileError
        If the file is a git-LFS pointer, or truncated.
    RulesError
        If the rules of the cache cannot be used.
    StoreError
        If the cache cannot be written.
    """
    folder, kind = Path(root).expanduser().resolve(), reference_type.lower()
    _check_words(observatory, instrument, kind, name)
    check_reference_bytes(data, name)
    date = _date(use_after)
    cache = CrdsCache(root=str(folder), observatory=observatory.lower(), context=context)
    try:
        with alone(folder):
            config = cache.server_config()
            _refuse_cache_of_server(cache, config)
            texts = _new_mappings(_CacheFiles(cache), instrument.upper(), kind, dict(match), date, name)
            place = folder / "references" / cache.observatory / instrument.lower() / name
            if place.exists() and place.read_bytes() != data:
                raise ConfigError(
                    f"The CRDS cache {folder} has another file {name}; references never change: give it another name."
                )
            write_new_file(place, data)
            # the context last: until then nothing has changed for anybody
            for mapping, text in texts.items():
                write_new_file(folder / "mappings" / cache.observatory / mapping, text.encode())
            rule, _, new_context = texts
            _write_configuration(folder, cache.observatory, config, new_context)
    except CacheError as error:
        raise MissingRulesError(str(error)) from error
    except OSError as error:
        raise StoreError(f"The CRDS cache {folder} cannot be written: {error.strerror or error}.") from error
    return AddedReference(place, new_context, rule)


class _CacheFiles:
    """Mappings of a cache, and the names that are free."""

    def __init__(self, cache: CrdsCache) -> None:
        self.observatory = cache.observatory
        self._cache = cache
        folder = Path(cache.root) / "mappings" / cache.observatory
        self._present = {path.name for path in folder.glob("*.[pir]map")}

    def context(self) -> str:
        return self._cache.resolve_context() if any(name.endswith(".pmap") for name in self._present) else ""

    def read(self, name: str) -> str:
        return self._cache.read_mapping(name)

    def has(self, name: str) -> bool:
        return name in self._present

    def free(self, stem: str, suffix: str) -> str:
        pattern = re.compile(rf"{re.escape(stem)}_(\d+)\.{suffix}")
        taken = [int(found[1]) for name in self._present if (found := pattern.fullmatch(name))]
        return f"{stem}_{max(taken, default=0) + 1:04d}.{suffix}"


def _new_mappings(
    files: _CacheFiles, instrument: str, kind: str, match: dict[str, str], date: str, name: str
) -> dict[str, str]:
    """Return the texts of the new mappings by their names: rule, instrument, context."""
    stem = f"{files.observatory}_{instrument.lower()}"
    old_context = files.context()
    context = read_names(old_context, files.read(old_context)) if old_context else _begin_context(files)
    old_imap = _selected(files, context.names, instrument)
    imap = read_names(old_imap, files.read(old_imap)) if old_imap else _begin_instrument(files, instrument)
    old_rule = _selected(files, imap.names, kind.upper())
    rule = (
        read_cases(old_rule, files.read(old_rule))
        if old_rule
        else _begin_rule(files, instrument, kind, list(match), uses_models(context))
    )
    with_case = _add_case(rule, old_rule or "The new rule", match, date, name)
    rule_name = files.free(f"{stem}_{kind}", "rmap")
    imap_name, context_name = files.free(stem, "imap"), files.free(files.observatory, "pmap")
    names = _renamed(imap.names, kind.upper(), rule_name)
    instruments = _renamed(context.names, instrument, imap_name)
    return {
        rule_name: CasesMapping(_header(with_case.header, rule_name, old_rule), with_case.cases, rule.comment).text(),
        imap_name: NamesMapping(_header(imap.header, imap_name, old_imap), names, imap.comment).text(),
        context_name: NamesMapping(
            _header(context.header, context_name, old_context), instruments, context.comment
        ).text(),
    }


def uses_models(context: NamesMapping) -> bool:
    """Tell whether the rules of a context speak of models, ``META.INSTRUMENT.NAME``, or of header keywords."""
    return "META." in repr(context.header.get("parkey", ())).upper()


def _header(header: Mapping[str, object], name: str, derived_from: str) -> dict[str, object]:
    return {**header, "name": name, "derived_from": derived_from or ORIGIN}


def _selected(files: _CacheFiles, names: Mapping[str, str], key: str) -> str:
    """Return the mapping of an instrument or type; empty if there is none, or one that is not in the cache."""
    found = next((name for other, name in names.items() if other.upper() == key.upper()), "")
    return found if files.has(found) else ""


def _renamed(names: Mapping[str, str], key: str, name: str) -> dict[str, str]:
    """Return names with one replaced or added, in the spelling that is there."""
    spelled = next((other for other in names if other.upper() == key.upper()), key)
    return {**names, spelled: name}


def _begin_context(files: _CacheFiles) -> NamesMapping:
    key = "META.INSTRUMENT.NAME" if files.observatory in MODEL_OBSERVATORIES else "INSTRUME"
    return NamesMapping({"mapping": "PIPELINE", "observatory": files.observatory.upper(), "parkey": (key,)}, {})


def _begin_instrument(files: _CacheFiles, instrument: str) -> NamesMapping:
    header: dict[str, object] = {
        "instrument": instrument, "mapping": "INSTRUMENT", "observatory": files.observatory.upper(),
        "parkey": ("REFTYPE",),
    }  # fmt: skip
    return NamesMapping(header, {})


def _begin_rule(files: _CacheFiles, instrument: str, kind: str, match: list[str], models: bool) -> CasesMapping:
    parameters = {keyword: parameter for parameter, keyword in MODEL_KEYWORDS.items()}
    dates = ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME") if models else DATES
    header: dict[str, object] = {
        "classes": SELECTORS, "filekind": kind.upper(), "instrument": instrument, "mapping": "REFERENCE",
        "observatory": files.observatory.upper(),
        "parkey": (tuple(parameters.get(key, key) if models else key for key in match), dates),
    }  # fmt: skip
    return CasesMapping(header, {})


def _add_case(rule: CasesMapping, name: str, match: dict[str, str], date: str, file: str) -> CasesMapping:
    parkey = rule.header.get("parkey")
    if rule.header.get("classes", SELECTORS) != SELECTORS or not isinstance(parkey, tuple) or len(parkey) != 2:
        raise UnsupportedRulesError(f"{name} does not match values and then dates; add to it with crds.")
    wanted, values = {key.upper(): value for key, value in match.items()}, []
    parameters = (parkey[0],) if isinstance(parkey[0], str) else tuple(parkey[0])
    for parameter in parameters:
        keywords = (parameter.upper(), *MODEL_KEYWORDS.get(parameter.upper(), "").split("|"))
        found = [wanted.pop(key) for key in keywords if key in wanted]
        values.append(_as_rules_write(found[0]) if found else ANY_VALUE)
    if wanted:
        raise ConfigError(f"{name} matches by {', '.join(parameters)}, and not by {', '.join(wanted)}; leave it out.")
    before = rule.cases.get(tuple(values), {})
    dates = dict(before) if isinstance(before, dict) else {}
    if dates.get(date, file) != file:
        raise ConfigError(f"{name} has {dates[date]} for {tuple(values)} from {date} on; give another date.")
    return CasesMapping(rule.header, {**rule.cases, tuple(values): {**dates, date: file}}, rule.comment)


def _as_rules_write(values: str) -> str:
    """Return alternative values as crds compares them: in capitals, numbers as floats."""
    written = []
    for value in values.split("|"):
        try:
            written.append(str(float(value)))
        except ValueError:
            written.append(value.strip().upper())
    return "|".join(written)


def _check_words(observatory: str, instrument: str, kind: str, name: str) -> None:
    if not OBSERVATORY.fullmatch(observatory.lower()):
        raise ConfigError(f"{observatory[:80]!r} is not the name of an observatory: use letters, digits and '_'.")
    for what, word in (("an instrument", instrument), ("a reference type", kind)):
        if not WORD.fullmatch(word):
            raise ConfigError(f"{word[:80]!r} is not the name of {what}: use letters, digits and '-'.")
    if not FILE_NAME.fullmatch(name):
        raise ConfigError(f"{name[:80]!r} is not the name of a reference file: use letters, digits and ._+-")


def _date(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ConfigError(f"{text[:80]!r} is not a date, such as 2025-01-02 or 2025-01-02T03:04:05.") from error
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _refuse_cache_of_server(cache: CrdsCache, config: Mapping[str, Any]) -> None:
    server = str(config.get("server", ""))
    if cache.observatory in SYNCED and server.startswith("http") and "serverless" not in server:
        raise ConfigError(
            f"The CRDS cache {cache.root} comes from {server}, whose next contexts would have the names of yours; "
            "make a cache of your own in another folder, or override the reference."
        )


def _write_configuration(folder: Path, observatory: str, config: dict[str, Any], context: str) -> None:
    # what crds itself looks for when it uses the cache
    begun = {"observatory": observatory, "bad_files_list": [], "force_remote_mode": False, "last_synced": "never"}
    changed = begun | config | {"operational_context": context}
    if "latest_context" in config:
        changed["latest_context"] = context
    place = folder / "config" / observatory
    if not (place / "ref_cache_subdir_mode").exists():
        write_new_file(place / "ref_cache_subdir_mode", b"instrument")
    write_new_file(place / "server_config", (pprint.pformat(changed) + "\n").encode())
