"""Parameter files: the options of a single stage in YAML, or in the two-line ``.cfg`` of older pipelines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.standalone.stages import DQ_INIT, STAGES, find_stage
from tasks.errors import ConfigError

CLASSES = {"DQInitStep": DQ_INIT}
"""Classes of the observatories' pipelines whose work a stage does."""
LINE = re.compile(r"""\s*([A-Za-z_]\w*)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^#'"]*?))\s*(?:\#.*)?""")
YAML_NAMES = (".yaml", ".yml")
NAMES = (".cfg", *YAML_NAMES)


@dataclass(frozen=True)
class Parameters:
    """What a parameter file says."""

    stage: str | None
    """Name of the stage, if the file says so."""
    options: dict[str, Any]
    """Options by name."""


def read_parameters(path: str | Path) -> Parameters:
    """Read a parameter file.

    YAML has options by name, and perhaps ``stage``. A ``.cfg`` file has ``name`` and ``class``, which say the stage,
    and perhaps options, one ``key = value`` a line.

    Raises
    ------
    ConfigError
        If there is no such file, or it is not of these forms.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in NAMES:
        raise ConfigError(f"{path} is not a parameter file: their names end in {', '.join(NAMES)}.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The parameter file {path} cannot be read: {error}.") from error
    return _read_yaml(text, path) if path.suffix.lower() in YAML_NAMES else _read_cfg(text, path)


def _read_yaml(text: str, path: Path) -> Parameters:
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    options = {} if read is None else read
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise ConfigError(f"{path} holds no options by name.")
    stage = options.pop("stage", None)
    return Parameters(None if stage is None else find_stage(str(stage)).name, options)


def _read_cfg(text: str, path: Path) -> Parameters:
    options: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if found is None:
            wrong = "it is of a whole pipeline" if line.lstrip().startswith("[") else "it is not key = value"
            raise ConfigError(f"Line {number} of {path} cannot be used, as {wrong}: {line.strip()[:80]!r}.")
        options[found[1]] = next(part for part in found.groups()[1:] if part is not None)
    return Parameters(_stage_of(options.pop("name", ""), options.pop("class", ""), path), options)


def _stage_of(name: str, class_name: str, path: Path) -> str | None:
    known = CLASSES.get(class_name.rsplit(".", 1)[-1])
    if class_name and known is None:
        raise ConfigError(f"{path} is for {class_name}, which Shearline has no stage for.")
    if known:
        return known
    if name and name.lower() not in STAGES:
        raise ConfigError(f"{path} is for {name}, which Shearline has no stage for.")
    return name.lower() or None
