"""A survey of small files: raw exposures without pixels, and processed ones of which only lists and sky are there."""

import json

from astropy.io import fits

from blocks.store import DataStore
from flows.config import SurveyConfig
from flows.recipes import exposure_recipe, tile_recipe
from tasks.archive import keys
from tasks.archive.fits_files import fits_bytes
from tasks.archive.manifests import write_exposure_products, write_tile_products
from tasks.archive.raw import RawListing
from tasks.archive.wcs_index import write_index
from tasks.headers import summarize_records
from tasks.products.identity import CcdId, CcdProducts, ExposureId, ExposureProducts, ProductRef, TileId, TileProducts
from tasks.products.images import Photometry, Window
from tasks.products.wcs_index import CcdRecord
from tasks.science.geometry import TileGrid
from tasks.science.sphere import bounding_circle, square_footprint

MJD = 61000.3
ROLES = ("image", "weight", "flag")
SUFFIXES = {"image": "p.fits.fz", "weight": "p.weight.fits.fz", "flag": "p.flag.fits.fz"}
GRID = TileGrid(0.5)


def planned_survey(**settings: object) -> SurveyConfig:
    """Return the settings of a camera with weights and flags, and tiles that need two exposures."""
    exposure = {"instrument": {"name": "camera"}, **dict(settings.pop("exposure", {}))}
    tile = {"find_exposures": {"min_exposures": 2}, **dict(settings.pop("tile", {}))}
    return SurveyConfig.model_validate({"name": "plans", "exposure": exposure, "tile": tile, **settings})


def put_raw(raw: DataStore, name: str, roles: tuple[str, ...] = ROLES, mjd: float = MJD) -> None:
    """Write the raw files of an exposure, headers only."""
    header = fits.Header({"MJD-OBS": mjd})
    for role in roles:
        data = fits_bytes([fits.PrimaryHDU(header=header), fits.ImageHDU()])
        raw.put_bytes(f"{name}{SUFFIXES[role]}", data)


def put_exposure(
    store: DataStore,
    raw: DataStore,
    config: SurveyConfig,
    name: str,
    position: tuple[float, float],
    *,
    width_deg: float = 0.3,
    mjd: float = MJD,
    version: str = "0",
    **recipe: dict[str, str],
) -> ExposureProducts:
    """Write the list of products and the WCS index of an exposure of one square CCD, as if it had been processed."""
    exposure = ExposureId(name)
    corners = square_footprint(*position, width_deg=width_deg)
    record = CcdRecord(
        ccd=CcdId(exposure=name, ccd=0),
        shape=(100, 100),
        data_section=Window(0, 0, 100, 100),
        footprint=tuple((float(ra), float(dec)) for ra, dec in corners),
        circle=bounding_circle(corners[:, 0], corners[:, 1]),
        photometry=Photometry(1.0, 1.0, 1e5, 100.0, 26.0, mjd, "r"),
        wcs_text="",
    )
    index = write_index(store, keys.exposure(exposure, "headers.sqlite"), [record], subject=exposure)
    index = index.model_copy(update={"summary": index.summary | summarize_records([record])})
    stored = store.put_bytes(keys.ccd(record.ccd, "product"), json.dumps([name, version]).encode())
    ref = ProductRef(key=stored.key, sha256=stored.sha256, size=stored.size, subject=str(record.ccd))
    made = exposure_recipe(RawListing(raw, config.exposure.instrument).files_of(exposure), config.exposure, raw)
    parts = {part: getattr(made, part) | changes for part, changes in recipe.items()}
    products = ExposureProducts(
        exposure=exposure,
        headers=index,
        ccds=(CcdProducts(ccd=record.ccd, **dict.fromkeys(set(CcdProducts.model_fields) - {"ccd"}, ref)),),
        recipe=made.model_copy(update=parts),
    )
    write_exposure_products(store, products)
    return products


def put_tile(
    store: DataStore, raw: DataStore, config: SurveyConfig, name: str, exposures: list[ExposureProducts]
) -> TileProducts:
    """Write the list of products of a tile, as if it had been processed from these exposures."""
    tile = TileId(name)
    stored = store.put_bytes(keys.tile(tile, "catalog.fits"), b"catalogue")
    ref = ProductRef(key=stored.key, sha256=stored.sha256, size=stored.size, subject=name)
    recipe = tile_recipe(tile, exposures, config.tile, raw)
    products = TileProducts(tile=tile, catalog=ref, products={"coadd": ref}, recipe=recipe)
    write_tile_products(store, products)
    return products


def centre(tile: str) -> tuple[float, float]:
    """Return where the middle of a tile is."""
    return GRID.centre(TileId(tile))
