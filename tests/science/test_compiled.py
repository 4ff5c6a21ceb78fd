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


def test_of_several_processes_one_compiles_a_function_and_the_others_take_it(tmp_path):
    (tmp_path / "kernels.py").write_text(
        "from tasks.science.compiled import njit\n"
        "@njit(cache=True, nogil=True)\n"
        "def inner(x):\n"
        "    return 2.0 * x\n"
        "@njit(cache=True, nogil=True)\n"
        "def outer(x):\n"
        "    return inner(x) + 1.0\n"
    )
    code = (
        "import sys, uuid; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from kernels import inner, outer\n"
        "here = Path(sys.argv[1]); (here / f'{uuid.uuid4()}.ready').touch()\n"
        "while len(list(here.glob('*.ready'))) < 3: pass\n"
        "assert outer(3.0) == 7.0\n"
        "print(sum(f.stats.cache_misses.total() for f in (inner, outer)))\n"
    )
    environment = {"PATH": "", "HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    command = [sys.executable, "-c", code, str(tmp_path)]
    together = [
        subprocess.Popen(command, env=environment, cwd=HOUSE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]

    misses = sorted(int(process.communicate()[0]) for process in together)
    # the compiler of a caller may ask for the called function once more, from its own cache
    assert misses[:2] == [0, 0]
    assert misses[2] > 0
