"""Exposure times of a stack of images: summed once for each group, the images of which were taken at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TimeCounters:
    """Running sums of times; start and end may be of any type that can be compared."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._exposure = 0.0
        self._duration = 0.0
        self._measured: float | None = None
        self._n_groups = 0
        self._start: Any = None
        self._end: Any = None

    def check(self, model: Mapping[str, Any], name: str) -> None:
        """Refuse a start or an end that cannot be compared with earlier ones.

        Raises
        ------
        TypeError
            If there is one.
        """
        for key, known in (("start_time", self._start), ("end_time", self._end)):
            value = model[key]
            try:
                _ = value is None or known is None or value < known
            except TypeError as error:
                raise TypeError(
                    f"The {key} of {name} is {value!r}, which cannot be compared with {known!r} of an earlier model."
                ) from error

    def add_group(self, model: Mapping[str, Any]) -> None:
        """Add the times of the first image of a group."""
        self._exposure += model["exposure_time"]
        if model["duration"] is not None:
            self._duration += model["duration"]
        measured = model["measurement_time"]
        if measured is None or (self._n_groups and self._measured is None):
            # the total is only known if every group has one
            self._measured = None
        else:
            self._measured = measured + (self._measured or 0.0)
        self._n_groups += 1
        self.extend(model)

    def extend(self, model: Mapping[str, Any]) -> None:
        """Widen start and end to those of an image; times that are None are not known."""
        start, end = model["start_time"], model["end_time"]
        if start is not None:
            self._start = start if self._start is None else min(self._start, start)
        if end is not None:
            self._end = end if self._end is None else max(self._end, end)

    def totals(self) -> dict[str, Any]:
        """Return the totals under the keys of an output model."""
        return {
            "exposure_time": self._exposure,
            "start_time": self._start,
            "end_time": self._end,
            "duration": self._duration,
            "elapsed_exposure_time": self._duration,
            "measurement_time": self._measured,
        }


def weighting_time(model: Mapping[str, Any]) -> float:
    """Return the measurement time of an image, or its exposure time if that is not known, in seconds."""
    measured = model.get("measurement_time")
    return float(model["exposure_time"] if measured is None else measured)
