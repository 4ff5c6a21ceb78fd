"""The production database of the Prefect server, started from the machine's PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

START_S = 60.0
USER = "postgres"


class Postgres:
    """A PostgreSQL server in a folder of its own; it outlives the Prefect servers that use it."""

    def __init__(self, tools: Path, port: int) -> None:
        self._tools, self._port = tools, port
        # PostgreSQL refuses to run as root, and another user cannot enter the folders of the suite
        self._folder = Path(tempfile.mkdtemp(prefix="shearline-postgres-"))
        self._user = USER if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        """Create the database and wait until it answers.

        Raises
        ------
        RuntimeError
            If it does not.
        """
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        data = self._folder / "data"
        create: list[str | Path] = [
            self._tools / "initdb",
            f"--pgdata={data}",
            "--auth=trust",
            "--username=prefect",
            "--no-sync",
        ]
        subprocess.run(create, check=True, capture_output=True, user=self._user, cwd=self._folder)
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._folder}"]
        command: list[str | Path] = [self._tools / "postgres", "-D", data, "-p", str(self._port), *settings]
        self._process = subprocess.Popen(
            command, user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ready: list[str | Path] = [self._tools / "pg_isready", "--host=127.0.0.1", f"--port={self._port}", "--quiet"]
        limit = time.monotonic() + START_S
        while subprocess.run(ready, check=False).returncode != 0:
            if time.monotonic() > limit:
                raise RuntimeError(f"PostgreSQL in {data} does not answer")
            time.sleep(0.1)

    def stop(self) -> None:
        """End it and remove its data."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
        shutil.rmtree(self._folder, ignore_errors=True)


def find_postgres(port: int) -> Postgres | None:
    """Return a PostgreSQL server that is not started yet; none if the machine has none, or no user to run it."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    can_run = os.getuid() != 0 or USER in {entry.pw_name for entry in pwd.getpwall()}
    return Postgres(installed[-1].parent, port) if installed and can_run else None
