"""An S3 service for the tests of this folder, and a store behind a proxy that can break it."""

from collections.abc import Iterator

import pytest
from s3_proxy import FaultyS3, bucket_of, make_bucket, s3_service, store_at

from blocks.store import DataStore


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_service() as url:
        yield url


@pytest.fixture
def s3_store(s3_endpoint: str, request: pytest.FixtureRequest) -> DataStore:
    return store_at(s3_endpoint, make_bucket(s3_endpoint, bucket_of(request.node.nodeid)))


@pytest.fixture(params=["local", "s3"])
def any_store(request: pytest.FixtureRequest) -> DataStore:
    store: DataStore = request.getfixturevalue("store" if request.param == "local" else "s3_store")
    return store


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultyS3]:
    with FaultyS3(s3_endpoint) as faulty:
        yield faulty


@pytest.fixture
def faulty_store(proxy: FaultyS3, s3_endpoint: str, request: pytest.FixtureRequest) -> DataStore:
    """A store that gives up quickly: half a second without an answer, three attempts."""
    return store_at(proxy.url, make_bucket(s3_endpoint, bucket_of(request.node.nodeid)), timeout_s=0.5, attempts=3)


@pytest.fixture
def patient_store(faulty_store: DataStore) -> DataStore:
    """The same for tests in which no answer is missing: on a busy machine they are late, and asking again counts."""
    return faulty_store.model_copy(update={"timeout_s": 30.0})
