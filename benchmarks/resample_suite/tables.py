"""The tables in Markdown that the benchmark prints, and docs/comparisons/resample.md shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from resample_suite.comparing import EXACT, PlaneDifference
from resample_suite.measures import OURS_1, OURS_2, PEER, PEER_TUNED, Result
from resample_suite.photometry import StarFigures

BLANK = "-"


def cost_table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the table of times and memory."""
    yield (
        "| case | stcal | stcal, step 16, cubic | ours, 1 thread | 2 threads | faster, 1 thread | beside tuned "
        "| 2 threads | memory stcal | 1 thread | 2 threads |"
    )
    yield "|---|" + "---:|" * 10
    for result in results:
        times = " | ".join(f"{result.measured[way].wall_s:.2f} s" for way in (PEER, PEER_TUNED, OURS_1, OURS_2))
        ratios = " | ".join(
            f"{ratio:.1f}"
            for ratio in (result.speedup(OURS_1), result.speedup(OURS_1, PEER_TUNED), result.speedup(OURS_2))
        )
        memory = f"{result.measured[PEER].above_baseline_mib:.0f} MiB"
        shares = " | ".join(f"{result.memory_ratio(way):.2f}" for way in (OURS_1, OURS_2))
        yield f"| {result.case.title} | {times} | {ratios} | {memory} | {shares} |"


def number_table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the table of differences."""
    yield (
        "| case | context, DQ | NaN | weight, largest | median | variances and error, largest | median "
        "| data, largest | 2 threads |"
    )
    yield "|---|---|---|" + "---:|" * 5 + "---|"
    for result in results:
        planes = result.differences
        bits = [planes[name] for name in EXACT if name in planes]
        differing = sum(plane.n_differing for plane in bits)
        nan = sum(plane.n_nan_differing for plane in planes.values())
        spread = [plane for name, plane in planes.items() if name not in {"data", "wht", *EXACT}]
        cells = [
            same_or_count(differing, BLANK if not bits else "identical"),
            same_or_count(nan, "identical"),
            *largest_and_median([planes["wht"]], result.case.is_tabulated),
            *largest_and_median(spread, result.case.is_tabulated),
            f"{planes['data'].most_absolute if result.case.is_tabulated else planes['data'].max_absolute:.1e}",
            "same bytes" if result.same_bytes else "differ",
        ]
        yield f"| {result.case.title} | {' | '.join(cells)} |"


def same_or_count(differing: int, same: str) -> str:
    """Return how many pixels differ, or what is said if none does."""
    return f"{differing} pixels differ" if differing else same


def largest_and_median(planes: Sequence[PlaneDifference], is_tabulated: bool) -> tuple[str, str]:
    """Return the worst of the largest and of the median relative differences of some planes."""
    if not planes:
        return BLANK, BLANK
    largest = max(plane.most_relative if is_tabulated else plane.max_relative for plane in planes)
    return f"{largest:.1e}", f"{max(plane.median_relative for plane in planes):.1e}"


def swarp_table(seconds: Mapping[str, tuple[float, float]], figures: Mapping[str, StarFigures]) -> Iterator[str]:
    """Yield the tables beside SWarp: seconds on one thread and on two, then the stars of the coadds."""
    yield "| TPV, 8 exposures | 1 thread | 2 threads |"
    yield "|---|---:|---:|"
    for name, (one, two) in seconds.items():
        yield f"| {name} | {one:.2f} s | {two:.2f} s |"
    yield ""
    yield "| stars in the coadd | stars | flux / truth | scatter | offset x, y | scatter |"
    yield "|---|" + "---:|" * 5
    for name, stars in figures.items():
        x, y = stars.offset_mas
        yield (
            f"| {name} | {stars.n_stars} | {stars.flux_ratio:.5f} | {stars.flux_scatter:.5f} "
            f"| {x:+.2f}, {y:+.2f} mas | {stars.offset_scatter_mas:.1f} mas |"
        )
