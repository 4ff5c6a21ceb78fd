"""File names of a camera read the other way round: which exposure a raw file belongs to, and as what."""

from __future__ import annotations

import math
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
    _star_list: re.Pattern[str] | None = field(init=False, repr=False)

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
        template = self.instrument.star_list_file
        pattern = self.instrument.exposure_pattern
        object.__setattr__(self, "_star_list", re.compile(_star_list_pattern(template, pattern)) if template else None)

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

    def star_lists(self, keys: Iterable[str]) -> dict[ExposureId, tuple[str, ...]]:
        """Return the star lists of exposures, one for each CCD, of a camera that has such files."""
        found: dict[ExposureId, list[str]] = {}
        if self._star_list is None:
            return {}
        for key in keys:
            file = self._star_list.fullmatch(key)
            names = file.groupdict() if file else {}
            exposure = self.exposure_named(names.get("exposure", ""))
            if exposure is not None and int(names.get("ccd", 0)) < (self.instrument.n_ccds or math.inf):
                found.setdefault(exposure, []).append(key)
        return {exposure: tuple(sorted(lists)) for exposure, lists in found.items()}

    @property
    def n_star_lists(self) -> int:
        """How many star lists an exposure has at least: one for each CCD, as far as their number is known."""
        return 0 if self._star_list is None else self.instrument.n_ccds or 1

    def complete(self, keys: Iterable[str]) -> dict[ExposureId, tuple[str, ...]]:
        """Return the exposures that have every file they should have, once, with the keys of the files, by name."""
        keys = tuple(keys)
        found: dict[ExposureId, dict[Role, list[str]]] = {}
        for key in keys:
            file = self.file_named(key)
            if file is not None:
                found.setdefault(file[0], {}).setdefault(file[1], []).append(key)
        lists = self.star_lists(keys)
        return {
            exposure: (*sorted(keys[0] for keys in files.values()), *lists.get(exposure, ()))
            for exposure, files in sorted(found.items(), key=lambda item: item[0].name)
            if set(files) == set(self._patterns)
            and all(len(keys) == 1 for keys in files.values())
            and len(lists.get(exposure, ())) >= self.n_star_lists
        }


def _pattern(template: str, exposure_pattern: str) -> re.Pattern[str]:
    before, after = template.split("{exposure}", maxsplit=1)
    regex = "(?:.*/)?" + _glob(before) + f"(?P<exposure>{exposure_pattern})" + _glob(after)
    return re.compile(regex.replace(re.escape("{exposure}"), "(?P=exposure)"))


def _star_list_pattern(template: str, exposure_pattern: str) -> str:
    """Return the pattern of the star lists, which lie where the template says and nowhere else."""
    text = re.escape(template)
    for name, pattern in (("exposure", exposure_pattern), ("ccd", r"0|[1-9]\d{0,2}")):
        first, *others = text.split(re.escape(f"{{{name}}}"))
        text = first + "".join(
            (f"(?P={name})" if number else f"(?P<{name}>{pattern})") + other for number, other in enumerate(others)
        )
    return text


def _glob(text: str) -> str:
    return "[^/]*".join(re.escape(part) for part in text.split("*"))
