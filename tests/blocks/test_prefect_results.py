"""Prefect's own results on S3, and a store that is a block like any other."""

import json

import pytest
from prefect import flow
from prefect.filesystems import RemoteFileSystem
from prefect.settings import (
    PREFECT_DEFAULT_RESULT_STORAGE_BLOCK,
    PREFECT_RESULTS_DEFAULT_SERIALIZER,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    temporary_settings,
)
from s3_proxy import bucket_of, make_bucket

from blocks.store import DataStore

pytestmark = pytest.mark.usefixtures("prefect_server")


@flow
def add(a: int, b: int) -> int:
    """Return a sum, which Prefect keeps."""
    return a + b


def test_flow_results_go_to_the_bucket_that_the_settings_name(s3_endpoint: str, request: pytest.FixtureRequest) -> None:
    bucket = make_bucket(s3_endpoint, bucket_of(request.node.nodeid))
    block = RemoteFileSystem(
        basepath=f"s3://{bucket}/prefect-results",
        settings={"endpoint_url": s3_endpoint, "key": "test", "secret": "test"},
    )
    block.save("shearline-results", overwrite=True)
    settings = {
        PREFECT_DEFAULT_RESULT_STORAGE_BLOCK: "remote-file-system/shearline-results",
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
        PREFECT_RESULTS_DEFAULT_SERIALIZER: "json",
    }

    with temporary_settings(settings):
        state = add(2, 3, return_state=True)

    there = DataStore(root=f"s3://{bucket}", endpoint_url=s3_endpoint, access_key="test", secret_key="test")
    [key] = there.list_keys("prefect-results")
    assert json.loads(there.read_bytes(key)) == 5
    assert state.result() == 5


def test_a_store_is_saved_and_loaded_as_a_block_with_its_secret(s3_store: DataStore) -> None:
    s3_store.model_copy(update={"read_cache_bytes": 5}).save("survey-store", overwrite=True)

    loaded = DataStore.load("survey-store")

    assert isinstance(loaded, DataStore)
    assert "test" not in repr(loaded.secret_key)
    assert loaded.read_cache_bytes == 5
    loaded.put_bytes("x", b"1")
    assert s3_store.read_bytes("x") == b"1"
