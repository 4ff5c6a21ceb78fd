import hashlib
import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.store import BadKeyError, DataStore, ObjectNotFoundError, StoreError, StoreUnusableError


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_store(s3_endpoint: str, request: pytest.FixtureRequest) -> DataStore:
    import s3fs

    bucket = f"b{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"
    s3fs.S3FileSystem(endpoint_url=s3_endpoint, key="test", secret="test", skip_instance_cache=True).mkdir(bucket)
    return DataStore(
        root=f"s3://{bucket}/survey", collection="c1", endpoint_url=s3_endpoint, access_key="test", secret_key="test"
    )


@pytest.fixture(params=["local", "s3"])
def any_store(request: pytest.FixtureRequest) -> DataStore:
    store: DataStore = request.getfixturevalue("store" if request.param == "local" else "s3_store")
    return store


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


def test_other_protocols_are_refused() -> None:
    with pytest.raises(ValueError, match="not http://"):
        DataStore(root="http://example.org/x")


def test_a_store_that_cannot_be_written_fails_the_probe(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where the store should be")

    with pytest.raises(StoreUnusableError, match="cannot be used"):
        DataStore(root=str(tmp_path / "file"), collection="c").probe()


def test_an_unreachable_s3_store_fails_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = DataStore(root="s3://b/c", endpoint_url="http://127.0.0.1:9", access_key="k", secret_key="s")

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
    assert list((Path(store.root) / ".incoming").iterdir()) == []


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
    folder = Path(store.root) / ".incoming"
    old, new = folder / "1-old", folder / "2-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.probe()

    assert list(folder.iterdir()) == [new]
