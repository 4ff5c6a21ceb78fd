"""A bucket whose service fails in every way that services fail."""

import hashlib
import io
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from s3_proxy import (
    HANG,
    INTERNAL_ERROR,
    LOST,
    RESET,
    SLOW_DOWN,
    SWALLOW,
    TRUNCATE,
    Fault,
    FaultyS3,
    S3Request,
    make_bucket,
    sometimes,
    store_at,
)

from blocks import bucket, ranged
from blocks.store import DataStore, ObjectNotFoundError, StoreError, StoreUnusableError
from tasks.archive.fits_files import fits_bytes, get_hdu, image_hdu, open_fits
from tasks.products.identity import ProductRef

MULTIPART = 100_000
FITS_BLOCK = 2880


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # parts of 5 MB are the smallest that S3 takes, but the last
    monkeypatch.setattr(bucket, "MULTIPART_BYTES", MULTIPART)
    monkeypatch.setattr(bucket, "PART_BYTES", 5 << 20)


def only_first(fault, *methods):
    """Break the first request of every kind named, once."""
    left = set(methods)

    def rule(request: S3Request):
        if request.method in left:
            left.remove(request.method)
            return fault
        return None

    return rule


@pytest.mark.parametrize(
    "fault", [INTERNAL_ERROR, SLOW_DOWN, RESET, LOST, TRUNCATE, HANG], ids=lambda fault: fault.kind
)
def test_one_failure_of_every_kind_of_request_is_not_noticed(faulty_store: DataStore, proxy: FaultyS3, fault) -> None:
    proxy.rule = only_first(fault, "PUT", "GET", "HEAD", "DELETE")
    data = bytes(range(256)) * 400

    stored = faulty_store.put_bytes("x", data)

    assert faulty_store.stat("x") == stored
    assert faulty_store.read_bytes("x") == data
    assert faulty_store.list_keys() == ["x"]
    faulty_store.remove("x")
    assert faulty_store.list_keys() == []
    assert proxy.traffic.faults.total() >= 3


def test_a_service_that_hangs_is_given_up_in_bounded_time_and_one_sentence(
    faulty_store: DataStore, proxy: FaultyS3
) -> None:
    proxy.rule = lambda _request: HANG
    begun = time.monotonic()

    with pytest.raises(StoreError, match=r"cannot write x: http://.* did not answer in 0\.5 s \(tried 3 times\)"):
        faulty_store.put_bytes("x", b"1")
    with pytest.raises(StoreUnusableError, match=r"cannot be used: .* did not answer in 0\.5 s"):
        faulty_store.model_copy(update={"attempts": 1}).probe()

    assert time.monotonic() - begun < 3 * 0.5 + 0.5 + 1.5 + 2


def test_a_service_that_keeps_refusing_is_asked_as_often_as_was_said(faulty_store: DataStore, proxy: FaultyS3) -> None:
    proxy.rule = lambda _request: SLOW_DOWN

    with pytest.raises(StoreError, match=r"cannot read x: .*SlowDown.*tried 3 times"):
        faulty_store.read_bytes("x")

    assert proxy.traffic.requests == 3


def test_a_missing_bucket_is_named_as_such(s3_endpoint: str) -> None:
    with pytest.raises(StoreUnusableError, match="there is no such bucket; create it"):
        store_at(s3_endpoint, "nobody-made-this").probe()


def test_what_the_service_took_but_does_not_have_is_an_error(faulty_store: DataStore, proxy: FaultyS3) -> None:
    assert faulty_store._bucket.honours_conditions()
    proxy.rule = lambda request: SWALLOW if request.method == "PUT" else None

    with pytest.raises(StoreError, match="cannot write x: the service accepted it but does not have it") as raised:
        faulty_store.put_bytes("x", b"1")
    assert not isinstance(raised.value, ObjectNotFoundError)
    with pytest.raises(StoreError, match="cannot write x: the service answered without saying what it has"):
        faulty_store.put_new("x", b"1")


def test_an_old_object_does_not_pass_for_one_that_was_lost(faulty_store: DataStore, proxy: FaultyS3) -> None:
    faulty_store.put_bytes("x", b"old")
    proxy.rule = lambda request: SWALLOW if request.method == "PUT" else None

    with pytest.raises(StoreError, match="cannot write x: the service has 3 bytes of it with other contents, 6 were"):
        faulty_store.put_bytes("x", b"newest")
    assert faulty_store.read_bytes("x") == b"old"


def test_a_write_that_was_lost_once_is_written_again(faulty_store: DataStore, proxy: FaultyS3) -> None:
    faulty_store.put_bytes("x", b"old")
    proxy.rule = only_first(SWALLOW, "PUT")

    faulty_store.put_bytes("x", b"new")

    assert faulty_store.read_bytes("x") == b"new"


@pytest.mark.parametrize("same", [True, False], ids=["same bytes", "other bytes"])
def test_writers_of_one_key_all_succeed_and_one_of_them_is_the_last(
    faulty_store: DataStore, proxy: FaultyS3, same: bool
) -> None:
    """Two runs that work on one exposure publish the same products, and others that settings have changed."""
    # so that what was written is looked for when others have written too
    proxy.rule = lambda request: Fault("delay", seconds=0.05) if request.method == "HEAD" else None
    contents = [b"%d" % (0 if same else number) for number in range(6)]

    with ThreadPoolExecutor(6) as threads:
        for _ in range(3):
            list(threads.map(lambda data: faulty_store.put_bytes("x", data), contents))
            assert faulty_store.read_bytes("x") in contents


@pytest.mark.parametrize("how", ["put_bytes", "put_new", "put_file"])
def test_a_bucket_that_is_gone_is_no_missing_object(
    s3_endpoint: str, tmp_path: Path, how: str, small_parts: None
) -> None:
    store = store_at(s3_endpoint, make_bucket(s3_endpoint, f"gone-{how.replace('_', '-')}"))
    # as it is asked once
    assert store._bucket.honours_conditions()
    store._bucket._ask("delete_bucket", f"{store._base.split('/')[0]}/")
    (tmp_path / "x").write_bytes(bytes(MULTIPART + 1))

    with pytest.raises(StoreError, match="cannot write x: there is no such bucket; create it") as raised:
        getattr(store, how)("x", tmp_path / "x" if how == "put_file" else b"1")
    assert not isinstance(raised.value, ObjectNotFoundError)


@pytest.mark.parametrize("code", ["NoSuchUpload", ""])
def test_an_upload_that_meets_a_404_is_no_missing_object(
    faulty_store: DataStore, proxy: FaultyS3, small_parts: None, code: str
) -> None:
    proxy.rule = lambda request: Fault("error", 404, code) if "partNumber" in request.query else None

    sentence = "the upload in parts is gone" if code else "the service answered 404 .*correct the address of the store"
    with pytest.raises(StoreError, match=f"cannot write x: {sentence}") as raised:
        faulty_store.put_bytes("x", bytes(6 << 20))
    assert not isinstance(raised.value, ObjectNotFoundError)


def test_a_large_file_goes_up_in_parts_with_its_checksum(
    faulty_store: DataStore, proxy: FaultyS3, tmp_path: Path, small_parts: None
) -> None:
    source = tmp_path / "large"
    source.write_bytes(np.random.default_rng(1).bytes(11 << 20))
    proxy.rule = only_first(RESET, "PUT")

    stored = faulty_store.put_file("large", source)

    assert stored.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert faulty_store.stat("large") == stored
    assert faulty_store.version("large").endswith('-3"')
    with faulty_store.local_copy("large") as path:
        assert path.name == "large"
        assert path.read_bytes() == source.read_bytes()
    assert faulty_store.read_bytes("large") == source.read_bytes()


@pytest.mark.parametrize("broken", ["part", "completion"])
def test_an_upload_in_parts_that_fails_leaves_nothing(
    faulty_store: DataStore, proxy: FaultyS3, small_parts: None, broken: str
) -> None:
    faulty_store.put_bytes("x", b"old")
    proxy.rule = lambda request: (
        INTERNAL_ERROR if ("partNumber" if broken == "part" else "uploadId") in request.query
        and request.method == ("PUT" if broken == "part" else "POST") else None
    )  # fmt: skip

    with pytest.raises(StoreError, match=r"cannot write x: .*InternalError.*tried 3 times"):
        faulty_store.put_bytes("x", bytes(11 << 20))
    proxy.rule = lambda _request: None

    assert faulty_store.read_bytes("x") == b"old"
    assert "Uploads" not in faulty_store._bucket._ask("list_multipart_uploads", f"{faulty_store._base.split('/')[0]}/")


def test_an_upload_whose_completion_was_not_heard_of_is_complete(
    faulty_store: DataStore, proxy: FaultyS3, small_parts: None
) -> None:
    lost = iter([True])
    proxy.rule = lambda request: (
        LOST if request.method == "POST" and "uploadId" in request.query and next(lost, False) else None
    )

    stored = faulty_store.put_bytes("x", bytes(6 << 20))

    assert proxy.traffic.faults["lost"] == 1
    assert faulty_store.stat("x") == stored


def test_abandoned_uploads_are_cleared_by_the_probe(s3_store: DataStore) -> None:
    place, inside = f"{s3_store._base.split('/')[0]}/", s3_store._base.split("/", 1)[1]
    s3_store._bucket._ask("create_multipart_upload", f"{place}{inside}/abandoned")
    s3_store._bucket._ask("create_multipart_upload", f"{place}of-others")
    [begun, _] = s3_store._bucket._ask("list_multipart_uploads", place)["Uploads"]
    # moto says of every upload that it was begun in 2010
    assert begun["Initiated"] < datetime.now(UTC)

    s3_store.probe()

    [left] = s3_store._bucket._ask("list_multipart_uploads", place)["Uploads"]
    assert left["Key"] == "of-others"


@pytest.mark.parametrize("fault", [LOST, RESET], ids=lambda fault: fault.kind)
def test_a_conditional_write_whose_answer_was_lost_knows_that_it_won(
    faulty_store: DataStore, proxy: FaultyS3, fault
) -> None:
    assert faulty_store._bucket.honours_conditions()
    proxy.rule = only_first(fault, "PUT")
    assert faulty_store.put_new("x", b"1")
    version = faulty_store.version("x")
    proxy.rule = only_first(fault, "PUT")
    assert faulty_store.put_if_unchanged("x", b"2", version)
    proxy.rule = only_first(fault, "PUT")
    assert not faulty_store.put_new("x", b"1")


def test_a_conditional_write_returns_the_version_that_it_wrote(faulty_store: DataStore, proxy: FaultyS3) -> None:
    assert faulty_store._bucket.honours_conditions()
    proxy.forget()

    version = faulty_store.put_new("x", b"1")
    new = faulty_store.put_if_unchanged("x", b"2", str(version))

    # what is looked up afterwards may be another's
    assert proxy.forget().requests == 2
    assert new == faulty_store.version("x") != version
    proxy.rule = only_first(LOST, "PUT")
    assert faulty_store.put_if_unchanged("x", b"3", str(new)) == faulty_store.version("x")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_forks_while_a_thread_asks_for_conditions_has_a_child_that_asks(s3_store: DataStore) -> None:
    with bucket._asking:
        child = multiprocessing.get_context("fork").Process(target=s3_store.put_new, args=("x", b"1"))
        child.start()
        child.join(20)
    stuck = child.is_alive()
    child.kill()

    assert not stuck
    assert s3_store.read_bytes("x") == b"1"


def test_a_service_without_conditional_writes_is_noticed_and_said(
    proxy: FaultyS3, faulty_store: DataStore, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.ignores_conditions = True

    faulty_store.probe()

    assert "ignores the conditions of conditional writes" in caplog.text
    assert faulty_store.put_new("x", b"1")
    assert not faulty_store.put_new("x", b"2")
    seen = faulty_store.version("x")
    assert faulty_store.put_if_unchanged("x", b"3", seen) == faulty_store.version("x")
    assert not faulty_store.put_if_unchanged("x", b"4", seen)
    assert faulty_store.read_bytes("x") == b"3"


def mosaic(n_ccds: int) -> bytes:
    """A file whose CCDs are all the same: compressing forty takes long."""
    pixels = np.random.default_rng(1).normal(1000, 30, (1000, 1000)).astype(np.int16)
    header = fits.Header([(f"K{k}", float(k), "a card like those of a camera") for k in range(200)])
    one = fits_bytes([fits.PrimaryHDU(), image_hdu(pixels, "CCD", header)])
    return one[:FITS_BLOCK] + one[FITS_BLOCK:] * n_ccds


def test_of_a_mosaic_little_more_than_one_ccd_is_fetched(patient_store: DataStore, proxy: FaultyS3) -> None:
    data = mosaic(40)
    stored = patient_store.put_bytes("x.fits.fz", data)
    ref = ProductRef(key="x.fits.fz", sha256=stored.sha256, size=stored.size)
    proxy.forget()

    with open_fits(patient_store, ref, checksum=False) as hdus:
        hdu = get_hdu(hdus, 40, ref)
        own, pixels = hdu.fileinfo()["datSpan"], np.array(hdu.data)
    first = proxy.forget()
    with open_fits(patient_store, ref, checksum=False) as hdus:
        get_hdu(hdus, 39, ref).data.sum()
    second = proxy.forget()

    assert len(data) > 30e6
    np.testing.assert_array_equal(pixels, fits.getdata(io.BytesIO(data), 40))
    assert first.bytes_down < own + 40 * ranged.BLOCK_BYTES
    assert first.requests < 50
    # the headers on the way are known by now
    assert second.bytes_down < 1.1 * own + ranged.BLOCK_BYTES
    assert second.requests <= 4


def test_a_store_that_fails_while_a_mosaic_is_read_is_never_taken_for_a_bad_file(
    faulty_store: DataStore, proxy: FaultyS3
) -> None:
    once = faulty_store.model_copy(update={"attempts": 1})
    stored = once.put_bytes("x.fits.fz", mosaic(4))
    ref = ProductRef(key="x.fits.fz", sha256=stored.sha256, size=stored.size)
    outcomes = []
    for number in range(9):
        ranged._blocks.clear()
        proxy.forget()
        proxy.rule = lambda request, wanted=number: INTERNAL_ERROR if request.number >= wanted else None
        try:
            with open_fits(once, ref, checksum=False) as hdus:
                get_hdu(hdus, 4, ref).data.sum()
            outcomes.append("read")
        except StoreError as error:
            assert "the service answered 500" in str(error)  # noqa: PT017 (of several outcomes)
            outcomes.append("store")

    assert outcomes == ["store"] * 6 + ["read"] * 3


def test_an_object_that_is_written_again_while_it_is_read_is_not_mixed(s3_store: DataStore) -> None:
    s3_store.put_bytes("x", bytes(100_000))

    with s3_store.open("x") as handle:
        assert handle.read(10) == bytes(10)
        s3_store.put_bytes("x", b"1" * 100_000)
        handle.seek(90_000)
        with pytest.raises(StoreError, match="cannot read x: it was written again while it was read"):
            handle.read(10)


def test_an_empty_object_is_read_as_such(s3_store: DataStore) -> None:
    s3_store.put_bytes("x", b"")

    assert s3_store.read_bytes("x") == b""
    with s3_store.open("x") as handle:
        assert handle.read() == b""
    with pytest.raises(ObjectNotFoundError, match="cannot read y: there is no such object"):
        s3_store.open("y")


def write_and_read(store: DataStore, number: int) -> bytes:
    store.put_bytes(f"many/{number}", b"%d" % number)
    return store.read_bytes(f"many/{number}")


@pytest.mark.parametrize("method", ["threads", "fork", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_many_workers_use_one_store(s3_store: DataStore, method: str) -> None:
    # a store that was in use before its process forked
    s3_store.put_bytes("many/before", b"")
    if method == "threads":
        pool = ThreadPoolExecutor(16)
    else:
        pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method))

    with pool:
        back = list(pool.map(write_and_read, [s3_store] * 32, range(32)))

    assert back == [b"%d" % number for number in range(32)]
    assert len(s3_store.list_keys("many")) == 33


def test_an_object_is_whole_or_absent_however_often_writing_it_fails(faulty_store: DataStore, proxy: FaultyS3) -> None:
    proxy.rule = sometimes(RESET, 0.6, seed=1, methods={"PUT"})
    failed = 0
    for number in range(12):
        try:
            faulty_store.put_bytes(f"x/{number}", bytes([number]) * 50_000)
        except StoreError:
            failed += 1
    proxy.rule = lambda _request: None

    assert 0 < failed < 12
    for key in faulty_store.list_keys("x"):
        data = faulty_store.read_bytes(key)
        assert faulty_store.stat(key) == (key, hashlib.sha256(data).hexdigest(), 50_000)
