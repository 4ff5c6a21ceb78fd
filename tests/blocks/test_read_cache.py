"""Copies of remote objects: fresh, whole, bounded."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_proxy import TRUNCATE, FaultyS3

from blocks.read_cache import ReadCache
from blocks.store import DataStore, StoreError


@pytest.fixture
def cached(faulty_store: DataStore, tmp_path: Path) -> DataStore:
    return faulty_store.model_copy(update={"read_cache": str(tmp_path / "cache"), "read_cache_bytes": 100_000})


def cache_of(store: DataStore) -> ReadCache:
    cache = store._cache
    assert cache is not None
    return cache


def copies(store: DataStore) -> list[Path]:
    return sorted(path for path in Path(str(store.read_cache)).iterdir() if not path.name.startswith("."))


def test_what_is_read_again_is_not_fetched_again(cached: DataStore, proxy: FaultyS3) -> None:
    cached.put_bytes("x.fits", b"1" * 50_000)
    assert cached.read_bytes("x.fits") == b"1" * 50_000
    proxy.forget()

    assert cached.read_bytes("x.fits") == b"1" * 50_000
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
    cached.read_bytes("x")
    cached.put_bytes("x", b"new")

    assert cached.read_bytes("x") == b"new"


def test_a_damaged_copy_is_thrown_away(cached: DataStore) -> None:
    cached.put_bytes("x", b"right")
    cached.read_bytes("x")
    [copy] = copies(cached)
    copy.chmod(0o644)
    copy.write_bytes(b"wrong")

    assert cached.read_bytes("x") == b"right"
    assert copy.read_bytes() == b"right"


def test_the_longest_unused_copies_go_when_there_is_no_room(cached: DataStore, proxy: FaultyS3) -> None:
    for number in range(3):
        cached.put_bytes(f"{number}", bytes([number]) * 40_000)
    cached.read_bytes("0")
    cached.read_bytes("1")
    cached.read_bytes("0")
    cached.read_bytes("2")
    proxy.forget()

    assert cache_of(cached).size() == 80_000
    cached.read_bytes("0")
    assert proxy.forget().bytes_down == 0
    cached.read_bytes("1")
    assert proxy.forget().bytes_down == 40_000


def test_what_is_larger_than_the_cache_is_read_and_not_kept(cached: DataStore) -> None:
    cached.put_bytes("x", b"1" * 200_000)

    assert cached.read_bytes("x") == b"1" * 200_000
    assert copies(cached) == []


def test_a_copy_that_is_being_read_survives_its_eviction(cached: DataStore) -> None:
    for name in "ab":
        cached.put_bytes(name, name.encode() * 80_000)

    with cached.local_copy("a") as path:
        cached.read_bytes("b")
        assert len(copies(cached)) == 1
        assert path.read_bytes() == b"a" * 80_000


def test_a_download_that_breaks_off_leaves_no_copy(cached: DataStore, proxy: FaultyS3) -> None:
    cached.put_bytes("x", b"1" * 50_000)
    proxy.rule = lambda request: TRUNCATE if request.method == "GET" else None

    with pytest.raises(StoreError, match="cannot copy x: "):
        cached.read_bytes("x")
    assert copies(cached) == []
    assert list((Path(str(cached.read_cache)) / ".busy").iterdir()) == []


def test_many_readers_share_a_cache(cached: DataStore) -> None:
    contents = {f"{number}": bytes([number]) * 30_000 for number in range(6)}
    for key, data in contents.items():
        cached.put_bytes(key, data)

    with ThreadPoolExecutor(8) as threads:
        keys = [f"{number % 6}" for number in range(48)]
        read = list(threads.map(cached.read_bytes, keys))

    assert read == [contents[key] for key in keys]
    assert cache_of(cached).size() <= 100_000
    for copy in copies(cached):
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == copy.name.split(".")[1]


def test_a_local_store_keeps_no_copies(store: DataStore, tmp_path: Path) -> None:
    local = store.model_copy(update={"read_cache": str(tmp_path / "cache")})
    local.put_bytes("x", b"1")

    assert local.read_bytes("x") == b"1"
    assert not (tmp_path / "cache").exists()


def test_the_version_is_compared_and_not_trusted(tmp_path: Path) -> None:
    from blocks.objects import Found

    cache, found = ReadCache(tmp_path / "cache", 1000), Found(3, "v1", "")

    def wrong(target: Path) -> str:
        target.write_bytes(b"four")
        return "v1"

    # written again between the look-up and the download: given to the reader, but not kept
    with cache.copy("s3://b/x", found, wrong) as path:
        assert path.read_bytes() == b"four"
    assert cache.size() == 0
