"""Which CCD saw which source of a tile, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.documents import read_document
from tasks.archive.fits_wcs import read_wcs_text
from tasks.archive.sources import read_sources
from tasks.archive.tables import empty_table, write_table
from tasks.products.columns import EPOCHS
from tasks.products.config import StageConfig
from tasks.products.identity import CcdProducts, ProductRef, SummaryValue
from tasks.products.wcs_index import CcdRecord, TileExposures
from tasks.science.geometry import edge_distance, local_jacobian, sky_to_pixel
from tasks.stage import stage


class EpochsConfig(StageConfig):
    """Settings of the search for the CCDs that saw a source."""

    edge_px: Annotated[float, Field(ge=0)] = 0.0
    """A source must be further than this inside the light-sensitive part of a CCD, in pixels."""

    two_ccds: Literal["deepest", "all"] = "deepest"
    """If two CCDs of one exposure saw a source: keep the one on which it is deepest inside, or all of them."""


def find_epochs(sources: Table, tile: TileExposures, config: EpochsConfig) -> Table:
    """Return the CCDs that saw each source.

    Parameters
    ----------
    sources
        Sources of the tile, columns of ``tasks.products.columns.SOURCES``; the windowed positions are used.
    tile
        The CCDs that overlap the tile.
    config
        Settings.

    Returns
    -------
    Table
        Columns of ``tasks.products.columns.EPOCHS``, one row per source and CCD, by source, exposure and CCD; a source
        that no CCD saw has no row.
    """
    seen = [_on_ccd(sources, record, config) for record in tile.ccds]
    table = vstack([empty_table(EPOCHS), *seen], metadata_conflicts="silent")
    order = np.lexsort((table["ccd"], table["exposure"], table["number"]))
    table = table[order]
    return _one_per_exposure(table) if config.two_ccds == "deepest" else table


def _on_ccd(sources: Table, record: CcdRecord, config: EpochsConfig) -> Table:
    wcs = read_wcs_text(record.wcs_text, f"CCD {record.ccd}")
    ra, dec = np.asarray(sources["ra_win"], np.float64), np.asarray(sources["dec_win"], np.float64)
    x, y, found = sky_to_pixel(wcs, ra, dec, record.shape)
    distance = edge_distance(record.data_section, x, y)
    # an unknown position has the distance NaN, which is above nothing
    inside = np.flatnonzero(found & (distance > config.edge_px))
    jacobian = local_jacobian(wcs, x[inside], y[inside])
    columns = {
        "number": np.asarray(sources["number"])[inside],
        "exposure": np.full(inside.size, record.ccd.exposure),
        "ccd": np.full(inside.size, record.ccd.ccd),
        "x": x[inside],
        "y": y[inside],
        "edge_distance": distance[inside],
        "dudx": jacobian[:, 1, 1],
        "dudy": jacobian[:, 1, 0],
        "dvdx": jacobian[:, 0, 1],
        "dvdy": jacobian[:, 0, 0],
    }
    return Table({name: np.asarray(values, EPOCHS[name].dtype) for name, values in columns.items()})


def _one_per_exposure(table: Table) -> Table:
    """Keep, of the rows of one source and exposure, the deepest; of equally deep ones, that of the lower CCD."""
    order = np.lexsort((table["ccd"], -np.asarray(table["edge_distance"]), table["exposure"], table["number"]))
    number, exposure = np.asarray(table["number"])[order], np.asarray(table["exposure"])[order]
    first = np.ones(len(table), np.bool_)
    first[1:] = (number[1:] != number[:-1]) | (exposure[1:] != exposure[:-1])
    return table[np.sort(order[first])]


def count_epochs(sources: Table, epochs: Table) -> NDArray[np.int64]:
    """Return how many CCDs saw each source, in the order of the sources, int64."""
    numbers, counts = np.unique(np.asarray(epochs["number"]), return_counts=True)
    by_number = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return np.array([by_number.get(int(number), 0) for number in sources["number"]], dtype=np.int64)


@stage(name="epochs")
def find_epochs_task(
    sources: ProductRef, exposures: ProductRef, ccds: Sequence[CcdProducts], config: EpochsConfig, store: DataStore
) -> ProductRef:
    """Read the sources of a tile and its CCDs, find the epochs, store them."""
    tile, table = read_document(store, exposures, TileExposures), read_sources(store, sources).table
    tile.require(ccd.ccd for ccd in ccds)
    epochs = find_epochs(table, tile, config)
    unseen = int(np.count_nonzero(count_epochs(table, epochs) == 0))
    summary: dict[str, SummaryValue] = {"n_epochs": len(epochs), "n_sources_without_epochs": unseen}
    return write_table(store, keys.tile(tile.tile, "epochs.fits"), epochs, EPOCHS, subject=tile.tile, summary=summary)
