"""The CRDS cache that the options of a single stage name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from flows.standalone.options import CacheOptions
from tasks.errors import ConfigError

if TYPE_CHECKING:
    from blocks.crds import CrdsCache


def open_cache(options: CacheOptions) -> CrdsCache | None:
    """Return the cache of the options; none if they name none.

    Raises
    ------
    ConfigError
        If an option is wrong, or the cache does not say which observatory is meant.
    """
    if not options.cache:
        lost = next((name for name in ("observatory", "context") if getattr(options, name)), None)
        if lost:
            raise ConfigError(f"{lost} is {getattr(options, lost)}, but no cache is named; give its folder as cache.")
        return None
    from blocks.crds import CrdsCache

    observatory = options.observatory or _only_observatory(options.cache)
    try:
        return CrdsCache(
            root=options.cache, observatory=observatory, context=options.context, checksum=options.checksum
        )
    except ValidationError as error:
        fault = error.errors()[0]
        name = "cache" if fault["loc"] == ("root",) else ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{name}: {fault['msg'].removeprefix('Value error, ')}.") from error


def _only_observatory(root: str) -> str:
    if root.startswith("s3://"):
        raise ConfigError(f"The CRDS cache {root} is in a bucket; say its observatory, such as jwst.")
    mappings = Path(root.removeprefix("file://")).expanduser() / "mappings"
    found = sorted(path.name for path in mappings.iterdir() if path.is_dir()) if mappings.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"The CRDS cache {root} has the observatories {', '.join(found)}; say which one is meant.")
    raise ConfigError(f"There is no CRDS cache at {root}: it has no folder mappings with that of an observatory.")
