"""Fixtures of the test that drives the Prefect UI; it is skipped only where no browser is installed."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

HERE = Path(__file__).parent
NEEDED = ("chromium", "chromedriver")

# the small survey that the tests of the flows use too
sys.path.insert(0, str(HERE.parent / "flows"))

if TYPE_CHECKING:
    from browser import Browser
    from house import House


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator["House"]:
    """Start server, deployments and worker."""
    from house import opened_house

    with opened_house(tmp_path_factory.mktemp("ui")) as opened:
        yield opened


@pytest.fixture(scope="session")
def browser(house: "House") -> Iterator["Browser"]:
    """Open a browser of 1280 pixels width on the house."""
    from browser import Browser

    with Browser.opened(house.url, house.folder) as opened:
        yield opened


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep what the browser shows when a test fails."""
    outcome: Any = yield
    report = outcome.get_result()
    opened = getattr(item, "funcargs", {}).get("browser")
    if report.failed and report.when in {"setup", "call"} and opened is not None:
        report.sections.append(("browser", opened.keep_evidence(item.name)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a browser there is nothing to see."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        reason = f"no {' and no '.join(missing)} is installed: `apt-get install chromium chromium-driver`"
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))
