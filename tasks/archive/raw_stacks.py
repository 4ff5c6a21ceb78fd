"""Images of tiles that were stacked elsewhere, by SWarp or by a survey: found and read in the raw store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from blocks.store import BadKeyError, DataStore, ObjectNotFoundError
from tasks.archive.fits_files import get_hdu, open_fits
from tasks.archive.fits_wcs import read_wcs
from tasks.archive.raw import raw_file
from tasks.errors import BadFileError, DataError, MissingKeywordError, ShapeMismatchError
from tasks.products.identity import ProductRef, RawStack, TileId
from tasks.products.instrument import HeaderValue

Plane = NDArray[np.float32]
IMAGE_AXES = 2


def stack_keys(tile: TileId, image: str, weight: str | None) -> tuple[str, ...]:
    """Return where the image of a stack is, and its weight if there is to be one.

    Parameters
    ----------
    tile
        Which tile.
    image, weight
        Paths in the raw store with ``{tile}``, or with ``{column}`` and ``{row}``.
    """
    names = {"tile": str(tile), "column": f"{tile.column:03d}", "row": f"{tile.row:03d}"}
    return tuple(_filled(template, names) for template in (image, weight) if template is not None)


def _filled(template: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        template = template.replace(f"{{{name}}}", value)
    return template


def stack_version(raw: DataStore, key: str) -> str | None:
    """Return what changes when a file of a stack is written again; none if it is not in the raw store."""
    try:
        return raw.version(key)
    except (ObjectNotFoundError, BadKeyError):
        return None


def find_raw_stack(raw: DataStore, tile: TileId, image: str, weight: str | None) -> RawStack:
    """Return the files of the stack of a tile, with their checksums.

    Parameters
    ----------
    raw
        The raw store.
    tile, image, weight
        As for `stack_keys`.

    Raises
    ------
    DataError
        If a file is not in the raw store.
    """
    keys = stack_keys(tile, image, weight)
    absent = [key for key in keys if stack_version(raw, key) is None]
    if absent:
        raise DataError(
            f"Tile {tile} has no external stack: {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not in "
            f"{raw.url}; deliver the file, or correct external_stack."
        )
    refs = [raw_file(raw, key, tile) for key in keys]
    return RawStack(tile=tile, image=refs[0], weight=refs[1] if len(refs) > 1 else None)


@dataclass(frozen=True)
class StackHeader:
    """What the headers of a stack say."""

    name: str
    """What it is, for errors."""
    wcs: WCS
    shape: tuple[int, int]
    """Shape (ny, nx) of the image."""
    headers: tuple[fits.Header, fits.Header]
    """The header of the image, and the primary header of its file."""

    def number(self, source: HeaderValue) -> float:
        """Return the value of a keyword, or a number that stands for it.

        Raises
        ------
        MissingKeywordError
            If the keyword is in neither header, or not a number.
        """
        found = math.nan
        with suppress(ValueError):
            # a number from the command line is a text, and no keyword is a number
            found = float(source)
        if not math.isfinite(found):
            found = self.number_or_nan(str(source))
        if math.isnan(found):
            raise MissingKeywordError(
                f"{self.name} has no number {source} in its headers; set the number itself in external_stack, or the "
                "keyword that holds it."
            )
        return found

    def number_or_nan(self, keyword: str) -> float:
        """Return the value of a keyword; NaN if there is none, or it is not a finite number."""
        for header in self.headers:
            try:
                number = float(str(header[keyword]))
            except (KeyError, ValueError):
                continue
            if math.isfinite(number):
                return number
        return math.nan

    @property
    def history(self) -> tuple[str, ...]:
        """The HISTORY cards of both headers."""
        return tuple(str(line) for header in self.headers for line in header.get("HISTORY", ()))


def read_stack_header(raw: DataStore, stack: RawStack) -> StackHeader:
    """Return what the headers of a stack say.

    Raises
    ------
    MissingProductError
        If the file is not the one that was found.
    BadFileError
        If it is truncated, or has no image.
    WCSError
        If the image has no usable coordinate system.
    """
    name = f"The external stack {stack.image.key} of tile {stack.tile}"
    with open_fits(raw, stack.image, checksum=False) as hdus:
        image = _image_hdu(hdus, stack.image)
        shape, headers = (int(image.shape[0]), int(image.shape[1])), (image.header.copy(), hdus[0].header.copy())
    return StackHeader(name, read_wcs(headers[0], name), shape, headers)


def read_stack_rows(raw: DataStore, stack: RawStack, rows: slice) -> tuple[Plane, Plane | None]:
    """Return some rows of image and weight as float32, shape (n, nx) each; no weight if there is no such file.

    Raises
    ------
    MissingProductError
        If a file is not the one that was found.
    BadFileError
        If a file is truncated, or has no image.
    ShapeMismatchError
        If the weight has another shape than the image.
    """
    sci, shape = _rows(raw, stack.image, rows)
    if stack.weight is None:
        return sci, None
    weight, other = _rows(raw, stack.weight, rows)
    if other != shape:
        raise ShapeMismatchError(
            f"The external stack {stack.image.key} of tile {stack.tile} has the shape {shape}, its weight "
            f"{stack.weight.key} the shape {other}; both must be of one stack."
        )
    return sci, weight


def _rows(raw: DataStore, ref: ProductRef, rows: slice) -> tuple[Plane, tuple[int, ...]]:
    with open_fits(raw, ref, checksum=False) as hdus:
        hdu = _image_hdu(hdus, ref)
        return np.asarray(hdu.section[rows]).astype(np.float32, copy=False), tuple(hdu.shape)


def _image_hdu(hdus: fits.HDUList, ref: ProductRef) -> fits.ImageHDU:
    for number, hdu in enumerate(hdus):
        if hdu.is_image and hdu.header.get("NAXIS") == IMAGE_AXES:
            return get_hdu(hdus, number, ref)
    raise BadFileError(f"{ref.key} of tile {ref.subject} has no image of two axes in any of its {len(hdus)} HDUs.")
