"""FITS bytes: written the same every time, read with errors that say what is wrong."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed._compression import CfitsioException
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from blocks.store import BadKeyError, DataStore, ObjectNotFoundError, StoreError
from tasks.archive.provenance import provenance_cards
from tasks.errors import BadFileError, MissingProductError
from tasks.products.identity import ProductRef, SummaryValue

GZIP_MAGIC = b"\x1f\x8b"
GZIP_TIME = slice(4, 8)
MAX_EXACT_INTEGER = 1 << 24
TILE_ROWS = 64
# below it another request costs more than the bytes
LARGE_BYTES = 1 << 20
NOT_FITS = {
    b"": "it is empty; copy it again",
    b"version https://git-lfs": "it is a Git LFS pointer to the file; run `git lfs pull`",
    GZIP_MAGIC: "it is compressed with gzip as a whole; uncompress it, or compress its HDUs with fpack",
}
BROKEN = (OSError, ValueError, TypeError, KeyError, EOFError, fits.VerifyError, zlib.error, CfitsioException)
"""What astropy's readers raise of bytes that are not what their header says."""


def image_hdu(data: NDArray[np.generic], name: str, header: fits.Header | None = None) -> fits.CompImageHDU:
    """Return a lossless tile-compressed image HDU.

    Integers, and floats that are all small integers as raw ADU are, are Rice-compressed, which is several times faster
    and smaller than the gzip that other floats need.

    Parameters
    ----------
    data
        Image of two or more dimensions; float32 and integer types keep their values to the bit.
    name
        EXTNAME.
    header
        Further cards, such as the WCS.
    """
    array: NDArray[np.generic] = np.ascontiguousarray(data)
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind == "f" and _is_integral(array):
        array = array.astype(np.int32)
    kind = "RICE_1" if array.dtype.kind in "iu" and array.dtype.itemsize <= 4 else "GZIP_2"
    tile = (1,) * (array.ndim - 2) + (min(TILE_ROWS, array.shape[-2]), array.shape[-1])
    hdu = fits.CompImageHDU(array, compression_type=kind, quantize_level=0.0, tile_shape=tile, name=name)
    if header is not None:
        hdu.header.extend(header.cards, strip=True, unique=True)
    return hdu


def _is_integral(array: NDArray[np.generic]) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(
            np.isfinite(array).all()
            and (np.abs(array) < MAX_EXACT_INTEGER).all()
            and (array == np.rint(array)).all()
            and not np.signbit(array[array == 0]).any()
        )


def fits_bytes(hdus: Sequence[fits.hdu.base._BaseHDU]) -> bytes:
    """Return the bytes of a FITS file, the same whenever they are made from the same HDUs."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        fits.HDUList(list(hdus)).writeto(buffer, output_verify="fix", checksum=False)
    return _without_gzip_times(buffer.getvalue())


def _without_gzip_times(data: bytes) -> bytes:
    """Set the time stamp of every gzip member in tile-compressed HDUs to zero: astropy writes the time of day."""
    result = bytearray(data)
    with fits.open(io.BytesIO(data), disable_image_compression=True) as hdus:
        for index, hdu in enumerate(hdus):
            if hdu.header.get("ZIMAGE") and "GZIP" in str(hdu.header.get("ZCMPTYPE")):
                _zero_gzip_times(result, hdu, hdus.fileinfo(index)["datLoc"])
    return bytes(result)


def _zero_gzip_times(data: bytearray, hdu: fits.BinTableHDU, start: int) -> None:
    width, rows = hdu.header["NAXIS1"], hdu.header["NAXIS2"]
    heap = start + hdu.header.get("THEAP", width * rows)
    table = np.frombuffer(bytes(data[start : start + width * rows]), np.uint8).reshape(rows, width)
    for column in hdu.columns:
        if column.name not in {"COMPRESSED_DATA", "GZIP_COMPRESSED_DATA"}:
            continue
        dtype = np.dtype(">i8") if column.format.lstrip("1").startswith("Q") else np.dtype(">i4")
        offset = hdu.data.dtype.fields[column.name][1]
        cells = np.ascontiguousarray(table[:, offset : offset + 2 * dtype.itemsize]).view(dtype)
        for length, position in cells:
            begin = heap + int(position)
            if length >= GZIP_TIME.stop and data[begin : begin + 2] == GZIP_MAGIC:
                data[begin + GZIP_TIME.start : begin + GZIP_TIME.stop] = bytes(4)


def put_fits(
    store: DataStore,
    key: str,
    hdus: Sequence[fits.hdu.base._BaseHDU],
    *,
    subject: object,
    summary: dict[str, SummaryValue] | None = None,
    header: fits.Header | None = None,
) -> ProductRef:
    """Publish extensions behind a primary header that carries the provenance.

    Parameters
    ----------
    store, key
        Where to.
    hdus
        The extensions; the primary HDU is made here.
    subject
        What the product is about; also written as OBJECTID.
    summary
        Numbers for tables and reports.
    header
        Further cards of the primary header.
    """
    return put_bytes(store, key, fits_bytes([primary_hdu(subject, header), *hdus]), subject=subject, summary=summary)


def primary_hdu(subject: object, header: fits.Header | None = None) -> fits.PrimaryHDU:
    """Return the primary HDU of a product: what it is about, further cards, and the provenance."""
    primary = fits.PrimaryHDU()
    primary.header["OBJECTID"] = (str(subject), "exposure-CCD, exposure or tile")
    if header is not None:
        primary.header.extend(header.cards, strip=True, unique=True)
    primary.header.extend(provenance_cards().cards, unique=True)
    return primary


def put_bytes(
    store: DataStore,
    key: str,
    data: bytes,
    *,
    subject: object,
    summary: dict[str, SummaryValue] | None = None,
) -> ProductRef:
    """Publish bytes and return their reference."""
    stored = store.put_bytes(key, data)
    return ProductRef(key=key, sha256=stored.sha256, size=stored.size, subject=str(subject), summary=summary or {})


def get_bytes(store: DataStore, ref: ProductRef) -> bytes:
    """Return the bytes of a product.

    Raises
    ------
    MissingProductError
        If the product is not in the store, or is not the one that was recorded.
    """
    require_recorded(store, ref)
    return store.read_bytes(ref.key, cached=ref.size >= LARGE_BYTES)


def require_recorded(store: DataStore, ref: ProductRef, *, checksum: bool = True) -> None:
    """Make sure that what lies under a key is what the reference means.

    Another run may have written another version since; reading it would record wrong inputs for right ones.

    Parameters
    ----------
    store, ref
        Which product.
    checksum
        Whether to compare the checksum; if not, only the size, which is quick for large files.

    Raises
    ------
    MissingProductError
        If the product is not in the store, or is not the one that was recorded.
    """
    try:
        found = store.stat(ref.key) if checksum else None
        size = store.size(ref.key) if found is None else found.size
    except (ObjectNotFoundError, BadKeyError) as error:
        raise MissingProductError(
            f"{ref.key} of {ref.subject or 'unknown'} is not in {store.url}; run its stage again."
        ) from error
    if size != ref.size or (found is not None and found.sha256 != ref.sha256):
        raise MissingProductError(
            f"{ref.key} of {ref.subject or 'unknown'} in {store.url} is not the file that was recorded ({size} bytes, "
            f"recorded {ref.size}): it was written again since; run what made it, and this, again."
        )


@contextmanager
def open_fits(store: DataStore, ref: ProductRef, *, checksum: bool = True) -> Iterator[fits.HDUList]:
    """Open a FITS product; only the HDUs that are read are loaded.

    Parameters
    ----------
    store, ref
        Which product.
    checksum
        Whether to compare the checksum first; if not, only the size: for raw files of many CCDs, read one by one.

    Raises
    ------
    MissingProductError
        If the product is not in the store, or is not the one that was recorded.
    BadFileError
        If it is not a FITS file or is truncated.
    StoreError
        If the store cannot be read now.
    """
    require_recorded(store, ref, checksum=checksum)
    with store.open(ref.key, whole=checksum) as handle, warnings.catch_warnings():
        # astropy says of a truncated file as a warning what its reader then fails of
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            _refuse_other_formats(handle.read(64), ref)
            handle.seek(0)
            with fits.open(handle, memmap=False, lazy_load_hdus=True) as hdus:
                yield hdus
        except StoreError:
            raise
        except BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                # the disk or the network failed, not the file: this may pass
                raise StoreError(f"{store.url}: cannot read {ref.key}: {error}") from error
            refusal = BadFileError(
                f"{ref.key} ({ref.size} bytes) cannot be read as FITS: {error}. It may be truncated; copy it again."
            )
            try:
                raise refusal from _picklable(error)
            finally:
                # tblib, which Dask brings, pickles the context of an error as well as its cause
                refusal.__context__ = None


def _picklable(error: Exception) -> Exception:
    """Return an error that can come back from another process as a cause: astropy's own of broken tiles cannot."""
    return OSError(str(error)) if isinstance(error, CfitsioException) else error


def _refuse_other_formats(start: bytes, ref: ProductRef) -> None:
    for magic, reason in NOT_FITS.items():
        if start == magic or (magic and start.startswith(magic)):
            raise BadFileError(f"{ref.key} ({ref.size} bytes) cannot be read as FITS: {reason}.")


def get_hdu(hdus: fits.HDUList, name: str | int, ref: ProductRef) -> fits.hdu.base._BaseHDU:
    """Return an HDU by name or number.

    Raises
    ------
    BadFileError
        If the file has no such HDU, or ends before it does.
    """
    try:
        hdu = hdus[name]
        # of the HDU and not of the list, which would read the headers of all others for it
        info = hdu.fileinfo()
    except (KeyError, IndexError) as error:
        present = ", ".join(f"{number} {hdu.name}".strip() for number, hdu in enumerate(hdus))
        raise BadFileError(f"{ref.key} has no HDU {name}; it has {present}, in {ref.size} bytes.") from error
    end = info["datLoc"] + info["datSpan"]
    if end > ref.size:
        raise BadFileError(
            f"{ref.key} is truncated: HDU {name} ends at byte {end}, the file at byte {ref.size}; copy it again."
        )
    return hdu
