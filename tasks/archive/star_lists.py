"""The star lists of an exposure's CCDs in the raw store, of a camera that has such files."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from blocks.store import BadKeyError, DataStore, ObjectNotFoundError
from tasks.archive.raw_names import RawNames
from tasks.products.identity import CcdId, ExposureId
from tasks.products.instrument import Instrument

# lookups of objects wait for the network, not for the processor
LOOKUPS = 32


class StarLists:
    """Tells which star lists there are, and which are missing.

    Parameters
    ----------
    instrument
        Names of the camera's files; without star lists there is nothing to miss.
    raw
        Where the raw files are.
    versions
        Version of every raw file, if they are known; otherwise they are looked up.
    """

    def __init__(self, instrument: Instrument, raw: DataStore, versions: Mapping[str, str] | None = None) -> None:
        self._instrument, self._raw, self._versions = instrument, raw, versions
        self._names = RawNames(instrument)
        self._known = self._names.star_lists(versions) if versions is not None else {}

    def of(self, exposure: ExposureId) -> dict[str, str]:
        """Return the star lists of an exposure's CCDs with their versions, as far as they are there."""
        template, n_ccds = self._instrument.star_list_file, self._instrument.n_ccds
        if template is None:
            return {}
        if self._versions is not None:
            return {key: self._versions[key] for key in self._known.get(exposure, ())}
        if n_ccds is None:
            versions = self._raw.list_versions(template.split("{", maxsplit=1)[0].rpartition("/")[0])
            return {key: versions[key] for key in self._names.star_lists(versions).get(exposure, ())}
        # a folder with the lists of a whole survey takes longer to list than these to look up
        wanted = [star_list_key(template, CcdId(exposure=exposure.name, ccd=ccd)) for ccd in range(n_ccds)]
        with ThreadPoolExecutor(LOOKUPS) as threads:
            found = zip(wanted, threads.map(self._version, wanted), strict=True)
            return {key: version for key, version in found if version is not None}

    def missing(self, exposure: ExposureId) -> tuple[str, ...]:
        """Return for people how many star lists of an exposure are not there; nothing if all are."""
        wanted = self._names.n_star_lists
        missing = wanted - len(self.of(exposure)) if wanted else 0
        return (f"{missing} of {wanted} star lists",) if missing > 0 else ()

    def _version(self, key: str) -> str | None:
        try:
            return self._raw.version(key)
        except (ObjectNotFoundError, BadKeyError):
            return None


def star_list_key(template: str, ccd: CcdId) -> str:
    """Return where the star list of a CCD is."""
    return template.replace("{exposure}", ccd.exposure).replace("{ccd}", str(ccd.ccd))
