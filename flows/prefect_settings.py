"""Prefect's settings with some changed for a while.

Prefect's own ``temporary_settings`` builds all settings anew every time, which takes tenths of a second of the
processor: more than everything else that a run does beside its stages. Here they are built once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.context import SettingsContext, get_settings_context
from prefect.settings import Settings

MAX_KEPT = 16

_Changes = tuple[tuple[str, object], ...]

_lock = threading.Lock()
# the settings they were built from are kept too, so that their identity is not given to others
_built: dict[tuple[int, _Changes], tuple[Settings, Settings]] = {}


@contextmanager
def changed_settings(changes: Mapping[Any, Any]) -> Iterator[None]:
    """Change settings of Prefect for the code inside, in this thread and what it starts with its context.

    Parameters
    ----------
    changes
        New values by setting, such as ``PREFECT_CLIENT_MAX_RETRIES``; the values must be hashable.
    """
    context = get_settings_context()
    with SettingsContext(profile=context.profile, settings=_changed(context.settings, changes)):
        yield


def _changed(settings: Settings, changes: Mapping[Any, Any]) -> Settings:
    key = id(settings), tuple((setting.name, value) for setting, value in changes.items())
    with _lock:
        if key not in _built:
            if len(_built) >= MAX_KEPT:
                _built.clear()
            _built[key] = settings, settings.copy_with_update(updates=changes)
        return _built[key][1]
