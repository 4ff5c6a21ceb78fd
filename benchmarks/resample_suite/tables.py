"""The tables in Markdown that the benchmark prints, and docs/comparisons/resample.md shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from resample_suite.cases import BESIDE_SWARP
from resample_suite.comparing import EXACT, PlaneDifference
from resample_suite.measures import OURS_1, OURS_2, PEER, PEER_TUNED, Result
from resample_suite.photometry import StarFigures
from resample_suite.promises import NO_NOISE
from resample_suite.swarp import SwarpResult

BLANK = "-"
SWARP = "SWarp, LANCZOS3"


def number_table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the table of differences."""
    yield (
        "| case | context, DQ | NaN | weight, largest | median | slivers | variances and error, largest | median "
        "| slivers | data, largest | 2 threads |"
    )
    yield "|---|---|---|" + "---:|" * 7 + "---|"
    for result in results:
        planes, tabulated = result.differences, result.case.is_tabulated
        bits = [planes[name] for name in EXACT if name in planes]
        spread = [plane for name, plane in planes.items() if name not in NO_NOISE]
        cells = [
            same_or_count(sum(plane.n_differing for plane in bits), "identical" if bits else BLANK),
            same_or_count(sum(plane.n_nan_differing for plane in planes.values()), "identical"),
            *relative([planes["wht"]], tabulated),
            *relative(spread, tabulated),
            of_most(planes["data"].most_absolute, planes["data"].max_absolute, tabulated),
            "same bytes" if result.same_bytes else "differ",
        ]
        yield row(result.case.title, *cells)


def same_or_count(differing: int, same: str) -> str:
    """Return how many pixels differ, or what is said if none does."""
    return f"{differing} pixels differ" if differing else same


def relative(planes: Sequence[PlaneDifference], tabulated: bool) -> tuple[str, str, str]:
    """Return the worst relative differences of some planes: the largest, the median, and with slivers of a pixel."""
    if not planes:
        return BLANK, BLANK, BLANK
    worst = max(planes, key=lambda plane: plane.most_relative if tabulated else plane.max_relative)
    largest = of_most(worst.most_relative, worst.max_relative, tabulated)
    median, anywhere = (
        max(getattr(plane, name) for plane in planes) for name in ("median_relative", "max_relative_anywhere")
    )
    return largest, f"{median:.1e}", f"{anywhere:.1e}"


def of_most(most: float, largest: float, tabulated: bool) -> str:
    """Return the largest difference; of a kernel in a table that of most pixels, and of all in parentheses."""
    return f"{most:.1e} ({largest:.1e})" if tabulated else f"{largest:.1e}"


def time_table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the table of times."""
    yield ("| case | stcal | stcal, tuned | ours, 1 thread | 2 threads | faster, 1 thread | beside tuned | 2 threads |")
    yield "|---|" + "---:|" * 7
    for result in results:
        times = [f"{result.measured[way].wall_s:.2f} s" for way in (PEER, PEER_TUNED, OURS_1, OURS_2)]
        ratios = result.speedup(OURS_1), result.speedup(OURS_1, PEER_TUNED), result.speedup(OURS_2)
        yield row(result.case.title, *times, *(f"{ratio:.1f}" for ratio in ratios))


def memory_table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the table of memory: above the baseline, its share of the peer's, and of the whole process."""
    yield (
        "| case, MiB | stcal | stcal, tuned | ours, 1 thread | 2 threads | share, 1 thread | 2 threads "
        "| whole process: stcal | ours, 1 thread | 2 threads |"
    )
    yield "|---|" + "---:|" * 9
    for result in results:
        above = [f"{result.measured[way].above_baseline_mib:.0f}" for way in (PEER, PEER_TUNED, OURS_1, OURS_2)]
        shares = [f"{result.memory_ratio(way):.2f}" for way in (OURS_1, OURS_2)]
        whole = [f"{result.measured[way].peak_mib:.0f}" for way in (PEER, OURS_1, OURS_2)]
        yield row(result.case.title, *above, *shares, *whole)


def star_table(results: Sequence[Result], swarp: SwarpResult | None) -> Iterator[str]:
    """Yield the table of the stars in the coadds."""
    yield "| stars in the coadd | stars | flux / truth | scatter | offset x, y | scatter |"
    yield "|---|" + "---:|" * 5
    for result in results:
        if result.stars is not None:
            yield star_row(result.case.title, result.stars)
    if swarp is not None:
        yield star_row(f"TPV, {SWARP}", swarp.stars)


def star_row(name: str, stars: StarFigures) -> str:
    """Return the row of one coadd."""
    x, y = stars.offset_mas
    return row(
        name,
        f"{stars.n_stars}",
        f"{stars.flux_ratio:.5f}",
        f"{stars.flux_scatter:.5f}",
        f"{x:+.2f}, {y:+.2f} mas",
        f"{stars.offset_scatter_mas:.1f} mas",
    )


def swarp_table(results: Sequence[Result], swarp: SwarpResult | None) -> Iterator[str]:
    """Yield the times of the exposures with TPV beside SWarp's."""
    yield "| TPV, 8 exposures | 1 thread | 2 threads |"
    yield "|---|---:|---:|"
    for result in results:
        if result.case.name in BESIDE_SWARP:
            times = (f"{result.measured[way].wall_s:.2f} s" for way in (OURS_1, OURS_2))
            yield row(f"ours, {result.case.title}", *times)
    if swarp is None:
        yield row(f"{SWARP}: not installed (Debian package swarp)", BLANK, BLANK)
    else:
        yield row(f"{SWARP}, files read and written", *(f"{swarp.wall_s[n]:.2f} s" for n in (1, 2)))


def row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"
