import time
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.graph import end_unstarted

pytestmark = pytest.mark.usefixtures("prefect_server")


@task
def split() -> int:
    raise ValueError("no image")


@task
def mask(image: int) -> int:
    return image


def known(run: UUID) -> TaskRun:
    """The server learns of task runs a moment after they are over."""
    with get_client(sync_client=True) as client:
        for _ in range(200):
            try:
                return client.read_task_run(run)
            except ObjectNotFound:
                time.sleep(0.05)
    raise AssertionError(f"the server never heard of task run {run}")


def test_a_task_that_never_started_gets_a_name_and_an_end() -> None:
    ended: list[TaskRun] = []

    @flow(name="one-ccd")
    def one_ccd() -> str:
        image = split.submit()
        masked = mask.submit(image)  # type: ignore[arg-type]
        masked.wait()
        assert not masked.state.is_final()
        known(masked.task_run_id)
        end_unstarted({masked.task_run_id: ("mask 2113737-7", "split of 2113737-7 was set aside")})
        ended.append(known(masked.task_run_id))
        return "done"

    assert one_ccd() == "done"

    [run] = ended
    assert (run.name, run.state_name) == ("mask 2113737-7", "Not started")
    assert run.state is not None
    assert run.state.is_cancelled()
    assert run.state.message == "split of 2113737-7 was set aside"
    assert run.end_time is not None


def test_a_task_run_that_the_server_does_not_know_yet_stays_as_it_is() -> None:
    @flow(name="goes-on-too")
    def goes_on() -> str:
        end_unstarted({uuid4(): ("mask 2113737-7", "because")})
        return "done"

    assert goes_on() == "done"


def test_a_server_that_is_gone_costs_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def unreachable(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("gone", request=request)

    @flow(name="goes-on-alone")
    def goes_on() -> str:
        context = FlowRunContext.get()
        assert context is not None
        gone = httpx.Client(transport=httpx.MockTransport(unreachable), base_url=PREFECT_API_URL.value())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(context.client, "_client", gone)
            end_unstarted({uuid4(): ("mask 2113737-7", "because")})
        return "done"

    assert goes_on() == "done"
    assert "stages that never started as open: ConnectError" in caplog.text


def test_without_a_flow_run_nothing_is_ended() -> None:
    end_unstarted({uuid4(): ("mask 2113737-7", "because")})
