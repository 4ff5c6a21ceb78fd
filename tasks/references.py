"""Stage ``references``: choose the reference file of a CCD by the rules of a CRDS cache, and keep a copy of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from blocks.crds import CrdsCache
from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.documents import read_document, write_document
from tasks.archive.dq_reference import read_reference_keywords
from tasks.archive.reference_cache import copy_reference, open_mappings
from tasks.products.config import StageConfig
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.references import MODEL_KEYWORDS, ReferenceRecord
from tasks.science.crds_rules import Rules, Selection, load_context
from tasks.stage import stage


class ReferencesConfig(StageConfig):
    """Settings of the selection of reference files."""

    enabled: bool = True
    """Whether references are selected at all; if not, the record says that none applies."""

    reference_type: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")] = "dq"
    """Type of the reference as the rules call it: ``dq`` for Liger and IRIS, ``mask`` for JWST and TMT."""

    keywords: dict[str, str] = MODEL_KEYWORDS
    """Header keyword of every parameter of the rules that has another name in headers."""


def open_rules(cache: CrdsCache) -> Rules:
    """Load the context of a cache.

    Raises
    ------
    RulesError
        If the cache, its context or one of its mappings is missing, damaged, changed, marked as bad or of another
        observatory, each by a subclass; also later, when the rules are asked and need a further mapping.
    """
    context, read_mapping = open_mappings(cache)
    return load_context(read_mapping, cache.observatory, context, cache.checksum)


def select_reference(
    keywords: Mapping[str, str], rules: Rules | None, config: ReferencesConfig, subject: str
) -> ReferenceRecord:
    """Ask the rules for the reference of an image.

    Parameters
    ----------
    keywords
        Header values of the image by keyword.
    rules
        The loaded rules; none if no cache is configured.
    config
        Type of the reference, and names of the keywords.
    subject
        How messages call the image.

    Returns
    -------
    ReferenceRecord
        What was chosen and why, without the copy of the file.

    Raises
    ------
    NoReferenceError
        If no rule fits the image.
    RulesError
        If the rules do not know the type, or cannot be used.
    """
    if rules is None or not config.enabled:
        reason = "switched off" if not config.enabled else "no reference cache configured"
        return ReferenceRecord(outcome="not_applicable", reference_type=config.reference_type, reason=reason)
    found = rules.select(config.reference_type, keywords, keywords=config.keywords, subject=subject)
    return rules_record(rules, found, config.reference_type)


def rules_record(rules: Rules, found: Selection, reference_type: str) -> ReferenceRecord:
    """Return the record of a selection, without the copy of the file."""
    return ReferenceRecord(
        outcome=found.outcome, reference_type=reference_type, name=found.name, reason=found.reason,
        observatory=rules.observatory, instrument=found.instrument, context=rules.context, rule=found.rule,
        mappings=dict(found.mappings), parameters=dict(found.parameters), crds_version=rules.crds_version,
    )  # fmt: skip


def copied_reference(store: DataStore, record: ProductRef) -> list[ProductRef]:
    """Return the copy of the reference file that a record stands for, if it chose one."""
    reference = read_document(store, record, ReferenceRecord).reference
    return [reference] if reference else []


@stage(name="references", parts=copied_reference)
def select_reference_task(
    image: ProductRef, config: ReferencesConfig, crds: CrdsCache | None, store: DataStore
) -> ProductRef:
    """Choose the reference of a CCD, copy it into the store, and record the choice."""
    ccd, keywords = read_reference_keywords(store, image)
    rules = open_rules(crds) if crds is not None and config.enabled else None
    record = select_reference(keywords, rules, config, f"CCD {ccd}")
    if crds is not None and record.outcome == "selected":
        record = copy_reference(store, crds, record)
    summary: dict[str, SummaryValue] = {"outcome": record.outcome, "reference": record.name}
    return write_document(store, keys.ccd(ccd, "references.json"), record, subject=ccd, summary=summary)
