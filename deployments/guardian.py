"""Ends every process of a `shearline up` when that is gone, however it went.

`shearline up` starts this as a process of its own, names the mark that the environment of all its other processes
has, and tells it on its standard input, one per line, which services it has started. The end of the input means that
`up` has ended, even by a signal that no process can catch.

Process groups alone would not do: Prefect's worker gives every flow run a session of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

MARK = "SHEARLINE_UP"
"""Environment variable that all processes of one `shearline up` share."""

GRACE_S = 6.0
"""Seconds that processes have to end by themselves."""

PROC = Path("/proc")


def marked_processes(mark: str) -> list[int]:
    """Return the processes of this machine whose environment has a mark; none where there is no ``/proc``."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in PROC.glob("[0-9]*") if PROC.is_dir() else ():
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            # it ended, or belongs to somebody else
            continue
        if wanted in environment.split(b"\0") and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def end_processes(processes: Sequence[int], grace_s: float = GRACE_S) -> None:
    """Ask processes to end, and end those that do not."""
    _send(processes, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(_runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    _send([process for process in processes if _runs(process)], signal.SIGKILL)


def end_all(mark: str, services: Sequence[int]) -> None:
    """End the processes with a mark; the first service, the server, last, so that the others can still report to it."""
    server = set(services[:1])
    end_processes([process for process in {*marked_processes(mark), *services} if process not in server])
    end_processes([*server, *marked_processes(mark)])


def _send(processes: Sequence[int], number: int) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def _runs(process: int) -> bool:
    """Tell whether a process runs; one that has ended but was not waited for does not."""
    try:
        os.kill(process, 0)
        state = (PROC / str(process) / "stat").read_text().rpartition(")")[2].split()[0] if PROC.is_dir() else "?"
    except OSError:
        return False
    return state != "Z"


def guard(mark: str, lines: Iterable[str]) -> None:
    """Wait for the end of the input, then end everything.

    Parameters
    ----------
    mark
        What the environment of the processes has.
    lines
        Name and process of every service that was started, also when it was started again; the name alone of one that
        has ended for good.
    """
    services: dict[str, int] = {}
    for line in lines:
        name, _, number = line.strip().partition(" ")
        if number:
            services[name] = int(number)
        else:
            services.pop(name, None)
    end_all(mark, list(services.values()))


if __name__ == "__main__":
    # what stops `up` in a terminal must not stop this first
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    guard(sys.argv[1], sys.stdin)
