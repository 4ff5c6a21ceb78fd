"""How far apart two results are: which pixels hold anything, and by how much the values differ."""

from __future__ import annotations

import math
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
"""Share of the values that are most of them."""


@dataclass(frozen=True)
class PlaneDifference:
    """How one plane of ours differs from the peer's."""

    n_differing: int = 0
    """Of bits: pixels that differ."""
    n_nan_differing: int = 0
    """Pixels that are NaN, or infinite, in one of the two only."""
    max_relative: float = 0.0
    """Over pixels with more than a sliver of weight; infinite if the peer has zero where ours has not."""
    median_relative: float = 0.0
    max_relative_anywhere: float = 0.0
    """Over all pixels."""
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
        paths = {side: folder / f"{name}.npy" for side, folder in (("ours", ours), ("the peer", theirs))}
        planes = {side: np.load(path) for side, path in paths.items() if path.exists()}
        if len(planes) == len(paths):
            compared[name] = compare_planes(name, *planes.values(), weight)
        for side, plane in planes.items() if len(planes) == 1 else ():
            compared[name] = incomparable(f"only {side} has it", plane.size)
    return compared


def incomparable(problem: str, n_pixels: int) -> PlaneDifference:
    """Return the difference of planes that cannot be compared: every pixel differs, by any amount."""
    return PlaneDifference(n_pixels, n_pixels, *[math.inf] * 6, problem=problem)


def compare_planes(name: str, ours: NDArray[Any], theirs: NDArray[Any], weight: NDArray[Any]) -> PlaneDifference:
    """Compare one plane."""
    if ours.shape != theirs.shape or ours.dtype != DOCUMENTED_TYPES.get(name, np.float32):
        return incomparable(f"{ours.dtype} {ours.shape}, the peer's {theirs.dtype} {theirs.shape}", theirs.size)
    if name in EXACT:
        differing = np.argwhere(ours != theirs)
        return PlaneDifference(
            n_differing=len(differing), worst=tuple(map(int, differing[0])) if len(differing) else ()
        )
    both = np.isfinite(ours) & np.isfinite(theirs)
    alike = (np.isnan(ours) & np.isnan(theirs)) | (ours == theirs)
    difference = np.where(both, np.abs(ours.astype(float) - theirs), 0.0)
    size = np.abs(theirs.astype(float))
    relative = np.divide(difference, size, out=np.zeros_like(difference), where=both & (size > 0))
    relative[both & (size == 0) & (difference > 0)] = np.inf
    solid = both & (weight > SLIVER * np.median(weight[weight > 0]))
    ranked = difference if name == "data" else np.where(solid, relative, 0.0)
    return PlaneDifference(
        n_nan_differing=int(np.count_nonzero(~both & ~alike)),
        max_relative=float(relative[solid].max(initial=0.0)),
        median_relative=float(np.median(relative[solid])) if solid.any() else 0.0,
        max_relative_anywhere=float(relative.max()),
        most_relative=of_most(relative[solid]),
        most_absolute=of_most(difference[both]),
        max_absolute=float(difference.max()),
        worst=tuple(map(int, np.unravel_index(np.argmax(ranked), ranked.shape))),
    )


def of_most(values: NDArray[np.float64]) -> float:
    """Return the largest of all but the largest values; some may be infinite."""
    number = int(MOST * (values.size - 1))
    return float(np.partition(values, number)[number]) if values.size else 0.0


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
