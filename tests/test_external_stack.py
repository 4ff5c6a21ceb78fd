"""A stack that was made elsewhere becomes the coadd of its tile, if it is the image of that tile."""

import numpy as np
import pytest
from astropy.io import fits
from pydantic import ValidationError

from blocks.store import DataStore
from tasks.archive.coadds import read_coadd
from tasks.archive.documents import write_document
from tasks.archive.fits_files import fits_bytes, image_hdu
from tasks.archive.raw_stacks import find_raw_stack
from tasks.errors import (
    BadFileError,
    DataError,
    MissingKeywordError,
    NoGoodPixelsError,
    ShapeMismatchError,
    WCSError,
)
from tasks.external_stack import ExternalStackConfig, accept_stack_task
from tasks.products.identity import CcdId, TileId
from tasks.products.images import Photometry, Window
from tasks.products.wcs_index import CcdRecord, TileExposures
from tasks.science.geometry import tile_wcs

TILE = TileId("210.296")
SIZE = 150
CONFIG = ExternalStackConfig(image="CFIS.{tile}.r.fits", weight="CFIS.{tile}.r.weight.fits.fz")
IMAGE, WEIGHT = "CFIS.210.296.r.fits", "CFIS.210.296.r.weight.fits.fz"
CENTRE = (150.0, 58.0)


def values() -> tuple[np.ndarray, np.ndarray]:
    """An image with noise, a hole without data, and a border of zero weight."""
    sci = np.random.default_rng(8).normal(0, 2, (SIZE, SIZE)).astype(np.float32)
    weight = np.full((SIZE, SIZE), 0.5, np.float32)
    weight[:, :10], sci[20:30, 40:60], weight[70, 70] = 0, np.nan, -1
    return sci, weight


def header(**changes: object) -> fits.Header:
    """What SWarp and the surveys write; a keyword that is None is left out."""
    cards = tile_wcs(*CENTRE, size_px=SIZE, pixel_scale_arcsec=0.187).to_header()
    cards["PHOTZP"], cards["GAIN"], cards["SATURATE"], cards["EXPTIME"] = 27.5, 1100.0, 6e4, 200.0
    for keyword, value in changes.items():
        if value is None:
            del cards[keyword]
        else:
            cards[keyword] = value
    cards.add_history("input image 2228303p.fits 4 extension(s)")
    return cards


def put(raw: DataStore, sci: np.ndarray, weight: np.ndarray | None, cards: fits.Header | None = None) -> None:
    """The image in the primary HDU, the weight tile-compressed, as CFIS delivers them."""
    raw.put_bytes(IMAGE, fits_bytes([fits.PrimaryHDU(sci, header() if cards is None else cards)]))
    if weight is not None:
        raw.put_bytes(WEIGHT, fits_bytes([fits.PrimaryHDU(), image_hdu(weight, "WEIGHT")]))


def tile_exposures(**changes: object) -> TileExposures:
    record = CcdRecord(
        ccd=CcdId(exposure="2228303", ccd=2), shape=(9, 9), data_section=Window(0, 0, 9, 9), footprint=((0.0, 0.0),),
        circle=(0.0, 0.0, 1.0), photometry=Photometry(1.6, 4.0, 6e4, 200.0, 26.0, 57000.0, "r"), wcs_text="",
    )  # fmt: skip
    settings = {"ra": CENTRE[0], "dec": CENTRE[1], "size_px": SIZE, "pixel_scale_arcsec": 0.187} | changes
    return TileExposures(tile=TILE, ccds=(record,), **settings)


def accept(store: DataStore, raw: DataStore, config: ExternalStackConfig = CONFIG, **changes: object):
    exposures = write_document(store, "tiles/210.296/exposures.json", tile_exposures(**changes), subject=TILE)
    stack = find_raw_stack(raw, TILE, config.image, config.weight)
    return accept_stack_task.fn(exposures, stack, config, store, raw)


def test_a_stack_is_the_coadd_of_its_tile_at_zero_point_30(store: DataStore, raw_store: DataStore) -> None:
    sci, weight = values()
    put(raw_store, sci, weight)

    ref = accept(store, raw_store)
    tile = read_coadd(store, ref, ("CTX", "VAR"))

    scale = np.float32(10 ** (0.4 * (30 - 27.5)))
    used = np.isfinite(sci) & (weight > 0)
    assert (ref.key, ref.subject) == ("tiles/210.296/external_stack.fits", "210.296")
    np.testing.assert_allclose(tile.sci, np.where(used, sci * scale, 0), rtol=1e-6)
    np.testing.assert_allclose(tile.weight, np.where(used, weight / scale**2, 0), rtol=1e-6)
    assert (tile.planes.context, tile.planes.variance) == (None, None)
    assert tile.gain == pytest.approx(1100 / scale)
    assert tile.saturation == pytest.approx(6e4 * scale)
    assert (tile.metadata.ccds, tile.metadata.exposure_time_s) == ((CcdId(exposure="2228303", ccd=2),), 200.0)
    assert ref.summary == {"n_ccds": 1, "n_exposures": 1, "covered_fraction": round(used.mean(), 4)}
    assert tile.wcs.wcs.crval == pytest.approx(CENTRE)


def test_a_stack_without_weight_weighs_all_pixels_with_a_value_alike(store: DataStore, raw_store: DataStore) -> None:
    sci, _ = values()
    sci[:, :10] = 0
    put(raw_store, sci, None)

    weight = read_coadd(store, accept(store, raw_store, CONFIG.model_copy(update={"weight": None}))).weight

    assert np.array_equal(weight > 0, np.isfinite(sci) & (sci != 0))
    assert len(np.unique(weight)) == 2


def test_numbers_of_the_settings_stand_for_keywords_that_a_stack_lacks(store: DataStore, raw_store: DataStore) -> None:
    put(raw_store, *values(), header(PHOTZP=None, GAIN=None, SATURATE="unknown"))
    config = CONFIG.model_copy(update={"zero_point": 30.0, "gain": 0.0, "saturation": 5e5})

    tile = read_coadd(store, accept(store, raw_store, config))

    assert (tile.gain, tile.saturation) == (0.0, 5e5)
    for source in ("SATURATE", "nan", "inf"):
        sentence = rf"stack CFIS.210.296.r.fits of tile 210.296 has no number {source} in its headers; set the number"
        with pytest.raises(MissingKeywordError, match=sentence):
            accept(store, raw_store, config.model_copy(update={"saturation": source}))


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_4": 30.0}, WCSError, r"lie up to \d\.\d\d pixels beside"),
        ({"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"}, WCSError, "has no celestial WCS .* is 'RA---SIN', not"),
        ({"CTYPE1": None}, WCSError, "The external stack .* of tile 210.296 has no celestial WCS: CTYPE1 is missing"),
        ({"CRVAL1": 151.0}, WCSError, r"is centred at RA 151\.0000, .* puts its corners outside it; 10 pix"),
        ({"PC1_1": -4.7e-5, "PC2_2": 4.7e-5}, WCSError, r"pixels of 0\.16920 arcsec; .* corners up to 11\.\d pixels"),
        ({"PHOTZP": 99.0}, MissingKeywordError, r"has the zero point 99, the saturation level 60000, the gain 1100"),
        ({"GAIN": -1.0}, MissingKeywordError, "the gain -1; a zero point lies within 50 magnitudes of 0"),
    ],
)  # fmt: skip
def test_headers_that_are_not_those_of_the_tile_are_refused(
    store: DataStore, raw_store: DataStore, changes: dict[str, object], error: type[DataError], sentence: str
) -> None:
    put(raw_store, *values(), header(**changes))

    with pytest.raises(error, match=sentence):
        accept(store, raw_store)
    assert not store.exists("tiles/210.296/external_stack.fits")


def test_other_shapes_are_refused(store: DataStore, raw_store: DataStore) -> None:
    sci, weight = values()
    put(raw_store, sci, weight)
    with pytest.raises(ShapeMismatchError, match=r"has the shape \(150, 150\), a tile of the survey \(160, 160\)"):
        accept(store, raw_store, size_px=160)
    put(raw_store, sci, weight[1:])
    with pytest.raises(
        ShapeMismatchError, match=r"has the shape \(150, 150\), its weight CFIS.* the shape \(149, 150\)"
    ):
        accept(store, raw_store)


def test_a_stack_without_any_pixel_is_refused(store: DataStore, raw_store: DataStore) -> None:
    put(raw_store, values()[0], np.zeros((SIZE, SIZE), np.float32))
    with pytest.raises(NoGoodPixelsError, match="has no pixel with a finite value and a positive weight"):
        accept(store, raw_store)


def test_files_that_are_not_there_or_not_images_are_refused(store: DataStore, raw_store: DataStore) -> None:
    sci, weight = values()
    put(raw_store, sci, None)
    with pytest.raises(DataError, match=r"no external stack: CFIS.210.296.r.weight.fits.fz is not in .*raw; deliver"):
        accept(store, raw_store)
    put(raw_store, sci, weight)
    raw_store.put_bytes(IMAGE, fits_bytes([fits.PrimaryHDU()]))
    with pytest.raises(
        BadFileError, match=r"CFIS.210.296.r.fits of tile 210.296 has no image of two axes in any of its 1"
    ):
        accept(store, raw_store)
    put(raw_store, sci, weight)
    raw_store.put_bytes(IMAGE, raw_store.read_bytes(IMAGE)[:-20000])
    with pytest.raises(BadFileError, match="is truncated: HDU 0 ends at byte"):
        accept(store, raw_store)


def test_names_follow_the_settings(store: DataStore, raw_store: DataStore) -> None:
    put(raw_store, *values())
    raw_store.put_bytes("tiles/image-210-296.fits", raw_store.read_bytes(IMAGE))
    config = CONFIG.model_copy(update={"image": "tiles/image-{column}-{row}.fits"})

    assert accept(store, raw_store, config).summary["n_ccds"] == 1
    with pytest.raises(ValidationError, match=r"must name the tile: write \{tile\}, or \{column\} and \{row\}"):
        ExternalStackConfig(image="tile.fits")
