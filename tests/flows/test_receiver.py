import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from s3_proxy import Fault, FaultyS3, S3Request, make_bucket, s3_service, store_at
from typer.testing import CliRunner

from blocks.store import DataStore, StoreError
from flows.cli import app
from flows.cli.arrival import address
from flows.receiver import service
from flows.receiver.messages import read_message
from flows.receiver.nonces import FOLDER, NonceBook
from flows.receiver.outbox import Outbox
from flows.receiver.refusals import RefusedError, ReplayedError
from flows.receiver.sender import send_notification
from flows.receiver.service import Receiver, make_server
from flows.receiver.signatures import NONCE, SIGNATURE, TIMESTAMP, Credentials, Stamp, sign
from tasks.archive.inbox import list_arrivals
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId
from tasks.products.instrument import Instrument

SECRET = "an honest secret of thirty-two characters"
TOKEN = "a bearer token of thirty-two characters"
CAMERA = Instrument(name="a camera")
NAME = ExposureId("2113737")
RAW = DataStore(root="s3://raw-bucket/season-1")

Answer = tuple[int, str]
Post = Callable[..., Answer]


@contextmanager
def receiving(store: DataStore, credentials: Credentials, raw: DataStore = RAW) -> Iterator[str]:
    """Run a receiver in a thread; give its address."""
    with Outbox("test") as outbox:
        server = make_server(Receiver(store, raw, CAMERA, credentials, outbox), "127.0.0.1", 0)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture
def url(store: DataStore) -> Iterator[str]:
    with receiving(store, Credentials(SECRET, TOKEN)) as found:
        yield found


def body_of(key: str, bucket: str = "raw-bucket", event: str = "ObjectCreated:Put") -> bytes:
    return json.dumps({"Records": [record(key, bucket, event)]}).encode()


def record(key: str, bucket: str = "raw-bucket", event: str = "ObjectCreated:Put") -> dict[str, Any]:
    """One record as AWS sends it, with some of the fields that are not read."""
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": event,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket, "arn": "x"}, "object": {"key": key, "size": 7}},
    }


def post(url: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    answer = httpx.post(f"{url}/arrivals", content=body, headers=sign(SECRET, body) if headers is None else headers)
    return answer.status_code, answer.text


def test_a_signed_s3_event_leaves_a_note_before_it_is_answered(url: str, store: DataStore) -> None:
    status, text = post(url, body_of("season-1/2113737p.fits.fz"))

    assert (status, json.loads(text)) == (202, {"accepted": ["2113737"], "ignored": 0, "refused": []})
    assert list(list_arrivals(store)) == [NAME]


def test_a_request_that_is_not_signed_is_refused(url: str, store: DataStore) -> None:
    status, text = post(url, body_of("season-1/2113737p.fits.fz"), {})

    assert (status, "not signed" in text) == (401, True)
    assert store.list_keys() == []


@pytest.mark.parametrize("change", ["body", "secret", TIMESTAMP, NONCE, SIGNATURE])
def test_a_request_that_was_changed_on_its_way_is_refused(url: str, store: DataStore, change: str) -> None:
    body = body_of("season-1/2113737p.fits.fz")
    headers = sign(SECRET[::-1] if change == "secret" else SECRET, body)
    if change == "body":
        body = body.replace(b"2113737", b"2113738")
    elif change in headers:
        headers[change] = headers[change][:-1] + ("0" if headers[change][-1] != "0" else "1")
    status, text = post(url, body, headers)

    assert (status, "The signature is wrong" in text) == (401, True)
    assert store.list_keys() == []


@pytest.mark.parametrize("age_s", [400, -400, 10**9])
def test_a_request_that_is_too_old_or_from_the_future_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch, age_s: int
) -> None:
    now = time.time()
    body = body_of("season-1/2113737p.fits.fz")
    with monkeypatch.context() as patch:
        patch.setattr("flows.receiver.signatures.time.time", lambda: now - age_s)
        headers = sign(SECRET, body)

    status, text = post(url, body, headers)
    assert (status, "300 s are allowed" in text) == (401, True)


@pytest.mark.parametrize(
    "headers",
    [
        {TIMESTAMP: "1e9", NONCE: "n" * 20, SIGNATURE: "v1=0"},
        {TIMESTAMP: "9" * 30, NONCE: "n" * 20, SIGNATURE: "v1=0"},
        {TIMESTAMP: "1700000000", NONCE: "../../x", SIGNATURE: "v1=0"},
        {TIMESTAMP: "1700000000", NONCE: "n" * 20, SIGNATURE: ""},
        {TIMESTAMP: "1700000000", NONCE: "n" * 20, SIGNATURE: "v1=" + "f" * 64},
    ],
)
def test_headers_of_nonsense_are_refused(url: str, headers: dict[str, str]) -> None:
    assert post(url, b"{}", headers)[0] == 401


def test_a_replayed_request_is_refused_also_by_a_restarted_receiver(url: str, store: DataStore) -> None:
    body = body_of("season-1/2113737p.fits.fz")
    headers = sign(SECRET, body)
    first, again = post(url, body, headers), post(url, body, headers)
    with receiving(store, Credentials(SECRET)) as restarted:
        later = post(restarted, body, headers)

    assert [first[0], again[0], later[0]] == [202, 409, 409]
    assert "accepted before" in again[1]


def test_of_many_copies_at_the_same_time_one_is_accepted(url: str) -> None:
    body = body_of("season-1/2113737p.fits.fz")
    headers = sign(SECRET, body)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: post(url, body, headers)[0], range(16)))

    # a copy that comes while the first is in work is told to come again, since the first may still fail
    assert (answers.count(202), {*answers} <= {202, 409, 503}) == (1, True)
    assert post(url, body, headers)[0] == 409


def test_a_request_that_failed_is_accepted_when_it_is_sent_again_as_it_was(url: str, store: DataStore) -> None:
    body = body_of("season-1/2113737p.fits.fz")
    headers = sign(SECRET, body)
    in_the_way = Path(store.url) / "inbox"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("no folder")
    first = post(url, body, headers)[0]
    in_the_way.unlink()

    assert [first, post(url, body, headers)[0], post(url, body, headers)[0]] == [503, 202, 409]
    assert list(list_arrivals(store)) == [NAME]


def test_a_batch_takes_hardly_longer_than_one_file(store: DataStore) -> None:
    def late(request: S3Request) -> Fault | None:
        return Fault("delay", seconds=0.2) if request.method == "PUT" and "/inbox/" in request.path else None

    with s3_service() as service, FaultyS3(service, late) as s3:
        there = store_at(s3.url, make_bucket(service, "batch"))
        records = [record(f"season-1/{2113700 + number}p.fits.fz") for number in range(32)]
        with receiving(there, Credentials(SECRET)) as url:
            post(url, body_of("season-1/2113737p.fits.fz"))
            started = time.monotonic()
            status, text = post(url, json.dumps({"Records": records}).encode())
            seconds = time.monotonic() - started

    assert (status, len(json.loads(text)["accepted"])) == (202, 32)
    # one after the other they take more than 6 s
    assert seconds < 5


def enter(book: NonceBook, stamp: Stamp) -> None:
    with book.entering(stamp):
        pass


def test_nonces_are_forgotten_when_their_requests_are_too_old(store: DataStore) -> None:
    book, old, new = NonceBook(store), Stamp(1000, "a" * 16), Stamp(2000, "b" * 16)
    enter(book, old)
    book.clear(now=1300.0)
    with pytest.raises(ReplayedError):
        enter(NonceBook(store), old)
    enter(book, new)
    book.clear(now=2000.0)

    assert len(store.list_keys(FOLDER)) == 1
    with pytest.raises(ReplayedError):
        enter(book, new)
    enter(book, old)


def test_old_nonces_are_removed_beside_the_requests(store: DataStore) -> None:
    now = int(time.time())
    for age_s in (0, 10_000):
        enter(NonceBook(store), Stamp(now - age_s, "a" * 16))
    with receiving(store, Credentials(SECRET)):
        deadline = time.monotonic() + 10
        while len(store.list_keys(FOLDER)) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)

    assert [key.startswith(f"{FOLDER}/{now}-") for key in store.list_keys(FOLDER)] == [True]


def test_there_are_never_more_nonces_than_the_book_holds(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.receiver.nonces.MAX_NONCES", 2)
    book = NonceBook(store)
    enter(book, Stamp(1000, "a" * 16))
    enter(book, Stamp(1000, "b" * 16))

    with pytest.raises(RefusedError, match="try again later"):
        enter(book, Stamp(1000, "c" * 16))


def test_a_bearer_token_is_accepted_if_it_was_allowed(url: str, store: DataStore) -> None:
    body = body_of("season-1/2113737p.fits.fz")

    assert post(url, body, {"Authorization": f"Bearer {TOKEN}"})[0] == 202
    assert post(url, body, {"Authorization": f"Bearer {TOKEN}x"})[0] == 401
    assert post(url, body, {"Authorization": f"Basic {TOKEN}"})[0] == 401
    with receiving(store, Credentials(SECRET)) as strict:
        status, text = post(strict, body, {"Authorization": f"Bearer {TOKEN}"})
    assert (status, "no bearer tokens" in text) == (401, True)


def test_secrets_are_long_and_are_not_shown() -> None:
    with pytest.raises(ConfigError, match="shared secret has 5 characters; it needs 32"):
        Credentials("short")
    with pytest.raises(ConfigError, match="could trust nobody"):
        Credentials()
    assert SECRET not in repr(Credentials(SECRET, TOKEN))
    assert TOKEN not in repr(Credentials(SECRET, TOKEN))


def test_events_of_minio_and_tests_of_aws_are_understood() -> None:
    minio = {
        "EventName": "s3:ObjectCreated:Put",
        "Key": "raw-bucket/season-1/2113737p.weight.fits.fz",
        "Records": [record("season-1%2F2113737p.weight.fits.fz", event="s3:ObjectCreated:Put")],
    }
    test = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-01-01T00:00:00.000Z", "Bucket": "raw-bucket"}

    assert list(read_message(json.dumps(minio).encode(), RAW, CAMERA).exposures) == [NAME]
    assert read_message(json.dumps(test).encode(), RAW, CAMERA).exposures == {}


@pytest.mark.parametrize(
    "body",
    [
        body_of("season-1/2113737p.fits.fz", event="ObjectRemoved:Delete"),
        body_of("season-1/stars.fits"),
        body_of("season-1/2113737p.fits.fz.part"),
    ],
)
def test_what_is_no_news_is_ignored(body: bytes) -> None:
    message = read_message(body, RAW, CAMERA)

    assert (message.exposures, message.ignored, message.refused) == ({}, 1, [])


NOT_HERE = [
    "../2113737p.fits.fz",
    "season-1/../x/2113737p.fits.fz",
    "/etc/2113737p.fits.fz",
    "season-2/2113737p.fits.fz",
    "season-1/2113737p.fits.fz%00",
    "season-1/%2e%2e/2113737p.fits.fz",
    "season-1/" + "x" * 10_000,
    "season-1/\uff12\uff11\uff11\uff13\uff17\uff13\uff17p.fits.fz",
    "season-1/\u202e2113737p.fits.fz",
    "season-1//2113737p.fits.fz",
]


@pytest.mark.parametrize("key", NOT_HERE, ids=lambda key: ascii(key[:24]))
def test_a_key_outside_the_raw_store_is_refused(url: str, store: DataStore, key: str) -> None:
    status, text = post(url, body_of(key))

    assert status == 400
    assert len(text) < 300
    assert list_arrivals(store) == {}


def test_another_bucket_is_refused_while_its_neighbour_in_the_message_is_accepted(url: str, store: DataStore) -> None:
    records = [record("season-1/2113737p.fits.fz", bucket="else"), record("season-1/2113738p.fits.fz")]
    status, text = post(url, json.dumps({"Records": records}).encode())

    assert (status, json.loads(text)["accepted"]) == (202, ["2113738"])
    assert "is not in the raw store" in json.loads(text)["refused"][0]
    assert list(list_arrivals(store)) == [ExposureId("2113738")]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "needs `Records`"),
        (b'{"exposure": "2113737", "uri": "s3://raw-bucket/season-1/2113737p.fits.fz"}', "needs `Records`"),
        (b'{"exposure": 7}', "exposure: Input should be a valid string"),
        (b'{"exposure": "../../x"}', "is no exposure of a camera"),
        (b'{"exposure": "2113737\\u0000"}', "is no exposure of a camera"),
        (b'{"exposure": "' + b"9" * 10_000 + b'"}', "is no exposure of a camera"),
        (b'{"uri": "s3://raw-bucket/season-11/2113737p.fits.fz"}', "is not in the raw store"),
        (b'{"uri": "/etc/passwd"}', "is not in the raw store"),
        (b'{"exposure": "2113737", "store": "/tmp"}', "Extra inputs are not permitted"),
        (b'{"Records": [{"eventName": "ObjectCreated:Put"}]}', "Field required"),
        (b'{"Records": {}}', "valid list"),
        (json.dumps({"Records": [record("x")] * 1001}).encode(), "at most 1000"),
    ],
)
def test_what_is_no_notification_is_refused_with_a_sentence(
    url: str, store: DataStore, body: bytes, sentence: str
) -> None:
    status, text = post(url, body)

    assert (status, sentence in json.loads(text)["error"]) == (400, True), text
    assert len(text) < 300
    assert list_arrivals(store) == {}


def test_too_large_a_body_is_refused_before_it_is_read(url: str) -> None:
    assert post(url, b" " * (service.MAX_BODY_BYTES + 1))[0] == 413


def exchange(url: str, data: bytes) -> str:
    """Send bytes as they are and return what comes back before the other side closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
    return found.decode()


def test_a_body_without_end_and_without_length_is_cut_off(url: str) -> None:
    head = b"POST /arrivals HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n" % TOKEN.encode()
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"

    assert " 413 " in exchange(url, head + b"Transfer-Encoding: chunked\r\n\r\n" + 17 * chunk)
    assert " 413 " in exchange(url, head + b"Content-Length: 99999999999\r\n\r\n")


def test_headers_without_end_are_cut_off(url: str) -> None:
    assert " 400 " in exchange(url, b"POST /arrivals HTTP/1.1\r\nX: " + b"x" * 70_000)


def test_a_slow_body_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BODY_S", 0.3)
    head = b"POST /arrivals HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 9\r\n\r\n{"

    assert " 408 " in exchange(url, head % TOKEN.encode())


def test_slow_headers_are_not_waited_for(store: DataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CONNECTION_S", 0.3)
    with receiving(store, Credentials(SECRET)) as url:
        started = time.monotonic()
        with pytest.raises((ConnectionResetError, AssertionError)):
            assert exchange(url, b"POST /arrivals HTTP/1.1\r\nX-Slow: ")
        assert time.monotonic() - started < 10


def test_more_requests_than_can_be_dealt_with_are_told_to_come_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_REQUESTS", 0)

    status, text = post(url, body_of("season-1/2113737p.fits.fz"))
    assert (status, "try again" in text) == (503, True)


def test_a_store_that_cannot_be_written_is_a_503_and_the_next_try_succeeds(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    store = DataStore(root=str(tmp_path / "store"), collection="test")
    with receiving(store, Credentials(SECRET)) as url:
        body = body_of("season-1/2113737p.fits.fz")
        status, text = post(url, body)
        (tmp_path / "store").unlink()
        again = post(url, body)[0]

    assert (status, again) == (503, 202)
    assert str(tmp_path) not in text


def test_a_bug_is_a_503_without_a_traceback(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug at line 7")

    monkeypatch.setattr(service, "read_message", broken)
    status, text = post(url, body_of("season-1/2113737p.fits.fz"))

    assert (status, "line 7" in text, "unexpected error" in text) == (503, False, True)


def test_other_places_and_methods_are_answered_with_a_sentence(url: str) -> None:
    answers = [httpx.get(f"{url}/arrivals"), httpx.post(f"{url}/../etc"), httpx.get(f"{url}/health")]

    assert [answer.status_code for answer in answers] == [405, 404, 200]
    assert "POST /arrivals" in answers[0].json()["error"]


def test_our_sender_is_accepted_and_told_what_was_refused(url: str, store: DataStore) -> None:
    assert send_notification(url, SECRET, {"exposure": "2113737"}) == ["2113737"]
    assert send_notification(url, SECRET, {"uri": f"{RAW.url}/night/2113738p.fits.fz"}) == ["2113738"]
    with pytest.raises(ConfigError, match=r"refuses the notification: 401 .*signature is wrong"):
        send_notification(url, SECRET[::-1], {"exposure": "2113737"})
    with pytest.raises(ConfigError, match="'nonsense' is not the address of a receiver, such as"):
        send_notification("nonsense", SECRET, {"exposure": "2113737"})
    with pytest.raises(ConfigError, match="secret has 5 characters"):
        send_notification(url, "short", {"exposure": "2113737"})


def test_a_receiver_that_is_not_there_is_tried_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.receiver.sender.time.sleep", lambda _seconds: None)

    with pytest.raises(StoreError, match="could not be told in 5 tries: ConnectError"):
        send_notification("http://127.0.0.1:1", SECRET, {"exposure": "2113737"})


def test_files_of_a_raw_store_in_a_folder_can_be_announced(store: DataStore, raw_store: DataStore) -> None:
    body = json.dumps({"uri": f"file://{raw_store.url}/2113737p.fits.fz"}).encode()

    assert list(read_message(body, raw_store, CAMERA).exposures) == [NAME]


@pytest.mark.parametrize("text", ["8700", "host:", ":8700", "host:99999", "host:http"])
def test_an_address_needs_host_and_port(text: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form HOST:PORT"):
        address(text)


def test_the_command_needs_a_secret_and_a_place_to_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(listen: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["receive", "--listen", listen, "--store", str(tmp_path / "store")])
        return result.exit_code, result.output

    monkeypatch.delenv("SHEARLINE_RECEIVER_SECRET", raising=False)
    without = receive("127.0.0.1:0")
    monkeypatch.setenv("SHEARLINE_RECEIVER_SECRET", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = receive(f"127.0.0.1:{other.getsockname()[1]}")

    assert (without[0], "Set SHEARLINE_RECEIVER_SECRET" in without[1]) == (2, True), without
    assert taken[0] == 2
    assert re.search(r"Address already in use.*Choose another --listen", taken[1]), taken


def test_the_command_receives_and_ends_when_asked(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SHEARLINE_RECEIVER", "PREFECT_"))
    }
    command = [sys.executable, "-m", "deployments.cli", "receive", "--listen", f"127.0.0.1:{port}", "--store",
               str(tmp_path / "store")]  # fmt: skip
    secret = environment | {"SHEARLINE_RECEIVER_SECRET": SECRET}
    with subprocess.Popen(command, env=secret, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert re.match(r"receiving at http://127\.0\.0\.1:\d+/arrivals", process.stdout.readline())
            assert send_notification(f"http://127.0.0.1:{port}", SECRET, {"exposure": "2113737"}) == ["2113737"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert list(list_arrivals(DataStore(root=str(tmp_path / "store"), collection="main"))) == [NAME]
