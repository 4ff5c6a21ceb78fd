"""The base of all settings: frozen, strict about names, documented by attribute docstrings."""

import hashlib
import json
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _has_a_central_pixel(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"must be odd, so that a stamp has a central pixel, not {size}")
    return size


StampSize = Annotated[int, Field(ge=15, le=201), AfterValidator(_has_a_central_pixel)]
"""Side of a stamp in pixels: odd, so that there is a central pixel."""


class StageConfig(BaseModel):
    """Settings of one stage: immutable, with bounds, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Settings that say how a stage works, not what it makes, such as a number of threads: no key depends on them."""

    def effective(self) -> dict[str, Any]:
        """Return the resolved settings that a product depends on, in the types of JSON."""
        return self.model_dump(mode="json", exclude=set(self.without_effect))

    def fingerprint(self) -> str:
        """Checksum of the resolved settings that a product depends on, for cache keys and provenance.

        Returns
        -------
        str
            First 16 hexadecimal digits of the SHA-256 of the settings as canonical JSON.
        """
        text = json.dumps(self.effective(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
