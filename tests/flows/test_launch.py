"""A launcher works on a few things at a time; what one of them meets stops no other, unless all would meet it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from planned_survey import planned_survey, put_raw
from s3_proxy import Fault, FaultyS3, S3Request, make_bucket, s3_service, store_at

from blocks.store import DataStore, StoreError
from flows.launch import Launched, Launcher
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId, TileId
from tasks.runner import Runner

pytestmark = pytest.mark.usefixtures("prefect_server")

# stages run in the threads of the launcher: no worker processes to start
HERE = Runner(workers=0)
BROKEN = "2000002"
FORBIDDEN = Fault("error", 403, "AccessDenied")


@pytest.fixture
def names(raw_store: DataStore) -> list[ExposureId]:
    """Return exposures that have only headers: every one of them is set aside as soon as it is read."""
    found = [f"200000{number}" for number in range(1, 6)]
    for name in found:
        put_raw(raw_store, name)
    return [ExposureId(name) for name in found]


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with s3_service() as address:
        yield address


@pytest.fixture
def s3(service: str) -> Iterator[tuple[FaultyS3, DataStore]]:
    """Return an S3 that can be told to fail, and a raw store of three exposures in it."""
    bucket = make_bucket(service, "raw-of-the-launcher")
    with FaultyS3(service) as proxy:
        raw = store_at(proxy.url, bucket, attempts=1)
        for number in (1, 2, 3):
            put_raw(raw, f"200000{number}")
        yield proxy, raw


def runs_tagged(tag: str) -> list[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))


def outcomes(found: list[Launched]) -> dict[str, str]:
    return {item.subject: item.outcome for item in found}


def test_what_one_meets_is_its_own(store, raw_store, names):
    config = planned_survey()
    with Launcher(config, store, raw_store, HERE) as launcher:
        # the first has no pixels, the second nobody sent, and the tile asks for what is not processed
        futures = [launcher.exposure(names[0]), launcher.exposure(ExposureId("2999999"))]
        futures.append(launcher.tile(TileId("210.290"), [names[0]]))

    found = [future.result() for future in futures]
    assert outcomes(found) == {"2000001": "set_aside", "2999999": "set_aside", "210.290": "failed"}
    assert "2999999" in found[1].reason
    assert found[2].reason.startswith("MissingProductError: ")
    assert all(item.seconds > 0 for item in found)


def test_only_so_many_run_at_a_time_and_their_runs_are_tagged(store, raw_store, names):
    tag = f"night:{datetime.now(UTC):%H%M%S%f}"
    with Launcher(planned_survey(), store, raw_store, HERE, parallel=2, tags=[tag]) as launcher:
        futures = [launcher.exposure(name) for name in names]
        in_hand = []
        while not all(future.done() for future in futures):
            in_hand.append(sum(future.running() for future in futures))
            time.sleep(0.01)

    runs = runs_tagged(tag)
    together = [sum(one.start_time <= run.start_time < one.end_time for one in runs) for run in runs]
    assert max(in_hand) == 2
    # a busy server may keep a run from starting, so that it starts alone
    assert max(together) <= 2
    assert sorted(sorted(run.tags) for run in runs) == sorted(
        sorted([tag, "exposure", f"exposure:{name}"]) for name in names
    )


def test_the_end_waits_for_all_that_was_launched(store, raw_store, names):
    with Launcher(planned_survey(), store, raw_store, HERE, parallel=1) as launcher:
        futures = [launcher.exposure(name) for name in names[:3]]

    assert [future.done() and not future.cancelled() for future in futures] == [True] * 3
    assert {future.result().outcome for future in futures} == {"set_aside"}


def test_settings_that_cannot_work_stop_everything(store, raw_store, names):
    config = planned_survey(exposure={"star_catalog": "stars.fits"})
    launcher = Launcher(config, store, raw_store, HERE, parallel=1)

    with pytest.raises(ConfigError, match=r"stars\.fits"), launcher:
        futures = [launcher.exposure(name) for name in names]

    # those that were not begun say why, too
    for future in futures:
        with pytest.raises(ConfigError, match=r"stars\.fits"):
            future.result()
    assert store.list_folders("exposures") == []


def test_an_error_of_the_block_reaches_what_was_not_begun(store, raw_store, names):
    futures = []

    def launch_and_fail() -> None:
        with Launcher(planned_survey(), store, raw_store, HERE, parallel=1) as launcher:
            futures.extend(launcher.exposure(name) for name in names)
            raise ZeroDivisionError("a bug of whoever launches")

    with pytest.raises(ZeroDivisionError):
        launch_and_fail()

    assert isinstance(futures[-1].exception(), ZeroDivisionError)


def test_one_object_that_the_store_refuses_fails_one_exposure(store, s3):
    proxy, raw = s3

    def forbidden(request: S3Request) -> Fault | None:
        return FORBIDDEN if BROKEN in request.path else None

    proxy.rule = forbidden
    with Launcher(planned_survey(), store, raw, HERE, parallel=1) as launcher:
        futures = [launcher.exposure(ExposureId(f"200000{number}")) for number in (1, 2, 3)]

    found = [future.result() for future in futures]
    assert outcomes(found) == {"2000001": "set_aside", BROKEN: "failed", "2000003": "set_aside"}
    assert found[1].reason.startswith("StoreError: ")
    assert f"{BROKEN}p.fits.fz" in found[1].reason


def test_a_store_that_is_gone_stops_everything(store, s3):
    proxy, raw = s3
    proxy.rule = lambda request: FORBIDDEN
    launcher = Launcher(planned_survey(), store, raw, HERE, parallel=1)

    with pytest.raises(StoreError), launcher:
        futures = [launcher.exposure(ExposureId(f"200000{number}")) for number in (1, 2, 3)]

    assert all(isinstance(future.exception(), StoreError) for future in futures)


def test_it_launches_only_in_its_block(store, raw_store, names):
    with pytest.raises(RuntimeError, match="used in a `with` block"):
        Launcher(planned_survey(), store, raw_store, HERE).exposure(names[0])
