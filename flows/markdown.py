"""Names and sentences in the Markdown that the Prefect UI renders: from headers and files, so they are data."""

from __future__ import annotations

import re

MAX_TEXT = 2000
MAX_KEY = 200
SPECIAL = re.compile(r"([\\`*_\[\]<>|~&#!@])")
AT_THE_START = re.compile(r"^([-+=:]|\d+(?=[.)](\s|$)))")
ADDRESS = re.compile(r"(://|www\.)", re.IGNORECASE)


def plain(text: str) -> str:
    """Return Markdown that shows a text as it is: no markup, no links, on one line.

    Parameters
    ----------
    text
        Any text; what cannot be printed becomes a space, and beyond 2000 characters it is cut off.
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    if len(line) > MAX_TEXT:
        line = f"{line[:MAX_TEXT]} …"
    escaped = SPECIAL.sub(r"\\\1", line)
    escaped = ADDRESS.sub(lambda found: found[0][:-1] + "\\" + found[0][-1], escaped)
    return AT_THE_START.sub(lambda found: f"\\{found[0]}" if not found[0].isdigit() else f"{found[0]}\\", escaped)


def artifact_key(*words: str) -> str:
    """Return a key of an artifact: lower-case letters, digits and single dashes."""
    key = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")[:MAX_KEY]
    return key or "unnamed"
