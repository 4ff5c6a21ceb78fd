"""Every stage that is finished while many runs are under way."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from fault_suite.watching import RECORDS, Folder

LOOK_S = 0.5


class RecordLog(threading.Thread):
    """Sees every stage that is finished: a record that is written twice is a stage that was run twice.

    Parameters
    ----------
    collection
        Folder of the collection.
    """

    def __init__(self, collection: Path) -> None:
        super().__init__(daemon=True)
        # of a thousand exposures; to look at all their products as well would cost half a core
        self._records = Folder(collection / RECORDS)
        self._ended = threading.Event()
        self._seen: dict[str, str] = {}
        self.written: Counter[str] = Counter()

    def run(self) -> None:
        """Look until told to end."""
        while not self._ended.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Count what was written since the last look."""
        for key, version in self._records.versions().items():
            if self._seen.get(key) != version:
                self._seen[key] = version
                self.written[f"{RECORDS}{key}"] += 1

    def end(self) -> None:
        """Look once more and stop."""
        self._ended.set()
        self.join()
        self.look()
