"""The fault suite says so whenever something did not come out as promised, or was not measured at all."""

from pathlib import Path
from typing import Any

import pytest
from fault_suite.kills import Plan
from fault_suite.promises import Asked, broken_promises
from fault_suite.pytest_run import run_tests
from fault_suite.sender import deliver
from fault_suite.sources import changed_sources, source_checksums
from fault_suite.starts import event_to_start

from blocks.store import DataStore

ASKED = Asked(("kills", "night", "arrivals", "tests"), kills=50, events=1000, night=200)
KEPT: dict[str, Any] = {
    "errors": {},
    "sources_changed_meanwhile": [],
    "kills": 50,
    "kills_by_kind": {"exposure": 33, "tile": 17},
    "kills_by_mode": dict.fromkeys(("group", "flow", "pool worker", "deployed flow", "worker", "worker and flow"), 5),
    "identical": 50,
    "partial_objects": 0,
    "objects_watched": 4000,
    "finished_stages_at_kills": 500,
    "redone_finished_stages": 0,
    "orphan_processes": 0,
    "failed_reruns": [],
    "failed_recoveries": [],
    "deaths_not_noticed": [],
    "night_exposures": 200,
    "overhead_fraction": 0.1,
    "server_rss_mb": {"25%": 300, "50%": 310, "100%": 320},
    "events_sent": 1000,
    "exposures": 700,
    "exposures_once": 700,
    "tiles": 70,
    "tiles_once": 70,
    "arrival_stages_run_twice": 0,
    "restarts": ["server SIGKILL"],
    "event_to_start_measured": 700,
    "started_before_event": 0,
    "event_to_start_median_s": 3.0,
    "fault_tests_exit_code": 0,
    "fault_tests_passed": 40,
}
WORSE: dict[str, Any] = {
    "sources_changed_meanwhile": ["tasks/mask.py"],
    "kills": 49,
    "kills_by_kind": {"exposure": 50},
    "kills_by_mode": {"group": 50},
    "identical": 49,
    "partial_objects": 1,
    "objects_watched": 0,
    "finished_stages_at_kills": 0,
    "redone_finished_stages": 1,
    "orphan_processes": 1,
    "failed_reruns": ["3000000: no"],
    "failed_recoveries": ["3000000: no"],
    "deaths_not_noticed": ["worker of 3000000"],
    "night_exposures": 199,
    "overhead_fraction": 0.151,
    "server_rss_mb": {"25%": 300, "50%": 310, "100%": 361},
    "events_sent": 999,
    "exposures": 699,
    "exposures_once": 699,
    "tiles": 71,
    "tiles_once": 69,
    "arrival_stages_run_twice": 1,
    "restarts": [],
    "event_to_start_measured": 699,
    "started_before_event": 1,
    "event_to_start_median_s": 10.1,
    "fault_tests_exit_code": 5,
    "fault_tests_passed": 0,
}


def test_what_came_out_as_promised_breaks_nothing() -> None:
    assert broken_promises(KEPT, ASKED) == []


@pytest.mark.parametrize("figure", WORSE)
def test_every_figure_can_break_a_promise(figure: str) -> None:
    assert broken_promises(KEPT | {figure: WORSE[figure]}, ASKED)


@pytest.mark.parametrize("figure", WORSE)
def test_a_figure_that_was_not_measured_breaks_a_promise(figure: str) -> None:
    assert broken_promises(KEPT | {figure: None}, ASKED)
    assert broken_promises({key: value for key, value in KEPT.items() if key != figure}, ASKED)


def test_a_part_that_stopped_breaks_a_promise_and_a_part_that_was_not_asked_for_does_not() -> None:
    stopped = {"errors": {"night": "RuntimeError: of 200 exposures 3 were done"}, "sources_changed_meanwhile": []}

    assert broken_promises(stopped, Asked(("night",), 0, 0, 200)) == [
        "the part night stopped: RuntimeError: of 200 exposures 3 were done"
    ]
    assert broken_promises(stopped | {"errors": {}}, Asked((), 0, 0, 0)) == []


def test_exposures_that_started_before_they_were_announced_or_never_are_no_measurements() -> None:
    found = event_to_start(
        ["early", "good", "late", "never", "unsent"],
        {"early": 10.0, "good": 10.0, "late": 10.0, "never": 10.0},
        {"early": [9.0, 11.0], "good": [12.0, 13.0], "late": [14.0], "unsent": [11.0]},
    )

    assert found == {
        "event_to_start_median_s": 3.0,
        "event_to_start_p90_s": 4.0,
        "event_to_start_measured": 2,
        "started_before_event": 1,
    }


def test_a_median_of_nothing_is_none() -> None:
    assert event_to_start(["early"], {"early": 10.0}, {"early": [9.0]})["event_to_start_median_s"] is None


def test_a_duplicate_does_not_deliver_the_files_again(tmp_path: Path) -> None:
    staging, raw = (DataStore(root=str(tmp_path), collection=name) for name in ("staging", "raw"))
    staging.put_bytes("1p.fits", b"image")

    deliver(staging, raw, ["1p.fits"])
    before = raw.list_versions()
    deliver(staging, raw, ["1p.fits"])

    assert raw.read_bytes("1p.fits") == b"image"
    assert raw.list_versions() == before


def test_exposures_and_tiles_are_killed_in_every_way() -> None:
    plan, every_way = Plan(9), {"group", "flow", "pool worker"}
    exposure, tile = ([plan.take(kind) for _ in range(n)] for kind, n in (("exposure", 6), ("tile", 3)))

    assert (set(exposure[:3]), set(exposure[3:]), set(tile)) == (every_way, every_way, every_way)
    assert plan.take("tile") is None


def test_of_few_kills_one_is_kept_for_what_has_met_none() -> None:
    plan = Plan(3, {("exposure", "worker"): 1}, ("exposure", "tile"))

    assert [plan.take("exposure") is None for _ in range(3)] == [False, False, True]
    kept = plan.take("tile")
    assert kept is not None
    plan.give_back("tile", kept)
    assert plan.take("exposure") is None
    assert plan.take("tile") == kept
    assert not plan


def test_a_kill_that_could_not_be_done_is_done_later() -> None:
    plan = Plan(1)
    mode = plan.take("tile")
    assert not plan
    assert mode is not None

    plan.give_back("tile", mode)

    assert plan.take("tile") == mode


def test_code_that_changes_while_the_suite_runs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fault_suite.sources.PACKAGES", ("code_that_somebody_edits",))
    monkeypatch.syspath_prepend(tmp_path)
    stage = tmp_path / "code_that_somebody_edits" / "mask.py"
    stage.parent.mkdir()
    stage.write_text("GROWTH = 1\n")
    before = source_checksums()

    assert changed_sources(before) == []
    stage.write_text("GROWTH = 2\n")
    assert changed_sources(before) == ["code_that_somebody_edits/mask.py"]


def test_the_code_of_stages_is_watched() -> None:
    assert {"tasks/detect.py", "flows/arrival.py"} <= source_checksums().keys()


def test_a_test_run_that_ends_badly_is_told_by_its_exit_code(tmp_path: Path) -> None:
    file = tmp_path / "test_two.py"
    file.write_text("def test_good():\n    pass\n\n\ndef test_bad():\n    assert False\n")

    assert run_tests(tmp_path / "run", str(file)) == {
        "fault_tests_exit_code": 1,
        "fault_tests_passed": 1,
        "fault_tests_failed": 1,
        "fault_tests_skipped": 0,
    }
    assert run_tests(tmp_path / "none", str(file), "-k", "nothing_has_this_name")["fault_tests_exit_code"] == 5
