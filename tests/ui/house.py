"""A server, deployed flows, a worker and a simulated night, as an operator has them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from astropy.io import fits
from small_survey import small_survey

from blocks.store import DataStore
from flows.config import dump_survey
from tasks.archive.fits_files import fits_bytes
from tasks.archive.images import descriptive_header
from tasks.products.identity import ExposureId
from tasks.simulate import simulate_exposure_task, simulate_sky_task

EXPOSURE = "2113700"
BROKEN_CCD = 1
PATIENCE_S = 120


@dataclass(frozen=True)
class House:
    """A running server with everything deployed."""

    url: str
    folder: Path

    def post(self, path: str, **body: Any) -> Any:
        """Ask the API."""
        answer = httpx.post(f"{self.url}/api{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def deployment(self, name: str) -> str:
        """The identifier of a deployment such as ``exposure/exposure``."""
        answer = httpx.get(f"{self.url}/api/deployments/name/{name}", timeout=30)
        answer.raise_for_status()
        return str(answer.json()["id"])

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment."""
        found: list[dict[str, Any]] = self.post(
            "/flow_runs/filter", deployments={"id": {"any_": [self.deployment(deployment)]}}
        )
        return found

    def wait_for(self, what: str, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """Ask until there is an answer; the logs say what was going on if there is none."""
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            answer = condition()
            if answer:
                return answer
            time.sleep(0.2)
        raise AssertionError(f"waited {patience_s} s for {what}; see the logs in {self.folder}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def service(name: str, folder: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module in the background; its output goes to a file."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def finished(process: subprocess.Popen[bytes], name: str, folder: Path) -> None:
    code = process.wait(PATIENCE_S)
    assert code == 0, f"{name} ended with {code}:\n{(folder / f'{name}.log').read_text()[-3000:]}"


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def simulate_a_night_with_a_broken_ccd(raw: DataStore) -> None:
    """One exposure of two CCDs, one of which has no finite pixel."""
    settings = small_survey().simulation
    assert settings is not None
    simulate_sky_task.fn(settings, raw)
    simulate_exposure_task.fn(ExposureId(EXPOSURE), settings, raw)
    key = f"{EXPOSURE}p.fits.fz"
    with raw.open(key) as handle, fits.open(handle) as hdus:
        planes = [np.asarray(hdu.data, np.float32) for hdu in hdus[1:]]
        planes[BROKEN_CCD][:] = np.nan
        ccds = [
            fits.ImageHDU(plane, descriptive_header(hdu.header)) for plane, hdu in zip(planes, hdus[1:], strict=True)
        ]
    raw.put_bytes(key, fits_bytes([fits.PrimaryHDU(), *ccds]))


@contextmanager
def opened_house(folder: Path) -> Iterator[House]:
    """Start everything; what does not need the server is done while it starts."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
    }
    port = url.rpartition(":")[2]
    there = House(url, folder)
    with ExitStack() as services:
        start = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", port)
        services.enter_context(service("server", folder, environment, *start))
        simulate_a_night_with_a_broken_ccd(DataStore(root=str(folder / "store"), collection="raw"))
        (folder / "small.yaml").write_text(dump_survey(small_survey()))
        there.wait_for("the server", lambda: is_healthy(url))
        deploy = ("deployments.cli", "deploy", "--survey", "small.yaml", "--store", "./store", "--collection", "main")
        stores = ("--raw", "./store/raw", "--workers", "1")
        with service("deploy", folder, environment, *deploy, *stores) as process:
            finished(process, "deploy", folder)
        services.enter_context(
            service("worker", folder, environment, "prefect", "worker", "start", "--pool", "shearline")
        )
        yield there
