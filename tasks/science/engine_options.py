"""How `njit` compiles the functions of the drizzle engine."""

from __future__ import annotations

from typing import Any

ENTRY: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
"""For functions that Python calls. Division by zero gives infinity, which loops without branches rely on."""
PART: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""For functions that only compiled ones call: compiled into these and kept with them, without what Python would need.
Python must not call them."""
INLINE: dict[str, Any] = {**PART, "forceinline": True}
"""For those that are called for every pixel: a call, with all that it passes, would cost more than they do."""
MERGED: dict[str, Any] = {**PART, "inline": "always"}
"""For those that have one caller: their lines become the caller's, and are not compiled twice."""
