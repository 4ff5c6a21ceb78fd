"""Numbers that compiled functions move several at a time."""

import numpy as np
import pytest

from tasks.science.compiled import njit
from tasks.science.lanes import LANES, transpose


@njit(cache=True)
def transposed(source, at, step, target, to, to_step):
    transpose(source, np.uint64(at), np.uint64(step), target, np.uint64(to), np.uint64(to_step))


@pytest.mark.parametrize(("at", "step", "to", "to_step"), [(0, LANES, 0, LANES), (7, 9, 3, 16), (2, 16, 5, 6)])
def test_rows_become_columns_and_nothing_else_changes(at, step, to, to_step):
    source = np.arange(80, dtype=np.float32)
    target, wanted = np.full(80, -1, np.float32), np.full(80, -1, np.float32)
    transposed(source, at, step, target, to, to_step)

    for row in range(LANES):
        for column in range(LANES):
            wanted[to + column * to_step + row] = source[at + row * step + column]
    np.testing.assert_array_equal(target, wanted)
