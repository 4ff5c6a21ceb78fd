"""`shearline up` for tests: started in a folder of its own, on a free port, and never left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PATIENCE_S = 120.0
SLEEPER = """
import sys, time
from prefect import flow, tags

@flow(name=sys.argv[1])
def sleep():
    time.sleep(3600)

with tags(*sys.argv[2:]):
    sleep()
"""


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)


def without_prefect(**variables: str) -> dict[str, str]:
    """Return the environment without what it says of Prefect, and with some variables of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | variables


@contextmanager
def sleeper(api_url: str, home: Path, name: str, *tags: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a flow that sleeps, outside of any worker, until the end of the block."""
    environment = without_prefect(PREFECT_API_URL=api_url, PREFECT_HOME=str(home), **variables)
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, name, *tags], env=environment)
    try:
        wait_until(lambda: state_of(api_url, name) == "Running", f"the run of {name}")
        yield process
    finally:
        process.kill()
        process.wait()


def state_of(api_url: str, flow: str) -> str:
    """Return the state of the only run of a flow, and why it has it; empty if there is none yet."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with SyncPrefectClient(api_url) as client:
        runs = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])))
    states = [run.state for run in runs if run.state is not None]
    return " ".join(filter(None, (states[0].name, states[0].message))) if states else ""


def command(root: Path, port: int, *options: str) -> list[str]:
    """Return the command line of a trial."""
    return [sys.executable, "-m", "deployments.cli", "up", "--root", str(root), "--port", str(port), *options]


@dataclass
class Trial:
    """A running `shearline up`."""

    root: Path
    port: int
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def api_url(self) -> str:
        """Address of its server."""
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text()

    def processes(self) -> list[psutil.Process]:
        """Return everything that it has started, flow runs included, and itself."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def service(self, word: str) -> psutil.Process | None:
        """Return the service that has a word on its command line."""
        for child in psutil.Process(self.process.pid).children():
            with_word = child.is_running() and child.status() != psutil.STATUS_ZOMBIE and word in child.cmdline()
            if with_word:
                return child
        return None

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Send a signal and return how many seconds it took to end."""
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        return time.monotonic() - started


@contextmanager
def trial(root: Path, *options: str, patience_s: float = PATIENCE_S) -> Iterator[Trial]:
    """Run `shearline up` until the end of the block."""
    root.mkdir(parents=True, exist_ok=True)
    port, output = free_port(), root / "up.txt"
    environment = without_prefect()
    with output.open("wb") as file:
        process = subprocess.Popen(
            command(root, port, *options),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    running = Trial(root, port, process, output)
    try:
        greeted = "Ctrl-C stops everything"
        wait_until(lambda: greeted in running.text or process.poll() is not None, "the greeting", patience_s)
        assert process.poll() is None, running.text
        yield running
    finally:
        if process.poll() is None:
            running.stop()
