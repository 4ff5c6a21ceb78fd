"""Which reference file was chosen for a CCD, and by which rules."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tasks.products.identity import ProductRef

NOT_APPLICABLE = "N/A"

MODEL_KEYWORDS = {
    "META.INSTRUMENT.NAME": "INSTRUME",
    "META.INSTRUMENT.BAND": "BAND",
    "META.INSTRUMENT.CHANNEL": "CHANNEL",
    "META.INSTRUMENT.CORONAGRAPH": "CORONMSK",
    "META.INSTRUMENT.DETECTOR": "DETECTOR",
    "META.INSTRUMENT.ERA": "INSTERA",
    "META.INSTRUMENT.FILTER": "FILTER",
    "META.INSTRUMENT.GRATING": "GRATING",
    "META.INSTRUMENT.LAMP_MODE": "OPMODE",
    "META.INSTRUMENT.LAMP_STATE": "LAMP",
    "META.INSTRUMENT.MODULE": "MODULE",
    "META.INSTRUMENT.PUPIL": "PUPIL",
    "META.EXPOSURE.IMTYPE": "IMTYPE",
    "META.EXPOSURE.NGROUPS": "NGROUPS",
    "META.EXPOSURE.READMODE": "READMODE",
    "META.EXPOSURE.READPATT": "READPATT",
    "META.EXPOSURE.TYPE": "EXP_TYPE",
    "META.SUBARRAY.NAME": "SUBARRAY",
    "META.VISIT.CROWDED_FIELD": "CROWDFLD",
    "META.VISIT.TSOVISIT": "TSOVISIT",
    "META.VISIT.TYPE": "VISITYPE",
    "META.CALIBRATION_SOFTWARE_VERSION": "CAL_VER",
    "META.OBSERVATION.DATE": "DATE-OBS|EXPDTST",
    "META.OBSERVATION.TIME": "TIME-OBS",
    "META.DATE": "DATE-OBS|EXPDTST|DATE",
}
"""Which header keywords hold what the rules of JWST, TMT, Liger and IRIS ask for; of several, the first that is there.
"""


class ReferenceRecord(BaseModel):
    """The answer of the CRDS rules for one image and one reference type."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    outcome: Literal["selected", "not_applicable"]
    """Whether a reference was selected, or none applies."""

    reference_type: str
    """Type of the reference, such as ``dq`` or ``mask``."""

    name: str = NOT_APPLICABLE
    """Name of the reference file; ``N/A`` if none applies."""

    reason: str = ""
    """Why none applies; empty if one was selected."""

    observatory: str = ""
    """Observatory of the cache; empty if no cache is configured."""

    instrument: str = ""
    """Instrument in the spelling of the rules."""

    context: str = ""
    """Context whose rules decided."""

    rule: str = ""
    """Mapping that decided."""

    mappings: dict[str, str] = {}
    """SHA-1 of the mappings from the context to the rule."""

    parameters: dict[str, str] = {}
    """Parameters of the rule and the values of the image that they were compared with."""

    crds_version: str = ""
    """Version of the rule engine."""

    reference: ProductRef | None = None
    """The copy of the reference file in the store; none if none applies."""
