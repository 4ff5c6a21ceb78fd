"""Dates of observations as headers write them."""

from __future__ import annotations

import re
from datetime import datetime

_DATE = re.compile(
    r"(?P<year>\d{4})(?P<separator>[-/]?)(?P<month>\d\d)(?P=separator)(?P<day>\d\d)(?:[T ]?(?P<time>\d.*))?", re.ASCII
)
_TIME = re.compile(
    r"(?P<hour>\d\d)(?P<separator>:?)(?P<minute>\d\d)(?:(?P=separator)(?P<second>\d\d)(?P<fraction>\.\d*)?)?Z?",
    re.ASCII,
)

LEAP_SECOND = 60  # datetime does not know it
MAX_FRACTION = len(".123456")  # what crds reads


def split_date(date: str, time: str = "") -> tuple[str, str] | None:
    """Bring an observation date to the two strings that CRDS understands.

    Parameters
    ----------
    date
        ``2025-01-02``, ``2025/01/02``, ``2025-01-02T03:04:05.6``, with a blank instead of the T, or ``20250102030405``.
    time
        ``03:04:05.6``, used if the date has no time of its own; midnight if there is none at all.

    Returns
    -------
    tuple of str or None
        ``("2025-01-02", "03:04:05.6")``, the fraction of the second cut after six digits and left out if it is zero;
        none if this is not a date.
    """
    day = _DATE.fullmatch(date.strip())
    if day is None:
        return None
    clock = _TIME.fullmatch((day["time"] or time).strip() or "00:00:00")
    if clock is None:
        return None
    second = int(clock["second"] or 0)
    try:
        moment = datetime(
            int(day["year"]),
            int(day["month"]),
            int(day["day"]),
            int(clock["hour"]),
            int(clock["minute"]),
            second - (second == LEAP_SECOND),
        )
    except ValueError:
        return None
    fraction = (clock["fraction"] or "")[:MAX_FRACTION].rstrip("0").rstrip(".")
    return moment.strftime("%Y-%m-%d"), moment.strftime("%H:%M:%S") + fraction
