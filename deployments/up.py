"""The processes of `shearline up`: started, watched over, started again when they die, and ended together."""

from __future__ import annotations

import fcntl
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

from deployments.guardian import MARK, end_all
from tasks.errors import ConfigError

START_TIMEOUT_S = 120.0
BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 30.0
# a service that ran for so long before it died starts again at once
STEADY_S = 60.0
POLL_S = 0.2

Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """The folder of `shearline up`, and the address of its server."""

    root: Path
    host: str
    port: int

    @property
    def api_url(self) -> str:
        """Address of the API."""
        return f"http://{self.host}:{self.port}/api"

    @property
    def ui_url(self) -> str:
        """Address of the UI."""
        return f"http://{self.host}:{self.port}"

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def home(self) -> Path:
        """Prefect's own folder, with the database."""
        return self.root / ".prefect"

    @property
    def store(self) -> Path:
        """Raw files and products."""
        return self.root / "store"

    def log(self, name: str) -> Path:
        """Return the log file of a service."""
        return self.root / "log" / f"{name}.log"

    def environment(self) -> dict[str, str]:
        """Return what Prefect's processes and this one must know; the user's own Prefect is left out of it."""
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_PROFILES_PATH": str(self.home / "profiles.toml"),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.home / 'prefect.db'}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "DO_NOT_TRACK": "1",
        }


@contextmanager
def claimed(place: Place) -> Iterator[None]:
    """Keep the folder and make sure that the port is free.

    Raises
    ------
    ConfigError
        If another `shearline up` has the folder, or something has the port.
    """
    for folder in (place.home, place.store, place.log("server").parent):
        folder.mkdir(parents=True, exist_ok=True)
    with (place.root / ".up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"Another `shearline up` works in {place.root}; stop it or give another --root."
            ) from error
        with socket.socket() as probe:
            # as the server does: a port whose last connections are still closing is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((place.host, place.port))
            except OSError as error:
                raise ConfigError(
                    f"Port {place.port} of {place.host} cannot be used ({error.strerror}); give another with --port."
                ) from error
        yield


class StoppedError(Exception):
    """The wish to stop came while something was waited for."""


@dataclass
class Service:
    """A process that is started again when it dies."""

    name: str
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    due: float = 0.0
    """When it is started next."""


@dataclass
class Supervisor:
    """Starts services, starts again those that die, and ends them all."""

    environment: Mapping[str, str]
    say: Say
    services: list[Service] = field(default_factory=list)
    stopping: bool = False
    _passing: list[Service] = field(default_factory=list)
    """What ends by itself."""
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    _guardian: subprocess.Popen[str] | None = None

    def __enter__(self) -> Supervisor:
        """Start the guardian, and take signals as the wish to stop."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "deployments.guardian", self.mark],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> bool:
        """End every process; having been asked to stop is not an error."""
        if kind in {None, StoppedError}:
            self.say("Stopping …")
        running = [
            item.process
            for item in (*self.services, *self._passing)
            if item.process is not None and item.process.poll() is None
        ]
        end_all(self.mark, [process.pid for process in running])
        for process in running:
            process.wait()
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.close()
            self._guardian.wait()
        return kind is StoppedError

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _environment(self) -> dict[str, str]:
        # the log files shall say what happened, whatever this command itself keeps quiet about
        return {**os.environ, **self.environment, MARK: self.mark, "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}

    def start(self, service: Service) -> None:
        """Start a service."""
        if service not in self.services:
            self.services.append(service)
        self._launch(service)
        service.started, service.due = time.monotonic(), 0.0

    def _tell_guardian(self, line: str) -> None:
        if self._guardian is not None and self._guardian.stdin is not None:
            self._guardian.stdin.write(f"{line}\n")
            self._guardian.stdin.flush()

    def _launch(self, service: Service) -> None:
        with service.log.open("ab") as log:
            # a session of its own: Ctrl-C is for this process only, which then ends them in order
            service.process = subprocess.Popen(
                service.command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._tell_guardian(f"{service.name} {service.process.pid}")

    def look_after(self) -> None:
        """Start again what has died, later and later if it keeps dying."""
        now = time.monotonic()
        for service in self.services:
            if service.process is None or service.process.poll() is None:
                continue
            if not service.due:
                service.failures = 0 if now - service.started > STEADY_S else service.failures + 1
                wait = min(BACKOFF_S * 2 ** max(service.failures - 1, 0), LONGEST_BACKOFF_S)
                service.due = now + wait
                self.say(
                    f"The {service.name} ended with code {service.process.returncode}; it is started again in "
                    f"{wait:.0f} s. Its log is {service.log}."
                )
            elif now >= service.due:
                self.start(service)

    def run(self) -> None:
        """Watch over the services until this process is asked to stop."""
        while not self.stopping:
            self.look_after()
            time.sleep(POLL_S)

    def run_to_end(self, service: Service) -> None:
        """Run something that ends by itself, and meanwhile watch over the services.

        Raises
        ------
        ConfigError
            If it fails.
        """
        self._passing.append(service)
        self._launch(service)
        while not _has_ended(service):
            if self.stopping:
                raise StoppedError
            self.look_after()
            time.sleep(POLL_S)
        # its number may soon be that of another process
        self._tell_guardian(service.name)
        if service.process is not None and service.process.returncode:
            raise ConfigError(
                f"The {service.name} ended with code {service.process.returncode}; its log says why: {service.log}"
            )

    def wait_for(self, ready: Callable[[], bool], service: Service) -> None:
        """Wait until a service that was just started works.

        Raises
        ------
        ConfigError
            If it ends, or takes too long.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if self.stopping:
                raise StoppedError
            ended = _has_ended(service)
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else f"does not answer after {START_TIMEOUT_S:.0f} s"
                raise ConfigError(f"The {service.name} {what}; its log says why: {service.log}")
            time.sleep(POLL_S)


def _has_ended(service: Service) -> bool:
    return service.process is None or service.process.poll() is not None


def is_healthy(place: Place) -> bool:
    """Tell whether the server of a place answers."""
    connection = http.client.HTTPConnection(place.host, place.port, timeout=2)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def server_service(place: Place) -> Service:
    """Return the Prefect server."""
    command = ["-m", "prefect", "server", "start", "--host", place.host, "--port", str(place.port)]
    return Service("server", [sys.executable, *command], place.log("server"))


def worker_service(place: Place, pool: str, runs: int) -> Service:
    """Return a worker that has at most so many flow runs at the same time."""
    command = ["-m", "prefect", "worker", "start", "--pool", pool, "--name", "up", "--limit", str(runs)]
    return Service("worker", [sys.executable, *command], place.log("worker"))


def shearline_service(place: Place, name: str, arguments: Sequence[str]) -> Service:
    """Return one of the commands that run for good, such as ``watch``."""
    return Service(name, [sys.executable, "-m", "deployments.cli", name, *arguments], place.log(name))


def simulation_service(place: Place, survey: str, workers: int, changes: Sequence[str]) -> Service:
    """Return the simulation of a survey's raw exposures, which ends by itself."""
    command = ["-m", "deployments.simulation", str(place.store), survey, str(workers), *changes]
    return Service("simulation", [sys.executable, *command], place.log("simulation"))
