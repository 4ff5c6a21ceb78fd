"""The raw files of a simulated survey: conventions, coordinates, bytes, reference-file cache."""

import hashlib
import warnings

import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from blocks.crds import CrdsCache
from blocks.store import DataStore
from tasks.archive.documents import read_document
from tasks.archive.dq_reference import parse_dq_reference
from tasks.archive.fits_wcs import read_wcs
from tasks.archive.raw import find_raw_exposure
from tasks.archive.tables import read_table
from tasks.errors import ConfigError
from tasks.products.columns import STAR_CATALOG, TRUTH_GALAXIES, TRUTH_STARS
from tasks.products.dq import DQFlag
from tasks.products.identity import ExposureId, ProductRef
from tasks.products.instrument import Instrument
from tasks.products.raw_survey import RawManifest
from tasks.science.crds_rules import load_context
from tasks.science.simulation import build_survey, simulate_ccd, static_defects
from tasks.simulate import (
    SimulationConfig,
    list_simulated_exposures,
    list_survey_task,
    simulate_exposure_task,
    simulate_sky_task,
    simulate_survey_task,
)

FIRST, SECOND = "2113700", "2113701"
SETTINGS = {
    "seed": 8,
    "field": {"width_deg": 0.012, "height_deg": 0.008},
    "galaxies": {"density_arcmin2": 24.0},
    "stars": {"density_arcmin2": 20.0, "n_bright": 1, "brightest_magnitude": 15.0, "faint_magnitude": 20.0},
    "camera": {
        "n_columns": 2,
        "n_rows": 1,
        "ccd_width_px": 192,
        "ccd_height_px": 160,
        "gap_arcsec": 2.0,
        "distortion_arcsec": 1.0,
    },
    "pointing": {"n_per_pointing": 2, "dither_ra_arcsec": 4.0, "dither_dec_arcsec": 3.0, "interval_days": 90.0},
    "defects": {"n_bad_columns": 30, "n_dead": 500, "n_hot": 500, "n_warm": 500},
}
CONFIG = SimulationConfig.model_validate(SETTINGS)
CONTEXT = "shearsim_0001.pmap"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The raw store of a small survey, and the reference of its manifest."""
    store = DataStore(root=str(tmp_path_factory.mktemp("simulated")), collection="raw")
    return store, simulate_survey_task.fn(CONFIG, store)


def open_raw(store, key):
    with store.open(key) as handle, fits.open(handle, memmap=False) as hdus:
        for hdu in hdus:
            _ = hdu.data
        return hdus


def compressed_header(store, key, number):
    with store.open(key) as handle, fits.open(handle, disable_image_compression=True) as hdus:
        return hdus[number].header.copy()


def read_rules(store, config=CONFIG):
    cache = CrdsCache(root=f"{store.url}/crds", observatory="shearsim", context="")
    return cache, load_context(cache.read_mapping, "shearsim", cache.resolve_context())


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_manifest_lists_every_file_with_its_checksum(simulated):
    store, ref = simulated
    files = read_document(store, ref, RawManifest).files
    present = {key for key in store.list_keys() if not key.startswith("records/")}

    assert ref.key == "manifest.json"
    assert {file.key for file in files} == present - {"manifest.json"}
    for file in files:
        assert hashlib.sha256(store.read_bytes(file.key)).hexdigest() == file.sha256
    assert {f"{FIRST}p.fits.fz", f"{FIRST}p.weight.fits.fz", f"{SECOND}p.flag.fits.fz"} <= present
    assert {f"star_cat/star_cat-{SECOND}-1.cat", "star_catalog.fits", "truth/survey.json"} <= present
    assert ref.summary["n_files"] == len(files)


def test_exposures_taken_apart_in_any_order_have_the_same_bytes(simulated, tmp_path):
    store, whole = simulated
    other = DataStore(root=str(tmp_path), collection="raw")

    parts = [
        simulate_exposure_task.fn(exposure, CONFIG, other) for exposure in reversed(list_simulated_exposures(CONFIG))
    ]
    parts.append(simulate_sky_task.fn(CONFIG, other))
    joined = list_survey_task.fn(parts, CONFIG, other)

    assert joined.sha256 == whole.sha256
    assert read_document(other, joined, RawManifest) == read_document(store, whole, RawManifest)


def test_running_twice_draws_nothing(simulated):
    store, ref = simulated
    path = f"{store.root}/{store.collection}/manifest.json"
    before = (ref, store.stat("manifest.json"), _modified(path))

    assert (simulate_survey_task.fn(CONFIG, store), store.stat("manifest.json"), _modified(path)) == before


def _modified(path):
    from pathlib import Path

    return Path(path).stat().st_mtime_ns


def test_the_files_of_an_exposure_are_found_by_the_instrument_description(simulated):
    store, _ = simulated
    files = find_raw_exposure(store, ExposureId(FIRST), Instrument(name="simulation", n_ccds=2))

    assert files.image.key == f"{FIRST}p.fits.fz"
    assert files.weight is not None
    assert files.flag is not None


def test_image_weight_and_flag_files_follow_the_conventions_of_cfis(simulated):
    store, _ = simulated
    survey = build_survey(CONFIG)
    truth = [simulate_ccd(survey, FIRST, ccd) for ccd in (0, 1)]
    image, weight, flag = (open_raw(store, f"{FIRST}p{kind}.fits.fz") for kind in ("", ".weight", ".flag"))

    for hdus in (image, weight, flag):
        assert [hdu.header.get("EXTNAME") for hdu in hdus] == [None, "ccd00", "ccd01"]
        assert hdus[0].data is None
        assert [hdu.header["DETECTOR"] for hdu in hdus[1:]] == ["CCD00", "CCD01"]
    for ccd, expected in enumerate(truth):
        assert np.array_equal(image[ccd + 1].data, expected.adu)
        assert np.array_equal(weight[ccd + 1].data, expected.weight)
        assert np.array_equal(flag[ccd + 1].data, expected.flag)
    assert image[1].data.dtype == np.uint16
    assert weight[1].data.dtype.newbyteorder("=") == np.float32
    assert flag[1].data.dtype.newbyteorder("=") == np.int16
    assert flag[1].header["FLAG2"] == "cosmic ray"
    raw = compressed_header(store, f"{FIRST}p.fits.fz", 1)
    assert (raw["ZCMPTYPE"], raw["ZBITPIX"], raw["BZERO"]) == ("RICE_1", 16, 32768)
    assert compressed_header(store, f"{FIRST}p.weight.fits.fz", 2)["ZCMPTYPE"] == "GZIP_2"


def test_headers_tell_photometry_date_and_data_section(simulated):
    store, _ = simulated
    header = open_raw(store, f"{SECOND}p.fits.fz")[2].header
    pointing = build_survey(CONFIG).pointing(SECOND)

    assert (header["INSTRUME"], header["SUBARRAY"], header["DETECTOR"]) == ("SIMCAM", "FULL", "CCD01")
    assert (header["DATE-OBS"], header["TIME-OBS"]) == ("2016-05-11", "06:00:00")
    assert header["MJD-OBS"] == 57519.25
    assert header["DATASEC"] == "[9:184,5:156]"
    assert (header["GAIN"], header["RDNOISE"], header["SATURATE"]) == (1.6, 5.0, 60000.0)
    assert header["PHOTZP"] == pointing.zero_point
    assert header["FSCALE"] == pytest.approx(10 ** (0.4 * (30 - header["PHOTZP"])), rel=1e-14)
    assert (header["EXPTIME"], header["FILTER"]) == (500.0, "r.MP9601")


def star_positions(store, key, exposure, read):
    """Centroids of isolated stars on the images as written, and where the written header puts them."""
    stars = build_survey(CONFIG).stars
    images, flags = open_raw(store, key), open_raw(store, key.replace("p.fits", "p.flag.fits"))
    for hdu, flag in zip(images[1:], flags[1:], strict=True):
        with warnings.catch_warnings():
            # astropy notes that the header holds both a date and its MJD
            warnings.simplefilter("ignore")
            wcs = read(hdu.header)
        found = wcs.all_world2pix(stars.ra, stars.dec, 0)
        sky = np.median(hdu.data[4:-4, 8:-8])
        for x, y in zip(*found, strict=True):
            column, row = round(float(x)), round(float(y))
            if not (24 < column < 167 and 20 < row < 139):
                continue
            box = np.s_[row - 10 : row + 11, column - 10 : column + 11]
            if flag.data[box].any():
                continue
            center = galsim.hsm.FindAdaptiveMom(galsim.Image(hdu.data[box].astype(float) - sky), strict=False)
            if center.error_message == "":
                yield center.moments_centroid.x - 11 + column - x, center.moments_centroid.y - 11 + row - y


@pytest.mark.parametrize("read", [WCS, read_wcs], ids=["astropy", "shearline"])
def test_stars_stand_where_the_written_header_says(simulated, read):
    store, _ = simulated
    offsets = [
        offset
        for exposure in (FIRST, SECOND)
        for offset in star_positions(store, f"{exposure}p.fits.fz", exposure, read)
    ]

    assert len(offsets) >= 4
    assert np.abs(np.median(offsets, axis=0)).max() < 0.02
    assert np.median(np.abs(offsets)) < 0.02


def test_tan_with_pv_terms_is_the_same_sky_as_tpv(simulated, tmp_path):
    store, _ = simulated
    settings = SETTINGS | {"camera": SETTINGS["camera"] | {"distortion_convention": "TAN"}}
    other = DataStore(root=str(tmp_path))
    simulate_exposure_task.fn(ExposureId(FIRST), SimulationConfig.model_validate(settings), other)
    tan, tpv = (open_raw(s, f"{FIRST}p.fits.fz")[1].header for s in (other, store))
    corners = [0, 191, 0, 191], [0, 0, 159, 159]

    assert (tan["CTYPE1"], tan["CTYPE2"]) == ("RA---TAN", "DEC--TAN")
    assert (tpv["CTYPE1"], tpv["CTYPE2"]) == ("RA---TPV", "DEC--TPV")
    assert tan["PV1_7"] == tpv["PV1_7"] != 0
    assert np.array_equal(read_wcs(tan).all_pix2world(*corners, 0), read_wcs(tpv).all_pix2world(*corners, 0))


# --- truth and star catalogues ----------------------------------------------------------------------------------------


def table_ref(store, key):
    stored = store.stat(key)
    return ProductRef(key=key, sha256=stored.sha256, size=stored.size)


def test_truth_tables_hold_the_truth(simulated):
    store, _ = simulated
    survey = build_survey(CONFIG)
    galaxies = read_table(store, table_ref(store, "truth/galaxies.fits"), TRUTH_GALAXIES)
    stars = read_table(store, table_ref(store, "truth/stars.fits"), TRUTH_STARS)

    assert len(galaxies) == len(survey.galaxies) > 0
    for name, values in vars(survey.galaxies).items():
        assert np.array_equal(galaxies[name], values), name
    assert np.array_equal(stars["ra"], survey.stars.ra)
    assert np.array_equal(stars["mag"], survey.stars.mag)
    assert SimulationConfig.model_validate_json(store.read_bytes("truth/survey.json")) == CONFIG


def test_the_star_catalogue_has_plain_columns(simulated):
    store, _ = simulated
    stars = build_survey(CONFIG).stars
    catalog = read_table(store, table_ref(store, "star_catalog.fits"), STAR_CATALOG)

    assert open_raw(store, "star_catalog.fits")[1].columns.names == ["RA", "DEC", "MAG"]
    assert len(catalog) == np.count_nonzero(stars.mag <= 20.0)


def test_star_lists_are_in_the_format_of_the_catalogue_server(simulated):
    store, _ = simulated
    lines = store.read_bytes(f"star_cat/star_cat-{FIRST}-0.cat").decode().splitlines()
    names = lines[3].split()
    rows = [dict(zip(names, line.split(), strict=True)) for line in lines[4:-5]]
    bands = [[row[band] for band in ("Fmag", "Jmag", "Vmag", "Nmag")] for row in rows]
    numbers = [int(row["#GSC2-id"].removeprefix("SIM")) for row in rows]
    stars = build_survey(CONFIG).stars

    assert names[:3] == ["#GSC2-id", "RA(J2000)", "Dec(J2000)"]
    assert names[-5:] == ["Fmag", "Jmag", "Vmag", "Nmag", "Clas"]
    assert all(line.startswith("#") for line in [*lines[:4], *lines[-5:]])
    assert len(rows) >= 3
    for number, row, magnitudes in zip(numbers, rows, bands, strict=True):
        present = [float(value) for value in magnitudes if value != "---"]
        assert present
        assert "---" in magnitudes
        assert np.mean(present) == pytest.approx(stars.mag[number - 1], abs=0.01)
        assert float(row["RA(J2000)"]) == pytest.approx(stars.ra[number - 1], abs=1e-6)
        assert row["Clas"] == "0"


# --- reference files --------------------------------------------------------------------------------------------------


def observation(detector, date, **changes):
    header = {"INSTRUME": "SIMCAM", "DETECTOR": detector, "SUBARRAY": "FULL", "DATE-OBS": date, "TIME-OBS": "06:00:00"}
    return header | changes


def test_the_rules_choose_a_mask_by_detector_and_date(simulated):
    store, _ = simulated
    _, rules = read_rules(store)

    chosen = [
        rules.select("dq", observation(detector, date)).name
        for detector in ("CCD00", "CCD01")
        for date in ("2016-02-11", "2016-05-11")
    ]

    assert rules.context == CONTEXT
    assert chosen == [f"shearsim_simcam_dq_{number:04d}.fits" for number in (1, 2, 3, 4)]
    assert rules.select("dq", observation("CCD00", "2016-02-11", SUBARRAY="CUSTOM")).name == chosen[0]
    assert rules.select("dark", observation("CCD00", "2016-02-11")).outcome == "not_applicable"


def test_a_ccd_can_be_without_reference(tmp_path):
    store = DataStore(root=str(tmp_path), collection="raw")
    defects = SETTINGS["defects"] | {"ccds_without_reference": (0,), "reference_dates": ("2015-01-01 00:00:00",)}
    simulate_sky_task.fn(SimulationConfig.model_validate(SETTINGS | {"defects": defects}), store)
    _, rules = read_rules(store)

    assert rules.select("dq", observation("CCD00", "2016-02-11")).outcome == "not_applicable"
    assert rules.select("dq", observation("CCD01", "2016-02-11")).name == "shearsim_simcam_dq_0001.fits"


def test_a_changed_rule_is_noticed_by_its_checksum(simulated):
    store, _ = simulated
    cache, _ = read_rules(store)

    with pytest.raises(ConfigError, match="was changed after it was written"):
        load_context(lambda name: cache.read_mapping(name).replace("'INSTRUME'", "'CAMERA'"), "shearsim", CONTEXT)


def test_reference_files_hold_the_static_defects_in_bits_of_their_own(simulated):
    store, _ = simulated
    name = "shearsim_simcam_dq_0004.fits"
    data = store.read_bytes(f"crds/references/shearsim/simcam/{name}")
    reference = parse_dq_reference(data, name)
    truth = static_defects(CONFIG, 1, 1).dq
    header = fits.getheader(f"{store.root}/raw/crds/references/shearsim/simcam/{name}", 0)

    translated = np.zeros_like(truth)
    for definition in reference.definitions:
        translated[(reference.dq & np.uint32(definition.value)) != 0] |= np.uint32(DQFlag[definition.name])
    assert np.array_equal(translated, truth)
    assert not np.array_equal(reference.dq, truth)
    assert [definition.value for definition in reference.definitions] == [1, 2, 4, 8, 16]
    assert (header["DETECTOR"], header["USEAFTER"], header["REFTYPE"]) == ("CCD01", "2016-05-01T00:00:00", "DQ")
    assert {"PEDIGREE", "AUTHOR", "DESCRIP", "INSTRUME"} <= set(header)


def test_a_lost_raw_file_is_simulated_again_to_the_byte(tmp_path):
    store = DataStore(root=str(tmp_path), collection="raw")
    simulate_exposure_task.fn(ExposureId(FIRST), CONFIG, store)
    key = f"{FIRST}p.weight.fits.fz"
    before = store.stat(key)
    store.remove(key)
    simulate_exposure_task.fn(ExposureId(FIRST), CONFIG, store)
    assert store.stat(key) == before
