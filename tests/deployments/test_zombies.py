"""Flow runs whose process is gone, without a worker that could notice, beside others that live."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from trial import sleeper, state_of, trial, wait_until

from deployments.automations import HEARTBEAT_S, SILENCE_S, TAG

DEFAULT_HEARTBEAT_S = 180


@pytest.mark.faults
def test_only_what_is_dead_is_marked_as_crashed(tmp_path: Path) -> None:
    """Takes as long as the automation waits."""
    often = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}
    with trial(tmp_path / "trial") as running, ExitStack() as stack:
        url = running.api_url
        stack.enter_context(sleeper(url, tmp_path, "alive-with-prefects-heartbeat", TAG))
        stack.enter_context(sleeper(url, tmp_path, "alive", TAG, **often))
        stack.enter_context(sleeper(url, tmp_path, "dead-of-somebody-else", **often)).kill()
        stack.enter_context(sleeper(url, tmp_path, "dead", TAG, **often)).kill()
        wait_until(lambda: state_of(url, "dead").startswith("Crashed"), "the automation", SILENCE_S + 120)

        # the others started earlier, so they have been waited for as well
        assert f"No heartbeat for {SILENCE_S} s" in state_of(url, "dead")
        assert state_of(url, "alive-with-prefects-heartbeat") == "Running"
        assert state_of(url, "alive") == "Running"
        assert state_of(url, "dead-of-somebody-else") == "Running"


def test_the_automation_is_more_patient_than_prefects_own_heartbeat() -> None:
    from prefect.settings.models.flows import FlowsSettings

    assert FlowsSettings.model_fields["heartbeat_frequency"].default == DEFAULT_HEARTBEAT_S
    assert SILENCE_S > DEFAULT_HEARTBEAT_S + HEARTBEAT_S
