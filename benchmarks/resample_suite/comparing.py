"""How far apart two results are: which pixels hold anything, and by how much the values differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resample_suite.driving import ARRAYS

EXACT = ("con", "dq")
"""Planes of bits."""
DOCUMENTED_TYPES = {"con": np.int32, "dq": np.uint32}
"""Of planes that are not float32. The error of ``driz_err`` comes out of the peer as float64; its page says float32."""
SLIVER = 1e-3
"""Weight, in units of the median weight, below which a relative difference is one of how a sliver of a pixel is cut."""

MOST = 0.999


@dataclass(frozen=True)
class PlaneDifference:
    """How one plane of ours differs from the peer's."""

    n_differing: int = 0
    """Of bits: pixels that differ."""
    n_nan_differing: int = 0
    """Pixels that are NaN in one of the two only."""
    max_relative: float = 0.0
    """Over pixels with more than a sliver of weight."""
    median_relative: float = 0.0
    max_relative_anywhere: float | None = 0.0
    """Over all pixels; None if one side has zero where the other has not."""
    most_relative: float = 0.0
    """Over all but one in a thousand of the pixels with more than a sliver of weight."""
    most_absolute: float = 0.0
    max_absolute: float = 0.0
    worst: tuple[int, ...] = ()
    """Index of the pixel with the largest relative difference; for the data, of the largest absolute one."""
    problem: str = ""
    """What makes a comparison impossible: a plane that only one side has, another shape or type."""


def compare_results(ours: Path, theirs: Path) -> dict[str, PlaneDifference]:
    """Compare all planes that either side kept in its folder."""
    compared = {}
    weight = np.load(theirs / "wht.npy")
    for name in ARRAYS:
        paths = [folder / f"{name}.npy" for folder in (ours, theirs)]
        present = [path.exists() for path in paths]
        if all(present):
            compared[name] = compare_planes(name, *(np.load(path) for path in paths), weight)
        elif any(present):
            compared[name] = PlaneDifference(problem=f"only {'ours' if present[0] else 'the peer'} has it")
    return compared


def compare_planes(name: str, ours: NDArray[Any], theirs: NDArray[Any], weight: NDArray[Any]) -> PlaneDifference:
    """Compare one plane."""
    if ours.shape != theirs.shape or ours.dtype != DOCUMENTED_TYPES.get(name, np.float32):
        return PlaneDifference(problem=f"{ours.dtype} {ours.shape}, the peer's {theirs.dtype} {theirs.shape}")
    if name in EXACT:
        differing = np.argwhere(ours != theirs)
        return PlaneDifference(
            n_differing=len(differing), worst=tuple(map(int, differing[0])) if len(differing) else ()
        )
    both = np.isfinite(ours) & np.isfinite(theirs)
    difference = np.where(both, np.abs(ours.astype(float) - theirs), 0.0)
    size = np.abs(theirs.astype(float))
    relative = np.divide(difference, size, out=np.zeros_like(difference), where=both & (size > 0))
    relative[both & (size == 0) & (difference > 0)] = np.inf
    solid = both & (weight > SLIVER * np.median(weight[weight > 0])) & (size > 0)
    ranked = difference if name == "data" else np.where(solid, relative, 0.0)
    return PlaneDifference(
        n_nan_differing=int(np.count_nonzero(np.isfinite(ours) != np.isfinite(theirs))),
        max_relative=float(relative[solid].max(initial=0.0)),
        median_relative=float(np.median(relative[solid])) if solid.any() else 0.0,
        max_relative_anywhere=float(relative.max()) if np.isfinite(relative.max()) else None,
        most_relative=float(np.quantile(relative[solid], MOST)) if solid.any() else 0.0,
        most_absolute=float(np.quantile(difference[both], MOST)) if both.any() else 0.0,
        max_absolute=float(difference.max()),
        worst=tuple(map(int, np.unravel_index(np.argmax(ranked), ranked.shape))),
    )


def differing_numbers(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return a sentence for every number beside the planes that is not the peer's, to twelve digits."""
    return [
        f"{name} is {ours.get(name)}, the peer's {theirs.get(name)}"
        for name in sorted(set(ours) | set(theirs))
        if not same(ours.get(name), theirs.get(name))
    ]


def same(mine: Any, other: Any) -> bool:  # noqa: ANN401
    """Tell whether two values are equal, numbers to twelve digits."""
    if isinstance(mine, int | float) and isinstance(other, int | float):
        return bool(np.isclose(mine, other, rtol=1e-12, atol=0.0))
    return bool(mine == other)


def same_bytes(first: Path, second: Path) -> bool:
    """Tell whether two folders hold the same planes to the byte."""
    names = [{path.name for path in folder.iterdir()} for folder in (first, second)]
    return names[0] == names[1] and all((first / n).read_bytes() == (second / n).read_bytes() for n in names[0])
