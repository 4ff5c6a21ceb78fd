"""Write a reference page for every public module before the build reads its pages.

A page lists what the module defines and documents, in the order of its source. Tasks are left out: what a stage reads
and writes is on the page of the stage.
"""

from __future__ import annotations

import ast
from pathlib import Path

from sphinx.application import Sphinx

PACKAGES = ("tasks", "flows", "blocks")


def definitions(tree: ast.Module) -> list[str]:
    """Return autodoc directives for the public classes, functions and documented constants of a module."""
    lines = []
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            lines += [f".. autoclass:: {node.name}", "   :members:", "   :show-inheritance:", ""]
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not is_task(node):
            lines += [f".. autofunction:: {node.name}", ""]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and is_text(following):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and not target.id.startswith("_"):
                lines += [f".. autodata:: {target.id}", "   :no-value:", ""]
    return lines


def is_task(node: ast.FunctionDef) -> bool:
    """Tell whether a function is decorated as a task, a flow or a command."""
    names = {ast.unparse(item.func if isinstance(item, ast.Call) else item) for item in node.decorator_list}
    return any(name.split(".")[-1] in {"stage", "command", "callback"} for name in names)


def is_text(node: ast.stmt | None) -> bool:
    """Tell whether a statement is the docstring of the assignment before it."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def page(module: str, tree: ast.Module) -> str:
    """Return the page of one module; empty if there is nothing to show."""
    listed = definitions(tree)
    if not listed:
        return ""
    body = "\n".join([f".. automodule:: {module}", "", f".. currentmodule:: {module}", "", *listed])
    return f"# {module}\n\n```{{eval-rst}}\n{body}```\n"


def place(parts: tuple[str, ...]) -> Path:
    """Return the page of a module below the folder of generated pages."""
    module = ".".join(parts)
    match parts:
        case ("tasks", "errors" | "stage" | "records" | "session" | "runner" | "fingerprint"):
            return Path("tasks", f"{module}.md")
        case ("tasks", "workers", *_):
            return Path("tasks", f"{module}.md")
        case ("tasks", _):
            return Path("stages", f"{module}.md")
        case ("tasks", part, *_):
            return Path(part, f"{module}.md")
        case (package, *_):
            return Path(package, f"{module}.md")


def write_pages(app: Sphinx) -> None:
    """Write the pages that changed, remove those whose module is gone."""
    folder = Path(app.srcdir) / "api" / "generated"
    house = Path(app.srcdir).parent
    pages = {}
    for package in PACKAGES:
        for path in sorted((house / package).rglob("*.py")):
            parts = path.relative_to(house).with_suffix("").parts
            if not any(part.startswith("_") for part in parts):
                pages[folder / place(parts)] = page(".".join(parts), ast.parse(path.read_text(encoding="utf-8")))
    for path in set(folder.rglob("*.md")) - {path for path, text in pages.items() if text}:
        path.unlink()
    for path, text in pages.items():
        if text and not (path.exists() and path.read_text(encoding="utf-8") == text):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def escape_underscores(
    _app: Sphinx, _what: str, _name: str, _thing: object, _options: object, lines: list[str]
) -> None:
    """Keep reStructuredText from reading the type ``np.bool_`` as a link."""
    lines[:] = [line if "`" in line else line.replace("np.bool_", "np.bool\\_") for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages when the builder is ready."""
    app.connect("builder-inited", write_pages)
    # before numpydoc, whose priority is 500
    app.connect("autodoc-process-docstring", escape_underscores, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
