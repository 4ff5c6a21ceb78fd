"""What is resampled, and how: one case is one set of exposures and one set of settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Distortion = Literal["SIP", "TAN", "TPV"]
"""How the exposures' positions are written: polynomials of order 4 in pixels or in degrees, or none."""
Promise = Literal["fused", "oracle", "numbers"]
"""What the case must show: numbers, speed and memory; numbers and twice the speed; or numbers only."""
TUNED = {"pixmap_stepsize": 16, "pixmap_order": 3}
"""The peer's best settings: its positions by cubic splines over every 16th pixel."""


@dataclass(frozen=True)
class Case:
    """One set of exposures and of settings."""

    name: str
    title: str
    distortion: Distortion = "SIP"
    scale_ratio: float = 1.0
    """Size of an output pixel in input pixels."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that both sides take, beside those of `BASE`."""
    promise: Promise = "fused"

    @property
    def all_settings(self) -> dict[str, Any]:
        """All settings that both sides take."""
        return BASE | self.settings

    @property
    def keeps_places(self) -> bool:
        """Whether stars are where they were: smaller drops beat with the pixels of the output, other kernels too."""
        return self.all_settings["kernel"] == "square" and self.all_settings["pixfrac"] == 1.0

    @property
    def is_tabulated(self) -> bool:
        """Whether the peer reads the kernel from a table, in steps of 0.003 pixel.

        A position on the border between two steps then counts: another one a billionth of a pixel away changes the
        peer's own weight by 1e-3.
        """
        return str(self.all_settings["kernel"]).startswith("lanczos")


BASE: dict[str, Any] = {
    "pixfrac": 0.8, "kernel": "square", "fillval": "NaN", "weight_type": "ivm", "good_bits": 0, "enable_ctx": True,
    "enable_var": True, "compute_err": "from_var", "propagate_dq": False,
}  # fmt: skip
WHOLE: dict[str, Any] = {"pixfrac": 1.0}
SCIENCE_ONLY: dict[str, Any] = {"enable_var": False, "enable_ctx": False, "compute_err": None}

CASES = (
    Case("sip08", "SIP, pixfrac 0.8"),
    Case("sip10", "SIP, pixfrac 1.0", settings=WHOLE),
    Case("ratio06", "SIP, output pixels of 0.6", scale_ratio=0.6),
    Case("exptime", "SIP, weights `exptime`", settings={"weight_type": "exptime"}),
    Case("driz_err", "SIP, error `driz_err`", settings={"compute_err": "driz_err"}),
    Case("dq", "SIP, DQ propagated, bit 4 good", settings={"propagate_dq": True, "good_bits": 4}, promise="numbers"),
    Case("point", "SIP, kernel point", settings={"kernel": "point"}),
    Case("turbo", "SIP, kernel turbo", settings={"kernel": "turbo"}),
    Case("gaussian", "SIP, kernel gaussian", settings={"kernel": "gaussian"} | WHOLE, promise="oracle"),
    Case("lanczos3", "SIP, kernel lanczos3", settings={"kernel": "lanczos3"} | WHOLE, promise="oracle"),
    Case("tan08", "TAN, pixfrac 0.8", "TAN"),
    Case("tpv08", "TPV, pixfrac 0.8", "TPV"),
    Case("tpv_science", "TPV, pixfrac 1.0, no variances", "TPV", settings=SCIENCE_ONLY | WHOLE, promise="numbers"),
)
HEADLINE = ("sip08", "sip10")
"""The cases whose figures the line of JSON gives."""
BESIDE_SWARP = ("tpv08", "tpv_science")
"""The cases on whose exposures SWarp runs too."""
WITH_STARS = (*HEADLINE, "tan08", *BESIDE_SWARP)
"""The cases whose stars are measured; in others pixels have another size, bad ones are let in, or nothing changes."""
