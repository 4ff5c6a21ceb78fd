"""The arithmetic of the benchmarks; the benchmarks themselves are run by ``make bench``."""

import runpy
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STAGES = runpy.run_path(str(BENCHMARKS / "stages.py"))
SCALING = runpy.run_path(str(BENCHMARKS / "scaling.py"))
COADD = runpy.run_path(str(BENCHMARKS / "coadd.py"))


def test_time_in_the_queue_is_not_time_at_work() -> None:
    # asked for at 0, 0, 0 and 9 s; done one after the other by one worker, which was idle from 6 to 9 s
    intervals = [(1.0, 1.0), (3.0, 3.0), (6.0, 6.0), (10.0, 1.0)]

    assert STAGES["busy_spans"](intervals) == [1.0, 2.0, 3.0, 1.0]


def test_no_job_takes_less_than_nothing() -> None:
    assert STAGES["busy_spans"]([(2.0, 1.0), (1.5, 0.1)]) == [1.0, 0.0]


def test_overhead_is_what_the_wall_time_is_longer_than_the_shared_work() -> None:
    # 4 s of work take 2 workers 2 s; the rest is overhead, of 4 tasks
    row = SCALING["summarize"]("local", 2, 1, [1.0, 0.5, 1.5, 1.0], wall_s=2.4, cpu_s=0.2, start_s=3.0)

    assert (row.tasks, row.stages_s, row.overhead_ms, row.flow_cpu_ms) == (4, 4.0, 100.0, 50.0)


def test_the_line_of_the_coadd_says_whether_threads_changed_a_byte() -> None:
    alike = {"size_px": 9, "n_ccds": 1, "covered_fraction": 1.0, "product_mib": 3}
    runs = [
        alike | {"threads": threads, "outliers": outliers, "wall_s": 2.0, "sha256": outliers}
        for outliers in ("kept", "rejected")
        for threads in (1, 2)
    ]
    line = COADD["in_one_line"](runs)

    assert line.items() >= (alike | {"benchmark": "coadd", "same_bytes": True}).items()
    assert line["runs"][3] == {"threads": 2, "outliers": "rejected", "wall_s": 2.0}
    assert not COADD["in_one_line"]([*runs, runs[0] | {"sha256": "another"}])["same_bytes"]
