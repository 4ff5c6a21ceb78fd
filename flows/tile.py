"""One tile: coadd, detect, and joint multi-epoch shapes of every source."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow

from blocks.store import DataStore
from flows.artifacts import show_tile
from flows.claim import claim
from flows.config import TileConfig
from flows.exposure import star_catalog
from flows.external_stack import TileInputs, tile_inputs
from flows.notifications import TELL
from flows.outcome import TASK_RUNNER, refusal_kept, verify_products
from flows.recipes import read_near, tile_recipe
from tasks.archive.documents import read_document
from tasks.archive.manifests import write_tile_products
from tasks.catalog import make_catalog_task
from tasks.coadd import coadd_tile_task
from tasks.detect import detect_tile_task
from tasks.epochs import find_epochs_task
from tasks.errors import DataError
from tasks.external_stack import accept_stack_task
from tasks.find_exposures import find_exposures_task
from tasks.headers import merge_headers_task
from tasks.mask import mask_tile_task
from tasks.products.identity import CcdProducts, ExposureId, ExposureProducts, TileId, TileProducts
from tasks.products.wcs_index import TileExposures
from tasks.psf_interp import interpolate_psf_task
from tasks.report import write_tile_report_task
from tasks.runner import LOCAL, Runner
from tasks.session import session
from tasks.shapes import measure_shapes_task
from tasks.spread_model import measure_spread_task
from tasks.stamps import cut_stamps_task


@flow(name="tile", flow_run_name="tile {tile}", task_runner=TASK_RUNNER, **TELL)
def process_tile(
    tile: TileId,
    config: TileConfig,
    store: DataStore,
    raw: DataStore,
    runner: Runner = LOCAL,
    exposures: tuple[ExposureId, ...] = (),
) -> TileProducts:
    """Take the processed exposures of a tile to its shape catalogue.

    Parameters
    ----------
    tile
        Cell of the survey grid.
    config
        Settings of every stage.
    store
        Where the products are and go.
    raw
        Where star catalogue and external stacks are; never written.
    runner
        Where the stages run.
    exposures
        Processed exposures that may overlap the tile, those that do not are left out; empty takes all that are
        processed.

    Returns
    -------
    TileProducts
        The products by stage; also published as ``products.json``.

    Raises
    ------
    DataError
        If no exposure overlaps the tile, or a stage cannot work with what there is.
    """
    with claim(store, f"tile-{tile}"), session(runner):
        near = read_near(store, tile, config.find_exposures, exposures)
        recipe = tile_recipe(tile, near, config, raw)
        with refusal_kept(store, tile, recipe):
            if not near:
                raise DataError(f"No processed exposure overlaps tile {tile}; process the exposures around it first.")
            inputs = tile_inputs(tile, near, config.external_stack, raw)
            products = _process(tile, inputs, config, store, raw).model_copy(update={"recipe": recipe})
        verify_products(store, products.all_products(), f"tile {tile}")
        write_tile_products(store, products)
        report = write_tile_report_task(products, config.report, store)
        show_tile(products, report, store)
        return products


def _process(tile: TileId, inputs: TileInputs, config: TileConfig, store: DataStore, raw: DataStore) -> TileProducts:
    """Run the stages of a tile."""
    index = merge_headers_task(tile, [item.headers for item in inputs.exposures], config.find_exposures, store)
    overlap = find_exposures_task(tile, index, config.find_exposures, store)
    ccds = _overlapping(inputs.exposures, read_document(store, overlap, TileExposures))
    stars = star_catalog(raw, config.star_catalog, tile)
    if inputs.stack is not None and config.external_stack is not None:
        coadd = accept_stack_task(overlap, inputs.stack, config.external_stack, store, raw)
    else:
        coadd = coadd_tile_task(tile, overlap, ccds, config.coadd, store)
    mask = mask_tile_task(coadd, stars, config.mask, store, raw)
    sources = detect_tile_task(coadd, mask, config.detect, store)
    epochs = find_epochs_task(sources, overlap, ccds, config.epochs, store)
    psf = interpolate_psf_task(epochs, ccds, config.psf_interp, store)
    spread = measure_spread_task.submit(coadd, mask, sources, psf, config.spread_model, store)
    stamps = cut_stamps_task(coadd, mask, sources, epochs, psf, ccds, config.stamps, store)
    shapes = measure_shapes_task(stamps, config.shapes, store)
    catalog = make_catalog_task(tile, overlap, sources, mask, epochs, spread.result(), shapes, config.catalog, store)
    return TileProducts(
        tile=tile,
        catalog=catalog,
        products={
            "exposures": overlap,
            "coadd": coadd,
            "mask": mask,
            "sources": sources,
            "epochs": epochs,
            "psf": psf,
            "stamps": stamps,
            "spread_model": spread.result(),
            "shapes": shapes,
        },
        set_aside=inputs.set_aside,
    )


def _overlapping(exposures: Sequence[ExposureProducts], tile: TileExposures) -> list[CcdProducts]:
    """Return the products of the CCDs of a tile; others must not make its stages stale."""
    wanted = {record.ccd for record in tile.ccds}
    return [ccd for exposure in exposures for ccd in exposure.ccds if ccd.ccd in wanted]
