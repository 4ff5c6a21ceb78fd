"""The HTTP service: limits first, then who sends, then what it says, then a durable note, then the answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from blocks.store import DataStore, StoreError
from flows.announce import LOOKUPS
from flows.receiver.messages import Message, read_message
from flows.receiver.nonces import NonceBook
from flows.receiver.outbox import Outbox
from flows.receiver.refusals import BusyError, RefusedError, TooLargeError, TooSlowError
from flows.receiver.signatures import MAX_AGE_S, Credentials
from tasks.archive.inbox import announce
from tasks.products.identity import ExposureId
from tasks.products.instrument import Instrument

PATH = "/arrivals"
MAX_BODY_BYTES = 1 << 20
MAX_HEADER_BYTES = 16 << 10
MAX_REQUESTS = 32
MAX_CONNECTIONS = 256
BODY_S = 10.0
STORE_S = 20.0
CONNECTION_S = 40.0
MAX_NAMED = 5

log = logging.getLogger("shearline.receiver")


@dataclass
class Receiver:
    """Takes in notifications."""

    store: DataStore
    raw: DataStore
    instrument: Instrument
    credentials: Credentials
    outbox: Outbox
    _requests: int = 0
    _nonces: NonceBook = field(init=False)

    def __post_init__(self) -> None:
        self._nonces = NonceBook(self.store)

    async def receive(self, request: Request) -> Response:
        """Answer one request: 202 when the notes are in the store, otherwise why not."""
        if self._requests >= MAX_REQUESTS:
            raise BusyError(f"{MAX_REQUESTS} requests are being dealt with; try again.")
        self._requests += 1
        try:
            by_token = self.credentials.by_token(request.headers)
            body = await read_body(request)
            async with asyncio.timeout(STORE_S):
                message = await run_in_threadpool(self._take, request, body, by_token)
        except StoreError as error:
            log.warning("A notification was not taken in: %s", error)
            raise BusyError("The store cannot be used now; try again.") from error
        except TimeoutError as error:
            raise BusyError("The store did not answer in time; try again.") from error
        finally:
            self._requests -= 1
        answer = {
            "accepted": [str(name) for name in message.exposures],
            "ignored": message.ignored,
            "refused": message.refused[:MAX_NAMED],
        }
        return JSONResponse(answer, 202)

    def _take(self, request: Request, body: bytes, by_token: bool) -> Message:
        """Check who says what and leave the notes."""
        if by_token:
            return self._announce(body)
        with self._nonces.entering(self.credentials.by_signature(request.headers, body, time.time())):
            return self._announce(body)

    def _announce(self, body: bytes) -> Message:
        message = read_message(body, self.raw, self.instrument)

        def leave_note(arrived: tuple[ExposureId, str]) -> None:
            self.outbox.add(announce(self.store, *arrived))

        with ThreadPoolExecutor(LOOKUPS) as threads:
            list(threads.map(leave_note, message.exposures.items()))
        return message

    async def keep_house(self) -> None:
        """Remove nonces that are too old to matter, now and then until cancelled, beside the requests."""
        while True:
            try:
                await run_in_threadpool(self._nonces.clear)
            except Exception as error:  # noqa: BLE001 (whatever it is, it must not end what comes after it)
                log.warning("Old nonces were not removed: %s", error)
            await asyncio.sleep(MAX_AGE_S)


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    Raises
    ------
    TooLargeError
        If it is larger than `MAX_BODY_BYTES`, as soon as that is known.
    TooSlowError
        If it does not come in time, or not at all.
    """
    too_large = TooLargeError(f"A notification has at most {MAX_BODY_BYTES} bytes.")
    length = request.headers.get("Content-Length", "0")
    if not length.isdecimal() or int(length[:20]) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except (TimeoutError, ClientDisconnect) as error:
        raise TooSlowError(f"The body did not come within {BODY_S:.0f} s.") from error
    return bytes(body)


async def health(_request: Request) -> Response:
    """Say that the service runs."""
    return JSONResponse({"status": "receiving"})


def make_application(receiver: Receiver) -> Starlette:
    """Return the application: ``POST /arrivals`` and ``GET /health``."""

    @asynccontextmanager
    async def keeping_house(_application: Starlette) -> AsyncIterator[None]:
        house = asyncio.create_task(receiver.keep_house())
        yield
        house.cancel()
        with suppress(asyncio.CancelledError):
            await house

    return Starlette(
        routes=[Route(PATH, _answering(receiver.receive), methods=["POST"]), Route("/health", health)],
        exception_handlers={HTTPException: _no_such_place},
        lifespan=keeping_house,
    )


def _answering(receive: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Turn every error into a sentence, and close the connection after every answer."""

    async def answer(request: Request) -> Response:
        try:
            response = await receive(request)
        except RefusedError as error:
            response = JSONResponse({"error": str(error)}, error.status)
        except Exception:
            log.exception("A notification met an unexpected error.")
            response = JSONResponse({"error": "The receiver met an unexpected error; its log says more."}, 503)
        # a connection is for one request: what is left of a refused body is not read
        response.headers["Connection"] = "close"
        return response

    return answer


async def _no_such_place(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return JSONResponse({"error": f"Notifications go to POST {PATH}."}, status)


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 whose connections end after a while, whatever the other side does or does not send."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
        self._end = self.loop.call_later(CONNECTION_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._end.cancel()
        super().connection_lost(exc)


def make_server(receiver: Receiver, host: str, port: int) -> uvicorn.Server:
    """Return the server, which ``run()`` starts; it ends on an interrupt, after the requests that it has."""
    return uvicorn.Server(
        uvicorn.Config(
            make_application(receiver),
            host=host,
            port=port,
            http=ImpatientProtocol,
            ws="none",
            lifespan="on",
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_keep_alive=int(BODY_S),
            timeout_graceful_shutdown=int(STORE_S),
            server_header=False,
            access_log=False,
            log_config=None,
        )
    )
