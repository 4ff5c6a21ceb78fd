"""Telling Prefect of arrivals beside the answers to requests, many at a time."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Self

from flows.announce import EVENTS_PER_REQUEST, emit_arrivals
from tasks.archive.inbox import Arrival

MAX_WAITING = 10_000


class Outbox:
    """A thread that tells Prefect of arrivals; a context manager.

    The notes are in the store already, so when Prefect is slow or away, events are dropped rather than kept for ever.
    """

    def __init__(self, survey: str) -> None:
        self._survey = survey
        self._waiting: queue.Queue[Arrival | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()

    def add(self, note: Arrival) -> None:
        """Tell Prefect of an arrival soon."""
        try:
            self._waiting.put_nowait(note)
        except queue.Full:
            # the sweep finds the note
            return

    def _work(self) -> None:
        while (note := self._waiting.get()) is not None:
            notes = [note]
            while len(notes) < EVENTS_PER_REQUEST and not self._waiting.empty():
                more = self._waiting.get()
                if more is None:
                    emit_arrivals(notes, self._survey)
                    return
                notes.append(more)
            emit_arrivals(notes, self._survey)
