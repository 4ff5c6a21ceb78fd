"""Runs ``dq_init`` on detector files as the observatories write them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from flows.dq_file import FlaggedFile, flag_detector_file, write_flagged_file
from flows.standalone.caches import open_cache
from flows.standalone.hooks import apply_hooks, load_hooks
from flows.standalone.naming import input_path, output_folder, output_name
from flows.standalone.options import DQInitOptions
from flows.standalone.results import StageResult, save
from flows.standalone.stages import DQ_INIT
from tasks.archive.detector_files import DetectorFile, read_detector_file
from tasks.errors import ConfigError
from tasks.products.detector import DetectorImage

if TYPE_CHECKING:
    from blocks.crds import CrdsCache
    from tasks.dq_init import DQInitConfig

NOT_APPLICABLE = "N/A"
FITS_NAMES = (".fits", ".fit", ".fts")


class DetectorFiles:
    """Runs ``dq_init`` on one file after the other.

    Parameters
    ----------
    options
        Options of the run.
    config
        Settings of the stage.
    n_files
        Number of files; several are numbered if ``output_file`` names them all.

    Raises
    ------
    ConfigError
        If the options contradict each other, or the cache or a hook cannot be used.
    """

    def __init__(self, options: DQInitOptions, config: DQInitConfig, n_files: int = 1) -> None:
        if options.override_mask and options.override_dq:
            raise ConfigError("override_mask and override_dq are two names of one option; give one of them.")
        if options.output_ext and options.output_ext.lower() not in FITS_NAMES:
            raise ConfigError(
                f"output_ext is {options.output_ext}, but dq_init writes FITS only: {', '.join(FITS_NAMES)}."
            )
        self._options, self._config, self._n_files = options, config, n_files
        self._cache: CrdsCache | None = open_cache(options)
        self._before = load_hooks(options.pre_hooks, "pre_hooks")
        self._after = load_hooks(options.post_hooks, "post_hooks")
        self._written: set[str] = set()

    def initialize(self, file: str, number: int = 0) -> StageResult:
        """Flag one file, and write the result if it is to be saved.

        Raises
        ------
        ConfigError
            If an option does not fit the file, or its output would replace another one of this run.
        MissingProductError, DataError, StoreError
            As `flows.dq_file.initialize_dq_file`.
        """
        options = self._options
        source = input_path(file, options.input_dir)
        detector = _with_original_keywords(read_detector_file(source))
        prepared = apply_hooks(self._before, detector.image)
        flagged = flag_detector_file(
            dataclasses.replace(detector, image=_same_science(prepared, detector.image, "pre_hooks")),
            cache=self._cache,
            override=NOT_APPLICABLE if options.skip else options.override,
            user_supplied_dq=options.user_supplied_dq,
            config=self._config,
            reference_type=options.reference_type,
        )
        image = _same_science(apply_hooks(self._after, flagged.image), detector.image, "post_hooks")
        flagged = dataclasses.replace(flagged, source=detector, image=image)
        saves = options.save_results or (options.save_results is None and bool(options.output_file))
        return StageResult(
            stage=DQ_INIT,
            status=flagged.status,
            path=self._save(flagged, source, number) if saves else None,
            image=image,
            reference=flagged.chosen.name,
            reason="skip is set" if options.skip else flagged.chosen.reason,
            warnings=image.warnings,
        )

    def _save(self, flagged: FlaggedFile, source: Path, number: int) -> str:
        base, index = self._base(flagged.source, source, number)
        name = output_name(base, self._options, DQ_INIT, FITS_NAMES[0], index)
        folder = output_folder(self._options, source.parent)
        place = f"{folder}/{name}" if "://" in folder else str(Path(folder, name).resolve())
        if place in self._written:
            raise ConfigError(
                f"{source} would be written to {place}, as another input was; give the inputs other names, or an "
                "output_file with output_use_index."
            )
        self._written.add(place)
        return save(folder, name, lambda path: write_flagged_file(flagged, path))

    def _base(self, detector: DetectorFile, source: Path, number: int) -> tuple[str, int | None]:
        """Return what the output is named after, and its number."""
        options = self._options
        if options.output_use_model or not (options.output_file or options.search_output_file):
            return detector.keywords.get("FILENAME", "").strip() or source.name, None
        if not options.output_file:
            return source.name, None
        return options.output_file, number if self._n_files > 1 and options.output_use_index else None


def _with_original_keywords(detector: DetectorFile) -> DetectorFile:
    """Let the rules see the keywords that a CCD image of Shearline keeps of its raw file as RKEY and RVAL."""
    keywords = detector.keywords
    kept = {keywords[key]: keywords.get(f"RVAL{key[4:]}", "") for key in keywords if key.startswith("RKEY")}
    return dataclasses.replace(detector, keywords=keywords | kept) if kept else detector


def _same_science(image: object, original: DetectorImage, option: str) -> DetectorImage:
    """Refuse what a hook returned if it is no image of the same science values, which are copied from the file."""
    if not isinstance(image, DetectorImage):
        raise ConfigError(
            f"{option}: a hook of dq_init returned a {type(image).__name__}; it may return a DetectorImage, or None."
        )
    if image.data is not original.data:
        raise ConfigError(f"{option}: a hook returned other science values, but dq_init writes those of the input.")
    return image
