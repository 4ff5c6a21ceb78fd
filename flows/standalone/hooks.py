"""Hooks: functions of the user that run before and after a stage, named as ``package.module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tasks.errors import ConfigError, ShearlineError

Thing = TypeVar("Thing")
Hook = Callable[[Any], Any]


def load_hooks(names: Sequence[str], option: str) -> list[tuple[str, Hook]]:
    """Import hooks; nothing is ever given to a shell.

    Raises
    ------
    ConfigError
        If one cannot be imported or is not a function.
    """
    return [(name, _load(name, option)) for name in names]


def _load(name: str, option: str) -> Hook:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(f"{option}: {name} cannot be imported: {error}; is its folder in PYTHONPATH?") from error
    except AttributeError as error:
        raise ConfigError(f"{option}: the module {module} has no {attribute}.") from error
    if not callable(found):
        raise ConfigError(f"{option}: {name} is a {type(found).__name__}, not a function.")
    hook: Hook = found
    return hook


def apply_hooks(hooks: Sequence[tuple[str, Hook]], thing: Thing) -> Thing:
    """Give a thing to one hook after the other; what a hook returns takes its place, unless it returns None.

    Raises
    ------
    ConfigError
        If a hook fails.
    """
    for name, hook in hooks:
        try:
            returned = hook(thing)
        except ShearlineError:
            raise
        except Exception as error:
            raise ConfigError(f"The hook {name} failed: {type(error).__name__}: {error}.") from error
        thing = thing if returned is None else returned
    return thing
