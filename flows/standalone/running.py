"""Runs one stage of Shearline on files or products, without a Prefect run or a server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.standalone.detector import DetectorFiles
from flows.standalone.options import (
    DQInitOptions,
    OutputOptions,
    ProductOptions,
    ReferencesOptions,
    validated,
)
from flows.standalone.parameters import read_parameters
from flows.standalone.results import StageResult
from flows.standalone.stages import (
    DQ_INIT,
    FILES_OF_ALL_KINDS,
    StageBody,
    StageEntry,
    Takes,
    find_stage,
    load_bodies,
)
from tasks.errors import ConfigError

IDENTITIES = ("tile", "exposure", "ccd")


def run_stage(name: str, *files: str | Path, parameters: str | Path | None = None, **settings: Any) -> StageResult:  # noqa: ANN401
    """Run one stage on its files, as ``shearline stage`` does.

    Parameters
    ----------
    name
        Name of the stage, such as ``dq_init``.
    *files
        Paths of its inputs, in the order of its page; of products also keys in the store.
    parameters
        Parameter file, YAML or ``.cfg``, with options that are not given here.
    **settings
        Options of the command and settings of the stage by name. An input may be named too: ``mask="mask.fits"``.

    Returns
    -------
    StageResult
        What was done. ``dq_init`` gives the image with its flags as ``image``, and writes it only if ``save_results``
        or ``output_file`` say so; other stages write their product.

    Raises
    ------
    ConfigError
        If an option or a setting is unknown or wrong.
    ShearlineError
        As the stage itself.
    """
    entry = find_stage(name)
    given = gather(entry, parameters, settings)
    texts = [str(file) for file in files]
    if entry.name != DQ_INIT:
        return run_on_products(given, texts)
    if len(texts) != 1:
        raise ConfigError(f"run_stage takes one file for dq_init, not {len(texts)}; call it for each.")
    return open_detector_files(given).initialize(texts[0])


class Given:
    """The options, settings, inputs and names of one call, sorted and checked.

    Parameters
    ----------
    entry
        Which stage.
    values
        Values or texts by name.
    origin
        What messages begin with.

    Raises
    ------
    ConfigError
        If a name is unknown.
    """

    def __init__(self, entry: StageEntry, values: Mapping[str, Any], origin: str = "") -> None:
        self.entry, self.bodies = entry, load_bodies(entry)
        kind = options_of(entry)
        config = self.bodies[0].config
        inputs = input_names(entry, self.bodies)
        known = {*kind.model_fields, *config.model_fields, *inputs, *identity_names(self.bodies)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"{origin}{entry.name} has no option {', '.join(unknown)}; see its help.")
        self.options: Any = validated(kind, _part(values, kind.model_fields), origin)
        self.settings = _part(values, config.model_fields)
        self.inputs = _part(values, inputs)
        self.names = {name: str(value) for name, value in _part(values, IDENTITIES).items()}


def gather(entry: StageEntry, parameters: str | Path | None, settings: Mapping[str, Any]) -> Given:
    """Return what was given in a parameter file and beside it; the latter counts.

    Raises
    ------
    ConfigError
        If a name is unknown or a value wrong, or the file is for another stage.
    """
    stated = {name: value for name, value in settings.items() if value is not None}
    if parameters is None:
        return Given(entry, stated)
    read = read_parameters(parameters)
    if read.stage not in (None, entry.name):
        raise ConfigError(f"{parameters} is for the stage {read.stage}, not {entry.name}.")
    Given(entry, read.options, f"{parameters}: ")
    return Given(entry, read.options | stated)


def options_of(entry: StageEntry) -> type[OutputOptions]:
    """Return the options that a stage has besides its settings and inputs."""
    if entry.name == DQ_INIT:
        return DQInitOptions
    return ReferencesOptions if entry.name == "references" else ProductOptions


def input_names(entry: StageEntry, bodies: Sequence[StageBody]) -> list[str]:
    """Return the inputs that may be named; those of ``dq_init`` are files of any name."""
    if entry.name == DQ_INIT:
        return []
    return list(dict.fromkeys(name for body in bodies for name in body.named(*FILES_OF_ALL_KINDS)))


def identity_names(bodies: Sequence[StageBody]) -> list[str]:
    """Return which of tile, exposure and CCD a stage may be told."""
    options = {
        Takes.TILE: "tile",
        Takes.TILE_PRODUCTS: "tile",
        Takes.CCD_PRODUCTS: "tile",
        Takes.RAW_STACK: "tile",
        Takes.EXPOSURE: "exposure",
        Takes.EXPOSURE_PRODUCTS: "exposure",
        Takes.CCD: "ccd",
    }
    return list(dict.fromkeys(options[kind] for body in bodies for kind in body.arguments.values() if kind in options))


def open_detector_files(given: Given, n_files: int = 1) -> DetectorFiles:
    """Return what runs ``dq_init`` on files.

    Raises
    ------
    ConfigError
        If an option or setting is wrong, or the cache or a hook cannot be used.
    """
    from tasks.dq_init import DQInitConfig

    return DetectorFiles(given.options, validated(DQInitConfig, given.settings), n_files)


def run_on_products(given: Given, files: Sequence[str]) -> StageResult:
    """Run a stage other than ``dq_init`` on products.

    Raises
    ------
    ConfigError
        If an option, a setting or an input is wrong or missing.
    ShearlineError
        As the stage itself.
    """
    from flows.standalone.products import ProductRun

    if given.options.skip:
        return StageResult(given.entry.name, "SKIPPED", reason="skip is set")
    if given.options.save_results is False:
        raise ConfigError(f"The result of {given.entry.name} is a file, so that save_results cannot be false.")
    with tempfile.TemporaryDirectory(prefix="shearline-") as scratch:
        return ProductRun(given, files, Path(scratch)).run()


def _part(values: Mapping[str, Any], names: Any) -> dict[str, Any]:  # noqa: ANN401 (any collection of names)
    return {name: value for name, value in values.items() if name in names}
