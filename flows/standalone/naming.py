"""How the output of a single stage is called: the input's name with the stage in the place of its suffix."""

from __future__ import annotations

import os
import re
from pathlib import Path

from flows.standalone.options import OutputOptions
from flows.standalone.stages import STAGES
from tasks.errors import ConfigError

EXTENSIONS = (".fits.gz", ".fits", ".fit", ".fts", ".asdf", ".json", ".psf", ".sqlite", ".parquet", ".html")
SUFFIXES = frozenset(
    {"uncal", "ramp", "rate", "rateints", "cal", "calints", "crf", "crfints", "i2d", "s2d", "s3d", "x1d", "c1d"}
    | {"dark", "dqinitstep", "raw", *STAGES}
)
"""What ends the names of files of the observatories' pipelines and of Shearline, and is replaced."""
VARIABLE = re.compile(r"\$\{?(\w+)")


def output_name(base: str, options: OutputOptions, stage: str, extension: str, index: int | None = None) -> str:
    """Return the name of an output file.

    Parameters
    ----------
    base
        Name that it is made from, of the input or that of ``output_file``; folders do not count.
    options
        Its suffix and extension, if they are given.
    stage
        Suffix otherwise.
    extension
        Extension otherwise, with its dot.
    index
        Number among several outputs; none for a single one.
    """
    stem, separator = _without_suffix(_without_extension(base.replace("\\", "/").rsplit("/", 1)[-1]))
    suffix = stage if options.suffix is None else options.suffix
    number = "" if index is None else f"_{index}"
    return f"{stem}{number}{separator + suffix if suffix else ''}{options.output_ext or extension}"


def output_folder(options: OutputOptions, beside: Path) -> str:
    """Return the folder or s3:// URL of an output: that of the options, or else that of the input.

    Raises
    ------
    ConfigError
        If it names an environment variable that is not set.
    """
    if options.output_dir:
        return _expanded(options.output_dir, "output_dir")
    if options.output_file and Path(options.output_file).parent != Path():
        return str(Path(_expanded(options.output_file, "output_file")).parent)
    return str(beside)


def input_path(text: str, input_dir: str | None) -> Path:
    """Return the path of an input; one without a folder is in ``input_dir``, if that is given.

    Raises
    ------
    ConfigError
        If ``input_dir`` names an environment variable that is not set.
    """
    path = Path(text).expanduser()
    return Path(_expanded(input_dir, "input_dir")) / path if input_dir and path.parent == Path() else path


def _expanded(folder: str, option: str) -> str:
    expanded = os.path.expandvars(Path(folder).expanduser() if "://" not in folder else folder)
    missing = VARIABLE.search(str(expanded))
    if missing:
        raise ConfigError(f"{option} is {folder}, but the environment variable {missing[1]} is not set.")
    return str(expanded)


def _without_extension(name: str) -> str:
    return next((name[: -len(end)] for end in EXTENSIONS if name.lower().endswith(end) and name.lower() != end), name)


def _without_suffix(stem: str) -> tuple[str, str]:
    """Return a name without its known suffix, and what separated them."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        for separator in "_-":
            if stem.lower().endswith(f"{separator}{suffix}") and len(stem) > len(suffix) + 1:
                return stem[: -len(suffix) - 1], separator
    return stem, "_"
