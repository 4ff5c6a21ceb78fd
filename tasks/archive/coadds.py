"""Coadded tiles to multi-extension FITS files and back; written a band of rows at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from blocks.store import DataStore
from tasks.archive.coadd_header import coadd_header, input_table, read_metadata
from tasks.archive.fits_files import fits_bytes, get_hdu, open_fits, primary_hdu
from tasks.archive.fits_wcs import read_wcs
from tasks.archive.tables import table_from_hdu, table_hdu
from tasks.archive.tiled_images import FITS_BLOCK, Map, TiledPlane, write_tiled_image
from tasks.errors import BadFileError
from tasks.products.columns import COADD_INPUTS
from tasks.products.identity import ProductRef, SummaryValue, TileId
from tasks.products.images import Coadd, CoaddMetadata, CoaddPlanes

PlaneName = Literal["CTX", "VAR", "DQ", "TIME"]
"""Planes that not every reader needs."""
PLANES: Mapping[str, tuple[str, type[np.float32 | np.int32 | np.uint32]]] = {
    "SCI": ("sci", np.float32),
    "WHT": ("weight", np.float32),
    "CTX": ("context", np.int32),
    "VAR": ("variance", np.float32),
    "DQ": ("dq", np.uint32),
    "TIME": ("time", np.float32),
}
"""Field and type of every plane by the name of its HDU, in the order of the file."""


class CoaddFile:
    """A coadd on its way to the store: what it has of each plane is compressed into temporary files.

    Parameters
    ----------
    shape
        Shape (ny, nx) of the tile.
    n_threads
        Threads that compress; the bytes do not depend on it.
    """

    def __init__(self, shape: tuple[int, int], n_threads: int = 1) -> None:
        self._shape, self._rows = shape, 0
        self._planes: dict[str, list[TiledPlane]] = {}
        self._files = ExitStack()
        self._map: Map = map
        if n_threads > 1:
            self._map = self._files.enter_context(ThreadPoolExecutor(n_threads, "compress")).map

    def __enter__(self) -> CoaddFile:
        """Return the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the temporary files."""
        self._files.close()

    def append(self, band: CoaddPlanes) -> None:
        """Add the next rows; of the context, planes may come later that hold nothing until then.

        Raises
        ------
        ValueError
            If the rows do not fit, or the band has other planes than those before.
        """
        given = [name for name, (field, _) in PLANES.items() if getattr(band, field) is not None]
        if self._rows and given != list(self._planes):
            raise ValueError(f"a band has the planes {', '.join(given)}, those before {', '.join(self._planes)}")
        for name in given:
            field, dtype = PLANES[name]
            values = getattr(band, field)
            stack = values if values.ndim > 2 else values[np.newaxis]
            planes = self._planes.setdefault(name, [])
            while len(planes) < len(stack):
                planes.append(self._new_plane(dtype))
            for plane, rows in zip(planes, stack, strict=False):
                plane.append(np.ascontiguousarray(rows, dtype))
            for plane in planes[len(stack) :]:
                plane.append_zeros(stack.shape[1])
        self._rows += len(band.sci)

    def _new_plane(self, dtype: type[np.float32 | np.int32 | np.uint32]) -> TiledPlane:
        file = tempfile.TemporaryFile(prefix="shearline-")  # noqa: SIM115 (closed with the others)
        self._files.callback(file.close)
        plane = TiledPlane(cast("BinaryIO", file), self._shape, dtype, self._map)
        plane.append_zeros(self._rows)
        return plane

    def publish(
        self,
        store: DataStore,
        key: str,
        tile: TileId,
        wcs: WCS,
        metadata: CoaddMetadata,
        summary: dict[str, SummaryValue] | None = None,
    ) -> ProductRef:
        """Put the whole file into the store.

        Parameters
        ----------
        store, key
            Where to.
        tile, wcs, metadata
            What the tile is, where, and what it was made of.
        summary
            Numbers for tables and reports.

        Raises
        ------
        ValueError
            If rows are missing.
        """
        with tempfile.TemporaryDirectory(prefix="shearline-") as folder:
            path = Path(folder) / "coadd.fits"
            with path.open("wb") as target:
                target.write(fits_bytes([primary_hdu(tile)]))
                for name, planes in self._planes.items():
                    header = coadd_header(wcs, metadata) if name == "SCI" else None
                    write_tiled_image(target, name, planes, header, cube=name == "CTX")
                inputs = table_hdu(input_table(metadata), COADD_INPUTS)
                target.write(fits_bytes([fits.PrimaryHDU(), inputs])[FITS_BLOCK:])
            stored = store.put_file(key, path)
        return ProductRef(key=key, sha256=stored.sha256, size=stored.size, subject=str(tile), summary=summary or {})


def write_coadd(store: DataStore, key: str, coadd: Coadd, summary: dict[str, SummaryValue] | None = None) -> ProductRef:
    """Publish a coadd that is in memory: a HDU for every plane that it has, and its inputs as a table."""
    ny, nx = coadd.sci.shape
    with CoaddFile((ny, nx)) as file:
        file.append(coadd.planes)
        return file.publish(store, key, coadd.id, coadd.wcs, coadd.metadata, summary)


def read_coadd(store: DataStore, ref: ProductRef, planes: Iterable[PlaneName] = ()) -> Coadd:
    """Return a coadd.

    Parameters
    ----------
    store, ref
        Which coadd.
    planes
        What to read besides science and weight; planes that the file does not have stay None.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If the file is truncated or not a coadd.
    """
    with open_fits(store, ref) as hdus:
        sci = get_hdu(hdus, "SCI", ref)
        wanted = {name: get_hdu(hdus, name, ref) for name in ("SCI", "WHT", *planes) if name in hdus or name == "WHT"}
        # the last HDU: if it is whole, all are
        table = table_from_hdu(get_hdu(hdus, COADD_INPUTS.name, ref), COADD_INPUTS, ref)
        arrays: dict[str, Any] = {
            PLANES[name][0]: np.asarray(hdu.data).astype(PLANES[name][1], copy=False) for name, hdu in wanted.items()
        }
        try:
            return Coadd(
                id=TileId(hdus[0].header["OBJECTID"]),
                planes=CoaddPlanes(**arrays),
                wcs=read_wcs(sci.header),
                metadata=read_metadata(sci.header, table),
            )
        except KeyError as error:
            raise BadFileError(f"{ref.key} is not a coadd: {error}") from error
