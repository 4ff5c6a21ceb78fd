"""The process that fetches files from a CRDS server: reads its order as JSON, tells what it does as lines of JSON.

Run by `blocks.crds_sync` alone. crds takes its settings from the environment and keeps them for good, writes to its own
log and may end the process, so it gets one of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import types
from pathlib import Path
from typing import Any, NoReturn


def main() -> None:
    """Fetch a context or files of it; the last line says that all is done."""
    order = json.loads(sys.stdin.readline())
    # crds gives its downloads no limit
    socket.setdefaulttimeout(float(order["timeout_s"]))
    _stand_in_for_models()
    from crds.client import api
    from crds.core import heavy_client

    api.set_crds_server(order["server"])
    try:
        info = api.get_server_info()
    except Exception as error:  # noqa: BLE001 (whatever it is, it goes to the parent)
        _end(problem="unreachable", reason=_words(error))
    if info.get("observatory") != order["observatory"]:
        _end(problem="observatory", reason=str(info.get("observatory")))
    context = order["context"] or str(info.get("latest_context") or info.get("operational_context"))
    names = order["references"]
    try:
        if names is None:
            names = sorted(api.get_mapping_names(context), key=_rules_before_contexts)
        elif names == ["*"]:
            names = sorted(api.get_reference_names(context))
    except Exception as error:  # noqa: BLE001 (it goes to the parent)
        _end(problem="context", reason=_words(error), context=context)
    for number, name in enumerate(names, 1):
        _fetch(context, name, number, len(names))
    # only now: what is named as operational is there
    if order["references"] is None:
        heavy_client.update_config_info(order["observatory"])
    _end(problem="", context=context, names=names)


def _fetch(context: str, name: str, number: int, total: int) -> None:
    from crds.client import api

    cacher = api.FileCacher(context)
    known: dict[str, Any] = api.get_download_metadata()
    if name not in known:
        _end(problem="file", name=name, reason="the server does not know it")
    try:
        place, size = Path(cacher.locate(name)), int(known[name]["size"])
    except Exception as error:  # noqa: BLE001 (it goes to the parent)
        _end(problem="file", name=name, reason=_words(error))
    if place.exists() and place.stat().st_size == size:
        return
    damaged = place.exists()
    try:
        place.unlink(missing_ok=True)
        cacher.get_local_files([name])
        found = place.stat().st_size
    except Exception as error:  # noqa: BLE001 (it goes to the parent)
        # crds leaves a file whose checksum is wrong
        place.unlink(missing_ok=True)
        _end(problem="file", name=name, reason=_words(error))
    _tell(fetched=name, size=found, number=number, total=total, damaged=damaged)


def _rules_before_contexts(name: str) -> tuple[int, str]:
    return ("rmap", "imap", "pmap").index(name.rpartition(".")[2]), name


def _stand_in_for_models() -> None:
    """Let crds import its JWST part without stdatamodels, of which it needs one class that no download uses."""
    if importlib.util.find_spec("stdatamodels") is None:
        package, module = types.ModuleType("stdatamodels"), types.ModuleType("stdatamodels.exceptions")
        module.ValidationWarning = type("ValidationWarning", (Warning,), {})  # type: ignore[attr-defined]
        package.exceptions = module  # type: ignore[attr-defined]
        sys.modules |= {"stdatamodels": package, "stdatamodels.exceptions": module}


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _tell(**message: object) -> None:
    # crds prints; what it prints goes to standard error
    sys.__stdout__.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _end(**message: object) -> NoReturn:
    _tell(**message)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.stdout = sys.stderr
    main()
