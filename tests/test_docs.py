"""The documentation says what there is: every stage, every table, every command."""

import ast
import importlib
import importlib.util
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field

from deployments.cli import app
from flows.cli import Exit
from flows.config import load_survey
from flows.standalone.options import CacheOptions, OutputOptions
from flows.standalone.running import input_names, options_of
from flows.standalone.stages import STAGES as STAGES_ALONE
from flows.standalone.stages import load_bodies
from tasks.products.columns import SCHEMAS
from tasks.products.config import StageConfig

HOUSE = Path(__file__).parents[1]
DOCS = HOUSE / "docs"
NOT_STAGES = {"__init__", "stage", "records", "session", "runner", "fingerprint", "errors"}
STAGES = sorted(path for path in (HOUSE / "tasks").glob("*.py") if path.stem not in NOT_STAGES)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(path: Path) -> Iterator[str]:
    """The command lines that a page shows, without the prompt and what is set before them."""
    for block in re.findall(r"```console\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                yield re.sub(r"^\$ (\w+=\S+ )*", "", line)


PAGES_WITH_COMMANDS = [HOUSE / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "stages").glob("*.md"))]
PAGES_WITH_COMMANDS += sorted((DOCS / "tutorials").glob("*.md"))


@pytest.mark.parametrize("stage", STAGES, ids=lambda path: path.stem)
def test_every_stage_has_a_page_with_its_settings(stage: Path) -> None:
    page = (DOCS / "stages" / f"{stage.stem}.md").read_text(encoding="utf-8")
    tree = ast.parse(stage.read_text(encoding="utf-8"))
    configs = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Config")]

    assert configs
    for config in configs:
        assert f"{{config-table}} tasks.{stage.stem}.{config}" in page


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_table_is_on_a_product_page(name: str) -> None:
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "products").glob("*.md")]

    assert any(re.search(rf"{{columns-table}} {name}$", page, re.MULTILINE) for page in pages)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_column_says_what_it_means(name: str) -> None:
    assert SCHEMAS[name].columns
    assert [column.name for column in SCHEMAS[name].columns if not column.meaning] == []


@pytest.mark.parametrize("path", PAGES_WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_make_command_that_a_page_shows_exists(path: Path) -> None:
    makefile = (HOUSE / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    shown = {command.split()[1] for command in commands(path) if command.startswith("make ")}

    assert shown <= targets


def test_the_readme_shows_the_two_commands() -> None:
    assert {"make demo", "make test"} <= set(commands(HOUSE / "README.md"))


@pytest.mark.parametrize("name", ["flows", "layers"])
def test_the_figures_are_as_drawn(name: str) -> None:
    draw = load(DOCS / "figures" / "draw.py")

    assert (DOCS / "figures" / f"{name}.svg").read_text(encoding="utf-8") == getattr(draw, name)()


class Nested(StageConfig):
    radius_pix: float = 2.5
    """A radius."""


class Everything(StageConfig):
    kind: Literal["square", "round"] = "square"
    """A | kind."""
    sizes: tuple[Annotated[int, Field(gt=0)], ...] = (1, 2)
    """Sizes."""
    fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """A fraction."""
    count: Annotated[int, Field(ge=3, multiple_of=2)]
    """A count."""
    nested: Nested = Nested()
    """More."""


def test_a_table_of_settings_says_type_default_and_bounds() -> None:
    tables = load(DOCS / "_ext" / "shearline_tables.py")
    rows = {}
    for name, field in Everything.model_fields.items():
        bounds = tables.bounds_words(field.metadata, field.annotation)
        rows[name] = (tables.type_words(field.annotation), tables.default_words(field), bounds)

    assert rows == {
        "kind": ("`square`, `round`", "`square`", []),
        "sizes": ("list of integer", "`[1, 2]`", ["each > 0"]),
        "fraction": ("number or none", "`null`", ["≥ 0", "≤ 1"]),
        "count": ("integer", "required", ["≥ 3", "a multiple of 2"]),
        "nested": ("`Nested`", "its defaults", []),
    }
    assert tables.cell(Everything.model_fields["kind"].description) == "A \\| kind."


def test_a_reference_page_lists_what_is_public_and_no_tasks() -> None:
    api = load(DOCS / "_ext" / "shearline_api.py")
    source = """
LIMIT = 3
'''A limit.'''
BARE = 4
class MaskConfig: ...
class _Hidden: ...
def mask(image): ...
def _helper(): ...
@stage(name="mask")
def mask_ccd_task(image): ...
"""
    page = api.page("tasks.mask", ast.parse(source))

    assert re.findall(r"auto\w+:: (\S+)", page) == ["tasks.mask", "LIMIT", "MaskConfig", "mask"]


def test_a_module_without_anything_public_has_no_page() -> None:
    api = load(DOCS / "_ext" / "shearline_api.py")

    assert api.page("tasks.science", ast.parse("'''Numerics.'''")) == ""


COMMAND = typer.main.get_command(app)


def leaves(command: Any, name: str = "shearline") -> Iterator[Any]:
    """Every command that does something, with its full name."""
    for word, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, f"{name} {word}")
    if not hasattr(command, "commands"):
        yield pytest.param(name, command, id=name)


ONE_STAGE = "shearline stage "


@pytest.mark.parametrize(
    ("name", "command"), [leaf for leaf in leaves(COMMAND) if not str(leaf.id).startswith(ONE_STAGE)]
)
def test_every_command_and_option_is_on_the_page_of_the_command_line(name: str, command: Any) -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]

    assert f"`{name}" in page
    assert [option for option in options if f"`{option}" not in page] == []


@pytest.mark.parametrize(("name", "command"), [leaf for leaf in leaves(COMMAND) if str(leaf.id).startswith(ONE_STAGE)])
def test_every_option_of_a_single_stage_is_in_a_table_of_its_settings(name: str, command: Any) -> None:
    entry = STAGES_ALONE[name.removeprefix(ONE_STAGE)]
    bodies = load_bodies(entry)
    pages = "".join(path.read_text(encoding="utf-8") for path in [DOCS / "cli.md", *(DOCS / "stages").glob("*.md")])
    kinds = (OutputOptions, CacheOptions, options_of(entry), bodies[0].config)
    shown = [kind for kind in kinds if f"{{config-table}} {kind.__module__}.{kind.__name__}\n" in pages]
    documented = {f"--{field}" for kind in shown for field in kind.model_fields}
    documented |= {f"--{item}" for item in input_names(entry, bodies)} | set(re.findall(r"`(--[a-z]+)", pages))
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]

    assert "{alone-table} flows.standalone.stages.STAGES\n" in pages
    assert [option for option in options if option not in documented] == []


@pytest.mark.parametrize("path", PAGES_WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_shearline_command_that_a_page_shows_is_understood(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dq_init.cfg").write_text('name = "dq_init"\n', encoding="utf-8")
    Path("dq_init.yaml").write_text("stage: dq_init\n", encoding="utf-8")
    for line in commands(path):
        if line.startswith("shearline ") and not line.endswith(" --help"):
            command, words = COMMAND, shlex.split(line, comments=True)[1:]
            while hasattr(command, "commands"):
                command = command.commands[words.pop(0)]

            settings = command.make_context(line, words).params.get("changes")

            load_survey("demo", settings or ())


@pytest.mark.parametrize("path", PAGES_WITH_COMMANDS, ids=lambda path: path.stem)
def test_everything_that_an_example_imports_exists(path: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_readme_lists_the_exit_codes() -> None:
    meanings = load(DOCS / "_ext" / "shearline_tables.py").attribute_docstrings(Exit)
    rows = [f"| {code.value} | {meanings[code.name]} |" for code in Exit]

    assert "\n".join(rows) in (HOUSE / "README.md").read_text(encoding="utf-8")


def test_the_readme_example_prints_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (HOUSE / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    example = next(block for block in blocks if "print(" in block)
    (tmp_path / "example.py").write_text(example, encoding="utf-8")

    runpy.run_path(str(tmp_path / "example.py"))

    assert capsys.readouterr().out.strip() == example.strip().rpartition("# ")[2]
