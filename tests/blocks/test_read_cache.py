"""Copies of remote objects: fresh, whole, bounded."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from s3_proxy import TRUNCATE, FaultyS3

from blocks.objects import Found
from blocks.read_cache import ReadCache
from blocks.store import DataStore, StoreError


@pytest.fixture
def cached(patient_store: DataStore, tmp_path: Path) -> DataStore:
    return patient_store.model_copy(update={"read_cache": str(tmp_path / "cache"), "read_cache_bytes": 100_000})


def cache_of(store: DataStore) -> ReadCache:
    cache = store._cache
    assert cache is not None
    return cache


def copies(store: DataStore) -> list[Path]:
    return sorted(path for path in Path(str(store.read_cache)).glob("[!.]*/*"))


def read(store: DataStore, key: str) -> bytes:
    return store.read_bytes(key, cached=True)


def test_what_is_read_again_is_not_fetched_again(cached: DataStore, proxy: FaultyS3) -> None:
    cached.put_bytes("x.fits", b"1" * 50_000)
    assert read(cached, "x.fits") == b"1" * 50_000
    proxy.forget()

    assert read(cached, "x.fits") == b"1" * 50_000
    with cached.local_copy("x.fits") as path:
        assert path.name == "x.fits"
        assert path.read_bytes() == b"1" * 50_000
    assert proxy.traffic.bytes_down == 0
    assert not path.exists()


def test_a_file_that_is_read_whole_comes_from_the_cache_and_one_of_many_ccds_does_not(
    cached: DataStore, proxy: FaultyS3
) -> None:
    cached.put_bytes("x", b"1" * 50_000)
    with cached.open("x", whole=True) as handle:
        assert handle.read() == b"1" * 50_000
    proxy.forget()

    with cached.open("x", whole=True) as handle:
        assert handle.read() == b"1" * 50_000
    assert proxy.forget().bytes_down == 0
    with cached.open("x") as handle:
        assert handle.read(1) == b"1"
    assert proxy.traffic.methods["GET"] == 1


def test_an_object_that_was_written_again_is_fetched_again(cached: DataStore) -> None:
    cached.put_bytes("x", b"old")
    read(cached, "x")
    cached.put_bytes("x", b"new")

    assert read(cached, "x") == b"new"


def test_a_damaged_copy_is_thrown_away(cached: DataStore) -> None:
    cached.put_bytes("x", b"right")
    read(cached, "x")
    [copy] = copies(cached)
    copy.chmod(0o644)
    copy.write_bytes(b"wrong")

    assert read(cached, "x") == b"right"
    assert copy.read_bytes() == b"right"


def test_the_longest_unused_copies_go_when_there_is_no_room(cached: DataStore, proxy: FaultyS3) -> None:
    for number in range(3):
        cached.put_bytes(f"{number}", bytes([number]) * 40_000)
    read(cached, "0")
    read(cached, "1")
    read(cached, "0")
    read(cached, "2")
    proxy.forget()

    assert cache_of(cached).size() == 80_000
    read(cached, "0")
    assert proxy.forget().bytes_down == 0
    read(cached, "1")
    assert proxy.forget().bytes_down == 40_000


def test_what_is_larger_than_the_cache_is_read_and_not_kept(cached: DataStore) -> None:
    cached.put_bytes("x", b"1" * 200_000)

    assert read(cached, "x") == b"1" * 200_000
    assert copies(cached) == []


def test_a_copy_that_is_being_read_survives_its_eviction(cached: DataStore) -> None:
    for name in "ab":
        cached.put_bytes(name, name.encode() * 80_000)

    with cached.local_copy("a") as path:
        read(cached, "b")
        assert len(copies(cached)) == 1
        assert path.read_bytes() == b"a" * 80_000


def test_a_download_that_breaks_off_leaves_no_copy(cached: DataStore, proxy: FaultyS3) -> None:
    cached.put_bytes("x", b"1" * 50_000)
    proxy.rule = lambda request: TRUNCATE if request.method == "GET" else None

    with pytest.raises(StoreError, match="cannot copy x: "):
        read(cached, "x")
    assert copies(cached) == []
    assert list((Path(str(cached.read_cache)) / ".busy").iterdir()) == []


def test_many_readers_share_a_cache(cached: DataStore) -> None:
    contents = {f"{number}": bytes([number]) * 30_000 for number in range(6)}
    for key, data in contents.items():
        cached.put_bytes(key, data)

    with ThreadPoolExecutor(8) as threads:
        keys = [f"{number % 6}" for number in range(48)]
        found = list(threads.map(lambda key: read(cached, key), keys))

    assert found == [contents[key] for key in keys]
    assert cache_of(cached).size() <= 100_000
    for copy in copies(cached):
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == copy.name


def test_a_local_store_keeps_no_copies(store: DataStore, tmp_path: Path) -> None:
    local = store.model_copy(update={"read_cache": str(tmp_path / "cache")})
    local.put_bytes("x", b"1")

    assert read(local, "x") == b"1"
    assert not (tmp_path / "cache").exists()


def test_the_version_is_compared_and_not_trusted(tmp_path: Path) -> None:
    cache, found = ReadCache(tmp_path / "cache", 1000), Found(3, "v1", "", datetime.now(UTC))

    def wrong(target: Path) -> str:
        target.write_bytes(b"four")
        return "v1"

    # written again between the look-up and the download: given to the reader, but not kept
    with cache.copy("s3://b/x", found, wrong) as path:
        assert path.read_bytes() == b"four"
    assert cache.size() == 0


def test_a_small_object_is_read_in_one_request_and_no_copy_is_kept(cached: DataStore, proxy: FaultyS3) -> None:
    cached.put_bytes("x.json", b"{}")
    proxy.forget()

    assert cached.read_bytes("x.json") == b"{}"
    assert proxy.traffic.requests == 1
    assert not Path(str(cached.read_cache)).exists()


def test_reading_and_keeping_do_not_look_at_the_other_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, listed = ReadCache(tmp_path / "cache", 1_000_000), []
    iterdir = Path.iterdir

    def listing(folder: Path):
        listed.append(folder)
        return iterdir(folder)

    def download(target: Path) -> str:
        target.write_bytes(b"1")
        return "v1"

    for number in range(3):
        if number == 2:
            monkeypatch.setattr(Path, "iterdir", listing)
        for _ in range(2):
            with cache.copy(f"s3://b/{number}", Found(1, "v1", "", datetime.now(UTC)), download):
                pass

    # its own place before and after it was kept, and those who read now
    assert len(listed) == 3
    assert cache.folder not in listed
    assert cache.size() == 3


def test_what_others_removed_by_hand_makes_room(cached: DataStore) -> None:
    cached.put_bytes("x", b"1" * 90_000)
    cached.put_bytes("y", b"2" * 90_000)
    read(cached, "x")
    for copy in copies(cached):
        copy.unlink()

    read(cached, "y")

    assert cache_of(cached).size() == 90_000
    read(cached, "x")
    assert cache_of(cached).size() == 90_000


@pytest.mark.parametrize("problem", ["a file", "no entry allowed", "full", "lock is a folder", "deleted"])
def test_a_cache_that_fails_costs_a_warning_and_no_read(
    cached: DataStore,
    proxy: FaultyS3,
    problem: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, data = Path(str(cached.read_cache)), b"1" * 50_000
    cached.put_bytes("x.fits", data)
    if problem == "a file":
        folder.write_bytes(b"")
    elif problem == "no entry allowed":
        # also root may not write there
        cached = cached.model_copy(update={"read_cache": "/proc/self/cache"})
    elif problem == "lock is a folder":
        (folder / ".lock").mkdir(parents=True)
    elif problem == "full":
        opened = Path.open

        def full(path: Path, mode: str = "r", **options):
            is_copy = path.is_relative_to(folder) and mode == "wb"
            return opened(Path("/dev/full") if is_copy else path, mode, **options)

        monkeypatch.setattr(Path, "open", full)
    else:
        # while an object is fetched
        proxy.rule = lambda request: shutil.rmtree(folder, ignore_errors=True) if request.method == "GET" else None

    for _ in range(2):
        assert read(cached, "x.fits") == data
        with cached.open("x.fits", whole=True) as handle:
            assert handle.read() == data
        with cached.local_copy("x.fits") as path:
            assert path.read_bytes() == data
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert f"The read cache {cached.read_cache} cannot be used, all is read from the store: " in warnings[0]


def test_a_disk_without_room_for_a_copy_is_an_error_of_the_copy(
    faulty_store: DataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty_store.put_bytes("x", b"1" * 50_000)
    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode="r", **options: opened(Path("/dev/full") if mode == "wb" else path, mode, **options),
    )

    with pytest.raises(StoreError, match=r"cannot copy x: .*No space left"), faulty_store.local_copy("x"):
        pass
