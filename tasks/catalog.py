"""Catalogue: everything that is known of every detected source of a tile, in one table."""

from typing import Annotated, Self

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from pydantic import Field, model_validator

from blocks.store import DataStore
from tasks.archive.catalogs import write_catalog
from tasks.archive.documents import read_document
from tasks.archive.planes import read_plane
from tasks.archive.sources import read_sources
from tasks.archive.tables import read_table
from tasks.products.columns import CATALOG, EPOCHS, SHAPES, SPREAD, catalog_name
from tasks.products.config import StageConfig
from tasks.products.dq import MaskFlag
from tasks.products.identity import ProductRef, TileId
from tasks.products.wcs_index import TileExposures
from tasks.science.cutouts import sample_nearest
from tasks.science.joining import count_by_number, rows_by_number
from tasks.science.metacal import ShapeFlag
from tasks.stage import stage


class CatalogConfig(StageConfig):
    """Settings of the catalogue."""

    class_error_factor: Annotated[float, Field(ge=0)] = 2.0
    """Classes are cut in the spread model plus this many of its standard errors."""

    star_limit: Annotated[float, Field(gt=0)] = 0.003
    """Sources whose classifier is nearer to 0 than this are stars."""

    galaxy_limit: Annotated[float, Field(gt=0)] = 0.01
    """Sources whose classifier is larger than this are galaxies; what is neither is class 2."""

    @model_validator(mode="after")
    def _classes_do_not_overlap(self) -> Self:
        if self.galaxy_limit < self.star_limit:
            raise ValueError(f"galaxy_limit {self.galaxy_limit} must not be below star_limit {self.star_limit}")
        return self


def make_catalog(
    tile: str,
    sources: Table,
    mask: NDArray[np.uint32],
    epochs: Table,
    spread: Table,
    shapes: Table,
    config: CatalogConfig,
) -> Table:
    """Join the tables of a tile.

    Parameters
    ----------
    tile
        Name of the tile.
    sources
        Columns of ``SOURCES``; gives the rows of the catalogue and their order. No table is changed.
    mask
        Lensing mask of the tile, shape (ny, nx).
    epochs
        Columns of ``EPOCHS``, one row per source and CCD.
    spread, shapes
        Columns of ``SPREAD`` and ``SHAPES``, one row per source in any order.
    config
        Settings.

    Returns
    -------
    Table
        Columns of ``CATALOG``, one row per source. A source without a shape has NaN and the flag NO_ATTEMPT.

    Raises
    ------
    DataError
        If a table does not have exactly one row per source, or epochs of sources that do not exist.
    """
    catalog = sources.copy()
    number = np.asarray(catalog["number"], dtype=np.int64)
    who = f"Tile {tile}: table"
    catalog["tile_id"] = np.full(len(catalog), tile, dtype="U16")
    outside = int(MaskFlag.MISSING)
    catalog["mask"] = sample_nearest(mask, np.asarray(catalog["y_win"]), np.asarray(catalog["x_win"]), fill=outside)
    catalog["n_epoch"] = count_by_number(number, epochs["number"], who=f"{who} {EPOCHS.name}")
    for schema, table in ((SPREAD, spread), (SHAPES, shapes)):
        rows = rows_by_number(number, table["number"], who=f"{who} {schema.name}")
        for name in schema.names:
            if name != "number":
                catalog[catalog_name(schema, name)] = table[name][rows]
    classifier = catalog["spread_model"] + config.class_error_factor * catalog["spreaderr_model"]
    # nothing is true of NaN, so what has no spread model is neither
    is_star, is_galaxy = np.abs(classifier) < config.star_limit, classifier > config.galaxy_limit
    catalog["spread_class"] = np.select([is_star, is_galaxy], [0, 1], default=2)
    unmeasured = ~(np.isfinite(catalog["g1_noshear"]) & np.isfinite(catalog["g2_noshear"]))
    # a measurement that left nothing behind must not look clean, whatever its own flags say
    catalog["shape_flags"][unmeasured] |= int(ShapeFlag.NO_ATTEMPT)
    return catalog[list(CATALOG.names)]


@stage(name="catalog")
def make_catalog_task(
    tile: TileId,
    exposures: ProductRef,
    sources: ProductRef,
    mask: ProductRef,
    epochs: ProductRef,
    spread: ProductRef,
    shapes: ProductRef,
    config: CatalogConfig,
    store: DataStore,
) -> ProductRef:
    """Read the tables of a tile, join them, store the catalogue."""
    catalog = make_catalog(
        str(tile),
        read_sources(store, sources).table,
        read_plane(store, mask, "MASK"),
        read_table(store, epochs, EPOCHS),
        read_table(store, spread, SPREAD),
        read_table(store, shapes, SHAPES),
        config,
    )
    return write_catalog(store, catalog, read_document(store, exposures, TileExposures))
