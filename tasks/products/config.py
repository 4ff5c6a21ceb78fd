"""The base of all settings: frozen, strict about names, documented by attribute docstrings."""

import hashlib
import json

from pydantic import BaseModel, ConfigDict


class StageConfig(BaseModel):
    """Settings of one stage: immutable, with bounds, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def fingerprint(self) -> str:
        """Checksum of the resolved settings, for cache keys and provenance.

        Returns
        -------
        str
            First 16 hexadecimal digits of the SHA-256 of the settings as canonical JSON.
        """
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
