"""Every run of a night leaves a report; the latest is the one that is shown."""

from datetime import UTC, date, datetime, timedelta

from blocks.store import DataStore
from flows.launch import Launched
from flows.night_report import NightReport, read_night_report, write_night_report

NIGHT = date(2026, 11, 20)
EVENING = datetime(2026, 11, 20, 19, 5, tzinfo=UTC)


def report(started: datetime, *launched: Launched) -> NightReport:
    return NightReport(
        survey="plans", night=NIGHT, restricted=False, started=started, wall_s=3.0, launched=tuple(launched)
    )


def test_a_later_run_of_a_night_does_not_take_the_report_of_an_earlier_one(store: DataStore) -> None:
    failed = Launched(subject="2000001", kind="exposure", outcome="failed", reason="a bug", seconds=1.0)
    first, second = report(EVENING, failed), report(EVENING + timedelta(hours=2))
    write_night_report(store, first)
    write_night_report(store, second)

    assert read_night_report(store, NIGHT) == second
    assert store.list_keys("nights") == [
        "nights/2026-11-20/report-20261120T190500.000000Z.json",
        "nights/2026-11-20/report-20261120T210500.000000Z.json",
        "nights/2026-11-20/report.json",
    ]
    assert NightReport.model_validate_json(store.read_bytes(store.list_keys("nights")[0])) == first


def test_a_night_without_a_run_has_no_report(store: DataStore) -> None:
    assert read_night_report(store, NIGHT) is None
