"""What the comparison of dq_init with its peer counts as identical, and that its cases are what they say."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from flows.dq_file import initialize_dq_file

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return runpy.run_path(str(BENCHMARKS / "dq.py"))


def test_values_types_shapes_and_presence_are_compared(benchmark):
    plane = np.array([[1, 2]], np.uint32)
    differences = benchmark["differences"]
    assert differences("here", {"dq": plane}, {"dq": plane.astype(">u4")}) == []
    assert differences("here", {"dq": plane}, {"dq": plane + np.uint32(1)}) == ["here: dq differs in 2 places"]
    assert (
        "is uint32 (1, 2), the peer's int64 (1, 2)" in differences("here", {"dq": plane}, {"dq": plane.astype(int)})[0]
    )
    assert "the peer's uint32 (2,)" in differences("here", {"dq": plane}, {"dq": plane[0]})[0]
    assert differences("here", {"dq": plane}, {}) == ["here: only one side has dq"]


def test_the_ratios_are_those_of_the_medians_and_of_the_worse_memory(benchmark):
    timings = {
        "memory": {"peer_s": 0.2, "ours_s": 0.01, "peer_mib": 200.0, "ours_mib": 90.0},
        "file": {"peer_s": 0.3, "ours_s": 0.05, "peer_mib": 200.0, "ours_mib": 80.0},
    }
    assert benchmark["summary"](timings) == {"speedup_memory": 20.0, "speedup_file": 6.0, "memory_ratio": 0.45}


def test_a_difference_is_found_in_the_results_of_a_case(benchmark, tmp_path):
    case, files = next(benchmark["write_cases"](tmp_path, [benchmark["CASES"][-1]]))
    assert case.name == "FGS_FINEGUIDE, existing and user DQ"
    expected = expected_flags(files)
    np.savez(benchmark["peer_file"](files), dq=expected)
    assert benchmark["compare_case"](case, files, "COMPLETE").differences == ()
    expected[0, 0] ^= 1
    np.savez(benchmark["peer_file"](files), dq=expected)
    found = benchmark["compare_case"](case, files, "SKIPPED").differences
    assert found == (
        "in memory: dq differs in 1 places",
        "in the file: dq differs in 1 places",
        "status COMPLETE, the peer's is SKIPPED",
    )


def expected_flags(files):
    target = files.exposure.with_suffix(".expected.fits")
    initialize_dq_file(files.exposure, target, override=files.override, user_supplied_dq=files.user)
    return np.asarray(fits.getdata(target, "DQ")).astype(np.uint32)
