"""The public rules of TMT and of Liger and IRIS, as they are, with their defects.

They are not part of the project: SHEARLINE_PUBLIC_CRDS names a folder that holds the caches ``tmt`` and ``ligeriri``,
as the repositories oirlab/tmt-crds-cache and oirlab/liger-iris-crds-cache have them.
"""

import os
from pathlib import Path

import pytest

from blocks.crds import CrdsCache
from tasks.errors import (
    MissingRulesError,
    NoReferenceError,
    ReferenceSelectionError,
    RulesChecksumError,
    UnknownReferenceTypeError,
)
from tasks.references import ReferencesConfig, open_rules, select_reference

PUBLIC = os.environ.get("SHEARLINE_PUBLIC_CRDS", "")
pytestmark = pytest.mark.skipif(not PUBLIC, reason="SHEARLINE_PUBLIC_CRDS names no folder with the public caches")

TMT = {"INSTRUME": "IRIS", "DETECTOR": "IRIS1", "SUBARRAY": "FULL", "DATE-OBS": "2021-01-01", "TIME-OBS": "00:00:00"}
LIGER = {"INSTRUME": "IRIS", "DETECTOR": "IMG1", "SUBARRAY": "FULL", "EXPDTST": "20250101030405"}


def cache(observatory, **settings):
    return CrdsCache(root=str(Path(PUBLIC, observatory)), observatory=observatory, **settings)


def liger(**settings):
    return cache("ligeriri", **{"context": "ligeriri_0001.pmap", "checksum": "ignore"} | settings)


def select(opened, kind, header):
    return select_reference(header, open_rules(opened), ReferencesConfig(reference_type=kind), "the image")


def test_every_mapping_of_tmt_has_its_checksum_and_loads():
    from tasks.science.crds_engine import check_mapping, parse_mapping

    opened = cache("tmt")
    names = sorted(path.name for path in Path(PUBLIC, "tmt", "mappings", "tmt").glob("*map"))
    assert len(names) == 11
    for name in names:
        check_mapping(parse_mapping(name, opened.read_mapping(name), opened.read_mapping), "tmt", "strict")


@pytest.mark.parametrize("subarray", ["FULL", "CUSTOM", "GENERIC", "N/A", ""])
def test_tmt_has_a_mask_for_any_subarray(subarray):
    found = select(cache("tmt"), "mask", TMT | {"SUBARRAY": subarray})
    assert (found.name, found.rule) == ("tmt_iris_mask_0001.fits", "tmt_iris_mask_0001.rmap")


@pytest.mark.parametrize("kind", ["flat", "dark", "drizpars", "nonlincoeff", "dflat"])
def test_the_other_types_of_tmt_select_or_do_not_apply(kind):
    types = open_rules(cache("tmt"))
    assert types.instruments == ("iris",)
    found = select(cache("tmt"), kind, TMT | {"FILTER": "K", "PUPIL": "CLEAR"})
    assert (found.outcome == "not_applicable") == (kind == "dflat")


def test_tmt_says_what_its_mask_does_not_cover():
    with pytest.raises(
        NoReferenceError, match=r"No mask reference of tmt fits the image: .*'IMG1' is not in \['IRIS1'\]"
    ):
        select(cache("tmt"), "mask", TMT | {"DETECTOR": "IMG1"})
    with pytest.raises(NoReferenceError, match="2014-01-01 00:00:00 lies before the first date"):
        select(cache("tmt"), "mask", TMT | {"DATE-OBS": "2014-01-01"})


def test_the_operational_context_of_liger_does_not_exist():
    with pytest.raises(MissingRulesError, match=r"iris_liger_0001\.pmap, which its server_config names as operational"):
        open_rules(liger(context=""))


def test_the_checksums_of_liger_are_wrong():
    with pytest.raises(RulesChecksumError, match=r"ligeriri_0001\.pmap has the checksum .*set checksum to 'warn' or"):
        open_rules(liger(checksum="strict"))


@pytest.mark.parametrize("subarray", ["FULL", "CUSTOM", "GENERIC", "N/A"])
def test_liger_has_flags_for_one_detector_in_any_subarray(subarray):
    found = select(liger(), "dq", LIGER | {"SUBARRAY": subarray})
    assert (found.name, found.rule) == ("IRIS_DQ.fits", "ligeriri_iris_dq_0001.rmap")
    assert found.parameters["META.DATE"] == "2025-01-01 03:04:05"


@pytest.mark.parametrize(
    ("header", "kind", "error", "sentence"),
    [
        ({"DETECTOR": "IMG2"}, "dq", NoReferenceError, r"ligeriri_iris_dq_0001\.rmap .*'IMG2' is not in \['IMG1'\]"),
        (
            {"INSTRUME": "Liger"},
            "dq",
            MissingRulesError,
            r"ligeriri_liger_dq_0001\.rmap is named by the rules .*copy it",
        ),
        (
            {},
            "mask",
            UnknownReferenceTypeError,
            "no reference type 'mask'; they have dark, dq, drizpars, flat, nonlinco",
        ),
    ],
)
def test_what_liger_lacks_is_said(header, kind, error, sentence):
    with pytest.raises(error, match=sentence):
        select(liger(), kind, LIGER | header)


def test_the_reference_of_liger_is_not_in_its_cache():
    from tasks.archive.reference_cache import locate_reference

    with pytest.raises(ReferenceSelectionError, match=r"IRIS_DQ\.fits, which .*ligeriri_iris_dq_0001\.rmap chose it"):
        locate_reference(liger(), select(liger(), "dq", LIGER))


def test_both_observatories_and_more_live_in_one_process():
    opened = {"tmt": cache("tmt"), "ligeriri": liger()}
    header = {"tmt": (TMT, "mask"), "ligeriri": (LIGER, "dq")}
    found = {name: select(one, header[name][1], header[name][0]) for name, one in opened.items()}
    assert all(record.rule.startswith(name) for name, record in found.items())
