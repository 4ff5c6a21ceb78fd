"""The stage that chooses reference files."""

import pickle
from pathlib import Path

import pytest
from crds_cache import HEADER, store_ccd, write_simple_cache

from blocks.crds import CrdsCache
from tasks.archive.documents import read_document
from tasks.errors import (
    BadReferenceError,
    BadRulesError,
    MissingReferenceError,
    MissingRulesError,
    NoReferenceError,
    PointerFileError,
    ReferenceSelectionError,
    RulesChecksumError,
    TruncatedFileError,
)
from tasks.products.references import ReferenceRecord
from tasks.references import ReferencesConfig, open_rules, select_reference, select_reference_task

CONFIG = ReferencesConfig()


@pytest.fixture
def written(tmp_path):
    written = write_simple_cache(tmp_path / "crds")
    for name in ("CCD0_a.fits", "CCD0_b.fits"):
        written.write_reference(name, definitions=[(1, "DO_NOT_USE")])
    return written


@pytest.fixture
def cache(written):
    return CrdsCache(root=str(written.root), observatory="testobs")


def test_the_chosen_reference_is_recorded_and_copied(store, cache, written):
    ref = select_reference_task.fn(store_ccd(store), CONFIG, cache, store)
    record = read_document(store, ref, ReferenceRecord)
    assert ref.key == "exposures/2113737/ccd-04/references.json"
    assert ref.subject == "2113737-4"
    assert ref.summary == {"outcome": "selected", "reference": "CCD0_a.fits"}
    assert (record.outcome, record.name, record.context) == ("selected", "CCD0_a.fits", "testobs_0001.pmap")
    assert record.rule == "testobs_cam_dq_0001.rmap"
    assert sorted(record.mappings) == ["testobs_0001.pmap", "testobs_cam_0001.imap", "testobs_cam_dq_0001.rmap"]
    assert record.parameters["TIME-OBS"] == "05:06:07"
    assert record.reference.key == "references/testobs/CCD0_a.fits"
    assert store.read_bytes(record.reference.key) == (written.references / "CCD0_a.fits").read_bytes()
    assert store.stat(record.reference.key).sha256 == record.reference.sha256


def test_selecting_twice_gives_the_same_bytes_and_copies_once(store, cache):
    image = store_ccd(store)
    first = select_reference_task.fn(image, CONFIG, cache, store)
    data, copy = store.read_bytes(first.key), Path(store.root, store.collection, "references/testobs/CCD0_a.fits")
    written_at = copy.stat().st_mtime_ns
    assert select_reference_task.fn(image, CONFIG, cache, store) == first
    select_reference_task.fn(store_ccd(store, EXTRA="1"), CONFIG, cache, store)
    assert store.read_bytes(first.key) == data
    assert copy.stat().st_mtime_ns == written_at


def test_a_changed_reference_in_the_store_is_replaced(store, cache, written):
    image = store_ccd(store)
    store.put_bytes("references/testobs/CCD0_a.fits", b"half a file")
    select_reference_task.fn(image, CONFIG, cache, store)
    assert store.read_bytes("references/testobs/CCD0_a.fits") == (written.references / "CCD0_a.fits").read_bytes()


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"DETECTOR": "CCD2"}, {}, "Rules define this type as Not Applicable"),
        ({}, {"reference_type": "flat"}, "not applicable to this instrument"),
        ({}, {"enabled": False}, "switched off"),
    ],
    ids=["by rule", "by instrument", "switched off"],
)
def test_not_applicable_is_recorded_with_its_reason(store, cache, changes, settings, reason):
    image = store_ccd(store, **changes)
    ref = select_reference_task.fn(image, ReferencesConfig(**settings), cache, store)
    record = read_document(store, ref, ReferenceRecord)
    assert (record.outcome, record.name, record.reference) == ("not_applicable", "N/A", None)
    assert reason in record.reason


def test_without_a_cache_none_applies(store):
    ref = select_reference_task.fn(store_ccd(store), CONFIG, None, store)
    record = read_document(store, ref, ReferenceRecord)
    assert (record.outcome, record.reason) == ("not_applicable", "no reference cache configured")
    assert ref.summary["outcome"] == "not_applicable"


def test_the_names_of_parameters_can_be_translated(store, cache):
    image = store_ccd(store, {"INSTRUME": "CAM", "CHIP": "CCD0", "SUBARRAY": "FULL", "DATE": "20240701120000"})
    config = ReferencesConfig(keywords={"DETECTOR": "CHIP", "DATE-OBS": "DATE"})
    record = read_document(store, select_reference_task.fn(image, config, cache, store), ReferenceRecord)
    assert record.name == "CCD0_b.fits"


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"DETECTOR": "CCD7"}, NoReferenceError, "No dq reference of testobs fits CCD 2113737-4: .*'CCD7' is not in"),
        ({"DATE-OBS": "2001-01-01"}, NoReferenceError, "CCD 2113737-4: .* lies before the first date"),
        (
            {"DETECTOR": "CCD1"},
            MissingReferenceError,
            "CCD1_a.fits, which the rules of testobs choose, is not in the CRDS cache .*; expected it at .*"
            "testobs_cam_dq_0001.rmap chose it; copy it there",
        ),
    ],
)
def test_a_ccd_without_a_reference_is_set_aside(store, cache, changes, kind, sentence):
    image = store_ccd(store, **changes)
    with pytest.raises(kind, match=sentence):
        select_reference_task.fn(image, CONFIG, cache, store)


def test_a_pointer_in_the_place_of_the_reference_is_refused(store, cache, written):
    (written.references / "CCD0_a.fits").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PointerFileError, match=r"CCD0_a\.fits is a git-LFS pointer"):
        select_reference_task.fn(store_ccd(store), CONFIG, cache, store)


def test_a_truncated_reference_is_refused(store, cache, written):
    path = written.references / "CCD0_a.fits"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(TruncatedFileError, match=r"CCD0_a\.fits is truncated: its 3000 bytes"):
        select_reference_task.fn(store_ccd(store), CONFIG, cache, store)
    assert not store.exists("references/testobs/CCD0_a.fits")


def test_a_missing_cache_stops_the_run(tmp_path):
    with pytest.raises(MissingRulesError, match="There is no CRDS cache of observatory 'jwst'"):
        open_rules(CrdsCache(root=str(tmp_path), observatory="jwst"))


def test_a_missing_context_stops_the_run(written):
    with pytest.raises(
        MissingRulesError, match=r"Context testobs_0099\.pmap is not in .*available: testobs_0001\.pmap"
    ):
        open_rules(CrdsCache(root=str(written.root), observatory="testobs", context="testobs_0099.pmap"))


def test_a_missing_rule_stops_the_run(written, cache):
    (written.mappings / "testobs_cam_dq_0001.rmap").unlink()
    with pytest.raises(MissingRulesError, match=r"Mapping testobs_cam_dq_0001\.rmap is named by the rules"):
        select_reference(HEADER, open_rules(cache), CONFIG, "CCD 1-2")


@pytest.mark.parametrize("name", ["testobs_0001.pmap", "testobs_cam_0001.imap", "testobs_cam_dq_0001.rmap"])
def test_a_mapping_that_is_marked_as_bad_stops_the_run(written, cache, name):
    written.write_server_config(repr({"bad_files_list": [name]}))
    with pytest.raises(
        BadRulesError, match=rf"Mapping {name} is marked as bad in config/testobs/server_config .*choose"
    ):
        select_reference(HEADER, open_rules(cache), CONFIG, "CCD 1-2")


def test_a_reference_that_is_marked_as_bad_is_not_used(store, written, cache):
    written.write_server_config(repr({"bad_files_list": ["CCD0_a.fits"]}))
    with pytest.raises(
        BadReferenceError, match=r"CCD0_a\.fits is marked as bad .*choose a context without it\. testobs_cam"
    ):
        select_reference_task.fn(store_ccd(store), CONFIG, cache, store)


def test_a_changed_rule_stops_the_run_unless_it_is_allowed(written):
    path = written.mappings / "testobs_0001.pmap"
    path.write_text(path.read_text().replace("generated", "edited"))
    with pytest.raises(RulesChecksumError, match=r"testobs_0001\.pmap has the checksum"):
        open_rules(CrdsCache(root=str(written.root), observatory="testobs"))
    assert open_rules(CrdsCache(root=str(written.root), observatory="testobs", checksum="ignore")).context


def test_the_errors_cross_processes(cache):
    with pytest.raises(ReferenceSelectionError) as caught:
        select_reference(HEADER | {"DETECTOR": "CCD7"}, open_rules(cache), CONFIG, "CCD 1-2")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_choosing_in_a_notebook_needs_no_store(cache):
    record = select_reference(HEADER, open_rules(cache), CONFIG, "my image")
    assert record.name == "CCD0_a.fits"
    assert record.reference is None


@pytest.mark.parametrize("name", ["", "../dq", "a b"])
def test_a_reference_type_is_a_word(name):
    with pytest.raises(ValueError, match="reference_type"):
        ReferencesConfig(reference_type=name)
