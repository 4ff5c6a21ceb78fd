"""Notes that the arrival flow does not look at for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from tasks.products.identity import ExposureId

Reason = Literal["incomplete", "failed", "elsewhere", "interrupted"]
FIRST_S: dict[Reason, float] = {"incomplete": 5.0, "elsewhere": 2.0}
LONGEST_S: dict[Reason, float] = {"incomplete": 60.0, "elsewhere": 32.0}
"""What is waited for is asked for ever more rarely."""
TRIED_AGAIN: tuple[Reason, ...] = ("failed", "interrupted")


@dataclass(frozen=True)
class _Delay:
    version: str
    until: float
    delay_s: float
    why: Reason


@dataclass
class PutOff:
    """Notes that are put off, each until some time or until its exposure is announced again."""

    _delays: dict[ExposureId, _Delay] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._delays)

    def add(self, exposure: ExposureId, version: str, why: Reason, delay_s: float | None = None) -> None:
        """Put a note off.

        Parameters
        ----------
        exposure, version
            The note; another version of it is looked at at once.
        why
            What it waits for.
        delay_s
            For how long, in seconds, infinity for ever; none takes the usual time, and twice as long every time.
        """
        if delay_s is None:
            before = self._delays.get(exposure)
            again = before is not None and (before.version, before.why) == (version, why)
            delay_s = min(2 * before.delay_s, LONGEST_S[why]) if before is not None and again else FIRST_S[why]
        self._delays[exposure] = _Delay(version, time.monotonic() + delay_s, delay_s, why)

    def holds(self, exposure: ExposureId, version: str) -> bool:
        """Tell whether a note is not to be looked at now."""
        item = self._delays.get(exposure)
        return item is not None and item.version == version and time.monotonic() < item.until

    def leaves(self, exposure: ExposureId, version: str) -> bool:
        """Tell whether a run that ends need not hand a note on: it is put off, or waits for something else."""
        item = self._delays.get(exposure)
        waits_for_others = item is not None and item.version == version and item.why not in TRIED_AGAIN
        return waits_for_others or self.holds(exposure, version)

    def is_patient(self, exposure: ExposureId, why: Reason) -> bool:
        """Tell whether a note was put off for a reason as often as it may be."""
        item = self._delays.get(exposure)
        return item is not None and item.why == why and item.delay_s >= LONGEST_S[why]

    def forget(self, exposure: ExposureId) -> None:
        """Forget a note that was dealt with."""
        self._delays.pop(exposure, None)

    def keep(self, exposures: Collection[ExposureId]) -> None:
        """Forget notes that are gone."""
        for gone in self._delays.keys() - exposures:
            del self._delays[gone]

    def will_be_tried(self) -> bool:
        """Tell whether any will be tried again by itself, and not only when something else happens."""
        return any(item.why in TRIED_AGAIN and item.until < math.inf for item in self._delays.values())

    def count(self, why: Reason) -> int:
        """Return how many notes are put off for a reason; of those that failed, the ones that are given up."""
        return sum(item.why == why and (why != "failed" or item.until == math.inf) for item in self._delays.values())
