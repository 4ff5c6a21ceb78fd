"""One of the senders of arrival events: a process that delivers exposures and announces them, at given times.

``python sender.py PLAN`` reads a JSON file. For every event it puts the files of the exposure into the raw store,
unless they are there, and announces it; then it writes a line ``exposure time`` to standard output, where the time is
that before the announcement.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blocks.store import DataStore

# a receiver that is being restarted, or a store that is busy
PATIENCE_S = 60.0


def main() -> None:
    """Send what the plan says."""
    plan: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    staging, raw = (DataStore(root=plan["root"], collection=plan[name]) for name in ("staging", "raw"))
    send = by_receiver(plan) if plan["receiver"] else by_function(plan)
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    for offset_s, exposure in plan["events"]:
        time.sleep(max(0.0, begin + offset_s - time.time()))
        deliver(staging, raw, [f"{exposure}{suffix}" for suffix in plan["suffixes"]])
        sent = time.time()
        insist(send, exposure)
        print(exposure, sent, flush=True)


def deliver(staging: DataStore, raw: DataStore, files: list[str]) -> None:
    """Put files into the raw store, each whole or not at all; what is there already is left as it is."""
    for file in files:
        if not raw.exists(file):
            raw.put_new(file, staging.read_bytes(file))


def by_receiver(plan: dict[str, Any]) -> Callable[[str], object]:
    """Send signed notifications to a receiver."""
    from flows.receiver.sender import send_notification

    return lambda exposure: send_notification(plan["receiver"], plan["secret"], {"exposure": exposure})


def by_function(plan: dict[str, Any]) -> Callable[[str], object]:
    """Write the note and emit the event in this process."""
    from flows.announce import announce_exposure
    from flows.config import load_survey

    config = load_survey(plan["survey"])
    store = DataStore(root=plan["root"], collection=plan["collection"])
    return lambda exposure: announce_exposure(store, exposure, config.exposure.instrument, survey=config.name)


def insist(send: Callable[[str], object], exposure: str) -> None:
    """Send again until it was taken, as every sender must: what was never taken in is not an arrival."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            send(exposure)
        except Exception as error:
            if time.monotonic() > deadline:
                raise
            print(f"{exposure}: {error}", file=sys.stderr, flush=True)
            time.sleep(0.5)
        else:
            return


if __name__ == "__main__":
    main()
