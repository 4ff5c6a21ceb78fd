"""The CRDS cache as bytes and names."""

import os
import pickle
import shutil

import numpy as np
import pytest
from crds_cache import write_simple_cache
from pydantic import ValidationError

from blocks.crds import CacheError, CrdsCache, ReferenceNotFoundError, selected_names


@pytest.fixture
def written(tmp_path):
    return write_simple_cache(tmp_path)


def block(written, **settings):
    return CrdsCache(root=str(written.root), observatory=written.observatory, **settings)


def test_the_only_context_is_the_one_that_is_used(written):
    assert block(written).resolve_context() == "testobs_0001.pmap"


def test_the_configured_context_is_used(written):
    written.write_pmap({}, "testobs_0002.pmap")
    assert block(written, context="testobs_0002.pmap").resolve_context() == "testobs_0002.pmap"
    assert block(written).list_contexts() == ["testobs_0001.pmap", "testobs_0002.pmap"]


@pytest.mark.parametrize(
    "text", ['{"operational_context": "testobs_0002.pmap"}', "{'operational_context': 'testobs_0002.pmap'}"]
)
def test_the_operational_context_of_the_cache_is_used(written, text):
    written.write_pmap({}, "testobs_0002.pmap")
    written.write_server_config(text)
    assert block(written).resolve_context() == "testobs_0002.pmap"
    assert block(written, context="testobs_0001.pmap").resolve_context() == "testobs_0001.pmap"


def test_two_contexts_and_no_operational_one_leave_a_choice_to_the_user(written):
    written.write_pmap({}, "testobs_0002.pmap")
    with pytest.raises(CacheError, match=r"available: testobs_0001\.pmap, testobs_0002\.pmap"):
        block(written).resolve_context()


def test_a_missing_context_lists_those_that_are_there(written):
    with pytest.raises(CacheError, match=r"Context testobs_0535\.pmap is not in .*available: testobs_0001\.pmap"):
        block(written, context="testobs_0535.pmap").resolve_context()


def test_a_missing_operational_context_says_where_its_name_comes_from(written):
    written.write_server_config("{'operational_context' : 'other_0001.pmap'}")
    with pytest.raises(CacheError, match=r"other_0001\.pmap, which its server_config names as operational, is not in"):
        block(written).resolve_context()


def test_a_broken_server_config_is_refused(written):
    written.write_server_config("<html>")
    with pytest.raises(CacheError, match=r"config/testobs/server_config .* cannot be read"):
        block(written).resolve_context()


def test_a_missing_cache_says_what_was_expected_where(tmp_path):
    cache = CrdsCache(root=str(tmp_path), observatory="jwst")
    with pytest.raises(
        CacheError, match=rf"no CRDS cache of observatory 'jwst' at {tmp_path}: .*mappings/jwst is miss"
    ):
        cache.resolve_context()


def test_mappings_are_read(written):
    assert block(written).read_mapping("testobs_cam_dq_0001.rmap") == written.read("testobs_cam_dq_0001.rmap")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("testobs_other_0001.imap", r"testobs_other_0001\.imap is named by the rules of testobs but is not in"),
        ("../../secret.pmap", r"is not the name of a CRDS mapping"),
        ("server_config", r"is not the name of a CRDS mapping"),
    ],
)
def test_a_mapping_that_is_not_there_is_an_error(written, name, sentence):
    with pytest.raises(CacheError, match=sentence):
        block(written).read_mapping(name)


def test_references_are_found_beside_each_other_and_by_instrument(written):
    written.write_reference("CCD0_a.fits")
    (written.references / "cam").mkdir()
    (written.references / "cam" / "CCD1_a.fits").write_bytes(b"inside")
    cache = block(written)
    assert cache.locate_reference("CCD0_a.fits", "CAM") == str(written.references / "CCD0_a.fits")
    assert cache.read_reference("CCD1_a.fits", "CAM") == b"inside"


def test_a_missing_reference_says_where_it_was_expected(written):
    sentence = (
        r"CCD0_a\.fits, which the rules of testobs choose, .* references/testobs/cam/CCD0_a\.fits or references/test"
    )
    with pytest.raises(ReferenceNotFoundError, match=sentence):
        block(written).read_reference("CCD0_a.fits", "cam")


@pytest.mark.parametrize("name", ["../secret.fits", "a/b.fits", "", ".hidden"])
def test_only_file_names_are_looked_for(written, name):
    with pytest.raises(ReferenceNotFoundError, match="is not the name of a reference file"):
        block(written).locate_reference(name)


@pytest.mark.parametrize("key", ["latest_context", "operational_context"])
def test_new_and_old_configurations_name_the_operational_context(written, key):
    written.write_pmap({}, "testobs_0002.pmap")
    written.write_server_config(repr({key: "testobs_0002.pmap"}))
    assert block(written).resolve_context() == "testobs_0002.pmap"


@pytest.mark.parametrize("listed", ['{"bad_files_list": ["CCD0_a.fits"]}', "{'bad_files': 'x.fits CCD0_a.fits'}"])
def test_a_reference_that_is_marked_as_bad_is_refused(written, listed):
    written.write_reference("CCD0_a.fits")
    written.write_server_config(listed)
    with pytest.raises(ReferenceNotFoundError, match=r"CCD0_a\.fits is marked as bad"):
        block(written).locate_reference("CCD0_a.fits")


def test_the_fingerprint_is_the_same_until_something_changes(written):
    written.write_reference("CCD0_a.fits")
    assert block(written).fingerprint() == block(written).fingerprint()
    assert len(block(written).fingerprint()) == 32


def change_rule(written):
    written.write("testobs_cam_dq_0001.rmap", written.read("testobs_cam_dq_0001.rmap") + "\n")


def change_context(written):
    written.write(written.context, written.read(written.context) + "\n")


def add_reference(written):
    written.write_reference("CCD1_b.fits")


def change_reference(written):
    path = written.references / "CCD0_a.fits"
    data, times = bytearray(path.read_bytes()), path.stat()
    data[-1] ^= 1
    path.write_bytes(data)
    assert path.stat().st_size == times.st_size


def mark_bad(written):
    written.write_server_config('{"bad_files_list": ["CCD0_b.fits"], "operational_context": "testobs_0001.pmap"}')


@pytest.mark.parametrize("change", [change_rule, change_context, add_reference, change_reference, mark_bad])
def test_the_fingerprint_follows(written, change):
    written.write_reference("CCD0_a.fits")
    before = block(written).fingerprint()
    change(written)
    assert block(written).fingerprint() != before


def test_a_copy_of_a_cache_has_its_fingerprint_and_times_do_not_count(written, tmp_path):
    written.write_reference("CCD0_a.fits", np.ones((600, 600), np.uint32))
    before = block(written).fingerprint()
    shutil.copytree(written.root, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "references" / "testobs" / "CCD0_a.fits", (0, 0))
    assert CrdsCache(root=str(tmp_path / "copy"), observatory="testobs").fingerprint() == before


def test_the_fingerprint_does_not_follow_what_the_rules_cannot_choose(written):
    before = block(written).fingerprint()
    written.write_reference("unrelated.fits")
    written.write("testobs_cam_dq_0000.rmap", "header = {}")
    assert block(written).fingerprint() == before


def test_the_fingerprint_follows_the_settings(written):
    assert block(written).fingerprint() != block(written, checksum="ignore").fingerprint()


def test_a_cache_without_its_references_or_some_mappings_has_a_fingerprint(written):
    (written.mappings / "testobs_cam_dq_0001.rmap").unlink()
    written.references.rmdir()
    assert block(written).fingerprint()


def test_the_names_in_a_selector_are_found_and_those_in_the_header_are_not():
    text = "header = {'name' : 'me.rmap'}\nselector = Match({('A',) : UseAfter({'2020-01-01 00:00:00' : 'x.fits'})})\n"
    assert {name for name in selected_names(text) if "." in name} == {"x.fits"}
    assert selected_names("header = {") == frozenset()


def test_a_cache_crosses_to_worker_processes(written):
    cache = block(written, context="testobs_0001.pmap", secret_key="hidden")
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.fingerprint() == cache.fingerprint()
    assert "hidden" not in repr(cache)


@pytest.mark.parametrize("root", ["{root}", "file://{root}", "{root}/"])
def test_a_root_is_a_folder_or_a_url(written, root):
    written.write_reference("CCD0_a.fits")
    cache = CrdsCache(root=root.format(root=written.root), observatory="TESTOBS")
    assert cache.read_reference("CCD0_a.fits").startswith(b"SIMPLE")
    assert cache.fingerprint() == block(written).fingerprint()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"root": "ftp://host/cache"}, "a CRDS cache is a folder, file:// or s3://, not ftp"),
        ({"observatory": "../jwst"}, "is not the name of an observatory"),
        ({"context": "testobs_cam_0001.imap"}, "is not the name of a CRDS context"),
        ({"context": "../testobs_0001.pmap"}, "is not the name of a CRDS context"),
        ({"checksum": "maybe"}, "'strict', 'warn' or 'ignore'"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        CrdsCache(**{"root": str(tmp_path), "observatory": "testobs"} | settings)


@pytest.fixture
def bucket_cache(written):
    import s3fs
    from moto.server import ThreadedMotoServer

    written.write_reference("CCD0_a.fits")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    bucket = s3fs.S3FileSystem(endpoint_url=endpoint, key="test", secret="test", skip_instance_cache=True)
    bucket.mkdir("references")
    bucket.put(str(written.root), "references/crds", recursive=True)
    settings = {"endpoint_url": endpoint, "access_key": "test", "secret_key": "test"}
    yield CrdsCache(root="s3://references/crds", observatory="testobs", **settings)
    server.stop()


def test_a_cache_in_a_bucket_answers_like_one_in_a_folder(written, bucket_cache):
    assert bucket_cache.resolve_context() == "testobs_0001.pmap"
    assert bucket_cache.read_mapping("testobs_cam_0001.imap") == written.read("testobs_cam_0001.imap")
    assert bucket_cache.locate_reference("CCD0_a.fits", "cam") == "s3://references/crds/references/testobs/CCD0_a.fits"
    assert bucket_cache.read_reference("CCD0_a.fits") == (written.references / "CCD0_a.fits").read_bytes()
    assert bucket_cache.fingerprint() == bucket_cache.fingerprint() != block(written).fingerprint()
    with pytest.raises(CacheError, match=r"testobs_other\.imap is named by the rules"):
        bucket_cache.read_mapping("testobs_other.imap")
    with pytest.raises(ReferenceNotFoundError, match=r"CCD1_a\.fits, which the rules of testobs choose, is not in"):
        bucket_cache.read_reference("CCD1_a.fits", "cam")
    with pytest.raises(CacheError, match="There is no CRDS cache of observatory 'jwst' at s3://references/crds"):
        bucket_cache.model_copy(update={"observatory": "jwst"}).resolve_context()
