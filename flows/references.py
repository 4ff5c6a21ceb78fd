"""Which reference files images have by the rules of a CRDS cache, and fetching what they need from a CRDS server."""

from __future__ import annotations

import warnings
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from astropy.utils.exceptions import AstropyWarning
from pydantic import BaseModel, ConfigDict, ValidationError

from blocks.crds import CrdsCache
from blocks.crds_sync import (
    DEFAULT_TIMEOUT_S,
    EVERY_REFERENCE,
    Fetched,
    SyncSettingsError,
    fetch_references,
    fetch_rules,
)
from flows.dq_file import TYPES_BY_OBSERVATORY
from flows.standalone import caches
from flows.standalone.options import CacheOptions
from tasks.archive.fits_scan import scan_hdus
from tasks.archive.reference_adding import AddedReference, add_reference
from tasks.archive.reference_bytes import PEEK, check_reference_bytes, check_reference_start
from tasks.archive.reference_cache import locate_reference
from tasks.errors import BadFileError, ConfigError, MissingProductError
from tasks.products.references import ReferenceRecord
from tasks.references import ReferencesConfig, open_rules, rules_record

SCIENCE = ("SCI", "DATA")


class BestReference(BaseModel):
    """The reference of one file, and why."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    file: str
    """The file that was asked for."""

    record: ReferenceRecord
    """What the rules say: the name of the reference, the mappings that decided, and the values that they compared."""

    because: tuple[str, ...] = ()
    """For which values and from which date on the rules give this reference."""

    path: str = ""
    """Where the reference lies, whole; empty if none applies."""


def best_reference(path: str | Path, cache: CrdsCache, reference_type: str = "") -> BestReference:
    """Return which reference a file has by the rules, and why; the reference is known to be there.

    Parameters
    ----------
    path
        FITS file; only its headers are read.
    cache
        Whose rules are asked.
    reference_type
        What the rules call the type; of the flags of the detector if empty.

    Raises
    ------
    MissingProductError, BadFileError
        If there is no such file, or it is not FITS; the latter also if the reference is a git-LFS pointer or truncated.
    RulesError
        If the rules cannot be used or do not know the type.
    ReferenceSelectionError
        If no rule fits the file, or the reference is not in the cache or marked as bad.
    """
    config = ReferencesConfig(reference_type=reference_type or usual_type(cache.observatory))
    rules = open_rules(cache)
    name = Path(path).name
    selection = rules.select(config.reference_type, read_keywords(path), keywords=config.keywords, subject=name)
    record = rules_record(rules, selection, config.reference_type)
    if record.outcome != "selected":
        return BestReference(file=str(path), record=record)
    place = locate_reference(cache, record)
    if place.startswith("s3://"):
        check_reference_bytes(cache.read_reference(record.name, record.instrument), record.name)
    else:
        with Path(place).open("rb") as handle:
            check_reference_start(handle.read(PEEK), Path(place).stat().st_size, record.name)
    return BestReference(file=str(path), record=record, because=rules.explain(selection), path=place)


def add_reference_file(
    root: str | Path,
    observatory: str,
    path: str | Path,
    *,
    reference_type: str = "",
    match: Mapping[str, str] | None = None,
    instrument: str = "",
    use_after: str = "",
    context: str = "",
) -> AddedReference:
    """Put a reference file into a local cache with a rule that chooses it; what is not given is read from its header.

    Raises
    ------
    ConfigError
        If something is neither given nor in the header; and as `tasks.archive.reference_adding.add_reference`.
    """
    source = Path(path).expanduser()
    header = read_keywords(source)

    def known(given: str, keyword: str, option: str) -> str:
        value = given or header.get(keyword, "").strip()
        if not value:
            raise ConfigError(f"{source.name} has no {keyword} in its header; give {option}.")
        return value

    return add_reference(
        root,
        observatory,
        source.name,
        source.read_bytes(),
        instrument=known(instrument, "INSTRUME", "--instrument"),
        reference_type=reference_type or usual_type(observatory),
        match=match or {"DETECTOR": known("", "DETECTOR", "--match")},
        use_after=known(use_after, "USEAFTER", "--use-after"),
        context=context,
    )


def open_cache(root: str, observatory: str = "", context: str = "", checksum: str = "strict") -> CrdsCache:
    """Return a cache; its observatory is the only one that it has if none is named.

    Raises
    ------
    ConfigError
        If it cannot be one, or the observatory is not clear.
    """
    try:
        options = CacheOptions.model_validate(
            {"cache": root, "observatory": observatory or None, "context": context, "checksum": checksum}
        )
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"--{fault['loc'][0]}: {fault['msg'].removeprefix('Value error, ')}.") from error
    cache = caches.open_cache(options)
    if cache is None:
        raise ConfigError("No cache is named; give the folder of a CRDS cache as --cache.")
    return cache


def usual_type(observatory: str) -> str:
    """Return what the rules of an observatory call the flags of its detectors."""
    return TYPES_BY_OBSERVATORY.get(observatory.lower(), "dq")


def read_keywords(path: str | Path) -> dict[str, str]:
    """Return the header values of the science HDU, and of the primary one for what it lacks, as texts.

    Raises
    ------
    MissingProductError
        If there is no such file.
    BadFileError
        If it is not FITS.
    """
    source = Path(path).expanduser()
    with warnings.catch_warnings():
        # astropy says of a truncated file as a warning what its reader then fails of
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            with source.open("rb") as handle:
                hdus = scan_hdus(handle, source.stat().st_size)
        except FileNotFoundError as error:
            raise MissingProductError(f"There is no file {source}; correct its name.") from error
        except (OSError, ValueError, EOFError) as error:
            raise BadFileError(f"{source.name} cannot be read as FITS: {error}; copy it again.") from error
    if not hdus:
        raise BadFileError(f"{source.name} cannot be read as FITS: it has no HDU; copy it again.")
    science = next((hdu.header for hdu in hdus if hdu.name in SCIENCE), {})
    merged = ChainMap(science, hdus[0].header)
    return {key: "" if value is None else str(value) for key, value in merged.items()}


def sync_references(
    cache: CrdsCache,
    server: str,
    files: Sequence[str | Path] = (),
    reference_types: Sequence[str] = (),
    *,
    everything: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Fetched, Fetched | None]:
    """Fetch the rules of a context from a CRDS server, and the references of files by these rules.

    Parameters
    ----------
    cache
        Local folder; its context, or the one that the server uses.
    server
        Address of the CRDS server.
    files
        FITS files whose references are fetched.
    reference_types
        Which of their references; that of the flags of the detector if none.
    everything
        Fetch every reference of the context instead, which can be terabytes.
    timeout_s
        Seconds without an answer after which the server counts as unreachable.
    tell
        Is given one line for each file that was fetched.

    Returns
    -------
    tuple of Fetched
        Mappings, and references if any were asked for.

    Raises
    ------
    ConfigError
        If cache, server or context cannot be used for this.
    SyncError
        If the server cannot be reached, or a file not be fetched.
    DataError
        If one of the files is bad, or no rule fits it.
    """
    if cache.root.startswith("s3://"):
        raise ConfigError(f"{cache.root} is a bucket; synchronise a folder, and copy it there.")
    root = cache.root.removeprefix("file://")
    try:
        rules = fetch_rules(root, cache.observatory, server, cache.context, timeout_s=timeout_s, tell=tell)
        if everything:
            return rules, fetch_references(
                root, cache.observatory, server, rules.context, EVERY_REFERENCE, timeout_s=timeout_s, tell=tell
            )
        if not files:
            return rules, None
        names = _references_of(cache.model_copy(update={"context": rules.context}), files, reference_types)
        return rules, fetch_references(
            root, cache.observatory, server, rules.context, names, timeout_s=timeout_s, tell=tell
        )
    except SyncSettingsError as error:
        raise ConfigError(str(error)) from error


def _references_of(cache: CrdsCache, files: Sequence[str | Path], reference_types: Sequence[str]) -> list[str]:
    rules, names = open_rules(cache), set()
    for path in files:
        keywords = read_keywords(path)
        for kind in reference_types or [usual_type(cache.observatory)]:
            config = ReferencesConfig(reference_type=kind)
            found = rules.select(kind, keywords, keywords=config.keywords, subject=Path(path).name)
            if found.outcome == "selected":
                names.add(found.name)
    return sorted(names)
