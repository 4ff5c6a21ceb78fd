"""Tile-compressed images that are written some rows at a time, so that no plane need ever be in memory as a whole.

astropy compresses an image when it has all of it. Here each strip of rows is compressed as it comes and kept in a
temporary file; the header, which says how many there are, is written at the end (FITS standard 4.0, section 10).
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from tasks.archive.fits_files import TILE_ROWS

FITS_BLOCK = 2880
COMPRESSION_LEVEL = 1
"""Noise hardly shrinks: level 1 gives files some per cent larger than level 9, in a small part of the time."""
SIGN_BIT = np.uint32(1 << 31)
BITPIX = {"f4": -32, "i4": 32, "u4": 32}

Map = Callable[[Callable[[NDArray[np.generic]], bytes], Iterable[NDArray[np.generic]]], Iterable[bytes]]


class TiledPlane:
    """One plane of an image on its way into a file of FITS: compressed strips of rows.

    Parameters
    ----------
    file
        Empty file that keeps the strips meanwhile.
    shape
        Shape (ny, nx) of the plane.
    dtype
        float32, int32 or uint32.
    compress_with
        Applies a function to strips, in their order: ``map``, or that of an executor; gzip does not hold the GIL.

    Raises
    ------
    ValueError
        If the type is another one.
    """

    def __init__(
        self, file: BinaryIO, shape: tuple[int, int], dtype: type[np.generic], compress_with: Map = map
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        if self.dtype.str[1:] not in BITPIX:
            raise ValueError(f"an image of type {self.dtype} cannot be written strip by strip")
        self._file, self._map = file, compress_with
        self._lengths: list[int] = []
        self._rows = 0

    def append(self, rows: NDArray[np.generic]) -> None:
        """Add the next rows of the plane, shape (n, nx); n is a multiple of ``TILE_ROWS`` except at the end.

        Raises
        ------
        ValueError
            If the rows do not follow those that are there.
        """
        n, end = len(rows), self._rows + len(rows)
        fits_in = rows.shape[1:] == self.shape[1:] and rows.dtype == self.dtype and end <= self.shape[0]
        if not fits_in or self._rows % TILE_ROWS or (n % TILE_ROWS and end != self.shape[0]):
            raise ValueError(
                f"rows of shape {rows.shape} and type {rows.dtype} do not follow {self._rows} rows of a plane of shape "
                f"{self.shape} and type {self.dtype}"
            )
        for strip in self._map(_compress, (rows[start : start + TILE_ROWS] for start in range(0, n, TILE_ROWS))):
            self._file.write(strip)
            self._lengths.append(len(strip))
        self._rows = end

    def append_zeros(self, n: int) -> None:
        """Add rows of zeros."""
        width = self.shape[1]
        for start in range(0, n, TILE_ROWS):
            self.append(np.zeros((min(TILE_ROWS, n - start), width), self.dtype))

    @property
    def rows(self) -> int:
        """Number of rows that were added."""
        return self._rows

    @property
    def lengths(self) -> list[int]:
        """Number of bytes of every strip."""
        return self._lengths

    def copy_to(self, target: BinaryIO) -> None:
        """Write the compressed strips into a file."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, target, 1 << 20)


def _compress(strip: NDArray[np.generic]) -> bytes:
    """Compress by GZIP_2: the most significant bytes of all values first (FITS standard 4.0, section 10.4.2)."""
    values = np.bitwise_xor(strip, SIGN_BIT) if strip.dtype == np.uint32 else strip
    swapped = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder(">"))
    shuffled = swapped.view(np.uint8).reshape(-1, values.dtype.itemsize).T
    # the time is part of a gzip header, and the same image is to give the same bytes
    return gzip.compress(shuffled.tobytes(), COMPRESSION_LEVEL, mtime=0)


def write_tiled_image(
    target: BinaryIO, name: str, planes: Sequence[TiledPlane], header: fits.Header | None = None, *, cube: bool = False
) -> None:
    """Write an image extension.

    Parameters
    ----------
    target
        File that ends with an HDU.
    name
        EXTNAME.
    planes
        Its planes, all of one shape and type, and complete.
    header
        Further cards, such as the WCS.
    cube
        Whether the image has a third axis though it has one plane; several planes always have.

    Raises
    ------
    ValueError
        If a plane lacks rows.
    """
    for plane in planes:
        if plane.rows != plane.shape[0]:
            raise ValueError(f"{name} has {plane.rows} of its {plane.shape[0]} rows")
    lengths = np.array([length for plane in planes for length in plane.lengths], np.int64)
    cards = _header(name, planes, lengths, cube=cube or len(planes) > 1)
    if header is not None:
        cards.extend(header.cards, strip=True, unique=True)
    target.write(cards.tostring().encode("ascii"))
    target.write(np.stack([lengths, np.cumsum(lengths) - lengths], axis=1).astype(">i8").tobytes())
    for plane in planes:
        plane.copy_to(target)
    target.write(bytes(-(16 * len(lengths) + int(lengths.sum())) % FITS_BLOCK))


def _header(name: str, planes: Sequence[TiledPlane], lengths: NDArray[np.int64], *, cube: bool) -> fits.Header:
    plane = planes[0]
    axes = (*plane.shape[::-1], len(planes)) if cube else plane.shape[::-1]
    tile = (plane.shape[1], min(TILE_ROWS, plane.shape[0]), 1)
    header = fits.Header()
    header["XTENSION"] = ("BINTABLE", "binary table with a compressed image")
    header["BITPIX"], header["NAXIS"], header["NAXIS1"], header["NAXIS2"] = 8, 2, 16, len(lengths)
    header["PCOUNT"], header["GCOUNT"], header["TFIELDS"] = int(lengths.sum()), 1, 1
    header["TTYPE1"], header["TFORM1"] = "COMPRESSED_DATA", f"1QB({lengths.max()})"
    header["ZIMAGE"] = (True, "this is a tile-compressed image")
    header["ZBITPIX"], header["ZNAXIS"] = BITPIX[plane.dtype.str[1:]], len(axes)
    for number, (length, step) in enumerate(zip(axes, tile, strict=False), start=1):
        header[f"ZNAXIS{number}"], header[f"ZTILE{number}"] = length, step
    header["ZCMPTYPE"] = ("GZIP_2", "gzip of shuffled bytes, lossless")
    if plane.dtype.kind == "f":
        header["ZQUANTIZ"] = ("NONE", "values are kept to the bit")
    if plane.dtype.kind == "u":
        header["BSCALE"], header["BZERO"] = 1, int(SIGN_BIT)
    header["EXTNAME"] = name
    return header
