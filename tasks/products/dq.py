"""Flags of pixels: the standard data-quality table, and the bits of the lensing mask.

The data-quality (DQ) table is that of JWST: 32 bits by name and value, shared by every observatory. Reference files may
number their bits differently; they are translated by name. The lensing mask is a plane of its own with bits of its own.

numpy takes a member for an int64: write ``plane & np.uint32(DQFlag.HOT)`` to stay in the type of the plane.
"""

from __future__ import annotations

from enum import IntFlag
from types import MappingProxyType
from typing import Literal


class DQFlag(IntFlag):
    """Standard data-quality flags, kept in uint32 planes (JWST table)."""

    GOOD = 0
    DO_NOT_USE = 1 << 0
    SATURATED = 1 << 1
    JUMP_DET = 1 << 2
    DROPOUT = 1 << 3
    OUTLIER = 1 << 4
    PERSISTENCE = 1 << 5
    AD_FLOOR = 1 << 6
    CHARGELOSS = 1 << 7
    RESERVED = 1 << 8
    UNRELIABLE_ERROR = RESERVED  # earlier JWST tables, and those of Liger and IRIS, name bit 8 so
    NON_SCIENCE = 1 << 9
    DEAD = 1 << 10
    HOT = 1 << 11
    WARM = 1 << 12
    LOW_QE = 1 << 13
    RC = 1 << 14
    TELEGRAPH = 1 << 15
    NONLINEAR = 1 << 16
    BAD_REF_PIXEL = 1 << 17
    NO_FLAT_FIELD = 1 << 18
    NO_GAIN_VALUE = 1 << 19
    NO_LIN_CORR = 1 << 20
    NO_SAT_CHECK = 1 << 21
    UNRELIABLE_BIAS = 1 << 22
    UNRELIABLE_DARK = 1 << 23
    UNRELIABLE_SLOPE = 1 << 24
    UNRELIABLE_FLAT = 1 << 25
    OPEN = 1 << 26
    ADJ_OPEN = 1 << 27
    FLUX_ESTIMATED = 1 << 28
    MSA_FAILED_OPEN = 1 << 29
    OTHER_BAD_PIXEL = 1 << 30
    REFERENCE_PIXEL = 1 << 31


DQName = Literal[
    "DO_NOT_USE", "SATURATED", "JUMP_DET", "DROPOUT", "OUTLIER", "PERSISTENCE", "AD_FLOOR", "CHARGELOSS", "RESERVED",
    "NON_SCIENCE", "DEAD", "HOT", "WARM", "LOW_QE", "RC", "TELEGRAPH", "NONLINEAR", "BAD_REF_PIXEL", "NO_FLAT_FIELD",
    "NO_GAIN_VALUE", "NO_LIN_CORR", "NO_SAT_CHECK", "UNRELIABLE_BIAS", "UNRELIABLE_DARK", "UNRELIABLE_SLOPE",
    "UNRELIABLE_FLAT", "OPEN", "ADJ_OPEN", "FLUX_ESTIMATED", "MSA_FAILED_OPEN", "OTHER_BAD_PIXEL", "REFERENCE_PIXEL",
]  # fmt: skip
"""Names of the data-quality flags, for settings: the same as the members of `DQFlag`, GOOD excluded."""

MAX_FLAGS = 2**32 - 1
"""Value of a pixel with every flag."""

GROUP_FLAGS = (
    DQFlag.DO_NOT_USE
    | DQFlag.SATURATED
    | DQFlag.JUMP_DET
    | DQFlag.DROPOUT
    | DQFlag.PERSISTENCE
    | DQFlag.AD_FLOOR
    | DQFlag.CHARGELOSS
)
"""The flags that a single group of a ramp may carry: the group planes are uint8."""

DQ_MEANINGS = MappingProxyType(
    {
        DQFlag.DO_NOT_USE: "Bad pixel: no measurement may use it",
        DQFlag.SATURATED: "Saturated during the exposure",
        DQFlag.JUMP_DET: "Jump, such as a cosmic ray, detected during the exposure",
        DQFlag.DROPOUT: "Data lost in transmission",
        DQFlag.OUTLIER: "Flagged by outlier detection",
        DQFlag.PERSISTENCE: "High persistence",
        DQFlag.AD_FLOOR: "Below the floor of the analogue-to-digital converter",
        DQFlag.CHARGELOSS: "Charge migrated to neighbouring pixels",
        DQFlag.RESERVED: "Reserved; named UNRELIABLE_ERROR in earlier tables",
        DQFlag.NON_SCIENCE: "Not on the light-sensitive part of the detector",
        DQFlag.DEAD: "Dead pixel",
        DQFlag.HOT: "Hot pixel",
        DQFlag.WARM: "Warm pixel",
        DQFlag.LOW_QE: "Low quantum efficiency",
        DQFlag.RC: "RC pixel",
        DQFlag.TELEGRAPH: "Telegraph pixel",
        DQFlag.NONLINEAR: "Pixel is highly non-linear",
        DQFlag.BAD_REF_PIXEL: "Reference pixel cannot be used",
        DQFlag.NO_FLAT_FIELD: "Flat field cannot be measured",
        DQFlag.NO_GAIN_VALUE: "Gain cannot be measured",
        DQFlag.NO_LIN_CORR: "Linearity correction not available",
        DQFlag.NO_SAT_CHECK: "Saturation check not available",
        DQFlag.UNRELIABLE_BIAS: "Bias variance is large",
        DQFlag.UNRELIABLE_DARK: "Dark variance is large",
        DQFlag.UNRELIABLE_SLOPE: "Slope variance is large",
        DQFlag.UNRELIABLE_FLAT: "Flat variance is large",
        DQFlag.OPEN: "Open pixel: its charge moves to its neighbours",
        DQFlag.ADJ_OPEN: "Neighbour of an open pixel",
        DQFlag.FLUX_ESTIMATED: "Flux was estimated because of missing or bad data",
        DQFlag.MSA_FAILED_OPEN: "Sees light from a shutter that failed open",
        DQFlag.OTHER_BAD_PIXEL: "Bad pixel of another kind",
        DQFlag.REFERENCE_PIXEL: "Reference pixel: sees no light",
    }
)
"""What each data-quality flag means, in the order of the bits."""


class MaskFlag(IntFlag):
    """Bits of the lensing mask: why a pixel is kept out of detection or measurement."""

    GOOD = 0
    WEIGHT = 1 << 0
    HALO = 1 << 1
    BORDER = 1 << 2
    EXTERNAL = 1 << 3
    MESSIER = 1 << 4
    NGC = 1 << 5
    SATURATED = 1 << 6
    SPIKE = 1 << 7
    MISSING = 1 << 8


MaskName = Literal["WEIGHT", "HALO", "BORDER", "EXTERNAL", "MESSIER", "NGC", "SATURATED", "SPIKE", "MISSING"]
"""Names of the bits of the lensing mask, for settings."""

MASK_MEANINGS = MappingProxyType(
    {
        MaskFlag.WEIGHT: "Weight is zero, negative or not finite",
        MaskFlag.HALO: "Halo of a bright star",
        MaskFlag.BORDER: "Border of the detector or tile",
        MaskFlag.EXTERNAL: "The data-quality plane has a flag that rules the pixel out",
        MaskFlag.MESSIER: "Messier object",
        MaskFlag.NGC: "Object of the New General Catalogue",
        MaskFlag.SATURATED: "Saturated",
        MaskFlag.SPIKE: "Diffraction spike of a bright star",
        MaskFlag.MISSING: "No data",
    }
)
"""What each bit of the lensing mask means, in the order of the bits."""
