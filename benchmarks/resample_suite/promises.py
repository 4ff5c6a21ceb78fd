"""What docs/comparisons/resample.md promises, and what of it did not come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from resample_suite.cases import HEADLINE
from resample_suite.comparing import EXACT
from resample_suite.measures import OURS_1, OURS_2, PEER_TUNED, Result

MIN_SPEEDUP_1 = 7.0
MIN_SPEEDUP_1_TUNED = 4.5
MIN_SPEEDUP_2 = 10.0
MIN_SPEEDUP_ORACLE = 2.0
"""Of the kernels gaussian and lanczos on one thread."""
MAX_MEMORY_1 = 0.5
MAX_MEMORY_2 = 0.8
MAX_RELATIVE = 2e-5
"""Weights, variances and error; lanczos all but one pixel in a thousand, see `Case.is_tabulated`, and its data too."""
MAX_MEDIAN_RELATIVE = 1e-7
MAX_MEDIAN_RELATIVE_ORACLE = 3e-7
"""Of the kernels gaussian and lanczos, which add ten times as many values."""
MAX_ABS_DATA = 3e-5
NO_NOISE = ("data", "wht", *EXACT)
"""The planes that are neither a variance nor an error."""
MAX_OFFSET_MAS = 2.0
"""Of the stars along each axis: their median from the truth, and their scatter; see `Case.keeps_places`."""


def broken_promises(results: Iterable[Result], *, timed: bool = True) -> list[str]:
    """Return a sentence for everything that did not come out as promised; times and memory only if they count."""
    broken = []
    for result in results:
        sentences = [*of_numbers(result), *(of_cost(result) if timed else ())]
        broken += [f"{result.case.name}: {sentence}" for sentence in sentences]
    return broken


def of_numbers(result: Result) -> Iterator[str]:
    """Yield what of the numbers is not the peer's."""
    for name, plane in result.differences.items():
        where = f"; the worst is at {plane.worst}" if plane.worst else ""
        if plane.problem:
            yield f"{name}: {plane.problem}"
            continue
        if name in EXACT and plane.n_differing:
            yield f"{name} differs in {plane.n_differing} pixels{where}"
        if plane.n_nan_differing:
            yield f"{name} is NaN in one of the two only, in {plane.n_nan_differing} pixels"
        if name == "data":
            absolute = plane.most_absolute if result.case.is_tabulated else plane.max_absolute
            yield from above(name, absolute, MAX_ABS_DATA, where)
        elif name not in EXACT:
            relative = plane.most_relative if result.case.is_tabulated else plane.max_relative
            yield from above(f"{name}, relative", relative, MAX_RELATIVE, where)
            top = MAX_MEDIAN_RELATIVE_ORACLE if result.case.promise == "oracle" else MAX_MEDIAN_RELATIVE
            yield from above(f"{name}, relative in the median", plane.median_relative, top, "")
    if result.case.keeps_places and result.stars is not None:
        off = max(*map(abs, result.stars.offset_mas), result.stars.offset_scatter_mas)
        yield from above("places of stars in mas", off, MAX_OFFSET_MAS, "")
    yield from result.differing_numbers
    if not result.same_bytes:
        yield "two threads do not give the bytes of one"


def of_cost(result: Result) -> Iterator[str]:
    """Yield what took too long or too much memory."""
    if result.case.promise == "oracle":
        yield from below("speed on one thread", result.speedup(OURS_1), MIN_SPEEDUP_ORACLE)
    elif result.case.promise == "fused":
        yield from below("speed on one thread", result.speedup(OURS_1), MIN_SPEEDUP_1)
        yield from below("speed beside the tuned peer", result.speedup(OURS_1, PEER_TUNED), MIN_SPEEDUP_1_TUNED)
        yield from below("speed on two threads", result.speedup(OURS_2), MIN_SPEEDUP_2)
        for what, way, top in (("one thread", OURS_1, MAX_MEMORY_1), ("two threads", OURS_2, MAX_MEMORY_2)):
            if not result.memory_ratio(way) <= top:
                yield f"memory on {what}: {result.memory_ratio(way):.3g} of the peer's, above {top:.3g}"


def above(what: str, value: float, top: float, where: str) -> Iterator[str]:
    """Yield a sentence if a difference is above its limit, or no number."""
    if not value <= top:
        yield f"{what}: {value:.3g} off, above {top:.3g}{where}"


def below(what: str, value: float, least: float) -> Iterator[str]:
    """Yield a sentence if a value is below its limit, or no number."""
    if not value >= least:
        yield f"{what}: {value:.3g} times the peer's, below {least:.3g}"


def summary(results: Iterable[Result]) -> dict[str, float | bool]:
    """Return the figures of the line of JSON: the worst of the headline cases, of all cases if none of them ran."""
    everything = list(results)
    headline = [result for result in everything if result.case.name in HEADLINE] or everything
    differences = [result.differences for result in headline]
    return {
        "speedup_1": round(min(result.speedup(OURS_1) for result in headline), 2),
        "speedup_1_tuned": round(min(result.speedup(OURS_1, PEER_TUNED) for result in headline), 2),
        "speedup_2": round(min(result.speedup(OURS_2) for result in headline), 2),
        "memory_ratio_1": round(max(result.memory_ratio(OURS_1) for result in headline), 3),
        "memory_ratio_2": round(max(result.memory_ratio(OURS_2) for result in headline), 3),
        "context_identical": all(not planes["con"].n_differing for planes in differences if "con" in planes),
        "nan_identical": not any(plane.n_nan_differing for planes in differences for plane in planes.values()),
        "max_rel_weight": max(planes["wht"].max_relative for planes in differences),
        "max_rel_variance": max(
            (plane.max_relative for planes in differences for name, plane in planes.items() if name not in NO_NOISE),
            default=0.0,
        ),
        "max_abs_data": max(planes["data"].max_absolute for planes in differences),
        "threads_identical": all(result.same_bytes for result in everything),
    }
