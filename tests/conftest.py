"""Fixtures that every test may use: real stores in a temporary folder, and one Prefect server for the session."""

import os

# before Prefect is imported: no telemetry, no colours, and nothing of the user's profile
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")

from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.store import DataStore


@pytest.fixture
def store(tmp_path: Path) -> DataStore:
    """Return a store of products in a temporary folder."""
    return DataStore(root=str(tmp_path / "store"), collection="test")


@pytest.fixture
def raw_store(tmp_path: Path) -> DataStore:
    """Return a store of raw files in a temporary folder."""
    return DataStore(root=str(tmp_path / "store"), collection="raw")


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Run a Prefect server for the session, without the heartbeat that costs a second per flow run."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


LONG = ("faults", "ui", "deployments", "workers")
"""Folders of tests that wait for servers and processes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes longest: when several processes share the tests, none is left waiting for it at the end."""
    here = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=rank)
