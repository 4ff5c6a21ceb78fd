"""Sphinx settings. The tables of settings, columns and flags and the reference pages are made from the code."""

import importlib
import logging
import sys
import tomllib
from pathlib import Path

HOUSE = Path(__file__).parents[1]
sys.path[:0] = [str(HOUSE), str(HOUSE / "docs" / "_ext")]

# autodoc imports modules as a type checker would see them, and classes of Prefect made like that cannot be subclassed
importlib.import_module("blocks.crds")

project = "Shearline"
author = "The Shearline developers"
project_copyright = "2026, The Shearline developers"
version = release = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = [
    # brings myst_parser, and runs the pages that are notebooks
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "numpydoc",
    "shearline_tables",
    "shearline_api",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

nb_execution_mode = "auto"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_execution_in_temp = True
nb_merge_streams = True
logging.getLogger("traitlets").setLevel(logging.WARNING)

autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = "Shearline"
html_show_sourcelink = False
html_theme_options = {"footer_icons": []}
