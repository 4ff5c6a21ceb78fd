"""The image of a tile that was stacked elsewhere, taken in the place of a coadd."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.coadds import CoaddFile
from tasks.archive.documents import read_document
from tasks.archive.raw_stacks import StackHeader, read_stack_header, read_stack_rows
from tasks.errors import MissingKeywordError, NoGoodPixelsError
from tasks.products.config import StageConfig
from tasks.products.identity import ProductRef, RawStack
from tasks.products.images import CoaddInput, CoaddMetadata, flux_scale
from tasks.products.instrument import HeaderValue
from tasks.products.wcs_index import TileExposures
from tasks.science.stacks import check_stack_grid, stack_planes
from tasks.stage import stage

BAND_ROWS = 1024
MAX_ZERO_POINT = 50.0


class ExternalStackConfig(StageConfig):
    """Where the images of tiles are that were stacked elsewhere, and what their headers say."""

    image: str
    """Path of the image in the raw store, with `{tile}` (`210.296`), or `{column}` and `{row}` (`210`, `296`)."""

    weight: str | None = None
    """Path of its weight, an inverse variance up to a factor; none gives every pixel that is not 0 the same weight."""

    zero_point: HeaderValue = "PHOTZP"
    """Keyword of the zero point of the pixel values in magnitudes, or its value."""

    gain: HeaderValue = "GAIN"
    """Keyword of the electrons per unit of the pixel values, or their number; 0 is a stack without photon noise."""

    saturation: HeaderValue = "SATURATE"
    """Keyword of the saturation level in units of the pixel values, or its value."""

    epochs: Literal["history", "overlapping"] = "history"
    """Epochs of the sources: the exposures that the HISTORY cards of the stack name, or all that overlap the tile."""

    max_offset_px: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """How far the corners of the stack may be from those of the tile, in pixels."""

    @field_validator("image", "weight")
    @classmethod
    def _differs_from_tile_to_tile(cls, value: str | None) -> str | None:
        if value is not None and "{tile}" not in value and not ("{column}" in value and "{row}" in value):
            raise ValueError("must name the tile: write {tile}, or {column} and {row}, where its name stands")
        return value


def describe_stack(stack: StackHeader, tile: TileExposures, config: ExternalStackConfig) -> tuple[CoaddMetadata, float]:
    """Return what a stack is like at zero point 30, and the factor that brings it there.

    Parameters
    ----------
    stack
        The stack; its pixels are not read.
    tile
        Where the tile is, what its image is like, and the CCDs that count as its inputs.
    config
        Settings.

    Raises
    ------
    DataError
        If the stack is not the image of this tile, or its headers do not say what is needed.
    """
    check_stack_grid(stack.name, stack.wcs, stack.shape, tile, config.max_offset_px)
    zero_point = stack.number(config.zero_point)
    saturation, gain = stack.number(config.saturation), stack.number(config.gain)
    if abs(zero_point) > MAX_ZERO_POINT or saturation <= 0 or gain < 0:
        raise MissingKeywordError(
            f"{stack.name} has the zero point {zero_point:g}, the saturation level {saturation:g}, the gain {gain:g}; "
            f"a zero point lies within {MAX_ZERO_POINT:g} magnitudes of 0, a level is above 0, and a gain is not below."
        )
    scale = flux_scale(zero_point)
    metadata = CoaddMetadata(
        saturation=saturation * scale,
        gain=gain / scale,
        inputs=tuple(CoaddInput(record.ccd, record.photometry) for record in tile.ccds),
        pixel_scale_arcsec=tile.pixel_scale_arcsec,
        exposure_time_s=stack.number_or_nan("EXPTIME"),
    )
    return metadata, scale


def copy_stack(raw: DataStore, stack: RawStack, size_px: int, file: CoaddFile, scale: float) -> float:
    """Copy a stack some rows at a time, times a factor; return the share of its pixels that hold something.

    Raises
    ------
    NoGoodPixelsError
        If none does.
    """
    covered = 0
    for first in range(0, size_px, BAND_ROWS):
        rows = slice(first, min(first + BAND_ROWS, size_px))
        planes = stack_planes(*read_stack_rows(raw, stack, rows), scale)
        covered += int(np.count_nonzero(planes.weight))
        file.append(planes)
    if not covered:
        raise NoGoodPixelsError(
            f"The external stack {stack.image.key} of tile {stack.tile} has no pixel with a finite value and a "
            "positive weight."
        )
    return covered / size_px**2


@stage(name="external_stack")
def accept_stack_task(
    exposures: ProductRef, stack: RawStack, config: ExternalStackConfig, store: DataStore, raw: DataStore
) -> ProductRef:
    """Read a stack of the raw store, check it against the tile, store it as the tile's coadd."""
    tile, header = read_document(store, exposures, TileExposures), read_stack_header(raw, stack)
    metadata, scale = describe_stack(header, tile, config)
    key = keys.tile(tile.tile, "external_stack.fits")
    with CoaddFile(header.shape) as file:
        covered = copy_stack(raw, stack, tile.size_px, file, scale)
        return file.publish(store, key, tile.tile, header.wcs, metadata, metadata.summary(covered))
