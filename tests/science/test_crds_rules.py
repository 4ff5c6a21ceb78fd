"""Choosing reference files by CRDS rules."""

import logging
import os
import subprocess
import sys
import threading

import pytest
from crds_cache import Cache, mapping_text, match, write_simple_cache

from tasks.errors import (
    ConfigError,
    DamagedRulesError,
    NoReferenceError,
    ReferenceSelectionError,
    RulesChecksumError,
    UnknownReferenceTypeError,
    UnsupportedRulesError,
    WrongObservatoryError,
)
from tasks.science.crds_rules import load_context, mapping_sha1
from tasks.science.observation_dates import split_date

HEADER = {"INSTRUME": "CAM", "DETECTOR": "CCD0", "SUBARRAY": "FULL", "DATE-OBS": "2022-03-04", "TIME-OBS": "05:06:07"}


@pytest.fixture
def cache(tmp_path):
    return write_simple_cache(tmp_path)


@pytest.fixture
def rules(cache):
    return load_context(cache.read, "testobs", cache.context)


def select(rules, reference_type="dq", **changes):
    header = HEADER | {key.replace("_", "-"): value for key, value in changes.items()}
    return rules.select(reference_type, header, subject="CCD 2113737-0")


def test_the_rules_choose_by_detector_and_date(rules):
    assert select(rules).name == "CCD0_a.fits"
    assert select(rules, DETECTOR="CCD1").name == "CCD1_a.fits"
    assert select(rules, DATE_OBS="2025-01-01").name == "CCD0_b.fits"


def test_a_date_is_used_from_its_very_second_on(rules):
    assert select(rules, DATE_OBS="2024-06-01", TIME_OBS="00:00:00").name == "CCD0_b.fits"
    assert select(rules, DATE_OBS="2024-05-31", TIME_OBS="23:59:59.999").name == "CCD0_a.fits"


def test_a_selection_says_by_which_rules_it_came(rules, cache):
    selection = select(rules)
    assert (selection.outcome, selection.reason, selection.instrument) == ("selected", "", "cam")
    assert selection.rule == "testobs_cam_dq_0001.rmap"
    names = ("testobs_0001.pmap", "testobs_cam_0001.imap", "testobs_cam_dq_0001.rmap")
    assert selection.mappings == tuple((name, mapping_sha1(cache.read(name))) for name in names)
    assert dict(selection.parameters) == {
        "DETECTOR": "CCD0", "SUBARRAY": "FULL", "DATE-OBS": "2022-03-04", "TIME-OBS": "05:06:07",
    }  # fmt: skip


def test_a_rule_may_begin_within_a_second(tmp_path):
    cache = Cache(tmp_path)
    cases = match({("CCD0", "*"): {"2020-01-01 00:00:00": "a.fits", "2021-01-01 00:00:00.500": "b.fits"}})
    cache.write_pmap({"CAM": cache.write_imap("CAM", {"DQ": cache.write_rmap("CAM", "dq", cases)})})
    rules = load_context(cache.read, "testobs", cache.context)
    assert select(rules, DATE_OBS="2021-01-01", TIME_OBS="00:00:00.499").name == "a.fits"
    assert select(rules, DATE_OBS="2021-01-01T00:00:00.5", TIME_OBS=None).name == "b.fits"


def test_conditions_may_use_parameters_that_no_rule_matches(tmp_path):
    cache = Cache(tmp_path, "jwst")
    cases = match({("CCD0", "*"): {"2020-01-01 00:00:00": "a.fits"}})
    rmap = cache.write_rmap("CAM", "dq", cases, rmap_relevance='(META.VISIT.TSOVISIT != "T")')
    cache.write_pmap({"CAM": cache.write_imap("CAM", {"DQ": rmap})})
    rules = load_context(cache.read, "jwst", cache.context)
    keywords = {"META.VISIT.TSOVISIT": "TSOVISIT"}
    assert rules.select("dq", HEADER | {"TSOVISIT": True}, keywords=keywords).outcome == "not_applicable"
    assert rules.select("dq", HEADER | {"TSOVISIT": False}, keywords=keywords).name == "a.fits"
    assert rules.select("dq", HEADER, keywords=keywords).name == "a.fits"


def test_a_parameter_may_come_from_one_of_several_keywords(rules):
    header = {"INSTRUME": "CAM", "CHIP": "", "SENSOR": "CCD1", "SUBARRAY": "FULL", "EXPDTST": "20250101030405"}
    keywords = {"DETECTOR": "CHIP|SENSOR", "DATE-OBS": "DATE-OBS|EXPDTST"}
    assert rules.select("dq", header, keywords=keywords).name == "CCD1_b.fits"
    with pytest.raises(NoReferenceError, match="the header has no DATE-OBS or EXPDTST, TIME-OBS"):
        rules.select("dq", header | {"EXPDTST": ""}, keywords=keywords)


@pytest.mark.parametrize(
    ("date", "time"),
    [
        ("2024-06-01T00:00:00", None),
        ("2024-06-01T00:00:00.250", "01:02:03"),
        ("2024-06-01 00:00:00", None),
        ("2024/06/01", "00:00:00"),
        ("2024-06-01", None),
        ("20240601000000", None),
        ("20240601T000000", None),
        ("Jun 01 2024", "00:00:00"),
    ],
)
def test_every_way_to_write_a_date_chooses_the_same(rules, date, time):
    assert select(rules, DATE_OBS=date, TIME_OBS=time).name == "CCD0_b.fits"


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("20250101030405", "", ("2025-01-01", "03:04:05")),
        ("20250101", "030405", ("2025-01-01", "03:04:05")),
        ("2025-01-01T03:04:05.6", "", ("2025-01-01", "03:04:05.6")),
        ("2025-01-01", "03:04:05.123456789Z", ("2025-01-01", "03:04:05.123456")),
        ("2025-01-01", "03:04:05.000", ("2025-01-01", "03:04:05")),
        ("2025-01-01T23:59:60", "", ("2025-01-01", "23:59:59")),
        ("2025-01-01T03:04Z", "", ("2025-01-01", "03:04:00")),
        ("2025-01-01", "030405", ("2025-01-01", "03:04:05")),
        ("2025-13-01", "", None),
        ("2025-01-01T00:00:61", "", None),
        ("2025-01-01", "25:00:00", None),
        ("2025-01-01", "noon", None),
        ("2025-0101", "", None),
        ("yesterday", "", None),
        ("", "", None),
    ],
)
def test_dates_are_split_or_refused(date, time, expected):
    assert split_date(date, time) == expected


def test_rules_with_one_date_parameter_take_compact_dates(tmp_path):
    cache = Cache(tmp_path, "ligeriri", instrument_key="META.INSTRUMENT.NAME")
    cases = match({("IMG1",): {"2020-01-01 00:00:00": "old.fits", "2025-01-01 03:04:05": "new.fits"}})
    parkey = (("META.INSTRUMENT.DETECTOR",), ("META.DATE",))
    imap = cache.write_imap("IRIS", {"DQ": cache.write_rmap("IRIS", "dq", cases, parkey=parkey)})
    cache.write_pmap({"IRIS": imap})
    rules = load_context(cache.read, "ligeriri", cache.context)
    keywords = {
        "META.INSTRUMENT.NAME": "INSTRUME", "META.INSTRUMENT.DETECTOR": "DETECTOR", "META.DATE": "EXPDTST",
    }  # fmt: skip
    header = {"INSTRUME": "IRIS", "DETECTOR": "IMG1", "EXPDTST": "20250101030405"}
    assert rules.select("dq", header, keywords=keywords).name == "new.fits"
    assert rules.select("dq", header | {"EXPDTST": "20250101030404"}, keywords=keywords).name == "old.fits"
    with pytest.raises(ReferenceSelectionError, match=r"fits the image: .*the header has no DETECTOR, EXPDTST"):
        rules.select("dq", {"INSTRUME": "IRIS"}, keywords=keywords)


def test_values_are_compared_without_regard_to_case_and_number_format(tmp_path):
    cache = Cache(tmp_path)
    cases = match({("5", "T"): {"2020-01-01 00:00:00": "five.fits"}})
    rmap = cache.write_rmap("CAM", "dq", cases, parkey=(("CCDNUM", "BINNED"), ("DATE-OBS", "TIME-OBS")))
    cache.write_pmap({"CAM": cache.write_imap("CAM", {"DQ": rmap})})
    rules = load_context(cache.read, "TestObs", cache.context)
    header = {"instrume": "cam", "ccdnum": 5, "binned": True, "date-obs": "2021-01-01"}
    assert rules.select("DQ", header).name == "five.fits"


@pytest.mark.parametrize(
    ("reference_type", "changes", "rule", "reason"),
    [
        ("dq", {"DETECTOR": "CCD2"}, "testobs_cam_dq_0001.rmap", "Not Applicable"),
        ("flat", {}, "testobs_cam_0001.imap", "not applicable to this instrument"),
        ("dark", {}, "testobs_cam_0001.imap", "omitted for this instrument"),
        ("dq", {"INSTRUME": "SPEC"}, "testobs_0001.pmap", "no rules for this instrument"),
    ],
    ids=["by rule", "by instrument", "omitted", "whole instrument"],
)
def test_not_applicable_is_an_answer_and_not_an_error(rules, reference_type, changes, rule, reason):
    selection = select(rules, reference_type, **changes)
    assert (selection.outcome, selection.name, selection.rule) == ("not_applicable", "N/A", rule)
    assert reason in selection.reason


def test_an_irrelevant_mode_needs_no_date(tmp_path):
    cache = Cache(tmp_path)
    cases = match({("CCD0", "*"): {"2020-01-01 00:00:00": "a.fits"}})
    rmap = cache.write_rmap("CAM", "dq", cases, rmap_relevance='(SUBARRAY != "FULL")')
    cache.write_pmap({"CAM": cache.write_imap("CAM", {"DQ": rmap})})
    rules = load_context(cache.read, "testobs", cache.context)
    assert select(rules, DATE_OBS=None, TIME_OBS=None).outcome == "not_applicable"
    assert select(rules, SUBARRAY="STRIPE").name == "a.fits"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"DETECTOR": "CCD9"},
            r"dq reference of testobs fits CCD 2113737-0.*'CCD9' is not in \['CCD0', 'CCD1', 'CCD2'\]",
        ),
        ({"DETECTOR": None}, "rule testobs_cam_dq_0001.rmap was asked for .*; the header has no DETECTOR"),
        ({"DATE_OBS": "2019-12-31"}, "2019-12-31 05:06:07 lies before the first date of the rule that matches"),
        ({"DATE_OBS": "soon"}, "DATE-OBS='soon'.*"),
        ({"DATE_OBS": None, "TIME_OBS": None}, "the header has no DATE-OBS, TIME-OBS"),
        ({"DETECTOR": "CCD1", "SUBARRAY": "WINDOW"}, "SUBARRAY='WINDOW'.*No match found"),
        (
            {"INSTRUME": "RADIO"},
            "testobs_0001.pmap has no rules for the instrument of CCD 2113737-0, 'radio'; it has rules for cam, spec",
        ),
        ({"INSTRUME": ""}, "instrument of CCD 2113737-0 is unknown, because it has no INSTRUME; .*cam, spec"),
    ],
    ids=str,
)
def test_a_header_that_no_rule_fits_is_refused(rules, changes, sentence):
    with pytest.raises(NoReferenceError, match=sentence):
        select(rules, **changes)


def test_an_unknown_reference_type_lists_those_that_exist(rules):
    with pytest.raises(UnknownReferenceTypeError, match=r"no reference type 'mask'; they have dark, dq, flat"):
        select(rules, "mask")


def test_a_rule_that_answers_with_several_files_is_refused(tmp_path):
    cache = Cache(tmp_path)
    rmap = cache.write_rmap("CAM", "dq", match({("CCD0", "*"): ("a.fits", "b.fits")}))
    cache.write_pmap({"CAM": cache.write_imap("CAM", {"DQ": rmap})})
    with pytest.raises(
        ReferenceSelectionError, match=r"answers \('a.fits', 'b.fits'\) for CCD 2113737-0; one reference"
    ):
        select(load_context(cache.read, "testobs", cache.context))


def test_cases_that_contradict_each_other_are_no_answer(tmp_path):
    cache = Cache(tmp_path)
    cases = match({("CCD0", "*"): {"2020-01-01 00:00:00": "a.fits"}, ("*", "FULL"): "N/A"})
    cache.write_pmap({"CAM": cache.write_imap("CAM", {"DQ": cache.write_rmap("CAM", "dq", cases)})})
    rules = load_context(cache.read, "testobs", cache.context)
    with pytest.raises(NoReferenceError, match="several of its cases match equally well and cannot be combined"):
        select(rules)
    assert select(rules, SUBARRAY="STRIPE").name == "a.fits"


def test_the_cases_that_give_a_file_are_explained(rules):
    assert rules.explain(select(rules)) == ("DETECTOR='CCD0', SUBARRAY='*' from 2020-01-01 00:00:00 on",)
    assert rules.explain(select(rules, DETECTOR="CCD2")) == ()


def test_a_changed_rule_is_refused_with_the_way_out(cache):
    text = cache.read("testobs_cam_dq_0001.rmap").replace("CCD0_a.fits", "CCD0_x.fits")
    cache.write("testobs_cam_dq_0001.rmap", text)
    rules = load_context(cache.read, "testobs", cache.context)
    with pytest.raises(
        RulesChecksumError, match=r"Mapping testobs_cam_dq_0001.rmap has the checksum .*crds checksum testobs_cam"
    ):
        select(rules)


def test_a_changed_rule_can_be_used_with_a_warning_or_without(cache, caplog):
    text = cache.read(cache.context).replace("generated", "by hand")
    cache.write(cache.context, text)
    with caplog.at_level(logging.WARNING):
        assert select(load_context(cache.read, "testobs", cache.context, "warn")).name == "CCD0_a.fits"
    assert "testobs_0001.pmap has the checksum" in caplog.text
    caplog.clear()
    assert select(load_context(cache.read, "testobs", cache.context, "ignore")).name == "CCD0_a.fits"
    assert caplog.text == ""


def test_the_environment_cannot_switch_the_checksum_off(cache, monkeypatch):
    monkeypatch.setenv("CRDS_IGNORE_MAPPING_CHECKSUM", "1")
    cache.write(cache.context, cache.read(cache.context).replace("generated", "by hand"))
    with pytest.raises(ConfigError, match=r"has the checksum"):
        load_context(cache.read, "testobs", cache.context)


def test_a_mapping_without_a_checksum_is_refused(cache):
    lines = cache.read(cache.context).splitlines(keepends=True)
    cache.write(cache.context, "".join(line for line in lines if "sha1sum" not in line))
    with pytest.raises(ConfigError, match=r"states None"):
        load_context(cache.read, "testobs", cache.context)


def test_the_context_of_another_observatory_is_refused(cache):
    with pytest.raises(
        WrongObservatoryError, match=r"testobs_0001.pmap belongs to observatory 'testobs', not to 'jwst'"
    ):
        load_context(cache.read, "jwst", cache.context)


@pytest.mark.parametrize(
    "text",
    [
        "import os\nheader = {}\nselector = {}\n",
        "header = {'a' : __import__('os').getcwd()}\nselector = {}\n",
        "header = {",
        "",
        "header = {'mapping' : 'PIPELINE'}\nselector = {}\n",
        mapping_text(dict.fromkeys(("observatory", "parkey", "name", "derived_from"), "X") | {"mapping": "IMAP"}, "{}"),
    ],
    ids=["import", "call", "truncated", "empty", "incomplete header", "wrong kind"],
)  # fmt: skip
def test_a_damaged_mapping_is_refused_and_nothing_of_it_runs(cache, text):
    cache.write(cache.context, text)
    with pytest.raises(DamagedRulesError, match=r"Mapping testobs_0001.pmap is damaged: .+ Copy it"):
        load_context(cache.read, "testobs", cache.context)


def test_rules_that_need_programs_are_refused(tmp_path):
    cache = Cache(tmp_path)
    hooks = {"precondition_header": "precondition_header_cam_dq_v2", "fallback_header": "none"}
    cache.write_pmap({"CAM": cache.write_imap("CAM", {"DQ": "x.rmap"})}, hooks=hooks)
    with pytest.raises(UnsupportedRulesError, match=r"needs the program hooks precondition_header_cam_dq_v2"):
        load_context(cache.read, "testobs", cache.context)


@pytest.mark.parametrize("context", ["testobs_cam_0001.imap", "testobs_0001"])
def test_only_contexts_are_loaded_as_contexts(cache, context):
    with pytest.raises(ConfigError, match=r"is not a CRDS context: the name of a context ends in .pmap"):
        load_context(cache.read, "testobs", context)


def test_a_mapping_that_names_something_else_is_refused(cache):
    cache.write_pmap({"CAM": "notes.txt"})
    with pytest.raises(ConfigError, match=r"'notes.txt' is not the name of a CRDS mapping"):
        select(load_context(lambda name: cache.read(name) if name.endswith("map") else "", "testobs", cache.context))


def test_mappings_that_are_not_needed_need_not_exist(cache):
    cache.write_pmap({"CAM": "testobs_cam_0001.imap", "OTHER": "testobs_other_0001.imap"})
    rules = load_context(cache.read, "testobs", cache.context)
    assert select(rules).name == "CCD0_a.fits"
    assert rules.instruments == ("cam", "other")


def test_several_observatories_live_in_one_process(tmp_path):
    caches = {name: write_simple_cache(tmp_path, name) for name in ("alpha", "beta")}
    rules = {name: load_context(cache.read, name, cache.context) for name, cache in caches.items()}
    assert {select(rules[name]).rule for name in rules} == {"alpha_cam_dq_0001.rmap", "beta_cam_dq_0001.rmap"}


def test_many_threads_choose_the_same_from_fresh_rules(cache):
    rules = load_context(cache.read, "testobs", cache.context)
    found, start = [], threading.Barrier(8)

    def ask(detector):
        start.wait()
        found.extend(select(rules, DETECTOR=detector).name for _ in range(50))

    threads = [threading.Thread(target=ask, args=(f"CCD{number % 2}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(found)) == ["CCD0_a.fits", "CCD1_a.fits"]
    assert len(found) == 400


def test_crds_leaves_neither_environment_nor_log_handlers_behind(cache):
    program = f"""
import logging, os, sys
from pathlib import Path
before = dict(os.environ)
from tasks.science.crds_rules import load_context
assert "crds" not in sys.modules
rules = load_context(lambda name: (Path({str(cache.mappings)!r}) / name).read_text(), "testobs", {cache.context!r})
print(rules.select("dq", {HEADER!r}).name)
assert dict(os.environ) == before, set(os.environ) - set(before)
assert logging.getLogger("CRDS").handlers == []
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRDS_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "CCD0_a.fits\n", "")
