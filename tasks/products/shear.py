"""Mean shear as a document."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Matrix = tuple[tuple[float, float], tuple[float, float]]


class ShearEstimate(BaseModel):
    """Response-corrected mean shear of one sample."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    g1: float
    """Mean shear, first component; positive is east-west."""

    g1_error: float
    """Standard error of ``g1``, jackknife."""

    g2: float
    """Mean shear, second component; positive is along north-west."""

    g2_error: float
    """Standard error of ``g2``, jackknife."""

    shear_response: Matrix
    """Mean response of the shapes; element [i][j] is d g_i / d shear_j."""

    selection_response: Matrix
    """Response of the selection."""

    n_objects: int
    """Objects of the catalogue."""

    n_selected: int
    """Objects that pass the cuts."""

    n_groups: int
    """Groups of the jackknife."""


class TileShear(ShearEstimate):
    """Mean shear of one tile."""

    tile: str
    """Name of the tile."""


class TruthComparison(BaseModel):
    """Mean shear of the objects that are true galaxies of a simulated survey, against what was put in."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    g1: float
    """Applied shear, first component, mean over the selected objects."""

    g2: float
    """Applied shear, second component, mean over the selected objects."""

    recovered: ShearEstimate
    """Measured shear; the jackknife leaves out one pair of galaxies rotated by 90 degrees at a time."""

    n_true: int
    """Galaxies of the truth table."""

    n_matched: int
    """Objects of the catalogue that are one of them."""


class SurveyShear(BaseModel):
    """Mean shear of a survey and of its tiles."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    survey: ShearEstimate
    """All tiles together."""

    tiles: tuple[TileShear, ...]
    """Tile by tile, by name; tiles with fewer selected objects than the minimum are not here."""

    selected_by_cut: dict[str, int]
    """How many objects pass each cut alone, and all together, on the unsheared measurements."""

    truth: TruthComparison | None = None
    """Comparison with the truth of a simulated survey."""
