"""Which process of which machine: enough to tell later, on the same machine, whether it still lives."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

from pydantic import BaseModel, ConfigDict

STATE, STARTED = 0, 19
DEAD_STATES = {"Z", "X"}


class ProcessIdentity(BaseModel):
    """A process, for all time."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str
    """Name of the machine or container."""

    boot: str
    """What changes when the machine starts anew; empty if the system does not say."""

    namespace: str
    """Within which the number of the process means something: containers of one machine have several."""

    pid: int
    """Number of the process."""

    started: str
    """When it was started, since the machine was; empty if the system does not say."""

    def is_alive(self) -> bool | None:
        """Tell whether the process still runs; none if it runs, or ran, where this process cannot see it."""
        here = this_process()
        if (self.host, self.boot, self.namespace) != (here.host, here.boot, here.namespace):
            return None
        if not self.started:
            return _exists(self.pid)
        return _started(self.pid) == self.started


def this_process() -> ProcessIdentity:
    """Return the identity of this process."""
    return _identity(os.getpid())


@functools.lru_cache(maxsize=1)
def _identity(pid: int) -> ProcessIdentity:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        # not Linux
        boot = namespace = ""
    return ProcessIdentity(host=socket.gethostname(), boot=boot, namespace=namespace, pid=pid, started=_started(pid))


def _started(pid: int) -> str:
    """Return the start of a process in ticks since the machine's; empty if it does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # the name, in brackets, may hold anything
    fields = text.rpartition(")")[2].split()
    return "" if fields[STATE] in DEAD_STATES else fields[STARTED]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
