"""Data-quality initialisation of one file."""

import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits
from crds_cache import write_dq_reference, write_simple_cache

from blocks.crds import CrdsCache
from blocks.store import StoreError
from flows.dq_file import initialize_dq_file
from tasks.dq_init import DQInitConfig
from tasks.errors import BadFileError, ConfigError, MissingProductError, MissingReferenceError, ReferenceMismatchError
from tasks.references import ReferencesConfig

SHAPE = (2, 3, 8, 12)
DEFINITIONS = [(1, "DO_NOT_USE"), (2, "DEAD"), (4, "STRANGE")]
HEADER = {"INSTRUME": "CAM", "DETECTOR": "CCD0", "SUBARRAY": "FULL", "DATE-OBS": "2022-03-04T05:06:07"}


@pytest.fixture
def exposure(tmp_path):
    return write_exposure(tmp_path / "exposure_uncal.fits")


def write_exposure(path, shape=SHAPE, **changes):
    primary = fits.PrimaryHDU()
    primary.header.update(HEADER | changes)
    fits.HDUList([primary, fits.ImageHDU(np.ones(shape, np.float32), name="SCI")]).writeto(path)
    return path


@pytest.fixture
def mask(tmp_path):
    dq = np.zeros((8, 12), np.uint32)
    dq[3, 4], dq[0, 0] = 3, 4
    write_dq_reference(tmp_path / "mask.fits", dq, DEFINITIONS)
    return tmp_path / "mask.fits"


@pytest.fixture
def cache(tmp_path, mask):
    written = write_simple_cache(tmp_path / "crds")
    (written.references / "CCD0_a.fits").write_bytes(mask.read_bytes())
    return CrdsCache(root=str(written.root), observatory="testobs")


def flags(path):
    with fits.open(path) as hdus:
        return hdus["PIXELDQ"].data.copy(), hdus["GROUPDQ"].data.copy(), hdus[0].header.copy()


def test_a_reference_that_overrides_is_laid_over_the_file(exposure, mask, tmp_path):
    before = exposure.read_bytes()
    outcome = initialize_dq_file(exposure, tmp_path / "out.fits", override=str(mask))
    pixeldq, groupdq, header = flags(tmp_path / "out.fits")
    assert (pixeldq[3, 4], np.count_nonzero(pixeldq)) == (1025, 1)
    assert np.argwhere(groupdq).tolist() == [[i, j, 3, 4] for i in range(2) for j in range(3)]
    assert (header["S_DQINIT"], header["R_MASK"]) == ("COMPLETE", str(mask))
    assert header["SOFTWARE"].startswith("Shearline")
    assert "CRDS_CTX" not in header
    assert (outcome.status, outcome.reference, outcome.n_flagged) == ("COMPLETE", str(mask), 1)
    assert outcome.warnings == ("mask.fits defines STRANGE, which is no standard flag: ignored",)
    assert exposure.read_bytes() == before


def test_the_rules_of_a_cache_choose_the_reference(exposure, cache, tmp_path):
    outcome = initialize_dq_file(exposure, tmp_path / "out.fits", cache=cache)
    pixeldq, _, header = flags(tmp_path / "out.fits")
    assert pixeldq[3, 4] == 1025
    assert (header["R_DQ"], header["CRDS_CTX"]) == ("crds://CCD0_a.fits", "testobs_0001.pmap")
    assert header["CRDS_VER"]
    assert (outcome.reference, outcome.context) == ("crds://CCD0_a.fits", "testobs_0001.pmap")


def test_rules_that_say_that_none_applies_skip_it(tmp_path, cache):
    exposure = write_exposure(tmp_path / "a.fits", DETECTOR="CCD2")
    outcome = initialize_dq_file(exposure, tmp_path / "out.fits", cache=cache)
    pixeldq, groupdq, header = flags(tmp_path / "out.fits")
    assert (outcome.status, header["S_DQINIT"], header["R_DQ"]) == ("SKIPPED", "SKIPPED", "N/A")
    assert outcome.reason
    assert not pixeldq.any()
    assert not groupdq.any()


@pytest.mark.parametrize("override", ["N/A", "n/a"])
def test_an_override_of_not_applicable_skips_it(exposure, cache, tmp_path, override):
    outcome = initialize_dq_file(exposure, tmp_path / "out.fits", cache=cache, override=override)
    _, _, header = flags(tmp_path / "out.fits")
    assert (outcome.status, outcome.reason) == ("SKIPPED", "override_dq is N/A")
    assert (header["S_DQINIT"], header["R_DQ"]) == ("SKIPPED", "N/A")


def test_the_type_of_the_reference_is_that_of_the_instrument_or_as_told(tmp_path, mask):
    liger = write_exposure(tmp_path / "a.fits", (8, 12), INSTRUME="Liger")
    assert initialize_dq_file(liger, tmp_path / "1.fits", override=str(mask)).reference_type == "dq"
    told = initialize_dq_file(liger, tmp_path / "2.fits", override=str(mask), reference_type="mask")
    assert told.reference_type == "mask"
    settings = ReferencesConfig(reference_type="badpix")
    assert initialize_dq_file(liger, tmp_path / "3.fits", override=str(mask), references=settings)
    assert fits.getheader(tmp_path / "2.fits")["R_MASK"] == str(mask)
    assert fits.getheader(tmp_path / "3.fits")["R_BADPIX"] == str(mask)


def test_flags_of_the_user_and_settings_are_used(exposure, mask, tmp_path):
    mine = np.zeros((8, 12), np.uint8)
    mine[7, 7] = 4
    fits.PrimaryHDU(mine).writeto(tmp_path / "mine.fits")
    config = DQInitConfig(ignored_flags=("DEAD",))
    target = tmp_path / "out.fits"
    initialize_dq_file(
        exposure, target, override=str(mask), user_supplied_dq=str(tmp_path / "mine.fits"), config=config
    )
    pixeldq, _, _ = flags(target)
    assert (pixeldq[7, 7], pixeldq[3, 4]) == (4, 1)


def test_a_second_run_changes_no_flag(exposure, mask, tmp_path):
    initialize_dq_file(exposure, tmp_path / "1.fits", override=str(mask))
    initialize_dq_file(tmp_path / "1.fits", tmp_path / "2.fits", override=str(mask))
    for first, second in zip(flags(tmp_path / "1.fits")[:2], flags(tmp_path / "2.fits")[:2], strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_file_that_was_there_is_replaced(exposure, mask, tmp_path):
    (tmp_path / "out.fits").write_text("old")
    initialize_dq_file(exposure, tmp_path / "out.fits", override=str(mask))
    assert flags(tmp_path / "out.fits")[0][3, 4] == 1025


def test_settings_that_lead_nowhere_are_refused(exposure, mask, tmp_path):
    target = tmp_path / "out.fits"
    with pytest.raises(
        ConfigError, match=r"exposure_uncal\.fits has no reference: name a CRDS cache, or give override_"
    ):
        initialize_dq_file(exposure, target)
    with pytest.raises(ConfigError, match=r"override_mask is /nowhere\.fits, which is not a file"):
        initialize_dq_file(exposure, target, override="/nowhere.fits")
    with pytest.raises(ConfigError, match=r"user_supplied_dq is /mine\.fits, which is not a file"):
        initialize_dq_file(exposure, target, override=str(mask), user_supplied_dq="/mine.fits")
    with pytest.raises(ConfigError, match="is the input itself"):
        initialize_dq_file(exposure, exposure, override=str(mask))
    assert not target.exists()


def test_bad_data_are_refused(exposure, cache, mask, tmp_path):
    target = tmp_path / "out.fits"
    with pytest.raises(MissingProductError, match=r"nowhere\.fits cannot be opened"):
        initialize_dq_file(tmp_path / "nowhere.fits", target, override=str(mask))
    with pytest.raises(BadFileError, match=r"exposure_uncal\.fits has no HDU DQ"):
        initialize_dq_file(exposure, target, override=str(exposure))
    later = write_exposure(tmp_path / "later.fits", **{"DATE-OBS": "2025-01-01T00:00:00"})
    with pytest.raises(MissingReferenceError, match=r"Reference CCD0_b\.fits, which the rules of testobs choose"):
        initialize_dq_file(later, target, cache=cache)
    small = write_exposure(tmp_path / "small.fits", (1, 1, 4, 4))
    with pytest.raises(ReferenceMismatchError, match=r"small\.fits has shape \(4, 4\) and no SUBSTRT1"):
        initialize_dq_file(small, target, override=str(mask))
    assert not target.exists()


def test_a_target_that_cannot_be_written_is_an_error_of_storage(exposure, mask, tmp_path):
    with pytest.raises(StoreError, match=r"out\.fits cannot be written: No such file or directory"):
        initialize_dq_file(exposure, tmp_path / "nowhere" / "out.fits", override=str(mask))


def test_a_single_file_needs_no_prefect(exposure, mask, tmp_path):
    code = (
        "import sys; from flows.dq_file import initialize_dq_file; "
        f"initialize_dq_file({str(exposure)!r}, {str(tmp_path / 'out.fits')!r}, override={str(mask)!r}); "
        "print(sorted({'prefect', 'crds', 's3fs'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
