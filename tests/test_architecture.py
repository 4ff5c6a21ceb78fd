"""The house rules that a machine can check: who may import whom, and what a stage file holds.

Every check takes a folder, so that the second half of this file can show each of them a house that breaks the rule.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]

LAYERS = ("deployments", "flows", "tasks", "blocks")
SAYS_NOTHING = {"utils", "util", "common", "helpers", "helper", "misc"}

# who may import what inside tasks; every part may import itself
INSIDE_TASKS = {
    "stages": {"stage", "archive", "science", "products", "errors"},
    "stage": {"records", "session", "workers", "runner", "fingerprint", "archive", "science", "products", "errors"},
    "records": {"fingerprint", "archive", "products", "errors"},
    "session": {"workers", "runner", "products", "errors"},
    "workers": {"runner", "products", "errors"},
    "runner": {"products"},
    "fingerprint": set(),
    "archive": {"products", "errors"},
    "science": {"products", "errors"},
    "products": {"errors"},
    "errors": set(),
}
OUTSIDE_WORLD = {"prefect", "s3fs", "fsspec", "crds", "blocks"}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "__import__"}


def modules(house: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Every module of the four packages, with its path relative to the house."""
    for layer in LAYERS:
        for path in sorted((house / layer).rglob("*.py")):
            yield path.relative_to(house), ast.parse(path.read_text(encoding="utf-8"))


def stage_files(house: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path, tree in modules(house):
        if part_of_tasks(path) == "stages":
            yield path, tree


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)


def part_of_tasks(path: Path) -> str | None:
    """The part of tasks that a path or the path of a dotted name belongs to."""
    parts = path.with_suffix("").parts
    if parts[0] != "tasks" or parts[1:] in {(), ("__init__",)}:
        return None
    if parts[1] in INSIDE_TASKS:
        return parts[1]
    return "stages"


def is_task(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and any(
        isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "stage"
        for decorator in node.decorator_list
    )


def upward_imports(house: Path) -> list[str]:
    found = []
    for path, tree in modules(house):
        allowed = LAYERS[LAYERS.index(path.parts[0]) :]
        for line, name in imports(tree):
            package = name.split(".")[0]
            if not package:
                found.append(f"{path}:{line} imports relatively: {name}")
            if package in LAYERS and package not in allowed:
                found.append(f"{path}:{line} imports {name}, which is above it")
    return found


def wrong_imports_inside_tasks(house: Path) -> list[str]:
    found = []
    for path, tree in modules(house):
        part = part_of_tasks(path)
        for line, name in imports(tree):
            other = part_of_tasks(Path(*name.split(".")))
            if part is None or other is None:
                continue
            if other == "stages":
                found.append(f"{path}:{line} imports the stage file of {name}")
            elif other != part and other not in INSIDE_TASKS[part]:
                found.append(f"{path}:{line} imports {name}: {part} may not know {other}")
    return found


def outside_world_in_science(house: Path) -> list[str]:
    found = []
    for path, tree in modules(house):
        if part_of_tasks(path) not in {"science", "products", "errors"}:
            continue
        forbidden = OUTSIDE_WORLD - {"crds"} if path.name == "crds_engine.py" else OUTSIDE_WORLD
        found += [f"{path}:{line} imports {name}" for line, name in imports(tree) if name.split(".")[0] in forbidden]
    return found


def prefect_away_from_the_rim(house: Path) -> list[str]:
    return [
        f"{path}:{line} imports {name}"
        for path, tree in modules(house)
        if path.parts[0] == "tasks" and path != Path("tasks/stage.py")
        for line, name in imports(tree)
        if name.split(".")[0] == "prefect"
    ]


def names_that_say_nothing(house: Path) -> list[str]:
    return [
        str(path)
        for path, _ in modules(house)
        if SAYS_NOTHING & {part.lower().strip("_") for part in path.with_suffix("").parts}
    ]


def untidy_stage_files(house: Path) -> list[str]:
    found = []
    for path, tree in stage_files(house):
        kinds = []
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                kinds.append("config")
                if not node.name.endswith("Config"):
                    found.append(f"{path}:{node.lineno} holds class {node.name}, which is no Config")
            elif isinstance(node, ast.FunctionDef):
                kinds.append("task" if is_task(node) else "function")
        found += [f"{path} has no {kind}" for kind in ("config", "function", "task") if kind not in kinds]
        if kinds != sorted(kinds, key=["config", "function", "task"].index):
            found.append(f"{path} is not in the order config, function, task")
        length = len((house / path).read_text(encoding="utf-8").splitlines())
        if length >= 150:
            found.append(f"{path} has {length} lines; numerics belong in tasks/science")
    return found


def long_tasks(house: Path) -> list[str]:
    found = []
    for path, tree in stage_files(house):
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and is_task(node) and body_length(node) > 10:
                found.append(f"{path}:{node.lineno} {node.name} has {body_length(node)} lines in its body")
            if isinstance(node, ast.FunctionDef) and is_task(node) and not node.name.endswith("_task"):
                found.append(f"{path}:{node.lineno} {node.name} is a task whose name does not end with _task")
    return found


def body_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def long_functions(house: Path) -> list[str]:
    return [
        f"{path}:{node.lineno} {node.name} has {body_length(node)} lines"
        for path, tree in modules(house)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_length(node) > 60
    ]


def long_files(house: Path) -> list[str]:
    lengths = {path: len((house / path).read_text(encoding="utf-8").splitlines()) for path, _ in modules(house)}
    return [f"{path} has {length} lines" for path, length in lengths.items() if length > 450]


def unsafe_code(house: Path) -> list[str]:
    found = []
    for path, tree in modules(house):
        found += [
            f"{path}:{line} imports {name}" for line, name in imports(tree) if name.split(".")[0] in UNSAFE_MODULES
        ]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS:
                found.append(f"{path}:{node.lineno} calls {node.func.id}")
            if isinstance(node.func, ast.Attribute) and ast.unparse(node.func) in {"yaml.load", "yaml.unsafe_load"}:
                found.append(f"{path}:{node.lineno} calls {ast.unparse(node.func)}; use yaml.safe_load")
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", True)
                if keyword.arg == "allow_pickle" and value is not False:
                    found.append(f"{path}:{node.lineno} allows pickle")
                if keyword.arg == "shell" and value is not False:
                    found.append(f"{path}:{node.lineno} runs a shell")
    return found


CHECKS: tuple[Callable[[Path], list[str]], ...] = (
    upward_imports,
    wrong_imports_inside_tasks,
    outside_world_in_science,
    prefect_away_from_the_rim,
    names_that_say_nothing,
    untidy_stage_files,
    long_tasks,
    long_functions,
    long_files,
    unsafe_code,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_has_no(check: Callable[[Path], list[str]]) -> None:
    found = check(HOUSE)

    assert not found, "\n".join(found)


def test_every_package_is_looked_at() -> None:
    seen = [path for path, _ in modules(HOUSE)]

    assert {path.parts[0] for path in seen} == set(LAYERS)
    assert sum(part_of_tasks(path) == "stages" for path in seen) >= 19


TIDY_STAGE = '''
from blocks.store import DataStore
from tasks.archive import keys
from tasks.products.config import StageConfig
from tasks.science.masking import halo
from tasks.stage import stage


class MaskConfig(StageConfig):
    """Settings."""


def mask(image, config):
    return halo(image)


@stage(name="mask")
def mask_ccd_task(image, config, store):
    """Read, mask, write."""
    return keys.write(store, mask(image, config))
'''

BROKEN = [
    (upward_imports, "tasks/science/sky.py", "def f():\n    from flows.cli import main", "imports flows.cli.main"),
    (upward_imports, "blocks/store.py", "import tasks.errors", "imports tasks.errors, which is above it"),
    (upward_imports, "tasks/mask.py", "from . import detect", "imports relatively"),
    (wrong_imports_inside_tasks, "tasks/mask.py", "import tasks.detect", "imports the stage file of tasks.detect"),
    (wrong_imports_inside_tasks, "tasks/mask.py", "from tasks import detect", "imports the stage file of tasks.detect"),
    (wrong_imports_inside_tasks, "tasks/science/sky.py", "import tasks.archive.keys", "science may not know archive"),
    (wrong_imports_inside_tasks, "tasks/products/dq.py", "from tasks.stage import stage", "may not know stage"),
    (outside_world_in_science, "tasks/science/sky.py", "from crds.core import rmap", "imports crds.core.rmap"),
    (outside_world_in_science, "tasks/science/crds_rules.py", "import s3fs", "imports s3fs"),
    (outside_world_in_science, "tasks/errors.py", "import prefect", "imports prefect"),
    (prefect_away_from_the_rim, "tasks/mask.py", "from prefect import task", "imports prefect.task"),
    (names_that_say_nothing, "tasks/science/utils.py", "", "utils"),
    (names_that_say_nothing, "flows/common/sky.py", "", "common"),
    (untidy_stage_files, "tasks/mask.py", TIDY_STAGE + "\n\nclass Masker: ...", "Masker, which is no Config"),
    (untidy_stage_files, "tasks/mask.py", TIDY_STAGE + "\n\ndef late(): ...", "is not in the order"),
    (untidy_stage_files, "tasks/mask.py", "def mask(image): ...", "has no task"),
    (untidy_stage_files, "tasks/mask.py", TIDY_STAGE + "\n" * 150, "numerics belong in tasks/science"),
    (long_tasks, "tasks/mask.py", TIDY_STAGE + "    image += 1\n" * 10, "mask_ccd_task has 11 lines in its body"),
    (long_tasks, "tasks/mask.py", '@stage(name="a")\ndef mask(): ...', "whose name does not end with _task"),
    (long_functions, "flows/tile.py", "def f():\n" + "    a = 1\n" * 61, "f has 61 lines"),
    (long_files, "flows/tile.py", "a = 1\n" * 451, "has 451 lines"),
    (unsafe_code, "blocks/store.py", "import pickle", "imports pickle"),
    (unsafe_code, "blocks/store.py", "eval('1')", "calls eval"),
    (unsafe_code, "blocks/store.py", "import yaml\nyaml.load(text)", "use yaml.safe_load"),
    (unsafe_code, "blocks/store.py", "np.load(path, allow_pickle=True)", "allows pickle"),
    (unsafe_code, "blocks/store.py", "run('ls', shell=True)", "runs a shell"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "path", "source", "sentence"), BROKEN, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_broken_house_is_noticed(
    tmp_path: Path, check: Callable[[Path], list[str]], path: str, source: str, sentence: str
) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source, encoding="utf-8")

    [violation] = [found for found in check(tmp_path) if sentence in found]

    assert violation.startswith(path)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_tidy_stage_passes(tmp_path: Path, check: Callable[[Path], list[str]]) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mask.py").write_text(TIDY_STAGE, encoding="utf-8")

    assert check(tmp_path) == []
