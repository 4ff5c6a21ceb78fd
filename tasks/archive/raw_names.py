"""File names of a camera read the other way round: which exposure a raw file belongs to, and as what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from tasks.products.identity import ExposureId
from tasks.products.instrument import Instrument

Role = Literal["image", "weight", "flag"]
MAX_NAME_LENGTH = 1024


@dataclass(frozen=True)
class RawNames:
    """The names of an instrument's raw files as patterns."""

    instrument: Instrument
    _patterns: Mapping[Role, re.Pattern[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        templates: dict[Role, str | None] = {
            "image": self.instrument.image_file,
            "weight": self.instrument.weight_file,
            "flag": self.instrument.flag_file,
        }
        patterns = {
            role: _pattern(template, self.instrument.exposure_pattern)
            for role, template in templates.items()
            if template
        }
        object.__setattr__(self, "_patterns", patterns)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The files that an exposure has in this survey."""
        return tuple(self._patterns)

    def exposure_named(self, text: str) -> ExposureId | None:
        """Return the exposure of that name; none if no exposure of this instrument is called so."""
        if len(text) > MAX_NAME_LENGTH or not re.fullmatch(self.instrument.exposure_pattern, text):
            return None
        try:
            return ExposureId(text)
        except ValidationError:
            return None

    def file_named(self, path: str) -> tuple[ExposureId, Role] | None:
        """Return the exposure and the role of a raw file, given its key, path or URI; none if it has no part in any."""
        if len(path) > MAX_NAME_LENGTH:
            return None
        for role, pattern in self._patterns.items():
            found = pattern.fullmatch(path)
            exposure = self.exposure_named(found["exposure"]) if found else None
            if exposure is not None:
                return exposure, role
        return None

    def complete(self, keys: Iterable[str]) -> dict[ExposureId, tuple[str, ...]]:
        """Return the exposures that have every file they should have, once, with the keys of the files, by name."""
        found: dict[ExposureId, dict[Role, list[str]]] = {}
        for key in keys:
            file = self.file_named(key)
            if file is not None:
                found.setdefault(file[0], {}).setdefault(file[1], []).append(key)
        return {
            exposure: tuple(sorted(keys[0] for keys in files.values()))
            for exposure, files in sorted(found.items(), key=lambda item: item[0].name)
            if set(files) == set(self._patterns) and all(len(keys) == 1 for keys in files.values())
        }


def _pattern(template: str, exposure_pattern: str) -> re.Pattern[str]:
    before, after = template.split("{exposure}", maxsplit=1)
    regex = "(?:.*/)?" + _glob(before) + f"(?P<exposure>{exposure_pattern})" + _glob(after)
    return re.compile(regex.replace(re.escape("{exposure}"), "(?P=exposure)"))


def _glob(text: str) -> str:
    return "[^/]*".join(re.escape(part) for part in text.split("*"))
