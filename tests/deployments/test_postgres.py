"""The production database: a Prefect server on a real PostgreSQL, a deployment, and a run through a worker."""

import os
import pwd
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from trial import free_port, wait_until

from blocks.store import DataStore
from deployments.up import Place, is_healthy, server_service, worker_service

pytestmark = pytest.mark.faults

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
CHANGES: tuple[str, ...] = runpy.run_path(str(Path(__file__).parents[1] / "flows/small_survey.py"))["CHANGES"]
PASSWORD = "for-this-test-only"


@contextmanager
def postgres(folder: Path) -> Iterator[int]:
    """Run a PostgreSQL server in a folder and give its port; it refuses to run as root."""
    tools, port = INSTALLED[-1].parent, free_port()
    user = "postgres" if os.getuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    options = ["--auth=scram-sha-256", "--username=prefect", f"--pwfile={password}", "--no-sync"]
    initdb = [str(tools / "initdb"), f"--pgdata={folder / 'data'}", *options]
    subprocess.run(initdb, check=True, capture_output=True, user=user, cwd=folder)
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    server = [str(tools / "postgres"), "-D", str(folder / "data"), "-p", str(port), *settings]
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(server, user=user, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        ready = [str(tools / "pg_isready"), "--host=127.0.0.1", f"--port={port}", "--quiet"]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL", 30)
        yield port
    finally:
        process.terminate()
        process.wait(30)
        (folder.parent / f"{folder.name}.log").unlink()


@contextmanager
def processes(*commands: tuple[list[str], Path], environment: dict[str, str]) -> Iterator[None]:
    """Run processes until the end of the block."""
    started = []
    try:
        for command, log in commands:
            with log.open("ab") as file:
                process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            started.append(process)
        yield
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)


@pytest.mark.skipif(not INSTALLED, reason="PostgreSQL is not installed in /usr/lib/postgresql")
@pytest.mark.skipif(
    os.getuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()},
    reason="PostgreSQL does not run as root, and there is no user postgres",
)
def test_a_deployed_flow_runs_with_a_server_on_postgresql(tmp_path: Path) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    # the folders of pytest are closed to other users
    folder = Path(tempfile.mkdtemp(prefix="shearline-postgres-"))
    place = Place(tmp_path / "trial", "127.0.0.1", free_port())
    for needed in (place.home, place.store, place.log("server").parent):
        needed.mkdir(parents=True)
    settings = [word for change in CHANGES for word in ("--set", change)]
    try:
        with postgres(folder) as port:
            address = f"postgresql+asyncpg://prefect:{PASSWORD}@127.0.0.1:{port}/postgres"
            environment = {
                **os.environ,
                **place.environment(),
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": address,
            }
            server, worker = server_service(place), worker_service(place, "shearline", 1)
            with processes((list(server.command), server.log), environment=environment):
                wait_until(lambda: is_healthy(place), "the server")
                assert not (place.home / "prefect.db").exists()
                here = [sys.executable, "-m"]
                simulate = [*here, "deployments.simulation", str(place.store), "demo", "2", *CHANGES]
                subprocess.run(simulate, env=environment, check=True, capture_output=True)
                where = ["--store", str(place.store), "--raw", str(place.store / "raw")]
                deploy = [*here, "deployments.cli", "deploy", "--survey", "demo", *settings, *where]
                subprocess.run(deploy, env=environment, check=True)
                with processes((list(worker.command), worker.log), environment=environment):
                    with SyncPrefectClient(place.api_url) as client:
                        deployment = client.read_deployment_by_name("exposure/exposure")
                        run = client.create_flow_run_from_deployment(deployment.id, parameters={"exposure": "2113700"})
                        wait_until(lambda: client.read_flow_run(run.id).state.is_final(), "the run", 300)
                        state = client.read_flow_run(run.id).state

                    assert state.is_completed(), state.message
        store = DataStore(root=str(place.store), collection="main")
        assert store.exists("exposures/2113700/products.json")
    finally:
        shutil.rmtree(folder)
