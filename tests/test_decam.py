"""Real images: two calibrated DECam cutouts go through split, mask and detect (see data/decam/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.table import Table

from tasks.archive.images import read_ccd_image
from tasks.archive.planes import read_plane, write_plane
from tasks.archive.raw import find_raw_exposure, raw_file
from tasks.archive.sources import read_sources
from tasks.detect import DetectConfig, detect_ccd_task
from tasks.mask import MaskConfig, mask_ccd_task
from tasks.products.dq import MaskFlag
from tasks.products.identity import CcdId, ExposureId
from tasks.products.instrument import Instrument
from tasks.science.sphere import separation_deg
from tasks.split import SplitConfig, split_ccd_task

DATA = Path(__file__).parent / "data" / "decam"
SURVEY = Path(__file__).parents[1] / "deployments" / "surveys" / "decam.yaml"
SETTINGS = yaml.safe_load(SURVEY.read_text(encoding="utf-8"))["exposure"]
DECAM = Instrument(**SETTINGS["instrument"])
MASK, DETECT = MaskConfig(**SETTINGS.get("mask", {})), DetectConfig(**SETTINGS.get("detect", {}))
LARGE, SMALL = "c4d_170316_062107", "c4d_180908_000426"


@pytest.fixture
def raw_decam(raw_store):
    for path in DATA.glob("*.N*.fits"):
        raw_store.put_bytes(path.name, path.read_bytes())
    raw_store.put_bytes("gaia.csv", (DATA / "gaia.csv").read_bytes())
    return raw_store


def process(exposure, store, raw, instrument=DECAM):
    ccd, files = CcdId(exposure=exposure, ccd=0), find_raw_exposure(raw, ExposureId(exposure), instrument)
    image = split_ccd_task.fn(ccd, files, SplitConfig(), instrument, raw, store)
    dq = write_plane(store, f"{exposure}-dq.fits", read_ccd_image(store, image).dq, "DQ", subject=ccd)
    mask = mask_ccd_task.fn(image, dq, raw_file(raw, "gaia.csv", exposure), MASK, store, raw)
    sources = detect_ccd_task.fn(image, mask, DETECT, store)
    return read_ccd_image(store, image), mask, read_sources(store, sources)


def test_the_three_gaia_stars_are_found_within_0_3_arcsec(store, raw_decam):
    image, mask, sources = process(LARGE, store, raw_decam)
    gaia = Table.read(DATA / "gaia.csv", comment="#", format="ascii.csv")

    assert len(gaia) == 3
    for star in gaia:
        distance = separation_deg(sources.table["ra_win"], sources.table["dec_win"], star["RA"], star["DEC"]) * 3600
        assert distance.min() < 0.3
        # z and G of a star differ by its colour
        assert sources.table["mag_auto"][np.argmin(distance)] == pytest.approx(star["MAG"], abs=1.7)
    assert np.median(sources.background_mesh) == pytest.approx(3171, abs=3)
    # the header's AVSIG is 29.2 ADU
    assert np.median(sources.rms_mesh) == pytest.approx(29.0, rel=0.03)
    # weights are inverse variances already
    assert sources.variance_scale == pytest.approx(1.0, abs=0.15)
    plane = read_plane(store, mask, "MASK")
    assert ((plane & MaskFlag.WEIGHT) > 0).sum() == ((plane & MaskFlag.EXTERNAL) > 0).sum() == 177
    assert not (sources.segmentation[image.weight == 0] > 0).any()


def test_the_brightest_star_has_the_seeing_of_the_header(store, raw_decam):
    _, _, sources = process(LARGE, store, raw_decam)
    table = sources.table[(sources.table["flags"] == 0) & (sources.table["imaflags"] & MaskFlag.EXTERNAL == 0)]

    stars = table[(table["snr_win"] > 100) & (table["fwhm"] < 5)]
    assert len(stars) >= 1
    # FWHM of the header: 3.69 px
    assert np.median(stars["fwhm"]) == pytest.approx(3.69, rel=0.12)


def test_a_cutout_smaller_than_a_box_of_the_mesh_goes_through(store, raw_decam):
    # its header has no zero point
    instrument = DECAM.model_copy(update={"zero_point": 25.0})

    image, _, sources = process(SMALL, store, raw_decam, instrument)

    assert image.sci.shape == (50, 41)
    assert sources.background_mesh.shape == (1, 1)
    assert len(sources.table) >= 1
