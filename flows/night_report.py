"""The report of a night: what was done, what was not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

from pydantic import BaseModel, ConfigDict, Field

from blocks.store import DataStore, ObjectNotFoundError
from flows.artifacts import Row, show_table, show_text
from flows.launch import Launched
from flows.markdown import plain
from flows.plan import Plan
from tasks.archive import keys
from tasks.archive.documents import write_document
from tasks.errors import BadFileError
from tasks.products.identity import ProductRef

NAME = "report.json"
"""Name of the report of the latest run of a night."""
NAME_OF_RUN = "report-%Y%m%dT%H%M%S.%fZ.json"
"""Names of the reports of all of them, by their start in UTC."""
SECONDS_PER_HOUR = 3600.0
OUTCOMES = ("done", "reused", "set_aside", "failed")
MAX_ROWS = 500
"""Rows of the tables in the UI, which is slow with more; the report in the store has all."""


class NotDone(BaseModel):
    """An exposure or tile that was not launched, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    subject: str
    """Name of the exposure or tile."""

    kind: str
    """Whether it is an exposure or a tile."""

    status: str
    """As the plan calls it: ``incomplete``, ``waiting``, ``set_aside``."""

    reasons: tuple[str, ...]
    """What it waits for, or why it was set aside before and is not tried again."""


class NightReport(BaseModel):
    """What one nightly run did."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    survey: str
    """Name of the survey."""

    night: date
    """Night of the report, by the date of its evening."""

    restricted: bool
    """Whether only exposures of that night were processed, and the tiles that they touch."""

    started: datetime
    """Start of the run."""

    wall_s: float
    """Seconds from start to end."""

    launched: tuple[Launched, ...] = ()
    """Exposures and tiles that were worked on, in the order in which they were started."""

    not_launched: tuple[NotDone, ...] = ()
    """Exposures and tiles that wait for something, and those that were set aside before."""

    up_to_date: dict[str, int] = Field(default_factory=dict)
    """Number of exposures and of tiles for which there was nothing to do."""

    catalog: ProductRef | None = None
    """Catalogue of the survey, if all its tiles are done or set aside."""

    catalog_note: str = ""
    """Why there is no catalogue of the survey, or what it is without."""

    stages_run: int = 0
    """Stages that ran, if exposures and tiles ran in the process of the nightly run."""

    stages_reused: int = 0
    """Products that were up to date already."""

    stopped_by: str = ""
    """The error that ended the night before its time."""

    def count(self, kind: str, outcome: str) -> int:
        """Return how many exposures or tiles ended so."""
        return sum((item.kind, item.outcome) == (kind, outcome) for item in self.launched)

    def failed(self) -> tuple[Launched, ...]:
        """Return what unexpected errors stopped."""
        return tuple(item for item in self.launched if item.outcome == "failed")

    @property
    def exposures_per_hour(self) -> float:
        """Exposures that were worked on in an hour of wall time."""
        done = sum(item.kind == "exposure" for item in self.launched)
        return SECONDS_PER_HOUR * done / self.wall_s if self.wall_s > 0 else 0.0

    def headline(self) -> str:
        """Return the night in one sentence."""
        parts = [f"{kind}s: {self._counts(kind)}" for kind in ("exposure", "tile")]
        speed = f"{self.wall_s:.0f} s, {self.exposures_per_hour:.0f} exposures per hour"
        stopped = f" Stopped by {self.stopped_by}" if self.stopped_by else ""
        return f"Night {self.night} of {self.survey}: {'; '.join(parts)}; {speed}.{stopped}"

    def _counts(self, kind: str) -> str:
        counts = {outcome.replace("_", " "): self.count(kind, outcome) for outcome in OUTCOMES}
        status = Counter(item.status.replace("_", " ") for item in self.not_launched if item.kind == kind)
        waiting = {"not tried again" if name == "set aside" else name: number for name, number in status.items()}
        numbers = counts | waiting | {"up to date": self.up_to_date.get(kind, 0)}
        return _numbers(numbers)


def not_launched(plan: Plan) -> tuple[NotDone, ...]:
    """Return what a plan leaves undone, and why."""
    exposures = [
        NotDone(subject=str(item.exposure), kind="exposure", status=item.status, reasons=item.reasons)
        for item in plan.exposures
        if item.status in {"incomplete", "set_aside"}
    ]
    tiles = [
        NotDone(subject=str(item.tile), kind="tile", status=item.status, reasons=item.reasons)
        for item in plan.tiles
        if item.status in {"waiting", "set_aside"}
    ]
    return (*exposures, *tiles)


def write_night_report(store: DataStore, report: NightReport) -> ProductRef:
    """Publish the report of a night under its start, and as the latest of the night."""
    subject = f"night {report.night}"
    name = report.started.astimezone(UTC).strftime(NAME_OF_RUN)
    write_document(store, keys.night(str(report.night), name), report, subject=subject)
    return write_document(store, keys.night(str(report.night), NAME), report, subject=subject)


def read_night_report(store: DataStore, night: date) -> NightReport | None:
    """Return the report of the latest run of a night; none if there was no nightly run.

    Raises
    ------
    BadFileError
        If it is damaged.
    """
    key = keys.night(str(night), NAME)
    try:
        return NightReport.model_validate_json(store.read_bytes(key))
    except ObjectNotFoundError:
        return None
    except ValueError as error:
        raise BadFileError(f"{key} is not the report of a night: {str(error).splitlines()[0]}.") from error


def show_plan(plan: Plan) -> None:
    """Show in the Prefect UI what a night is going to do, and why."""
    rows: list[Row] = [
        {"what": f"exposure {item.exposure}", "status": item.status, "why": plain("; ".join(item.reasons))}
        for item in plan.exposures
        if item.status != "done"
    ]
    rows += [
        {"what": f"tile {plain(str(item.tile))}", "status": item.status, "why": plain("; ".join(item.reasons))}
        for item in plan.tiles
        if item.status != "done"
    ]
    said = f"exposures: {_numbers(plan.count('exposure'))}; tiles: {_numbers(plan.count('tile'))}"
    show_table((plan.survey, "plan"), rows[:MAX_ROWS], f"{plain(said)}{_cut(rows)}")


def show_night(report: NightReport) -> None:
    """Show in the Prefect UI what a night has done: in one sentence, then what did not go well."""
    show_text((report.survey, "night"), f"{plain(report.headline())}\n", f"Night {report.night}")
    rows: list[Row] = [
        {"what": f"{item.kind} {plain(item.subject)}", "outcome": item.outcome, "why": plain(item.reason)}
        for item in report.launched
        if item.outcome in {"set_aside", "failed"}
    ]
    rows += [
        {"what": f"{item.kind} {plain(item.subject)}", "outcome": item.status, "why": plain("; ".join(item.reasons))}
        for item in report.not_launched
    ]
    if rows:
        show_table((report.survey, "night", "not done"), rows[:MAX_ROWS], f"What was not done, and why.{_cut(rows)}")


def _numbers(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts.items() if number) or "none"


def _cut(rows: Sequence[object]) -> str:
    return f" The first {MAX_ROWS} of {len(rows)}." if len(rows) > MAX_ROWS else ""
