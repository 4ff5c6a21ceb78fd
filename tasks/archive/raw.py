"""Finding raw exposures in the raw store by the file names of the instrument description."""

from __future__ import annotations

import fnmatch
import re

from blocks.store import BadKeyError, DataStore, ObjectNotFoundError
from tasks.archive.fits_files import open_fits
from tasks.errors import ConfigError, UnknownExposureError
from tasks.products.identity import CcdId, ExposureId, ProductRef, RawExposure
from tasks.products.instrument import Instrument

MAX_NAMED = 5


def find_raw_exposure(raw: DataStore, exposure: ExposureId, instrument: Instrument) -> RawExposure:
    """Return the files of one exposure, with their checksums.

    Raises
    ------
    UnknownExposureError
        If the name does not match the instrument's pattern, or there is no image of that name, or there are several.
    """
    if not re.fullmatch(instrument.exposure_pattern, exposure.name):
        raise UnknownExposureError(
            f"{exposure} is not an exposure of {instrument.name}: names match {instrument.exposure_pattern!r}."
        )
    image = _find(raw, instrument.image_file, exposure)
    if image is None:
        known = ", ".join(str(item) for item in list_exposures(raw, instrument)[:MAX_NAMED]) or "none"
        raise UnknownExposureError(
            f"Exposure {exposure} is not in {raw.url}: there is no file {_pattern(instrument.image_file, exposure)}; "
            f"exposures there: {known}."
        )
    return RawExposure(
        exposure=exposure,
        image=image,
        weight=_find(raw, instrument.weight_file, exposure) if instrument.weight_file else None,
        flag=_find(raw, instrument.flag_file, exposure) if instrument.flag_file else None,
    )


def list_exposures(raw: DataStore, instrument: Instrument) -> list[ExposureId]:
    """Return the exposures whose image files are in the raw store, sorted by name."""
    before, after = instrument.image_file.split("{exposure}")
    pattern = re.compile("(?:.*/)?" + _regex(before) + f"(?P<exposure>{instrument.exposure_pattern})" + _regex(after))
    matches = (pattern.fullmatch(name) for name in raw.list_keys())
    return [ExposureId(name) for name in sorted({match["exposure"] for match in matches if match})]


def list_ccds(raw: DataStore, files: RawExposure, instrument: Instrument) -> list[CcdId]:
    """Return the CCDs of an exposure: as many as the instrument has, or else as the image file has HDUs.

    Raises
    ------
    BadFileError
        If the number is asked of the image file and it cannot be read.
    """
    number = instrument.n_ccds
    if number is None:
        with open_fits(raw, files.image, checksum=False) as hdus:
            number = len(hdus) - instrument.first_hdu
    return [CcdId(exposure=files.exposure.name, ccd=ccd) for ccd in range(number)]


def raw_file(raw: DataStore, key: str, subject: object) -> ProductRef:
    """Return the reference of any raw file, such as a star catalogue.

    Raises
    ------
    ConfigError
        If it is not in the raw store: the settings name it.
    """
    try:
        stored = raw.stat(key)
    except (ObjectNotFoundError, BadKeyError) as error:
        raise ConfigError(f"The settings name the file {key[:80]!r}, which is not in {raw.url}.") from error
    return ProductRef(key=key, sha256=stored.sha256, size=stored.size, subject=str(subject))


def _find(raw: DataStore, template: str, exposure: ExposureId) -> ProductRef | None:
    pattern = _pattern(template, exposure)
    # a listing of the whole store is what takes long, so ask for the file itself first
    if "*" not in pattern and raw.exists(pattern):
        return raw_file(raw, pattern, exposure)
    names = raw.list_keys()
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*/{pattern}")]
    if len(found) > 1:
        raise UnknownExposureError(
            f"Exposure {exposure} has {len(found)} files {pattern} in {raw.url}: {', '.join(found[:MAX_NAMED])}; "
            "keep one of them."
        )
    return raw_file(raw, found[0], exposure) if found else None


def _pattern(template: str, exposure: ExposureId) -> str:
    return template.replace("{exposure}", exposure.name)


def _regex(text: str) -> str:
    return "[^/]*".join(re.escape(part) for part in text.split("*"))
