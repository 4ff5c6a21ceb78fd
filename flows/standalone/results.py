"""What a single stage did, and where its output goes: a folder or an S3 bucket."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tasks.products.detector import DetectorImage
    from tasks.products.identity import ProductRef


@dataclass(frozen=True)
class StageResult:
    """What a single stage did."""

    stage: str
    status: Literal["COMPLETE", "SKIPPED"]
    path: str | None = None
    """Path or URL of what was written; none if nothing was."""
    image: DetectorImage | None = None
    """Of ``dq_init``: the image with its flags, its science values a view of the input."""
    product: ProductRef | None = None
    """Of other stages: the product, with its summary; its key is that in a store."""
    reused: bool = False
    """Whether the store had the same product already."""
    reference: str = ""
    """Of ``dq_init``: ``crds://`` and the name of the reference, the path of an override, or ``N/A``."""
    reason: str = ""
    """Why it was skipped."""
    warnings: tuple[str, ...] = ()


def save(folder: str, name: str, write: Callable[[Path], object]) -> str:
    """Have a file written into a folder, which is made if it is missing, or an S3 bucket.

    Parameters
    ----------
    folder
        Path or s3:// URL.
    name
        Name of the file in it.
    write
        Writes a file at the path that it is given, whole or not at all.

    Returns
    -------
    str
        Path or URL of the file.

    Raises
    ------
    StoreError
        If the folder cannot be made or the bucket not be written.
    """
    from blocks.store import DataStore, StoreError

    if folder.startswith("s3://"):
        with tempfile.TemporaryDirectory(prefix="shearline-") as scratch:
            write(Path(scratch) / name)
            DataStore(root=folder).put_file(name, Path(scratch) / name)
        return f"{folder.rstrip('/')}/{name}"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write(Path(folder) / name)
    except OSError as error:
        raise StoreError(f"{Path(folder) / name} cannot be written: {error.strerror or error}.") from error
    return str(Path(folder) / name)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file; it appears under its name whole or not at all."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
