"""The arithmetic of the benchmarks; the benchmarks themselves are run by ``make bench``."""

import runpy
from pathlib import Path

STAGES = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "stages.py"))


def test_time_in_the_queue_is_not_time_at_work() -> None:
    # asked for at 0, 0, 0 and 9 s; done one after the other by one worker, which was idle from 6 to 9 s
    intervals = [(1.0, 1.0), (3.0, 3.0), (6.0, 6.0), (10.0, 1.0)]

    assert STAGES["busy_spans"](intervals) == [1.0, 2.0, 3.0, 1.0]


def test_no_job_takes_less_than_nothing() -> None:
    assert STAGES["busy_spans"]([(2.0, 1.0), (1.5, 0.1)]) == [1.0, 0.0]
