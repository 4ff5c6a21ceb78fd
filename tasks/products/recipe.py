"""What the products of an exposure or a tile were made by and from, so that a plan can say why they are stale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict


class Recipe(BaseModel):
    """Code, settings and inputs of everything that a flow makes of one exposure or tile."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    code: dict[str, str] = {}
    """Fingerprint of the code by stage."""

    settings: dict[str, str] = {}
    """Fingerprint of the settings by stage."""

    inputs: dict[str, str] = {}
    """Version of every input by name: raw files, star lists, reference rules; of a tile its exposures."""

    def changes(self, now: Recipe) -> tuple[str, ...]:
        """Return sentences that say what is different now; none if nothing is.

        Parameters
        ----------
        now
            What the same products would be made from today.
        """
        return tuple(self._changes(now))

    def _changes(self, now: Recipe) -> Iterator[str]:
        code = _differing(self.code, now.code)
        if code:
            yield f"the code of {', '.join(code)} changed"
        settings = _differing(self.settings, now.settings)
        if settings:
            yield f"the settings of {', '.join(settings)} changed"
        for name in _differing(self.inputs, now.inputs):
            what = "is gone" if name not in now.inputs else "is new" if name not in self.inputs else "changed"
            yield f"{name} {what}"


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
