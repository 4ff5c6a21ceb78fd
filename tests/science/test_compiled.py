"""Compiled functions are kept between runs, but not across a change of any of them."""

import subprocess
import sys
from pathlib import Path

from tasks.science.compiled import source_digest

HOUSE = Path(__file__).parents[2]


def test_the_cache_is_another_one_when_a_compiled_source_changes(tmp_path):
    (tmp_path / "kernel.py").write_text("from numba import njit\n")
    (tmp_path / "plain.py").write_text("x = 1\n")
    before = source_digest(tmp_path)

    (tmp_path / "plain.py").write_text("x = 2\n")
    assert source_digest(tmp_path) == before
    (tmp_path / "kernel.py").write_text("from numba import njit  # changed\n")
    assert source_digest(tmp_path) != before


def test_the_cache_lies_where_the_user_wants_it(tmp_path):
    code = "import tasks.science.compiled, numba; print(numba.config.CACHE_DIR)"
    environment = {"PATH": "", "HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=HOUSE, capture_output=True, text=True, check=True
    )

    folder = Path(done.stdout.strip())
    assert folder.parent == tmp_path / "kept"
    assert folder.is_dir()
