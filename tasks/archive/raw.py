"""Finding raw exposures in the raw store by the file names of the instrument description."""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blocks.store import BadKeyError, DataStore, ObjectNotFoundError
from tasks.archive.fits_files import get_hdu, open_fits
from tasks.archive.raw_names import RawNames, Role
from tasks.errors import ConfigError, MissingKeywordError, UnknownExposureError
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
    return RawListing(raw, instrument).exposures()


@dataclass(frozen=True)
class RawKeys:
    """Where the files of an exposure are, without a look into them."""

    exposure: ExposureId
    """Name of the exposure."""

    found: Mapping[Role, str]
    """Keys of the files that are there."""

    missing: tuple[str, ...]
    """Files that the instrument delivers and that are not there, for people: ``weight file 2113737p.weight.fits``."""

    def keys(self) -> tuple[str, ...]:
        """Return the keys of the files that are there."""
        return tuple(self.found.values())


class RawListing:
    """What lies in a raw store: one listing instead of a lookup for every file."""

    def __init__(self, raw: DataStore, instrument: Instrument) -> None:
        self.url = raw.url
        self.versions = raw.list_versions()
        """Version of every file by its key."""
        self._instrument, self._names = instrument, RawNames(instrument)
        self._files: dict[ExposureId, dict[Role, list[str]]] = {}
        for key in self.versions:
            file = self._names.file_named(key)
            if file is not None:
                self._files.setdefault(file[0], {}).setdefault(file[1], []).append(key)

    def exposures(self) -> list[ExposureId]:
        """Return the exposures whose image files are there, sorted by name."""
        return sorted((name for name, files in self._files.items() if "image" in files), key=str)

    def files_of(self, exposure: ExposureId) -> RawKeys:
        """Return where the files of an exposure are, and which are not there.

        Raises
        ------
        UnknownExposureError
            If there are several files of one kind.
        """
        files, missing = self._files.get(exposure, {}), []
        found: dict[Role, str] = {}
        for role in self._names.roles:
            pattern = _pattern(str(getattr(self._instrument, f"{role}_file")), exposure)
            key = pattern if pattern in self.versions else _only(files.get(role, []), pattern, exposure, self.url)
            if key is None:
                missing.append(f"{role} file {pattern}")
            else:
                found[role] = key
        return RawKeys(exposure, found, tuple(missing))


def read_mjd(raw: DataStore, key: str, instrument: Instrument) -> float:
    """Return when an exposure was begun, from the first header of its image file that says so.

    Parameters
    ----------
    raw, key
        The image file; only headers are read.
    instrument
        The keyword.

    Returns
    -------
    float
        Modified Julian date.

    Raises
    ------
    MissingKeywordError
        If neither the primary header nor that of the first CCD has the keyword, or it is not a number.
    BadFileError
        If the file cannot be read.
    """
    if not isinstance(instrument.mjd, str):
        return instrument.mjd
    file = ProductRef(key=key, sha256="0" * 64, size=raw.size(key))
    with open_fits(raw, file, checksum=False) as hdus:
        for number in (0, instrument.first_hdu):
            value = get_hdu(hdus, number, file).header.get(instrument.mjd)
            with contextlib.suppress(TypeError, ValueError):
                return float(value)
    raise MissingKeywordError(f"{key} has no number {instrument.mjd} in its first headers, so its night is not known.")


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
        raise _not_there(raw, key) from error
    return ProductRef(key=key, sha256=stored.sha256, size=stored.size, subject=str(subject))


def raw_version(raw: DataStore, key: str) -> str:
    """Return what changes when a raw file that the settings name is written again.

    Raises
    ------
    ConfigError
        If it is not in the raw store.
    """
    try:
        return raw.version(key)
    except (ObjectNotFoundError, BadKeyError) as error:
        raise _not_there(raw, key) from error


def _not_there(raw: DataStore, key: str) -> ConfigError:
    return ConfigError(f"The settings name the file {key[:80]!r}, which is not in {raw.url}.")


def _find(raw: DataStore, template: str, exposure: ExposureId) -> ProductRef | None:
    pattern = _pattern(template, exposure)
    # a listing of the whole store is what takes long, so ask for the file itself first
    if "*" not in pattern and raw.exists(pattern):
        return raw_file(raw, pattern, exposure)
    names = raw.list_keys()
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name, f"*/{pattern}")]
    key = _only(found, pattern, exposure, raw.url)
    return raw_file(raw, key, exposure) if key else None


def _only(found: Sequence[str], pattern: str, exposure: ExposureId, url: str) -> str | None:
    if len(found) > 1:
        raise UnknownExposureError(
            f"Exposure {exposure} has {len(found)} files {pattern} in {url}: {', '.join(found[:MAX_NAMED])}; "
            "keep one of them."
        )
    return found[0] if found else None


def _pattern(template: str, exposure: ExposureId) -> str:
    return template.replace("{exposure}", exposure.name)
