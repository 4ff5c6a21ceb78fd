"""Real services in processes of their own, to be killed and restarted: Prefect server, Prefect worker, S3 server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import psutil

from fault_suite.postgres import find_postgres

START_S = 120.0
ENDING_S = 30.0
POLL_S = 0.1
SHEARLINE = (sys.executable, "-m", "deployments.cli")
S3_BUCKET = "faults"
# what any S3 server of the suite accepts
S3_KEYS = {"AWS_ACCESS_KEY_ID": "faults", "AWS_SECRET_ACCESS_KEY": "faults-secret", "AWS_DEFAULT_REGION": "us-east-1"}
# settings of Prefect and S3 that are the user's; and killed processes leave no coverage that could be read
NOT_INHERITED = ("PREFECT_", "AWS_", "COV_CORE_", "COVERAGE_")


def free_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process of the suite: a Prefect of its own, quiet, and nothing of the user's.

    Parameters
    ----------
    home
        Folder of Prefect's profile and database.
    more
        Further variables.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    return kept | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MPLBACKEND": "agg",
        "NO_COLOR": "1",
        **more,
    }


class Service:
    """A server or worker in a process group of its own."""

    def __init__(self, command: tuple[str, ...], env: Mapping[str, str], log: Path) -> None:
        self._command, self._env, self._log = command, dict(env), log
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def start(self) -> None:
        """Start it; its output goes to the log."""
        self._output = self._log.open("ab")
        self._process = subprocess.Popen(
            self._command, env=self._env, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise RuntimeError(f"{' '.join(self._command)} was not started")
        return self._process.pid

    def kill(self, sent: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to it and its children and wait until they are gone; what does not go is killed.

        So does an init system: children that are asked to end have time to say so.
        """
        if self._process is None:
            return
        relatives, deadline = family(self._process.pid), time.monotonic() + ENDING_S
        signal_group(self._process.pid, sent)
        while any(map(is_alive, relatives)) and time.monotonic() < deadline:
            self._process.poll()
            time.sleep(0.05)
        signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        if self._output is not None:
            self._output.close()

    def kill_alone(self) -> None:
        """Kill it and leave its children alive."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def has_ended(self) -> bool:
        """Tell whether it ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def memory_mb(self) -> float:
        """Return the resident memory of it and its children in MB."""
        total = 0
        for process in family(self.pid):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
        return total / 1e6

    def cpu_s(self) -> float:
        """Return the processor time of it and its children until now, in seconds."""
        total = 0.0
        for process in family(self.pid):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
        return total

    def tail(self, n_lines: int = 15) -> str:
        """Return the end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-n_lines:])


class PrefectServer(Service):
    """A Prefect server on a fixed port, with the machine's PostgreSQL, or SQLite where there is none."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.port = home, free_port()
        self._database = find_postgres(free_port())
        self._database_runs = False
        self.database = "SQLite" if self._database is None else "PostgreSQL"
        url = {} if self._database is None else {"PREFECT_SERVER_DATABASE_CONNECTION_URL": self._database.url}
        self.api_url = f"http://127.0.0.1:{self.port}/api"
        command = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        super().__init__(command, environment(home, **url), home / "server.log")

    def start(self) -> None:
        """Start it and wait until it answers."""
        if self._database is not None and not self._database_runs:
            self._database.start()
            self._database_runs = True
        super().start()
        wait_for_answer(f"{self.api_url}/health", self)

    def close(self) -> None:
        """End it for good, with its database."""
        self.kill()
        if self._database is not None:
            self._database.stop()

    def client_environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process that uses this server."""
        return environment(self.home, PREFECT_API_URL=self.api_url, **more)


class S3Server(Service):
    """moto's S3 server, with one bucket; it keeps objects in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
        super().__init__(command, environment(folder), folder / "s3.log")

    def start(self) -> None:
        """Start it and create the bucket."""
        super().start()
        wait_for_answer(self.url, self)
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{S3_BUCKET}", method="PUT"), timeout=10).close()


def wait_for_answer(url: str, service: Service) -> None:
    """Wait until a server answers, whatever it says.

    Raises
    ------
    RuntimeError
        If it ends, or does not answer in time.
    """
    limit = time.monotonic() + START_S
    while time.monotonic() < limit and not service.has_ended():
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(POLL_S)
        else:
            return
    raise RuntimeError(f"{url} does not answer:\n{service.tail()}")


def signal_group(pid: int, kind: signal.Signals) -> None:
    """Send a signal to a process group; that it is gone is fine."""
    try:
        os.killpg(pid, kind)
    except ProcessLookupError:
        return


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its living descendants; none if it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still runs; one that nobody has reaped does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def pool_workers(pid: int) -> list[psutil.Process]:
    """Return the processes that run the stages of a run: children of its fork server."""
    found = []
    for process in family(pid)[1:]:
        try:
            parent = process.parent()
            if "multiprocessing.forkserver" in " ".join(process.cmdline()) and parent is not None:
                found += [process] if "multiprocessing.forkserver" in " ".join(parent.cmdline()) else []
        except psutil.Error:
            continue
    return found
