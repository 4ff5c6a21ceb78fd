"""What users get wrong, one line each: the real stage refuses it in a sentence and leaves nothing behind."""

import gzip
import io
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from astropy.io import fits
from pydantic import ValidationError
from star_field import CCD as FIELD_CCD
from star_field import SHAPE as FIELD_SHAPE
from star_field import Products, process
from test_split import CAMERA, CCD, EXPOSURE, SHAPE, ccd_header, mef, put, science, split

from blocks.store import DataStore
from tasks.archive.coadds import read_coadd, write_coadd
from tasks.archive.fits_files import fits_bytes, put_bytes
from tasks.archive.images import read_ccd_image
from tasks.archive.planes import write_plane
from tasks.archive.raw import find_raw_exposure
from tasks.archive.sources import read_sources
from tasks.archive.tables import read_table
from tasks.catalog import CatalogConfig, make_catalog_task
from tasks.coadd import CoaddConfig, coadd_tile_task
from tasks.detect import DetectConfig, detect_ccd_task, detect_tile_task
from tasks.epochs import EpochsConfig, find_epochs_task
from tasks.errors import (
    BadFileError,
    DataError,
    MissingKeywordError,
    NoGoodPixelsError,
    ShapeMismatchError,
    TooFewStarsError,
    UnknownExposureError,
    WCSError,
)
from tasks.find_exposures import FindExposuresConfig, find_exposures_task
from tasks.headers import HeadersConfig, index_headers_task, merge_headers_task
from tasks.mask import MaskConfig, mask_ccd_task, mask_tile_task
from tasks.mean_shear import MeanShearConfig, measure_mean_shear_task
from tasks.merge import MergeConfig, export_parquet_task, merge_catalogs_task
from tasks.products.columns import EPOCH_PSF, EPOCHS, SPREAD, SURVEY_CATALOG
from tasks.products.dq import MaskFlag
from tasks.products.identity import CcdId, CcdProducts, ExposureId, ProductRef, TileId
from tasks.products.images import CoaddPlanes
from tasks.psf_fit import PsfFitConfig, fit_psf_task
from tasks.psf_interp import PsfInterpConfig, interpolate_psf_task
from tasks.psf_validate import PsfValidateConfig, validate_psf_task
from tasks.session import Outcome, session
from tasks.shapes import ShapesConfig, measure_shapes_task
from tasks.spread_model import SpreadModelConfig, measure_spread_task
from tasks.stamps import StampsConfig, cut_stamps_task
from tasks.stars import StarsConfig, select_stars_task


def files_of(store: DataStore) -> dict[str, int]:
    """Return every file under the root, half-written ones and raw ones included, with its time of writing."""
    root = Path(store.root)
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


@contextmanager
def refused(store: DataStore, stage: str, subject: object, error: type[Exception], sentence: str) -> Iterator[None]:
    """Expect that a stage sets its subject aside with this sentence, and that the store stays as it was."""
    before = files_of(store)
    with session() as current, pytest.raises(error, match=sentence) as caught:
        yield
    reason = str(caught.value)
    assert isinstance(caught.value, DataError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == reason
    told = [(event.stage, event.subject, event.outcome, event.reason) for event in current.events]
    assert told == [(stage, str(subject), Outcome.SET_ASIDE, reason)]
    assert files_of(store) == before


# --- raw exposures ----------------------------------------------------------------------------------------------------

Change = Callable[[DataStore], None]
IMAGE, WEIGHT, FLAG = (f"{EXPOSURE}p{kind}.fits.fz" for kind in ("", ".weight", ".flag"))
LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


class Case(NamedTuple):
    """One mistake: what is done to a good exposure, and what the user is told."""

    change: Change
    error: type[DataError]
    sentence: str


def header(**changes: object) -> Change:
    """Change keywords of CCD 1; None removes one."""
    return lambda raw: put(raw, **changes) and None


def plane(**planes: np.ndarray) -> Change:
    """Replace the image, weight or flag plane of CCD 1."""
    return lambda raw: put(raw, compressed=False, **planes) and None


def file(key: str, data: bytes) -> Change:
    """Replace a whole file."""

    def change(raw: DataStore) -> None:
        put(raw)
        raw.put_bytes(key, data)

    return change


def shortened(key: str, n_bytes: int, *, compressed: bool) -> Change:
    """Cut bytes off the end of a file."""

    def change(raw: DataStore) -> None:
        put(raw, compressed=compressed)
        raw.put_bytes(key, raw.read_bytes(key)[:-n_bytes])

    return change


def garbled(raw: DataStore) -> None:
    put(raw)
    data = raw.read_bytes(IMAGE)
    raw.put_bytes(IMAGE, data[:-6000] + b"\xff" * 3000 + data[-3000:])


def table_instead_of_an_image() -> bytes:
    table = fits.BinTableHDU.from_columns([fits.Column("X", "E", array=np.zeros(3))])
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(science(0), ccd_header()), table]).writeto(buffer)
    return buffer.getvalue()


def pc_matrix() -> bytes:
    cards = ccd_header()
    for name in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
        cards.remove(name)
        cards[name.replace("CD", "PC")] = 1.0
    cards["CDELT1"] = cards["CDELT2"] = 5e-5
    return mef([science(0), science(1)], [ccd_header(), cards], compressed=True)


ONE_CCD = mef([np.zeros(SHAPE, np.int16)], [ccd_header()], compressed=True)
TWO_CCDS = mef([science(0), science(1)], [ccd_header(), ccd_header()], compressed=False)
CUBE = mef([science(0), np.zeros((2, *SHAPE), np.float32)], [ccd_header(), ccd_header()], compressed=False)
NO_IMAGE = r"2113737p\.fits\.fz: HDU 2 is not an image of two axes; check `first_hdu`"
NO_SKY = "CCD 2113737-1 has no celestial WCS that can be used: "
SINGULAR = NO_SKY + r"its matrix \(CD or PC\) is singular"

RAW = {
    "truncated .fz image": Case(
        shortened(IMAGE, 3000, compressed=True),
        BadFileError,
        r"2113737p\.fits\.fz is truncated: HDU 2 ends at byte \d+, the file at byte \d+; copy it again\.",
    ),
    "truncated plain image": Case(
        shortened(IMAGE, 3000, compressed=False),
        BadFileError,
        r"2113737p\.fits\.fz is truncated: HDU 2 ends at byte 20160, the file at byte 17160; copy it again\.",
    ),
    "truncated .fz weight": Case(
        shortened(WEIGHT, 3000, compressed=True), BadFileError, r"2113737p\.weight\.fits\.fz is truncated: HDU 2"
    ),
    "truncated plain flag": Case(
        shortened(FLAG, 3000, compressed=False), BadFileError, r"2113737p\.flag\.fits\.fz is truncated: HDU 2"
    ),
    "file that ends in its first header": Case(
        file(IMAGE, TWO_CCDS[:1000]), BadFileError, r"2113737p\.fits\.fz \(1000 bytes\) cannot be read as FITS"
    ),
    "garbled tiles": Case(garbled, BadFileError, r"2113737p\.fits\.fz \(\d+ bytes\) cannot be read as FITS: decompre"),
    "empty file": Case(file(IMAGE, b""), BadFileError, r"2113737p\.fits\.fz \(0 bytes\) .*: it is empty; copy it"),
    "empty flag file": Case(file(FLAG, b""), BadFileError, r"2113737p\.flag\.fits\.fz \(0 bytes\) .*: it is empty"),
    "Git LFS pointer": Case(
        file(IMAGE, LFS_POINTER),
        BadFileError,
        r"2113737p\.fits\.fz \(130 bytes\) .*: it is a Git LFS pointer to the file; run `git lfs pull`\.",
    ),
    "gzipped file": Case(
        file(IMAGE, gzip.compress(TWO_CCDS)),
        BadFileError,
        r"fits\.fz .*: it is compressed with gzip as a whole; uncom",
    ),
    "web page": Case(file(IMAGE, b"<html>" * 999), BadFileError, r"2113737p\.fits\.fz \(5994 bytes\) cannot be read"),
    "missing HDU": Case(
        file(IMAGE, ONE_CCD), BadFileError, r"2113737p\.fits\.fz has no HDU 2; it has 0 PRIMARY, 1 CCD00, in \d+ bytes"
    ),
    "missing HDU of the flag file": Case(
        file(FLAG, ONE_CCD), BadFileError, r"2113737p\.flag\.fits\.fz has no HDU 2; it has 0 PRIMARY, 1 CCD00, in \d+"
    ),
    "table instead of an image": Case(file(IMAGE, table_instead_of_an_image()), BadFileError, NO_IMAGE),
    "cube instead of an image": Case(file(IMAGE, CUBE), BadFileError, NO_IMAGE),
    "missing keyword": Case(
        header(GAIN=None), MissingKeywordError, "CCD 2113737-1 has no keyword GAIN in its header nor in the primary"
    ),
    "gain N/A": Case(
        header(GAIN="N/A"), MissingKeywordError, "CCD 2113737-1: the keyword GAIN is 'N/A', which is not a number"
    ),
    "gain 0": Case(header(GAIN=0.0), MissingKeywordError, "2113737-1: the keyword GAIN is 0; it must be larger than 0"),
    "negative gain": Case(header(GAIN=-1.6), MissingKeywordError, r"the keyword GAIN is -1\.6; it must be larger than"),
    "saturation 0": Case(header(SATURATE=0), MissingKeywordError, "the keyword SATURATE is 0; it must be larger than"),
    "exposure time 0": Case(
        header(EXPTIME=0.0), MissingKeywordError, "2113737-1: the keyword EXPTIME is 0; it must be larger than 0"
    ),
    "zero point NaN": Case(
        header(PHOTZP="NaN"), MissingKeywordError, "CCD 2113737-1: the keyword PHOTZP is 'NaN', which is not a number"
    ),
    "zero point -99": Case(
        header(PHOTZP=-99.0), MissingKeywordError, "PHOTZP is -99, which is not a zero point: .* within 50 magnitudes"
    ),
    "date instead of an MJD": Case(
        header(MJD_OBS="2016-02-10"), MissingKeywordError, "MJD-OBS is '2016-02-10', which is not a number"
    ),
    "filter without a name": Case(
        header(FILTER=" "), MissingKeywordError, "CCD 2113737-1: the keyword FILTER is empty; it must name the filter"
    ),
    "weight of another shape": Case(
        plane(weight=np.ones((60, 47), np.float32)),
        ShapeMismatchError,
        "CCD 2113737-1: the weight image has 47 x 60 pixels, the image 48 x 60; they must agree",
    ),
    "flag of another shape": Case(
        plane(flag=np.ones((59, 48), np.int16)),
        ShapeMismatchError,
        "CCD 2113737-1: the flag image has 48 x 59 pixels, the image 48 x 60; they must agree",
    ),
    "flags that are no integers": Case(
        plane(flag=np.full(SHAPE, np.nan, np.float32)),
        BadFileError,
        "CCD 2113737-1: its flag image has values of type float32; flags are whole numbers",
    ),
    "all-NaN image": Case(
        plane(image=np.full(SHAPE, np.nan, np.float32)),
        NoGoodPixelsError,
        "CCD 2113737-1: none of its 2880 pixels has a value; the image is all NaN",
    ),
    "weight zero everywhere": Case(
        plane(weight=np.zeros(SHAPE, np.float32)),
        NoGoodPixelsError,
        r"CCD 2113737-1: 0 of 2880 pixels have data and weight, a share of 0\.000",
    ),
    "no WCS": Case(header(CTYPE1=None, CTYPE2=None), WCSError, "CCD 2113737-1 has no celestial WCS: CTYPE1 is missing"),
    "WCS without a matrix": Case(
        header(CD1_1=0.0, CD2_2=0.0), WCSError, NO_SKY + "neither CDi_j nor CDELTi gives its pixels a size"
    ),
    "singular CD matrix beside CDELT": Case(
        header(CD1_1=3e-5, CD1_2=1e-5, CD2_1=9e-5, CD2_2=3e-5, CDELT1=5e-5, CDELT2=5e-5), WCSError, SINGULAR
    ),
    "CD matrix without one axis": Case(header(CD2_2=0.0, CDELT1=5e-5, CDELT2=5e-5), WCSError, SINGULAR),
    "singular PC matrix": Case(file(IMAGE, pc_matrix()), WCSError, SINGULAR),
    "data section outside of the image": Case(
        header(DATASEC="[3:49,1:58]"),
        ShapeMismatchError,
        r"CCD 2113737-1: its data section \[3:49,1:58\] is not inside its image of 48 x 60 pixels",
    ),
    "data section from 0": Case(
        header(DATASEC="[0:48,1:60]"),
        ShapeMismatchError,
        r"CCD 2113737-1: its data section \[0:48,1:60\] is not inside its image of 48 x 60 pixels",
    ),
    "data section that is none": Case(
        header(DATASEC="3:46"), MissingKeywordError, r"CCD 2113737-1: '3:46' is not a section of the form \[x1:x2,y1:y2"
    ),
}


@pytest.mark.parametrize("mistake", RAW)
def test_a_bad_raw_exposure_is_set_aside_with(mistake: str, raw_store: DataStore, store: DataStore) -> None:
    case = RAW[mistake]
    case.change(raw_store)
    raw = find_raw_exposure(raw_store, ExposureId(EXPOSURE), CAMERA)

    with refused(store, "split", CCD, case.error, case.sentence):
        split(raw_store, store, raw)


def test_an_unknown_exposure_is_refused_with_the_names_of_those_there_are(
    raw_store: DataStore, store: DataStore
) -> None:
    raw = put(raw_store)

    with pytest.raises(UnknownExposureError, match=r"Exposure 9999999 is not in .*; exposures there: 2113737\."):
        find_raw_exposure(raw_store, ExposureId("9999999"), CAMERA)
    night = CcdId(exposure="night7", ccd=1)
    sentence = r"night7 is not an exposure of test camera: names match '\\\\d\{7\}'"
    with refused(store, "split", night, UnknownExposureError, sentence):
        split(raw_store, store, raw, ccd=night)


@pytest.mark.parametrize("name", ["exposé", "２１１３７３７", "../2113737", "2113737\n", ""])  # noqa: RUF001
def test_a_name_that_cannot_be_part_of_a_key_is_no_exposure(name: str) -> None:
    with pytest.raises(ValidationError, match="String should match pattern"):
        ExposureId(name)
    with pytest.raises(ValidationError, match="String should match pattern"):
        CcdId(exposure=name, ccd=0)


@pytest.mark.parametrize("name", ["٢١٠.٢٩٦", "210.296\n", "210", "../210.296"])
def test_a_name_that_cannot_be_part_of_a_key_is_no_tile(name: str) -> None:
    with pytest.raises(ValidationError, match="String should match pattern"):
        TileId(name)


def test_letters_of_other_alphabets_in_a_header_do_not_stop_a_ccd(raw_store: DataStore, store: DataStore) -> None:
    put(raw_store)
    raw_store.put_bytes(IMAGE, TWO_CCDS.replace(b"'r.MP9602'", "'r.MPé60'".encode()).replace(b"CCD01", b"CC\xe9 1"))

    raw = find_raw_exposure(raw_store, ExposureId(EXPOSURE), CAMERA)

    assert read_ccd_image(store, split(raw_store, store, raw)).photometry.band == "r.MP??60"


# --- products of one CCD and one tile ---------------------------------------------------------------------------------

TILE = TileId("6172.7200")
TILE_CONFIG = FindExposuresConfig(spacing_deg=0.02, size_px=300, pixel_scale_arcsec=0.187)
DETECT = DetectConfig(background="none", threshold_sigma=5.0)


@dataclass(frozen=True)
class Night:
    """A CCD full of stars, the tile on it, and the stages that take both to a catalogue."""

    store: DataStore
    ccd: CcdProducts
    refs: dict[str, ProductRef]

    @property
    def raw(self) -> DataStore:
        return DataStore(root=self.store.root, collection="raw")

    def fit(self, **changes: ProductRef) -> ProductRef:
        c = self.ccd.model_copy(update=changes)
        return fit_psf_task.fn(c.image, c.mask, c.sources, c.stars, PsfFitConfig(), self.store)

    def validate(self, **changes: ProductRef) -> ProductRef:
        c = self.ccd.model_copy(update=changes)
        return validate_psf_task.fn(c.image, c.mask, c.sources, c.stars, c.psf, PsfValidateConfig(), self.store)

    def tile(self, stage: str, **changes: ProductRef) -> ProductRef:
        """Run one stage of the tile flow on the products that there are, of which some may be given."""
        r, ccds, store = self.refs | changes, [self.ccd], self.store
        stages: dict[str, Callable[[], ProductRef]] = {
            "merged": lambda: merge_headers_task.fn(TILE, [r["index"]], TILE_CONFIG, store),
            "exposures": lambda: find_exposures_task.fn(TILE, r["merged"], TILE_CONFIG, store),
            "coadd": lambda: coadd_tile_task.fn(TILE, r["exposures"], ccds, CoaddConfig(), store),
            "mask": lambda: mask_tile_task.fn(r["coadd"], None, MaskConfig(), store, self.raw),
            "sources": lambda: detect_tile_task.fn(r["coadd"], r["mask"], DETECT, store),
            "epochs": lambda: find_epochs_task.fn(r["sources"], r["exposures"], ccds, EpochsConfig(), store),
            "psf": lambda: interpolate_psf_task.fn(r["epochs"], ccds, PsfInterpConfig(), store),
            "spread": lambda: measure_spread_task.fn(
                r["coadd"], r["mask"], r["sources"], r["psf"], SpreadModelConfig(), store
            ),
            "stamps": lambda: cut_stamps_task.fn(
                r["coadd"], r["mask"], r["sources"], r["epochs"], r["psf"], ccds, StampsConfig(), store
            ),
            "shapes": lambda: measure_shapes_task.fn(r["stamps"], ShapesConfig(), store),
            "catalog": lambda: make_catalog_task.fn(
                TILE, r["exposures"], r["sources"], r["mask"], r["epochs"], r["spread"], r["shapes"], CatalogConfig(),
                store,
            ),
            "merge": lambda: merge_catalogs_task.fn([r["catalog"]], MergeConfig(), store),
        }  # fmt: skip
        return stages[stage]()

    def spoil(self, ref: ProductRef, change: Callable[[bytes], bytes]) -> ProductRef:
        """Replace a product by changed bytes."""
        return put_bytes(self.store, ref.key, change(self.store.read_bytes(ref.key)), subject=ref.subject)

    def find_sources(self, **settings: object) -> ProductRef:
        config = DETECT.model_copy(update=settings)
        return detect_tile_task.fn(self.refs["coadd"], self.refs["mask"], config, self.store)


def as_ccd_products(field: Products) -> CcdProducts:
    psf = field.fit()
    return CcdProducts(
        ccd=FIELD_CCD, image=field.image, dq=field.image, mask=field.mask, sources=field.sources, stars=field.stars,
        psf=psf, residuals=field.validate(psf),
    )  # fmt: skip


@pytest.fixture(scope="module")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    store = DataStore(root=str(tmp_path_factory.mktemp("night")), collection="test")
    ccd = as_ccd_products(process(store))
    index = index_headers_task.fn(ExposureId(FIELD_CCD.exposure), [ccd.image], HeadersConfig(), store)
    night = Night(store, ccd, {"index": index})
    for name in ("merged", "exposures", "coadd", "mask", "sources", "epochs", "psf", "spread", "stamps", "shapes"):
        night.refs[name] = night.tile(name)
    night.refs["catalog"] = night.tile("catalog")
    return night


@pytest.fixture
def night(first_night: Night, tmp_path: Path) -> Night:
    """Return a copy of the night, which a test may spoil."""
    shutil.copytree(first_night.store.root, tmp_path / "night")
    return replace(first_night, store=DataStore(root=str(tmp_path / "night"), collection="test"))


def truncated(data: bytes) -> bytes:
    """Cut a product off: a FITS file, which knows its length, near its end, and the others in the middle."""
    is_psf = b"PSF_MASK" in data
    return data[:-1000] if data.startswith(b"SIMPLE") and not is_psf else data[: len(data) // 2]


CCD_KEY, TILE_KEY = r"exposures/2113737/ccd-10/", r"tiles/6172\.7200/"
CUT = r" is truncated: HDU {} ends at byte \d+, the file at byte \d+; copy it again\."
Use = Callable[[Night, ProductRef], ProductRef]
CCD_PRODUCTS: dict[str, tuple[str, Use, str]] = {
    "image": (
        "detect",
        lambda night, bad: detect_ccd_task.fn(bad, night.ccd.mask, DetectConfig(), night.store),
        CCD_KEY + r"image\.fits" + CUT.format("DQ"),
    ),
    "mask": (
        "detect",
        lambda night, bad: detect_ccd_task.fn(night.ccd.image, bad, DetectConfig(), night.store),
        CCD_KEY + r"mask\.fits" + CUT.format("MASK"),
    ),
    "sources": (
        "stars",
        lambda night, bad: select_stars_task.fn(night.ccd.image, bad, StarsConfig(), night.store),
        CCD_KEY + r"sources\.fits" + CUT.format("RMS"),
    ),
    "stars": ("psf_fit", lambda night, bad: night.fit(stars=bad), CCD_KEY + r"stars\.fits" + CUT.format("STARS")),
    "psf": (
        "psf_validate",
        lambda night, bad: night.validate(psf=bad),
        CCD_KEY + r"psf\.psf \(\d+ bytes\) cannot be read as FITS: .* It may be truncated; copy it again\.",
    ),
}
TILE_PRODUCTS: dict[str, tuple[str, str, str]] = {
    "index": ("merge_headers", "merged", r"headers\.sqlite \(\d+ bytes\) is not a WCS index: database disk image is"),
    "merged": ("find_exposures", "exposures", TILE_KEY + r"headers\.sqlite \(\d+ bytes\) is not a WCS index"),
    "exposures": ("coadd", "coadd", TILE_KEY + r"exposures\.json is not a valid TileExposures: Invalid JSON: EOF"),
    "coadd": ("detect", "sources", TILE_KEY + r"coadd\.fits" + CUT.format("INPUTS")),
    "mask": ("detect", "sources", TILE_KEY + r"mask\.fits" + CUT.format("MASK")),
    "sources": ("epochs", "epochs", TILE_KEY + r"sources\.fits" + CUT.format("RMS")),
    "epochs": ("psf_interp", "psf", TILE_KEY + r"epochs\.fits" + CUT.format("EPOCHS")),
    "psf": ("spread_model", "spread", TILE_KEY + r"psf\.fits" + CUT.format("EPOCH_PSF")),
    "stamps": ("shapes", "shapes", TILE_KEY + r"stamps\.fits" + CUT.format("bmask_cutouts")),
    "shapes": ("catalog", "catalog", TILE_KEY + r"shapes\.fits" + CUT.format("SHAPES")),
    "catalog": ("merge", "merge", TILE_KEY + r"catalog\.fits" + CUT.format("CATALOG")),
}


@pytest.mark.parametrize("product", CCD_PRODUCTS)
def test_a_truncated_product_of_a_ccd_is_refused_by_the_stage_that_reads_it(product: str, night: Night) -> None:
    stage, use, sentence = CCD_PRODUCTS[product]
    bad = night.spoil(getattr(night.ccd, product), truncated)

    with refused(night.store, stage, FIELD_CCD, BadFileError, sentence):
        use(night, bad)


@pytest.mark.parametrize("product", TILE_PRODUCTS)
def test_a_truncated_product_of_a_tile_is_refused_by_the_stage_that_reads_it(product: str, night: Night) -> None:
    stage, made, sentence = TILE_PRODUCTS[product]
    bad = night.spoil(night.refs[product], truncated)

    with refused(night.store, stage, "survey" if made == "merge" else TILE, BadFileError, sentence):
        night.tile(made, **{product: bad})


def test_a_product_in_the_place_of_another_is_refused_by_the_hdu_that_it_lacks(night: Night) -> None:
    sentence = CCD_KEY + r"mask\.fits has no HDU DQ; it has 0 PRIMARY, 1 MASK, in \d+ bytes\."
    with refused(night.store, "mask", FIELD_CCD, BadFileError, sentence):
        mask_ccd_task.fn(night.ccd.image, night.ccd.mask, None, MaskConfig(), night.store, night.raw)


def test_a_ccd_in_the_place_of_a_coadd_is_refused_by_the_hdu_that_it_lacks(night: Night) -> None:
    image = night.ccd.image.model_copy(update={"subject": str(TILE)})

    sentence = CCD_KEY + r"image\.fits has no HDU INPUTS; it has 0 PRIMARY, 1 SCI, 2 WHT, 3 DQ, in \d+ bytes\."
    with refused(night.store, "detect", TILE, BadFileError, sentence):
        night.tile("sources", coadd=image)


def test_a_coadd_without_its_keywords_is_refused_by_the_first_that_it_lacks(night: Night) -> None:
    with fits.open(io.BytesIO(night.store.read_bytes(night.refs["coadd"].key))) as hdus:
        del hdus["SCI"].header["SATURATE"]
        data = fits_bytes(hdus)
    bad = put_bytes(night.store, "coadd.fits", data, subject=TILE)

    with refused(night.store, "detect", TILE, BadFileError, r"coadd\.fits .*Keyword 'SATURATE' not found"):
        night.tile("sources", coadd=bad)


# --- too little to work with ------------------------------------------------------------------------------------------


def test_a_ccd_with_three_stars_has_no_psf_model(store: DataStore) -> None:
    field = process(store, n_side=2, reserved_fraction=0.25)

    sentence = r"CCD 10 of exposure 2113737 has 3 usable stars; the PSF model needs 20\."
    with refused(store, "psf_fit", FIELD_CCD, TooFewStarsError, sentence):
        field.fit()


def test_a_ccd_without_sources_has_no_stars(night: Night) -> None:
    config = DetectConfig(threshold_sigma=1e6)
    sources = detect_ccd_task.fn(night.ccd.image, night.ccd.mask, config, night.store)

    assert sources.summary["n_sources"] == 0
    sentence = r"CCD 10 of exposure 2113737 has 0 stars among 0 sources; star selection needs 1\."
    with refused(night.store, "stars", FIELD_CCD, TooFewStarsError, sentence):
        select_stars_task.fn(night.ccd.image, sources, StarsConfig(), night.store)


def test_a_ccd_with_one_star_has_no_psf_model(store: DataStore) -> None:
    field = process(store, n_side=1, reserved_fraction=0.0)

    sentence = r"CCD 10 of exposure 2113737 has 1 usable stars?; the PSF model needs 20\."
    with refused(store, "psf_fit", FIELD_CCD, TooFewStarsError, sentence):
        field.fit()


def test_a_wholly_masked_ccd_has_no_background(night: Night) -> None:
    plane = np.full(FIELD_SHAPE, int(MaskFlag.EXTERNAL), np.uint16)
    mask = write_plane(night.store, "masked.fits", plane, "MASK", subject=FIELD_CCD)

    with refused(night.store, "detect", FIELD_CCD, NoGoodPixelsError, r"2113737-10: None of the 504000 pixels has"):
        detect_ccd_task.fn(night.ccd.image, mask, DetectConfig(), night.store)


def test_a_wholly_masked_coadd_has_no_sources(night: Night) -> None:
    plane = np.full((300, 300), int(MaskFlag.WEIGHT), np.uint16)
    mask = write_plane(night.store, "masked.fits", plane, "MASK", subject=TILE)

    with refused(night.store, "detect", TILE, NoGoodPixelsError, r"6172\.7200: None of the 90000 pixels has"):
        night.tile("sources", mask=mask)


def test_a_coadd_without_data_is_refused_by_its_mask(night: Night) -> None:
    coadd = read_coadd(night.store, night.refs["coadd"])
    nothing = CoaddPlanes(np.zeros_like(coadd.sci), np.zeros_like(coadd.weight))
    empty = write_coadd(night.store, "empty.fits", replace(coadd, planes=nothing))

    sentence = r"6172\.7200 has no data in 100\.0% of its pixels; at most 75% may be missing"
    with refused(night.store, "mask", TILE, NoGoodPixelsError, sentence):
        night.tile("mask", coadd=empty)


def test_a_tile_all_of_whose_ccds_are_masked_has_no_coadd(night: Night) -> None:
    plane = np.full(FIELD_SHAPE, int(MaskFlag.EXTERNAL), np.uint16)
    mask = write_plane(night.store, "masked.fits", plane, "MASK", subject=FIELD_CCD)
    masked = replace(night, ccd=night.ccd.model_copy(update={"mask": mask}))

    sentence = r"Tile 6172\.7200: none of the 1 CCDs has a usable pixel on it\."
    with refused(night.store, "coadd", TILE, NoGoodPixelsError, sentence):
        masked.tile("coadd")


def test_a_tile_without_sources_ends_in_a_sentence_and_with_empty_tables(night: Night) -> None:
    night = replace(night, refs=night.refs | {"sources": night.find_sources(threshold_sigma=1e5)})
    for name, schema in (("epochs", EPOCHS), ("psf", EPOCH_PSF), ("spread", SPREAD)):
        night.refs[name] = night.tile(name)
        assert len(read_table(night.store, night.refs[name], schema)) == 0

    assert len(read_sources(night.store, night.refs["sources"]).table) == 0
    sentence = r"Tile 6172\.7200 has no sources to cut stamps of; lower its detection threshold\."
    with refused(night.store, "stamps", TILE, DataError, sentence):
        night.tile("stamps")


def test_a_tile_with_one_source_reaches_the_catalogue_of_the_survey(night: Night) -> None:
    night = replace(night, refs=night.refs | {"sources": night.find_sources(threshold_sigma=275.0)})
    assert night.refs["sources"].summary["n_sources"] == 1
    for name in ("epochs", "psf", "spread", "stamps", "shapes", "catalog", "merge"):
        night.refs[name] = night.tile(name)
    merged = night.refs["merge"]

    table = read_table(night.store, merged, SURVEY_CATALOG)
    assert table["object_id"].tolist() == ["6172.7200-1"]
    assert np.isfinite(table["g1_noshear"]).all()
    assert export_parquet_task.fn(merged, MergeConfig(), night.store).summary["n_objects"] == 1
    with refused(night.store, "mean_shear", "survey", DataError, r"Of 1 objects 0 pass the cuts .*; it needs 10\."):
        measure_mean_shear_task.fn(merged, None, MeanShearConfig(), night.store, night.raw)
