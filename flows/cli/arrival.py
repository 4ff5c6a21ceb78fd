"""`shearline notify`, `watch` and `receive`: how exposures that arrive become known."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import Archive, Place, grouped
from flows.cli.shell import guarded, is_there

if TYPE_CHECKING:
    from flows.receiver.signatures import Credentials

SECRET = "SHEARLINE_RECEIVER_SECRET"
TOKEN = "SHEARLINE_RECEIVER_TOKEN"
MAX_PORT = 65535

SecretBlock = Annotated[
    str | None,
    typer.Option("--secret-block", help=f"Prefect Secret block with the shared secret; by default ${SECRET}."),
]


@grouped
def notify(
    what: Annotated[list[str], typer.Argument(metavar="URI...", help="Files of exposures, or names of exposures.")],
    *,
    archive: Archive,
    receiver: Annotated[
        str | None, typer.Option("--receiver", help="Address of a receiver to tell, instead of writing to the store.")
    ] = None,
    secret_block: SecretBlock = None,
) -> None:
    """Announce exposures that have arrived: a note in the store, and an event that starts the arrival flow."""

    def work() -> None:
        if receiver is not None:
            _notify_receiver(receiver, what, shared_secret(secret_block))
            return
        config, data_store, _ = archive.open()
        from flows.announce import announce_files

        for exposure in announce_files(data_store, what, config.exposure.instrument, survey=config.name):
            typer.echo(f"announced {exposure}")

    guarded(work)


def _notify_receiver(url: str, what: list[str], secret: str | None) -> None:
    from flows.receiver.sender import send_notification
    from tasks.errors import ConfigError

    if secret is None:
        raise ConfigError(f"Notifications are signed: set {SECRET}, or name a Secret block with --secret-block.")
    for text in what:
        # no name of an exposure has a slash or a dot
        content = {"uri" if {"/", "."} & set(text) else "exposure": text}
        for name in send_notification(url, secret, content):
            typer.echo(f"announced {name}")


@grouped
def watch(
    root: Annotated[str, typer.Argument(metavar="RAW", help="Folder or s3:// URL of the raw files.")],
    *,
    archive: Archive,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between two looks.")] = 10.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, announce what is there, and end.")] = False,
) -> None:
    """Announce the exposures whose files lie complete and unchanged in the raw store, until interrupted."""

    def work() -> None:
        config, data_store, raw = archive.open(root)
        from flows.watch import Watch
        from flows.watch import watch as keep_watching
        from tasks.errors import ConfigError

        if not is_there(raw):
            raise ConfigError(f"There is no folder {raw.url} to watch.")

        current = Watch(data_store, raw, config.exposure, config.name)
        with interruptible() as stop:
            keep_watching(current, interval, stop, typer.echo, once=once)

    guarded(work)


@grouped
def receive(
    listen: Annotated[str, typer.Option("--listen", help="Address and port to listen at.")] = "127.0.0.1:8700",
    *,
    place: Place,
    allow_bearer: Annotated[
        bool, typer.Option("--allow-bearer", help=f"Also accept the bearer token ${TOKEN}, which can be replayed.")
    ] = False,
    secret_block: SecretBlock = None,
) -> None:
    """Take in signed notifications of arrived files over HTTP, such as those of S3 buckets."""

    def work() -> None:
        host, port = address(listen)
        known = credentials(secret_block, allow_bearer=allow_bearer)
        config, data_store, raw_store = place.open()
        from flows.receiver.outbox import Outbox
        from flows.receiver.service import Receiver, make_server
        from tasks.errors import ConfigError

        with Outbox(config.name) as outbox:
            receiver = Receiver(data_store, raw_store, config.exposure.instrument, known, outbox)
            server = make_server(receiver, host, port)
            try:
                listening = socket.create_server((host, port), family=AF_INET6 if ":" in host else AF_INET)
            except OSError as error:
                reason = error.strerror or str(error)
                raise ConfigError(f"Cannot listen at {listen}: {reason}. Choose another --listen.") from error
            # when it has ended, the server raises the signal again that ended it
            with listening, interruptible():
                typer.echo(f"receiving at http://{listen}/arrivals for {raw_store.url}")
                server.run(sockets=[listening])

    guarded(work)


def address(text: str) -> tuple[str, int]:
    """Return host and port of an address to listen at.

    Raises
    ------
    ConfigError
        If it is not of the form ``HOST:PORT``.
    """
    from tasks.errors import ConfigError

    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port[:6]) > MAX_PORT:
        raise ConfigError(f"--listen {text[:80]!r} is not of the form HOST:PORT, such as 127.0.0.1:8700.")
    return host.strip("[]"), int(port)


def credentials(secret_block: str | None, *, allow_bearer: bool) -> Credentials:
    """Return what the receiver knows of its senders; neither is ever an argument, which everybody can list.

    Raises
    ------
    ConfigError
        If there is no secret, or the bearer token was allowed and there is none.
    """
    from flows.receiver.signatures import Credentials
    from tasks.errors import ConfigError

    token = os.environ.get(TOKEN) if allow_bearer else None
    if allow_bearer and not token:
        raise ConfigError(f"--allow-bearer needs the token in {TOKEN}.")
    secret = shared_secret(secret_block)
    if secret is None and token is None:
        raise ConfigError(f"Set {SECRET} to the secret that senders sign with, or name a block with --secret-block.")
    return Credentials(secret, token)


def shared_secret(block: str | None) -> str | None:
    """Return the secret that senders and receiver share, from a Prefect Secret block or the environment.

    Raises
    ------
    ConfigError
        If there is no such block.
    """
    if block is None:
        return os.environ.get(SECRET) or None
    from prefect.blocks.system import Secret

    from tasks.errors import ConfigError

    try:
        # Prefect's types do not know that this waits, as nothing here is a coroutine
        found: Any = Secret.load(block)
    except ValueError as error:
        raise ConfigError(f"There is no Secret block {block[:80]!r}; create it in the Prefect UI.") from error
    return str(found.get())


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into an event, so that what is being written is finished."""
    stop = threading.Event()

    def ask(_number: int, _frame: object) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
