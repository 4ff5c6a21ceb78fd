import errno
import hashlib
import os
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blocks import bucket, folder
from blocks.store import BadKeyError, DataStore, ObjectNotFoundError, StoreError, StoreUnusableError


def test_when_an_object_was_written_is_known_in_utc(any_store: DataStore) -> None:
    any_store.put_bytes("a/b.txt", b"flux")
    written = any_store.modified("a/b.txt")

    assert written.tzinfo is UTC
    assert abs((written - datetime.now(UTC)).total_seconds()) < 60
    with pytest.raises(ObjectNotFoundError):
        any_store.modified("a/c.txt")


def test_what_is_written_is_read_back_with_its_checksum(any_store: DataStore) -> None:
    stored = any_store.put_bytes("a/b.txt", b"flux")

    assert any_store.read_bytes("a/b.txt") == b"flux"
    assert stored == any_store.stat("a/b.txt") == ("a/b.txt", hashlib.sha256(b"flux").hexdigest(), 4)
    assert any_store.exists("a/b.txt")
    assert not any_store.exists("a/c.txt")


def test_a_file_is_published_and_copied_out_to_the_byte(any_store: DataStore, tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(os.urandom(100_000))

    stored = any_store.put_file("x.bin", source)

    with any_store.local_copy("x.bin") as path:
        assert path.read_bytes() == source.read_bytes()
    assert stored.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert any_store.stat("x.bin") == stored


def test_an_object_can_be_read_from_the_middle(any_store: DataStore) -> None:
    any_store.put_bytes("x", bytes(range(100)))

    with any_store.open("x") as handle:
        handle.seek(40)
        assert handle.read(3) == bytes([40, 41, 42])


def test_keys_are_listed_sorted_below_a_prefix(any_store: DataStore) -> None:
    for key in ("t/2", "t/1", "s/1"):
        any_store.put_bytes(key, b"")

    assert any_store.list_keys() == ["s/1", "t/1", "t/2"]
    assert any_store.list_keys("t") == ["t/1", "t/2"]
    assert any_store.list_keys("none") == []


def test_folders_are_listed_without_what_is_in_them(any_store: DataStore) -> None:
    for key in ("e/2113737/a/x", "e/2113737/b", "e/2113738/a", "e/note"):
        any_store.put_bytes(key, b"")

    assert any_store.list_folders("e") == ["2113737", "2113738"]
    assert any_store.list_folders() == ["e"]
    assert any_store.list_folders("none") == []


def test_a_version_changes_when_an_object_is_written_again(any_store: DataStore) -> None:
    any_store.put_bytes("x/a", b"1")
    any_store.put_bytes("x/b", b"1")
    first = any_store.list_versions("x")
    any_store.put_bytes("x/a", b"22")
    second = any_store.list_versions("x")

    assert sorted(second) == ["x/a", "x/b"]
    assert second["x/a"] != first["x/a"]
    assert second["x/b"] == first["x/b"]
    assert second["x/a"] == any_store.version("x/a") == any_store.read_version("x/a")[1]
    with pytest.raises(ObjectNotFoundError, match="cannot look up x/c: there is no such object"):
        any_store.version("x/c")


def test_a_folder_is_not_an_object(any_store: DataStore) -> None:
    any_store.put_bytes("e/x", b"")

    assert not any_store.exists("e")


@pytest.mark.parametrize("kind", ["store", "patient_store"])
def test_only_one_of_many_writers_creates_an_object(request: pytest.FixtureRequest, kind: str) -> None:
    any_store: DataStore = request.getfixturevalue(kind)
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda number: any_store.put_new("x", b"%d" % number), range(8)))

    [version] = set(won) - {None}
    assert any_store.read_version("x") == (b"%d" % won.index(version), version)
    assert any_store.put_new("x", b"late") is None


def test_only_the_version_that_was_seen_is_replaced_or_removed(any_store: DataStore) -> None:
    any_store.put_bytes("x", b"1")
    seen = any_store.version("x")

    new = any_store.put_if_unchanged("x", b"22", seen)
    assert new == any_store.version("x") != seen
    assert not any_store.put_if_unchanged("x", b"333", seen)
    assert not any_store.remove_if_unchanged("x", seen)
    assert any_store.read_bytes("x") == b"22"
    assert any_store.remove_if_unchanged("x", any_store.version("x"))
    assert not any_store.put_if_unchanged("x", b"1", seen)
    assert not any_store.remove_if_unchanged("x", seen)
    assert any_store.list_keys() == []


def test_a_deleted_object_is_gone_and_deleting_twice_is_fine(any_store: DataStore) -> None:
    any_store.put_bytes("x", b"1")

    any_store.remove("x")
    any_store.remove("x")

    assert not any_store.exists("x")


def test_a_missing_object_has_its_own_error(any_store: DataStore) -> None:
    with pytest.raises(ObjectNotFoundError, match="cannot read nothing/here: there is no such object"):
        any_store.read_bytes("nothing/here")


def test_a_usable_store_passes_the_probe_and_keeps_nothing_of_it(any_store: DataStore) -> None:
    any_store.probe()

    assert any_store.list_keys() == []


@pytest.mark.parametrize(
    "key", ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".hidden", "a\x00b", "x" * 10_000, "a b"]
)
def test_no_key_leaves_the_collection(store: DataStore, key: str) -> None:
    with pytest.raises(BadKeyError, match="cannot be the name of a product"):
        store.put_bytes(key, b"")


def test_a_collection_cannot_leave_the_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a collection name"):
        DataStore(root=str(tmp_path), collection="../other")


@pytest.mark.parametrize("root", ["", "s3://", "s3:///", "file://"])
def test_a_root_that_names_no_place_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match=r"has none|names no (bucket|folder)"):
        DataStore(root=root)


def test_other_protocols_are_refused() -> None:
    with pytest.raises(ValueError, match="not http://"):
        DataStore(root="http://example.org/x")


def test_a_store_that_cannot_be_written_fails_the_probe(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the store should be")

    with pytest.raises(StoreUnusableError, match="cannot be used"):
        DataStore(root=str(tmp_path / "file"), collection="c").probe()


def test_an_unreachable_s3_store_fails_the_probe() -> None:
    store = DataStore(root="s3://b/c", endpoint_url="http://127.0.0.1:9", access_key="k", secret_key="s", attempts=1)

    with pytest.raises(StoreUnusableError, match="s3://b/c cannot be used"):
        store.probe()
    with pytest.raises(StoreError, match="s3://b/c: cannot read x: Could not connect"):
        store.read_bytes("x")
    with pytest.raises(StoreError, match="s3://b/c: cannot look up x: Could not connect"):
        store.exists("x")


def test_a_failed_write_leaves_the_old_object_and_no_rest(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_bytes("x", b"old")

    def full(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match=r"cannot write x: .*No space left"):
        store.put_bytes("x", b"new")
    monkeypatch.undo()

    assert store.read_bytes("x") == b"old"
    assert [path.name for path in (Path(store.root) / ".incoming").iterdir()] == ["lock"]


def test_a_store_travels_to_worker_processes_and_keeps_its_secret(s3_store: DataStore) -> None:
    assert "test" not in repr(s3_store.secret_key)

    copy = pickle.loads(pickle.dumps(s3_store))
    copy.put_bytes("x", b"1")

    assert s3_store.read_bytes("x") == b"1"


def test_a_file_url_is_the_same_store_as_its_folder(tmp_path: Path) -> None:
    DataStore(root=f"file://{tmp_path}", collection="c").put_bytes("x", b"1")

    assert DataStore(root=str(tmp_path), collection="c").read_bytes("x") == b"1"
    assert stat.S_ISREG((tmp_path / "c" / "x").stat().st_mode)


def test_what_a_killed_writer_left_is_cleared_after_a_day(store: DataStore) -> None:
    store.probe()
    incoming = Path(store.root) / ".incoming"
    old, new = incoming / "1-old", incoming / "2-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.probe()

    assert set(incoming.iterdir()) == {new, incoming / "lock"}


def test_probes_that_killed_processes_left_are_cleared_after_a_week(
    any_store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes, others = [f"probe-{'0' * 32}", f"probe-conditions-{'1' * 32}"], ["probe-of-mine", f"a/probe-{'2' * 32}"]
    for key in probes + others:
        any_store.put_bytes(key, b"")
    any_store.probe()
    assert any_store.list_keys() == sorted(probes + others)

    for module in (folder, bucket):
        monkeypatch.setattr(module, "PROBES_ABANDONED_AFTER_S", -1)
    any_store.probe()
    assert any_store.list_keys() == sorted(others)


def test_an_object_that_is_written_while_an_older_version_is_removed_stays(store: DataStore) -> None:
    """The note of an arrival, which is announced again while its first announcement is forgotten."""
    missing = []
    with ThreadPoolExecutor(1) as threads:
        for number in range(300):
            store.put_bytes("x", b"%d" % number)
            seen = store.version("x")
            writing = threads.submit(store.put_bytes, "x", b"again")
            removed = store.remove_if_unchanged("x", seen)
            writing.result()
            if not store.exists("x"):
                missing.append((number, removed))
    assert missing == []


def test_what_is_removed_by_two_at_once_is_fine_for_both(store: DataStore) -> None:
    with ThreadPoolExecutor(2) as threads:
        for _ in range(100):
            store.put_bytes("x", b"")
            conditional = threads.submit(store.remove_if_unchanged, "x", store.version("x"))
            threads.submit(store.remove, "x").result()
            conditional.result()


def test_only_one_of_many_writers_creates_an_object_where_there_are_no_links(
    store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_source: Path, _target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    # as exFAT answers
    monkeypatch.setattr(os, "link", refused)
    for turn in range(10):
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda number, key=f"x{turn}": store.put_new(key, b"%d" % number), range(8)))
        [version] = set(won) - {None}
        assert store.read_version(f"x{turn}") == (b"%d" % won.index(version), version)


def test_a_folder_that_vanishes_while_it_is_written_to_is_no_missing_object(
    store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "mkdir", lambda *_arguments, **_options: None)

    with pytest.raises(StoreError, match=r"cannot write x: .*No such file or directory") as raised:
        store.put_bytes("x", b"")
    assert not isinstance(raised.value, ObjectNotFoundError)
