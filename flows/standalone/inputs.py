"""Finds the files that a single stage is given: in a store, whose keys say what they are of, or anywhere else."""

from __future__ import annotations

import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from blocks.store import KEY, DataStore
from flows.standalone.naming import input_path
from tasks.errors import ConfigError, MissingProductError
from tasks.products.identity import ProductRef

IN_STORE = re.compile(
    r"/(?P<key>(exposures/(?P<exposure>[^/]+)(/ccd-(?P<ccd>[0-9]{2,3}))?|tiles/(?P<tile>[^/]+)|survey)/[^/]+)$"
)
"""End of the path of a product, which says what it is of."""
OTHER_SIGNS = re.compile(r"[^A-Za-z0-9_+.-]+")


@dataclass(frozen=True)
class InputFile:
    """A file that a stage is given."""

    place: str
    """Path or key, for messages."""
    store: DataStore | None
    """The store that it is in; none for a file anywhere else."""
    key: str
    """Its key in the store, or its name."""
    path: Path | None
    """Where it is on this machine; none on S3."""
    subject: str
    """CCD, exposure or tile that it is of; empty if it does not say."""


def find_input(text: str, store: DataStore | None, input_dir: str | None, subject: str | None = None) -> InputFile:
    """Find a file by its path, or by its key in a store.

    Parameters
    ----------
    text
        Path or key.
    store
        The store that was named; otherwise that of a path is recognised by its folders, if there are records in it.
    input_dir
        Folder of names without a folder.
    subject
        What the file is of, if that is known.

    Raises
    ------
    MissingProductError
        If there is no such file.
    """
    if store is not None and KEY.fullmatch(text) and store.exists(text):
        root = folder_of(store)
        path = root / text if root else None
        return InputFile(text, store, text, path, subject or _subject(f"/{text}", path))
    path = input_path(text, input_dir)
    if not path.is_file():
        also = f", and no product of {store.url}" if store is not None else ""
        raise MissingProductError(f"{path} is not a file{also}; correct its name.")
    path = path.absolute()
    home, key = _home(path, store)
    return InputFile(str(path), home, key, path, subject or _subject(f"/{key}", path))


def folder_of(store: DataStore) -> Path | None:
    """Return the folder of a store; none on S3."""
    return Path(store.url.removeprefix("file://")) if store.is_local else None


def _home(path: Path, store: DataStore | None) -> tuple[DataStore | None, str]:
    root = folder_of(store) if store is not None else None
    if root is not None and path.resolve().is_relative_to(root.resolve()):
        return store, path.resolve().relative_to(root.resolve()).as_posix()
    found = IN_STORE.search(path.as_posix())
    if store is None and found is not None:
        folder = Path(path.as_posix()[: found.start()])
        if (folder / "records").is_dir() and KEY.fullmatch(folder.name):
            return DataStore(root=str(folder.parent), collection=folder.name), found["key"]
    return None, OTHER_SIGNS.sub("_", path.name).lstrip("_+.-") or "file"


def _subject(key: str, path: Path | None) -> str:
    found = IN_STORE.search(key)
    if found is not None and found["exposure"]:
        return f"{found['exposure']}-{int(found['ccd'])}" if found["ccd"] else found["exposure"]
    if found is not None:
        return found["tile"] or "survey"
    return _object_name(path) if path is not None else ""


def _object_name(path: Path) -> str:
    """Return what a FITS product says that it is of; empty if it is none, which its stage will refuse."""
    try:
        with warnings.catch_warnings(), path.open("rb") as handle:
            warnings.simplefilter("ignore", AstropyWarning)
            return str(fits.Header.fromfile(handle).get("OBJECTID", ""))
    except (OSError, ValueError, EOFError):
        return ""


class Workspace:
    """A store in a temporary folder, for products that are not written to the store of their inputs.

    Parameters
    ----------
    folder
        An empty folder.
    collection
        Name of the store in it.
    """

    def __init__(self, folder: Path, collection: str) -> None:
        self.store = DataStore(root=str(folder), collection=collection)
        self._base = folder / collection
        self._base.mkdir()

    def take(self, item: InputFile, argument: str) -> ProductRef:
        """Let the workspace have a file, without a copy if it is on this machine."""
        key = item.key if item.store is not None else f"{argument}/{item.key}"
        self._link(key, item.store, item.path)
        found = self.store.stat(key)
        return ProductRef(key=key, sha256=found.sha256, size=found.size, subject=item.subject)

    def take_product(self, ref: ProductRef, store: DataStore) -> None:
        """Let the workspace have a product of a store under its key."""
        root = folder_of(store)
        self._link(ref.key, store, root / ref.key if root else None)

    def _link(self, key: str, store: DataStore | None, path: Path | None) -> None:
        place = self._base / key
        if place.exists():
            if path is not None and place.resolve() != path.resolve():
                raise ConfigError(f"{path} and {place.resolve()} are both called {key}; give files of one store.")
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        if path is not None:
            place.symlink_to(path.resolve())
        elif store is not None:
            with store.local_copy(key) as copy:
                shutil.copyfile(copy, place)


def recorded(item: InputFile, store: DataStore) -> ProductRef:
    """Return the reference of a file that is in a store.

    Raises
    ------
    ConfigError
        If it is in another one, or in none.
    """
    if item.store is None or item.store.url != store.url:
        raise ConfigError(
            f"{item.place} is not in {store.url}, where the product would go; give output_dir or output_file to write "
            "it to a file."
        )
    found = store.stat(item.key)
    return ProductRef(key=item.key, sha256=found.sha256, size=found.size, subject=item.subject)
