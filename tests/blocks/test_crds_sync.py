"""Filling a cache from a CRDS server, by the crds package in a process of its own."""

import fcntl
import os

import pytest
from crds_cache import Cache, match
from crds_server import serve

from blocks.crds import CrdsCache
from blocks.crds_sync import EVERY_REFERENCE, LOCK, SyncError, SyncSettingsError, fetch_references, fetch_rules


def write_served(root, observatory="jwst", instrument="MIRI", kind="mask"):
    served = Cache(root, observatory)
    cases = match({("CCD0", "*"): {"2020-01-01 00:00:00": f"{observatory}_a.fits", "2024-01-01 00:00:00": "b.fits"}})
    rmap = served.write_rmap(instrument, kind, cases)
    served.write_pmap({instrument: served.write_imap(instrument, {kind.upper(): rmap})})
    served.write_reference(f"{observatory}_{instrument.lower()}_{kind}_0001.fits")
    return served


@pytest.fixture
def served(tmp_path):
    return write_served(tmp_path / "served")


@pytest.fixture
def server(served):
    with serve(served) as running:
        yield running


REFERENCE = "jwst_miri_mask_0001.fits"
MAPPINGS = ("jwst_miri_mask_0001.rmap", "jwst_miri_0001.imap", "jwst_0001.pmap")


def test_rules_are_fetched_and_the_cache_knows_its_context_and_bad_files(tmp_path, served, server):
    server.bad_files = ["b.fits"]
    lines = []
    done = fetch_rules(tmp_path / "new", "jwst", server.url, tell=lines.append)
    assert (done.context, done.names, done.fetched) == ("jwst_0001.pmap", MAPPINGS, MAPPINGS)
    assert done.n_bytes == sum(len(served.read(name)) for name in MAPPINGS)
    assert lines[0] == f"1/3 {MAPPINGS[0]} ({len(served.read(MAPPINGS[0]))} bytes)"
    cache = CrdsCache(root=str(tmp_path / "new"), observatory="jwst")
    assert cache.resolve_context() == "jwst_0001.pmap"
    assert cache.read_mapping(MAPPINGS[0]) == served.read(MAPPINGS[0])
    assert cache.bad_files() == {"b.fits"}


def test_what_is_there_is_not_fetched_again(tmp_path, server):
    fetch_rules(tmp_path, "jwst", server.url)
    server.asked.clear()
    done = fetch_rules(tmp_path, "jwst", server.url, "jwst_0001.pmap")
    assert (done.names, done.fetched, done.n_bytes) == (MAPPINGS, (), 0)
    assert set(server.asked) == {"get_server_info", "get_mapping_names"}


def test_references_are_fetched_by_name_and_all(tmp_path, served, server):
    for names in ([REFERENCE], EVERY_REFERENCE):
        root = tmp_path / str(len(names[0]))
        rules = fetch_rules(root, "jwst", server.url)
        done = fetch_references(root, "jwst", server.url, rules.context, names)
        assert done.fetched == (REFERENCE,)
        copy = CrdsCache(root=str(root), observatory="jwst").read_reference(REFERENCE, "miri")
        assert copy == (served.references / REFERENCE).read_bytes()


def test_a_reference_that_was_cut_off_is_fetched_again(tmp_path, served, server):
    rules = fetch_rules(tmp_path, "jwst", server.url)
    fetch_references(tmp_path, "jwst", server.url, rules.context, [REFERENCE])
    (copy,) = (tmp_path / "references").rglob("*.fits")
    copy.write_bytes(copy.read_bytes()[:100])
    lines = []
    done = fetch_references(tmp_path, "jwst", server.url, rules.context, [REFERENCE], tell=lines.append)
    assert done.fetched == (REFERENCE,)
    assert "again, as its size was wrong" in lines[0]
    assert copy.read_bytes() == (served.references / REFERENCE).read_bytes()


@pytest.mark.parametrize("data", [b"half", None], ids=["another size", "another checksum"])
def test_a_download_that_is_not_the_file_is_refused_and_does_not_stay(tmp_path, served, server, data):
    whole = (served.references / REFERENCE).read_bytes()
    server.broken[REFERENCE] = data or whole[:-1] + b"x"
    rules = fetch_rules(tmp_path, "jwst", server.url)
    with pytest.raises(SyncError, match=rf"{REFERENCE} cannot be fetched from http://.*does not match server s.*again"):
        fetch_references(tmp_path, "jwst", server.url, rules.context, [REFERENCE])
    assert not list((tmp_path / "references").rglob("*.fits"))


def test_a_file_that_the_server_does_not_know_is_named(tmp_path, server):
    with pytest.raises(SyncError, match=r"other\.fits cannot be fetched from .*the server does not know it"):
        fetch_references(tmp_path, "jwst", server.url, "jwst_0001.pmap", ["jwst_miri_other.fits"])


def test_a_server_that_does_not_answer_leaves_the_cache_as_it_was(tmp_path, server):
    fetch_rules(tmp_path, "jwst", server.url)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SyncError, match=r"http://127\.0\.0\.1:9 cannot be reached: .*what it has can be used offline"):
        fetch_rules(tmp_path, "jwst", "http://127.0.0.1:9", timeout_s=5)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_context_that_the_server_does_not_know_is_refused(tmp_path, server):
    with pytest.raises(SyncSettingsError, match=r"does not give the mappings of jwst_0099\.pmap: .*No such context"):
        fetch_rules(tmp_path, "jwst", server.url, "jwst_0099.pmap")


def test_the_server_of_another_observatory_is_refused(tmp_path, served):
    with serve(served, "hst") as server, pytest.raises(SyncSettingsError, match="is the CRDS server of 'hst', not of"):
        fetch_rules(tmp_path, "jwst", server.url)


@pytest.mark.parametrize(
    ("observatory", "server", "sentence"),
    [
        ("ligeriri", "https://x.org", "no server for observatory 'ligeriri', only for hst, jwst, .*git lfs pull"),
        ("jwst", "https://crds-serverless-mode.stsci.edu", "is not the address of a CRDS server, such as https://jwst"),
        ("jwst", "ftp://x.org", "'ftp://x.org' is not the address of a CRDS server"),
        ("jwst", "", "'' is not the address of a CRDS server"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(tmp_path, observatory, server, sentence):
    with pytest.raises(SyncSettingsError, match=sentence):
        fetch_rules(tmp_path / "new", observatory, server)
    assert not (tmp_path / "new").exists()


def test_one_process_at_a_time_writes_a_cache(tmp_path, server):
    with (tmp_path / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SyncError, match=rf"Another process is writing the CRDS cache {tmp_path}; wait"):
            fetch_rules(tmp_path, "jwst", server.url)
    assert fetch_rules(tmp_path, "jwst", server.url).fetched == MAPPINGS


def test_a_cache_that_cannot_be_written_is_said(tmp_path, server):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SyncError, match=r"file/cache cannot be written: Not a directory; see to its folder"):
        fetch_rules(tmp_path / "file" / "cache", "jwst", server.url)


def test_the_environment_neither_steers_it_nor_is_changed(tmp_path, server, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("CRDS_READONLY_CACHE", "1")
    monkeypatch.setenv("CRDS_CONTEXT", "hst_0001.pmap")
    before = dict(os.environ)
    assert fetch_rules(tmp_path / "new", "jwst", server.url).fetched == MAPPINGS
    assert dict(os.environ) == before
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("observatory", "instrument", "kind"),
    [("jwst", "MIRI", "mask"), ("roman", "WFI", "mask"), ("hst", "ACS", "bpixtab")],
)
def test_every_observatory_of_crds_can_be_fetched_without_its_models(tmp_path, observatory, instrument, kind):
    served = write_served(tmp_path / "served", observatory, instrument, kind)
    name = f"{observatory}_{instrument.lower()}_{kind}_0001.fits"
    with serve(served) as server:
        rules = fetch_rules(tmp_path / "new", observatory, server.url)
        assert fetch_references(tmp_path / "new", observatory, server.url, rules.context, [name]).fetched == (name,)
    cache = CrdsCache(root=str(tmp_path / "new"), observatory=observatory)
    assert cache.read_reference(name, instrument).startswith(b"SIMPLE")
