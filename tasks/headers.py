"""The WCS index: where every CCD of an exposure lies on the sky, and how its pixels become magnitudes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.fits_wcs import wcs_to_header_text
from tasks.archive.images import read_ccd_image
from tasks.archive.wcs_index import read_index, write_index
from tasks.products.config import StageConfig
from tasks.products.identity import ExposureId, ProductRef, SummaryValue, TileId
from tasks.products.images import CcdImage
from tasks.products.processed import CIRCLE, MJD
from tasks.products.wcs_index import CcdRecord
from tasks.science.geometry import image_footprint
from tasks.science.sphere import bounding_circle
from tasks.stage import stage


class HeadersConfig(StageConfig):
    """Settings of the WCS index."""

    points_per_edge: Annotated[int, Field(ge=1, le=100)] = 5
    """Points that stand for an edge of a CCD: with distortion its edges are curved on the sky."""


def describe_ccd(image: CcdImage, config: HeadersConfig) -> CcdRecord:
    """Return the index record of one CCD.

    Parameters
    ----------
    image
        The CCD; its pixels are not read.
    config
        Settings.

    Returns
    -------
    CcdRecord
        Footprint, coordinate system and photometry.

    Raises
    ------
    WCSError
        If part of the CCD is not on the sky.
    """
    shape = (int(image.sci.shape[0]), int(image.sci.shape[1]))
    outline = image_footprint(image.wcs, shape, points_per_edge=config.points_per_edge)
    return CcdRecord(
        ccd=image.id,
        shape=shape,
        data_section=image.data_section,
        footprint=tuple((float(ra), float(dec)) for ra, dec in outline),
        circle=bounding_circle(outline[:, 0], outline[:, 1]),
        photometry=image.photometry,
        wcs_text=wcs_to_header_text(image.wcs),
    )


def summarize_records(records: Sequence[CcdRecord]) -> dict[str, SummaryValue]:
    """Return where and when an exposure was taken: a circle on the sky that holds its CCDs, and the date.

    Parameters
    ----------
    records
        The CCDs of one exposure, at least one.

    Returns
    -------
    dict
        Centre and radius in degrees, and the modified Julian date of the start.
    """
    outline = np.concatenate([record.outline for record in records])
    circle = bounding_circle(outline[:, 0], outline[:, 1])
    numbers: dict[str, SummaryValue] = dict(zip(CIRCLE, circle, strict=True))
    return numbers | {MJD: min(record.photometry.mjd for record in records)}


@stage(name="headers")
def index_headers_task(
    exposure: ExposureId, images: Sequence[ProductRef], config: HeadersConfig, store: DataStore
) -> ProductRef:
    """Index the CCDs of one exposure."""
    records = [describe_ccd(read_ccd_image(store, image), config) for image in images]
    index = write_index(store, keys.exposure(exposure, "headers.sqlite"), records, subject=exposure)
    return index.model_copy(update={"summary": index.summary | summarize_records(records)})


@stage(name="merge_headers")
def merge_headers_task(
    tile: TileId, indexes: Sequence[ProductRef], config: StageConfig, store: DataStore
) -> ProductRef:
    """Merge the indexes of the exposures that a tile may need."""
    records = [record for index in indexes for record in read_index(store, index)]
    return write_index(store, keys.tile(tile, "headers.sqlite"), records, subject=tile)
