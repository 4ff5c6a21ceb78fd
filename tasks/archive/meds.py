"""Multi-epoch stamps as MEDS files, which the public ``meds`` reader and everything built on it understand.

MEDS (Jarvis et al. 2016, section 8) keeps one table row per source and all pixels of one kind in one flat image. The
first cutout of a source is the coadd's. Masks and segmentations are tile-compressed with one compressed tile per
cutout, so that reading one cutout unpacks no other.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.fits_files import get_hdu, require_recorded
from tasks.archive.provenance import provenance_cards
from tasks.errors import BadFileError
from tasks.products.identity import CcdId, ProductRef, SummaryValue, TileId
from tasks.products.images import ZERO_POINT
from tasks.products.stamps import MultiEpochStamps

UNSET = -9999
"""What MEDS writes into the cells of cutouts that a source does not have."""
MIN_CELLS = 2
"""The public reader indexes per-cutout columns by cutout, which FITS columns of one element do not allow."""
FRAME = "u West, v North, arcsec"
PLANES = (("image", "image_cutouts"), ("weight", "weight_cutouts"), ("psf", "psf"))
COMPRESSED_PLANES = (("seg", "seg_cutouts"), ("bmask", "bmask_cutouts"))


def write_stamps(
    store: DataStore,
    key: str,
    stamps: MultiEpochStamps,
    *,
    coadd_key: str | None = None,
    summary: dict[str, SummaryValue] | None = None,
) -> ProductRef:
    """Publish the stamps of a tile as a MEDS file; the same stamps always give the same bytes.

    Parameters
    ----------
    store, key
        Where to.
    stamps
        Stamps of at least one source.
    coadd_key
        Where the image of the tile is; by default where the stage coadd puts it.
    summary
        Numbers for tables and reports.
    """
    hdus: list[fits.hdu.base._BaseHDU] = [
        _primary(stamps.tile),
        fits.BinTableHDU(_object_data(stamps), name="object_data"),
        fits.BinTableHDU(_image_info(stamps, coadd_key), name="image_info"),
        fits.BinTableHDU(_metadata(stamps), name="metadata"),
    ]
    hdus += [fits.ImageHDU(np.ravel(getattr(stamps, name)), name=extension) for name, extension in PLANES]
    for name, extension in COMPRESSED_PLANES:
        flat = np.ravel(getattr(stamps, name))
        hdus.append(
            fits.CompImageHDU(flat, name=extension, compression_type="RICE_1", tile_shape=(stamps.size * stamps.size,))
        )
    # through a file, because a tile's stamps are gigabytes
    with tempfile.TemporaryDirectory(prefix="shearline-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        path = Path(folder) / "stamps.fits"
        fits.HDUList(hdus).writeto(path, output_verify="fix")
        stored = store.put_file(key, path)
    return ProductRef(key=key, sha256=stored.sha256, size=stored.size, subject=stamps.tile, summary=summary or {})


def _primary(tile: str) -> fits.PrimaryHDU:
    primary = fits.PrimaryHDU()
    primary.header["OBJECTID"] = (tile, "tile")
    primary.header["UVFRAME"] = (FRAME, "frame of the Jacobians")
    primary.header.extend(provenance_cards().cards, unique=True)
    return primary


def _object_data(stamps: MultiEpochStamps) -> NDArray[np.void]:
    """Return the MEDS table of sources, one row per source in the order of the stamps."""
    n_cutout = np.diff(stamps.first)
    cells = max(MIN_CELLS, int(n_cutout.max(initial=0)))
    per_cutout = {
        "file_id": stamps.image_index,
        "start_row": np.arange(len(stamps.image)) * stamps.size**2,
        "orig_row": stamps.orig_row,
        "orig_col": stamps.orig_col,
        "orig_start_row": stamps.start_row,
        "orig_start_col": stamps.start_col,
        "cutout_row": stamps.orig_row - stamps.start_row,
        "cutout_col": stamps.orig_col - stamps.start_col,
        "dudrow": stamps.jacobian[:, 1, 0],
        "dudcol": stamps.jacobian[:, 1, 1],
        "dvdrow": stamps.jacobian[:, 0, 0],
        "dvdcol": stamps.jacobian[:, 0, 1],
        "psf_cutout_row": np.full(len(stamps.psf), (stamps.psf_size - 1) / 2),
        "psf_cutout_col": np.full(len(stamps.psf), (stamps.psf_size - 1) / 2),
        "psf_start_row": np.arange(len(stamps.psf)) * stamps.psf_size**2,
    }
    dtype: list[tuple[str, str] | tuple[str, str, tuple[int]]] = [
        ("id", "i8"),
        ("number", "i8"),
        ("ra", "f8"),
        ("dec", "f8"),
        ("box_size", "i8"),
        ("ncutout", "i8"),
        ("psf_box_size", "i4"),
    ]
    dtype += [(name, "i8" if values.dtype.kind == "i" else "f8", (cells,)) for name, values in per_cutout.items()]
    table = np.zeros(len(stamps), dtype=dtype)
    table["id"] = table["number"] = stamps.ids
    table["ra"], table["dec"] = stamps.ra, stamps.dec
    table["box_size"], table["psf_box_size"] = stamps.size, stamps.psf_size
    table["ncutout"] = n_cutout
    source, cell = _cells(stamps.first)
    for name, values in per_cutout.items():
        table[name] = UNSET
        table[name][source, cell] = values
    return table


def _cells(first: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the source and the place within the source of every cutout."""
    counts = np.diff(first)
    source = np.repeat(np.arange(len(counts)), counts)
    return source, np.arange(int(first[-1])) - first[source]


def _image_info(stamps: MultiEpochStamps, coadd_key: str | None) -> NDArray[np.void]:
    """Return the MEDS table of images: names are image_id, places in the store are the paths."""
    paths = [_paths(name, is_coadd=index == 0) for index, name in enumerate(stamps.images)]
    if coadd_key is not None:
        paths[0] |= {"image": coadd_key, "weight": coadd_key}
    length = max(len(path) for row in paths for path in row.values())
    path_columns = [
        column
        for kind in ("image", "weight", "seg", "bmask", "bkg")
        for column in ((f"{kind}_path", f"S{length}"), (f"{kind}_ext", "S8"))
    ]
    dtype = [
        *path_columns,
        ("image_id", f"S{max(len(name) for name in stamps.images)}"),
        ("image_flags", "i8"),
        ("magzp", "f4"),
        ("scale", "f4"),
        ("position_offset", "f8"),
    ]
    table = np.zeros(len(stamps.images), dtype=dtype)
    extensions = {"image": b"SCI", "weight": b"WHT", "seg": b"SEG", "bmask": b"MASK", "bkg": b"BACKGROUND"}
    for kind, extension in extensions.items():
        table[f"{kind}_path"] = [row[kind].encode() for row in paths]
        table[f"{kind}_ext"] = [extension if row[kind] else b"" for row in paths]
    table["image_id"] = [name.encode() for name in stamps.images]
    # the pixels are already at the reference zero point, so there is no further factor
    table["magzp"], table["scale"] = ZERO_POINT, 1.0
    return table


def _paths(name: str, *, is_coadd: bool) -> dict[str, str]:
    """Return the keys of the products that an image's stamps were cut from; a coadd has no background to subtract."""
    if is_coadd:
        tile = TileId(name)
        image, mask, seg = (keys.tile(tile, product) for product in ("coadd.fits", "mask.fits", "sources.fits"))
        return {"image": image, "weight": image, "seg": seg, "bmask": mask, "bkg": ""}
    exposure, number = name.rsplit("-", 1)
    ccd = CcdId(exposure=exposure, ccd=int(number))
    image, mask, sources = (keys.ccd(ccd, product) for product in ("image.fits", "mask.fits", "sources.fits"))
    return {"image": image, "weight": image, "seg": "", "bmask": mask, "bkg": sources}


def _metadata(stamps: MultiEpochStamps) -> NDArray[np.void]:
    tile, frame = stamps.tile.encode(), FRAME.encode()
    dtype = [("medsconf", "S9"), ("tilename", f"S{len(tile)}"), ("magzp_ref", "f8"), ("uv_frame", f"S{len(frame)}")]
    return np.array([(b"shearline", tile, ZERO_POINT, frame)], dtype=dtype)


@contextmanager
def scratch_arrays() -> Iterator[Callable[[tuple[int, ...], type[np.generic]], NDArray[Any]]]:
    """Give a function that makes arrays of zeros which lie in files; they are gone after the block."""
    with tempfile.TemporaryDirectory(prefix="shearline-") as folder:
        numbers = itertools.count()

        def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
            return np.memmap(Path(folder) / f"{next(numbers)}.raw", dtype=dtype, mode="w+", shape=shape)

        yield allocate


@contextmanager
def open_stamps(store: DataStore, ref: ProductRef) -> Iterator[MultiEpochStamps]:
    """Open the stamps of a tile; the pixels of images, weights and PSFs are read when a source is asked for.

    The stamps are valid only inside the block. Arrays of images, weights and PSFs are in the byte order of the file;
    what ``epochs`` and ``coadd`` return is in the machine's.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If it is not a MEDS file with all planes, or is truncated.
    """
    require_recorded(store, ref)
    with ExitStack() as stack:
        path = stack.enter_context(store.local_copy(ref.key))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            stamps = _stamps(stack.enter_context(fits.open(path, memmap=True, lazy_load_hdus=True)), ref)
        except (OSError, ValueError, TypeError, KeyError, EOFError, fits.VerifyError) as error:
            raise BadFileError(
                f"{ref.key} ({ref.size} bytes) cannot be read as MEDS: {error}. It may be truncated; run its "
                "stage again."
            ) from error
        yield stamps


def read_stamps(store: DataStore, ref: ProductRef) -> MultiEpochStamps:
    """Return the stamps of a tile, all pixels in memory.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If it is not a MEDS file with all planes, or is truncated.
    """
    with open_stamps(store, ref) as stamps:
        loaded = {name: np.array(getattr(stamps, name), dtype=np.float32) for name in ("image", "weight", "psf")}
        return MultiEpochStamps(**(vars(stamps) | loaded))


def _stamps(hdus: fits.HDUList, ref: ProductRef) -> MultiEpochStamps:
    table, info = get_hdu(hdus, "object_data", ref).data, get_hdu(hdus, "image_info", ref).data
    absent = {"ncutout", "cutout_row", "dudrow", "psf_box_size"} - {name.lower() for name in table.columns.names}
    if absent:
        raise BadFileError(f"{ref.key}: the table object_data lacks the columns {', '.join(sorted(absent))}.")
    first = np.concatenate([[0], np.cumsum(table["ncutout"], dtype=np.int64)])
    source, cell = _cells(first)

    def floats(name: str) -> NDArray[np.float64]:
        return np.asarray(table[name])[source, cell].astype(np.float64)

    def integers(name: str) -> NDArray[np.int64]:
        return np.asarray(table[name])[source, cell].astype(np.int64)

    jacobian = np.stack([floats(name) for name in ("dvdrow", "dvdcol", "dudrow", "dudcol")], axis=-1)
    sizes = {name: int(table["box_size"][0]) for name in ("image", "weight", "seg", "bmask")}
    sizes["psf"] = int(table["psf_box_size"][0])
    planes = {
        name: get_hdu(hdus, extension, ref).data.reshape(-1, sizes[name], sizes[name])
        for name, extension in (*PLANES, *COMPRESSED_PLANES)
    }
    return MultiEpochStamps(
        tile=str(get_hdu(hdus, "metadata", ref).data["tilename"][0]),
        ids=table["id"].astype(np.int64),
        ra=table["ra"].astype(np.float64),
        dec=table["dec"].astype(np.float64),
        first=first,
        images=tuple(str(name) for name in info["image_id"]),
        image_index=integers("file_id"),
        orig_row=floats("orig_row"),
        orig_col=floats("orig_col"),
        start_row=integers("orig_start_row"),
        start_col=integers("orig_start_col"),
        jacobian=jacobian.reshape(-1, 2, 2),
        image=planes["image"],
        weight=planes["weight"],
        psf=planes["psf"],
        seg=np.asarray(planes["seg"], dtype=np.int32),
        bmask=np.asarray(planes["bmask"], dtype=np.int32),
    )
