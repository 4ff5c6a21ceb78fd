"""The process that workers are forked from ends with its flow, even while it is still importing."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

HOUSE = Path(__file__).parents[2]


def test_what_still_imports_ends_when_its_flow_is_killed(tmp_path: Path) -> None:
    # an import that a busy machine makes long
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(60)\n")
    server = "import os; from tasks.workers.preload import load; load(['slow_module'], os.getppid())"
    flow = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {server!r}]).pid, flush=True); input()"
    )
    environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": f"{tmp_path}{os.pathsep}{HOUSE}"}
    started = subprocess.Popen(
        [sys.executable, "-c", flow], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with started:
        assert started.stdout is not None
        importing = psutil.Process(int(started.stdout.readline()))
        # far enough to watch
        while importing.num_threads() == 1:
            time.sleep(0.05)
        started.kill()

    # it would sleep for a minute
    psutil.wait_procs([importing], timeout=30)
    assert not importing.is_running()


def test_workers_have_what_the_process_they_are_forked_from_has_imported(tmp_path: Path) -> None:
    code = (
        "from tasks.workers.processes import _make_pool\n"
        "import workers_of_this_test as told\n"
        "with _make_pool(1) as pool:\n"
        "    print(pool.submit(told.loaded).result())\n"
    )
    (tmp_path / "workers_of_this_test.py").write_text(
        "import sys\nHERE = tuple(sys.modules)\ndef loaded():\n    return 'galsim' in HERE\n"
    )
    environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": f"{tmp_path}{os.pathsep}{HOUSE}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_module_that_is_missing_leaves_no_thread_behind() -> None:
    # in a process of its own: here threads of other tests come and go; one that has ended is seen for a moment
    code = (
        "import os, psutil, time\n"
        "from tasks.workers.preload import load\n"
        "before = psutil.Process().num_threads()\n"
        "try:\n"
        "    load(['no_such_module_anywhere'], os.getppid())\n"
        "except ModuleNotFoundError:\n"
        "    until = time.monotonic() + 10\n"
        "    while psutil.Process().num_threads() > before and time.monotonic() < until:\n"
        "        time.sleep(0.01)\n"
        "    print(psutil.Process().num_threads() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
