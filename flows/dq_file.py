"""Data-quality initialisation of one file, as ``strun jwst.dq_init.DQInitStep`` does it: file in, file out.

No store, no server and no Prefect run are needed. What only some calls need is imported by them, since Prefect alone
takes longer to load and more memory than the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tasks.archive.detector_files import DetectorFile, read_detector_file
from tasks.archive.detector_writing import Cards, write_detector_file
from tasks.archive.provenance import provenance_cards
from tasks.archive.reference_bytes import parse_dq_reference, read_dq_reference_file, read_user_flags
from tasks.errors import ConfigError
from tasks.products.detector import DetectorImage, DQReference
from tasks.science.static_flags import lay_flags

if TYPE_CHECKING:
    from blocks.crds import CrdsCache
    from tasks.dq_init import DQInitConfig
    from tasks.products.references import ReferenceRecord
    from tasks.references import ReferencesConfig

NOT_APPLICABLE = "N/A"
TYPES_BY_OBSERVATORY = {"jwst": "mask", "tmt": "mask", "ligeriri": "dq"}
TYPES_BY_FAMILY = {"jwst": "mask", "liger": "dq"}
MAX_CARD_NAME = 8


@dataclass(frozen=True)
class ChosenReference:
    """The reference of a file and what its header says of it."""

    flags: DQReference | None
    """None if none applies."""
    type: str
    """``mask`` or ``dq``."""
    name: str
    """What R_MASK or R_DQ says: ``crds://`` and the name, the path of an override, or ``N/A``."""
    reason: str = ""
    """Why none applies."""
    record: ReferenceRecord | None = None
    """What the rules said; none for an override."""


@dataclass(frozen=True)
class FlaggedFile:
    """A file on which flags were laid, in memory."""

    source: DetectorFile
    """The file as it was read."""
    image: DetectorImage
    """Its image with the flags."""
    chosen: ChosenReference
    """Where the static ones come from."""

    @property
    def status(self) -> Literal["COMPLETE", "SKIPPED"]:
        """What S_DQINIT says."""
        return "SKIPPED" if self.chosen.flags is None else "COMPLETE"


@dataclass(frozen=True)
class DQFileOutcome:
    """What was done to a file."""

    target: Path
    status: Literal["COMPLETE", "SKIPPED"]
    reference: str
    """``crds://`` and the name, the path of an override, or ``N/A``."""
    reference_type: str
    context: str
    """CRDS context whose rules chose; empty for an override."""
    reason: str
    """Why it was skipped."""
    n_flagged: int
    """Pixels with a flag."""
    warnings: tuple[str, ...]


def initialize_dq_file(
    source: str | Path,
    target: str | Path,
    *,
    cache: CrdsCache | None = None,
    override: str | None = None,
    user_supplied_dq: str | None = None,
    config: DQInitConfig | None = None,
    references: ReferencesConfig | None = None,
    reference_type: str | None = None,
) -> DQFileOutcome:
    """Write a copy of a file with the static flags of its detector.

    Parameters
    ----------
    source, target
        FITS files; the source is never changed. Science values are copied byte for byte.
    cache
        Whose rules choose the reference, unless it is overridden.
    override
        Path of the reference to use, or ``N/A`` for none: then the status is SKIPPED, and flag arrays that the file
        lacks are written as zeros.
    user_supplied_dq
        Path of a FITS file whose first image holds further flags; not used if no reference applies.
    config
        Settings of the stage; its defaults if none.
    references
        Settings of the selection; its defaults if none.
    reference_type
        What the rules call the type; otherwise that of ``references``, of the observatory of the cache, or of the
        instrument: ``mask`` for JWST and TMT, ``dq`` for Liger and IRIS.

    Returns
    -------
    DQFileOutcome
        What was done, with which reference.

    Raises
    ------
    ConfigError
        If there is neither a cache nor an override, a path of the settings leads nowhere, the cache cannot be used, or
        the target is the source.
    MissingProductError
        If there is no source.
    DataError
        If the source, its reference or the user's flags are bad or do not fit each other.
    StoreError
        If the target cannot be written.
    """
    flagged = flag_detector_file(
        source,
        cache=cache,
        override=override,
        user_supplied_dq=user_supplied_dq,
        config=config,
        references=references,
        reference_type=reference_type,
    )
    return write_flagged_file(flagged, target)


def flag_detector_file(
    source: str | Path | DetectorFile,
    *,
    cache: CrdsCache | None = None,
    override: str | None = None,
    user_supplied_dq: str | None = None,
    config: DQInitConfig | None = None,
    references: ReferencesConfig | None = None,
    reference_type: str | None = None,
) -> FlaggedFile:
    """Lay the static flags of its detector on a file, in memory.

    Parameters and errors are those of `initialize_dq_file`, which writes the file too; the source may have been read
    already.
    """
    detector = source if isinstance(source, DetectorFile) else read_detector_file(source)
    kind = reference_type or _reference_type(detector, cache, references)
    chosen = _overridden(override, kind) if override else _selected(detector, cache, references, kind)
    user_dq = read_user_flags(_existing(user_supplied_dq, "user_supplied_dq")) if user_supplied_dq else None
    ignored = config.ignored_flags if config is not None else ()
    image = lay_flags(detector.image, chosen.flags, ignored_flags=ignored, user_dq=user_dq)
    return FlaggedFile(detector, image, chosen)


def write_flagged_file(flagged: FlaggedFile, target: str | Path) -> DQFileOutcome:
    """Write a copy of a file with the flags that were laid on it.

    Raises
    ------
    ConfigError
        If the target is the source.
    StoreError
        If the target cannot be written.
    """
    chosen, image = flagged.chosen, flagged.image
    try:
        written = write_detector_file(flagged.source, image, provenance_of(chosen, flagged.status), target)
    except OSError as error:
        from blocks.store import StoreError

        raise StoreError(
            f"{target} cannot be written: {error.strerror or error}; see to its folder and disk."
        ) from error
    return DQFileOutcome(
        target=written,
        status=flagged.status,
        reference=chosen.name,
        reference_type=chosen.type,
        context=chosen.record.context if chosen.record is not None else "",
        reason=chosen.reason,
        n_flagged=int(np.count_nonzero(image.flags)),
        warnings=image.warnings,
    )


def provenance_of(chosen: ChosenReference, status: str) -> Cards:
    """Return the header cards that say what was done and by which reference, as the field writes them."""
    cards: dict[str, tuple[str | int | float | bool, str]] = {
        "S_DQINIT": (status, "data-quality initialisation"),
        f"R_{chosen.type.upper()}"[:MAX_CARD_NAME]: (chosen.name, "reference file"),
    }
    if chosen.record is not None and chosen.record.context:
        cards["CRDS_CTX"] = (chosen.record.context, "CRDS context")
        cards["CRDS_VER"] = (chosen.record.crds_version, "version of crds")
    return cards | {card.keyword: (card.value, card.comment) for card in provenance_cards().cards}


def _reference_type(detector: DetectorFile, cache: CrdsCache | None, references: ReferencesConfig | None) -> str:
    if references is not None:
        return references.reference_type
    if cache is not None:
        return TYPES_BY_OBSERVATORY.get(cache.observatory, "dq")
    return TYPES_BY_FAMILY[detector.family]


def _overridden(override: str, kind: str) -> ChosenReference:
    if override.strip().upper() == NOT_APPLICABLE:
        return ChosenReference(None, kind, NOT_APPLICABLE, f"override_{kind} is {NOT_APPLICABLE}")
    path = _existing(override, f"override_{kind}")
    return ChosenReference(read_dq_reference_file(path), kind, str(path.resolve()))


def _selected(
    detector: DetectorFile, cache: CrdsCache | None, references: ReferencesConfig | None, kind: str
) -> ChosenReference:
    if cache is None:
        raise ConfigError(
            f"{detector.image.subject} has no reference: name a CRDS cache, or give override_{kind} a path or "
            f"{NOT_APPLICABLE}."
        )
    from tasks.archive.reference_cache import locate_reference
    from tasks.references import ReferencesConfig, open_rules, select_reference

    settings = (references or ReferencesConfig()).model_copy(update={"reference_type": kind})
    record = select_reference(detector.keywords, open_rules(cache), settings, detector.image.subject)
    if record.outcome != "selected":
        return ChosenReference(None, kind, NOT_APPLICABLE, record.reason, record)
    place = locate_reference(cache, record)
    remote = cache.read_reference(record.name, record.instrument) if place.startswith("s3://") else None
    flags = read_dq_reference_file(place) if remote is None else parse_dq_reference(remote, record.name)
    return ChosenReference(flags, kind, f"crds://{record.name}", "", record)


def _existing(path: str, setting: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise ConfigError(f"{setting} is {path}, which is not a file; correct the path.")
    return found
