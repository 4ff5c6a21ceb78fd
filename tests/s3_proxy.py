"""A real S3 service for tests, and a proxy before it that breaks what it is told to break.

The proxy counts requests and bytes. A rule looks at every request and says which fault it meets, if any; the rules
here that draw lots have seeds. Writes to one key pass one after the other, because the check of a condition and the
write are two steps in moto and one in S3.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from blocks.store import DataStore

PIECE = 64 << 10
WRITES = frozenset({"PUT", "POST", "DELETE"})
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "host", "content-length"}
CONDITIONS = {"if-match", "if-none-match"}


@dataclass(frozen=True)
class S3Request:
    """What a rule sees of a request."""

    number: int
    """How many requests came before it."""
    method: str
    path: str
    query: dict[str, list[str]]
    length: int
    """Bytes of the body."""
    elapsed_s: float
    """Time since the proxy was started."""


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of an answer.

    ``hang``: no answer for ``seconds``. ``error``: ``status`` and ``code``, the service sees nothing. ``reset``: the
    connection breaks in the middle of the request's body (or at once if it has none). ``lost``: the service does it,
    the answer never arrives. ``truncate``: the answer breaks off in the middle of its body. ``delay``: the answer comes
    ``seconds`` late. ``swallow``: the service says yes and does nothing.
    """

    kind: Literal["hang", "error", "reset", "lost", "truncate", "delay", "swallow"]
    status: int = 500
    code: str = "InternalError"
    seconds: float = 5.0


SLOW_DOWN = Fault("error", 503, "SlowDown")
INTERNAL_ERROR = Fault("error", 500, "InternalError")
RESET, LOST, TRUNCATE, HANG, SWALLOW = (
    Fault("reset"),
    Fault("lost"),
    Fault("truncate"),
    Fault("hang"),
    Fault("swallow"),
)

Rule = Callable[[S3Request], Fault | None]


def never(_request: S3Request) -> None:
    """Break nothing."""


def sometimes(fault: Fault, probability: float, seed: int, methods: Collection[str] = ()) -> Rule:
    """Break a fraction of the requests, of some methods only if these are named."""
    lots, lock = random.Random(seed), threading.Lock()

    def rule(request: S3Request) -> Fault | None:
        with lock:
            drawn = lots.random() < probability
        return fault if drawn and (not methods or request.method in methods) else None

    return rule


def outage(begin_s: float, seconds: float, fault: Fault = SLOW_DOWN) -> Rule:
    """Break every request of a while."""
    return lambda request: fault if begin_s <= request.elapsed_s < begin_s + seconds else None


def outage_after(requests: int, seconds: float, fault: Fault = SLOW_DOWN) -> Rule:
    """Break every request of a while that begins with the n-th request."""
    begun: list[float] = []

    def rule(request: S3Request) -> Fault | None:
        if request.number >= requests and not begun:
            begun.append(request.elapsed_s)
        return fault if begun and request.elapsed_s < begun[0] + seconds else None

    return rule


def throttle(per_second: float) -> Rule:
    """Tell clients to slow down that send more than so many requests per second."""
    times: list[float] = []
    lock = threading.Lock()

    def rule(request: S3Request) -> Fault | None:
        with lock:
            times[:] = [moment for moment in times if moment > request.elapsed_s - 1]
            if len(times) >= per_second:
                return SLOW_DOWN
            times.append(request.elapsed_s)
        return None

    return rule


@dataclass
class Traffic:
    """What went through the proxy."""

    requests: int = 0
    bytes_up: int = 0
    """Bytes of request bodies that the service got."""
    bytes_down: int = 0
    """Bytes of response bodies that the client was sent."""
    methods: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


class FaultyS3:
    """A proxy before an S3 service; use it as a context manager and give its ``url`` to clients.

    Parameters
    ----------
    service
        Address of the service, such as ``http://127.0.0.1:5000``.
    rule
        Which fault a request meets; may be exchanged at any time.
    ignores_conditions
        Whether the service behind it looks like one that does not know conditional requests.
    """

    def __init__(self, service: str, rule: Rule = never, *, ignores_conditions: bool = False) -> None:
        self.rule = rule
        self.traffic = Traffic()
        self.ignores_conditions = ignores_conditions
        self._service = urlsplit(service)
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._writing: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyS3:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget(self) -> Traffic:
        """Return what went through so far and count from zero."""
        with self._lock:
            past, self.traffic = self.traffic, Traffic()
        return past

    def fault_of(self, method: str, target: str, length: int) -> Fault | None:
        """Count a request and ask the rule."""
        parts = urlsplit(target)
        with self._lock:
            number = self.traffic.requests
            self.traffic.requests += 1
            self.traffic.methods[method] += 1
        elapsed_s = time.monotonic() - self._started
        fault = self.rule(S3Request(number, method, parts.path, parse_qs(parts.query, True), length, elapsed_s))
        if fault is not None:
            with self._lock:
                self.traffic.faults[fault.kind] += 1
        return fault

    def count(self, *, up: int = 0, down: int = 0) -> None:
        """Add to the bytes that went through."""
        with self._lock:
            self.traffic.bytes_up += up
            self.traffic.bytes_down += down

    def wait(self, seconds: float) -> None:
        """Wait, unless the proxy is stopped."""
        self._stopped.wait(seconds)

    def ask(self, method: str, target: str, headers: dict[str, str], body: bytes) -> http.client.HTTPResponse:
        """Send a request on to the service and return its answer, read to the end."""
        if self.ignores_conditions:
            headers = {name: value for name, value in headers.items() if name.lower() not in CONDITIONS}
        with self._lock:
            lock = self._writing[urlsplit(target).path] if method in WRITES else contextlib.nullcontext()
        with lock:
            connection = http.client.HTTPConnection(str(self._service.hostname), self._service.port, timeout=60)
            try:
                connection.request(method, target, body, headers)
                answer = connection.getresponse()
                answer.whole = answer.read()  # type: ignore[attr-defined]
            finally:
                connection.close()
        self.count(up=len(body))
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up: their requests were broken on purpose."""


def _handler_of(proxy: FaultyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # the answer to a HEAD must not wait for more to send
        disable_nagle_algorithm = True

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

        def serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            fault = proxy.fault_of(self.command, self.path, length)
            kind = fault.kind if fault is not None else ""
            if kind == "reset":
                self.rfile.read(length // 2)
                return self.cut()
            body = self.rfile.read(length)
            if kind == "hang" and fault is not None:
                proxy.wait(fault.seconds)
                return self.cut()
            if kind == "error" and fault is not None:
                return self.refuse(fault.status, fault.code)
            if kind == "swallow":
                return self.refuse(200, "")
            if kind == "delay" and fault is not None:
                proxy.wait(fault.seconds)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            answer = proxy.ask(self.command, self.path, headers, body)
            if kind == "lost":
                return self.cut()
            return self.pass_on(answer, truncate=kind == "truncate")

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

        def pass_on(self, answer: http.client.HTTPResponse, *, truncate: bool) -> None:
            body: bytes = answer.whole  # type: ignore[attr-defined]
            self.send_response_only(answer.status)
            length = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(body))
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            if length is not None and answer.status != 204:
                self.send_header("Content-Length", length)
            self.end_headers()
            sent = body[: len(body) // 2] if truncate else body
            for start in range(0, len(sent), PIECE):
                self.wfile.write(sent[start : start + PIECE])
            proxy.count(down=len(sent))
            if truncate:
                self.cut()

        def refuse(self, status: int, code: str) -> None:
            text = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode() if code else b""
            self.send_response_only(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def cut(self) -> None:
            """End the connection with a reset instead of a farewell."""
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    return Handler


@contextlib.contextmanager
def s3_service() -> Iterator[str]:
    """Run moto's S3 server and give its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def make_bucket(service: str, name: str) -> str:
    """Create a bucket; that it is there is fine."""
    import s3fs

    system = s3fs.S3FileSystem(endpoint_url=service, key="test", secret="test", skip_instance_cache=True)
    with contextlib.suppress(FileExistsError):
        system.mkdir(name)
    return name


def bucket_of(test: str) -> str:
    """Return the name of a bucket that no other test has."""
    return f"b{hashlib.sha256(test.encode()).hexdigest()[:12]}"


def store_at(url: str, bucket: str, collection: str = "c1", **settings: Any) -> DataStore:
    """Return a store in a bucket, with the keys that moto wants to see."""
    return DataStore(
        root=f"s3://{bucket}/survey",
        collection=collection,
        endpoint_url=url,
        access_key="test",
        secret_key="test",
        **settings,
    )
