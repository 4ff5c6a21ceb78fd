"""A work pool and blocks in the session's Prefect server."""

import pytest

from flows.config import SurveyConfig, load_survey


@pytest.fixture(scope="session")
def own_server(prefect_server: None) -> dict[str, str]:
    """Return the environment with which other processes find the session's server."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    return {"PREFECT_API_URL": str(settings.api.url), "PREFECT_HOME": str(settings.home)}


@pytest.fixture
def survey() -> SurveyConfig:
    """Return the settings of the demo."""
    return load_survey("demo")


@pytest.fixture(scope="session")
def blocks(own_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the names of the blocks of a store and its raw files."""
    from deployments.registration import S3Access, make_store, save_block

    root = tmp_path_factory.mktemp("blocks") / "store"
    for name, collection in (("products", "main"), ("raw", "raw")):
        save_block(make_store(str(root), collection, S3Access()), name)
    return "products", "raw"
