"""Merge: the catalogues of all tiles as one, every object once."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from astropy.table import Table, TableMergeError, vstack
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.catalogs import read_catalog, write_parquet
from tasks.archive.tables import read_table, write_table
from tasks.errors import DataError
from tasks.products.columns import SURVEY_CATALOG
from tasks.products.config import StageConfig
from tasks.products.footprint import TileFootprint
from tasks.products.identity import ProductRef, SummaryValue
from tasks.science.matching import Resolution, resolve_duplicates
from tasks.stage import stage


class MergeConfig(StageConfig):
    """Settings of merging tiles."""

    tolerance_arcsec: Annotated[float, Field(gt=0, le=60)] = 0.6
    """Detections of different tiles nearer than this are one object."""

    keep_unmatched: bool = False
    """Keep objects in the overlap that only the tile which does not own the place has found: the overlaps go deeper."""


def merge_catalogs(
    catalogs: Sequence[Table], footprints: Sequence[TileFootprint], config: MergeConfig
) -> tuple[Table, dict[str, SummaryValue]]:
    """Merge the catalogues of tiles, and choose one detection of every object in their overlaps.

    Every place belongs to the tile that covers it with the nearest centre. Of several detections of one object that of
    the owner is kept; the order of the tiles changes nothing.

    Parameters
    ----------
    catalogs
        Columns of ``CATALOG``; not changed.
    footprints
        Where the tiles lie, in the same order.
    config
        Settings.

    Returns
    -------
    tuple of Table and dict
        Columns of ``SURVEY_CATALOG``, by tile and number, and how many rows were left out and why.

    Raises
    ------
    DataError
        If there are no catalogues, a tile occurs twice, or columns differ.
    """
    names = [str(catalog["tile_id"][0]) if len(catalog) else "" for catalog in catalogs]
    filled = sorted((name, place) for place, name in enumerate(names) if name)
    if not filled:
        raise DataError(f"None of {len(catalogs)} catalogues has a source, so there is nothing to merge.")
    if len({name for name, _ in filled}) < len(filled):
        raise DataError(f"Tiles occur twice among the {len(filled)} to merge: {', '.join(name for name, _ in filled)}.")
    try:
        table = vstack([catalogs[place] for _, place in filled], join_type="exact", metadata_conflicts="silent")
    except (TableMergeError, ValueError) as error:
        raise DataError(f"The catalogues of {len(filled)} tiles differ in their columns: {error}") from error
    tile = np.repeat(np.arange(len(filled)), [len(catalogs[place]) for _, place in filled])
    found = resolve_duplicates(
        np.asarray(table["ra_win"]),
        np.asarray(table["dec_win"]),
        tile,
        [footprints[place] for _, place in filled],
        tolerance_arcsec=config.tolerance_arcsec,
        keep_unmatched=config.keep_unmatched,
    )
    table["object_id"] = [f"{name}-{number}" for name, number in zip(table["tile_id"], table["number"], strict=True)]
    table["unique_area"] = found.in_unique_area
    kept = table[found.primary]
    kept.meta = {}
    return kept[list(SURVEY_CATALOG.names)], merge_summary(kept, found, len(filled))


def merge_summary(kept: Table, found: Resolution, n_tiles: int) -> dict[str, SummaryValue]:
    """Return what was kept and what was left out."""
    return {
        "n_tiles": n_tiles,
        "n_objects": len(kept),
        "n_measured": int(np.count_nonzero(kept["shape_flags"] == 0)),
        "n_duplicates": int(np.count_nonzero(found.duplicate)),
        "n_outside_unique_area": int(np.count_nonzero(~found.primary & ~found.duplicate)),
    }


@stage(name="merge", subject=lambda _: "survey")
def merge_catalogs_task(catalogs: list[ProductRef], config: MergeConfig, store: DataStore) -> ProductRef:
    """Read the catalogues of all tiles, merge them, store the catalogue of the survey."""
    pairs = [read_catalog(store, ref) for ref in catalogs]
    table, summary = merge_catalogs([pair[0] for pair in pairs], [pair[1] for pair in pairs], config)
    return write_table(store, keys.SURVEY_CATALOG, table, SURVEY_CATALOG, subject="survey", summary=summary)


@stage(name="export_parquet", subject=lambda _: "survey")
def export_parquet_task(catalog: ProductRef, config: MergeConfig, store: DataStore) -> ProductRef:
    """Write the catalogue of the survey as Parquet."""
    table = read_table(store, catalog, SURVEY_CATALOG)
    summary: dict[str, SummaryValue] = {"n_objects": len(table)}
    return write_parquet(store, keys.SURVEY_CATALOG_PARQUET, table, SURVEY_CATALOG, subject="survey", summary=summary)
