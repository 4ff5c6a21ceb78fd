"""Several processes that deliver and announce exposures at an even rate."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SENDERS = 4
SENDER = Path(__file__).with_name("sender.py")


class Senders:
    """Sends events from several processes, and remembers when each exposure was announced first.

    Parameters
    ----------
    folder
        Gets the plans and the log of the senders.
    env
        Environment of the processes.
    plan
        What every sender must know; see ``sender.py``.
    receiver
        Address of a receiver, to which every other sender sends; the rest write notes and emit events themselves.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], plan: Mapping[str, Any], receiver: str) -> None:
        self._folder, self._env, self._plan, self._receiver = folder, dict(env), dict(plan), receiver
        self._lock = threading.Lock()
        self.first_sent: dict[str, float] = {}
        self.n_sent = 0

    def note(self, name: str, sent: float) -> None:
        """Count one announcement."""
        with self._lock:
            self.n_sent += 1
            self.first_sent[name] = min(sent, self.first_sent.get(name, sent))

    def send(
        self, events: Sequence[str], per_s: float, meanwhile: Sequence[tuple[float, Callable[[], None]]] = ()
    ) -> float:
        """Send events in their order and return how many seconds it took.

        Parameters
        ----------
        events
            Exposures, in the order in which they are announced; one may come several times.
        per_s
            Events per second.
        meanwhile
            What else to do, and after which fraction of the events.

        Raises
        ------
        RuntimeError
            If a sender fails.
        """
        timed = [(number / per_s, name) for number, name in enumerate(events)]
        processes = [self._start(k, timed[k::SENDERS]) for k in range(SENDERS)]
        threads = [threading.Thread(target=self._listen, args=(process,)) for process in processes]
        for process in processes:
            if process.stdout is None or process.stdout.readline().strip() != "ready":
                raise RuntimeError(f"a sender did not start: see {self._log}")
        begin = time.time() + 0.5
        for process, thread in zip(processes, threads, strict=True):
            if process.stdin is not None:
                process.stdin.write(f"{begin}\n")
                process.stdin.flush()
            thread.start()
        for share, do in meanwhile:
            time.sleep(max(0.0, begin + share * timed[-1][0] - time.time()))
            do()
        for process, thread in zip(processes, threads, strict=True):
            if process.wait() != 0:
                raise RuntimeError(f"a sender failed: see {self._log}")
            thread.join()
        return time.time() - begin

    @property
    def _log(self) -> Path:
        return self._folder / "senders.log"

    def _start(self, number: int, events: Sequence[tuple[float, str]]) -> subprocess.Popen[str]:
        plan = self._plan | {"events": events, "receiver": self._receiver if number % 2 else None}
        file = self._folder / f"sender-{number}.json"
        file.write_text(json.dumps(plan))
        with self._log.open("a") as log:
            return subprocess.Popen(
                [sys.executable, str(SENDER), str(file)],
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _listen(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            name, sent = line.split()
            self.note(name, float(sent))
