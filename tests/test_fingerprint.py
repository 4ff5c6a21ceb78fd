from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks import fingerprint


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a package `tasks` of three modules: a stage, what it uses, and what it does not."""
    sources = {
        "tasks.stage_a": "import numpy\nfrom tasks import used\nfrom tasks.stage import stage\n",
        "tasks.used": "from tasks.deep import f\n",
        "tasks.deep": "def f(): return 1\n",
        "tasks.unused": "x = 1\n",
        "tasks.stage": "import prefect\n",
    }
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text)

    def source_path(name: str) -> Path | None:
        path = tmp_path / f"{name}.py"
        return path if path.exists() else None

    monkeypatch.setattr(fingerprint, "_source_path", source_path)
    return tmp_path


def compute(module: str = "tasks.stage_a") -> str:
    fingerprint._fingerprint.cache_clear()
    fingerprint._read_module.cache_clear()
    return fingerprint.code_fingerprint(module)


@pytest.mark.parametrize("module", ["tasks.stage_a", "tasks.used", "tasks.deep"])
def test_a_change_in_what_a_stage_uses_changes_its_fingerprint(package: Path, module: str) -> None:
    before = compute()
    with (package / f"{module}.py").open("a") as handle:
        handle.write("# changed\n")

    assert compute() != before


@pytest.mark.parametrize("module", ["tasks.unused", "tasks.stage"])
def test_a_change_elsewhere_does_not(package: Path, module: str) -> None:
    before = compute()
    with (package / f"{module}.py").open("a") as handle:
        handle.write("# changed\n")

    assert compute() == before


def test_a_change_in_the_data_files_of_a_module_changes_it(package: Path) -> None:
    (package / "data").mkdir()
    (package / "data" / "list.csv").write_text("M 31")
    (package / "tasks.deep.py").write_text("import importlib.resources\n")
    before = compute()
    (package / "data" / "list.csv").write_text("M 32")

    assert compute() != before


def test_a_new_library_version_changes_it(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compute()
    monkeypatch.setattr(fingerprint, "_version", lambda library: "99" if library == "numpy" else "1")

    assert compute() != before


def test_real_stages_depend_on_their_science() -> None:
    sources, libraries = fingerprint._reachable("tasks.mask")

    assert "tasks.science.masking" in sources
    assert "tasks.stage" not in sources
    assert "numpy" in libraries
    assert "prefect" not in libraries


def test_many_threads_may_ask_at_once() -> None:
    fingerprint._fingerprint.cache_clear()
    fingerprint._read_module.cache_clear()
    modules = ["tasks.mask", "tasks.detect", "tasks.shapes", "tasks.coadd"] * 8
    with ThreadPoolExecutor(32) as threads:
        found = list(threads.map(fingerprint.code_fingerprint, modules))

    assert len(set(found)) == 4
