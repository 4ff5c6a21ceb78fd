"""Data-quality initialisation."""

import numpy as np
import pytest
from astropy.io import fits
from crds_cache import store_ccd, write_simple_cache

from blocks.crds import CrdsCache
from tasks.archive.fits_files import open_fits
from tasks.archive.planes import read_plane
from tasks.dq_init import DQInitConfig, initialize_dq, initialize_dq_task
from tasks.errors import BadFileError, ReferenceMismatchError, ShapeMismatchError
from tasks.products.detector import DetectorImage, DQReference, FlagDefinition, StripeReadout
from tasks.products.images import Window
from tasks.references import ReferencesConfig, select_reference_task
from tasks.session import Outcome, session

CONFIG = DQInitConfig()
# the definitions of JWST's own test of dq_init
DEFINITIONS = tuple(
    FlagDefinition(value, name)
    for value, name in [(1, "DO_NOT_USE"), (2, "DEAD"), (4, "HOT"), (8, "UNRELIABLE_SLOPE"), (16, "RC")]
)


def image(shape=(8, 12), **fields):
    return DetectorImage(np.zeros(shape, np.float32), **fields)


def reference(flags=None, shape=(8, 12), **fields):
    dq = np.zeros(shape, np.uint32)
    for position, value in (flags or {}).items():
        dq[position] = value
    return DQReference(dq, **{"definitions": DEFINITIONS, "name": "mask.fits"} | fields)


def test_the_flags_of_the_reference_are_translated_and_copied():
    flags = {(0, 1): 1, (1, 1): 2, (2, 2): 4, (3, 3): 8, (4, 4): 16, (5, 5): 3, (6, 6): 5, (7, 7): 9, (7, 0): 17}
    result = initialize_dq(image(), reference(flags), CONFIG)
    expected = np.zeros((8, 12), np.uint32)
    for position, value in zip(flags, [1, 1024, 2048, 2**24, 2**14, 1025, 2049, 16777217, 16385], strict=True):
        expected[position] = value
    np.testing.assert_array_equal(result.pixeldq, expected)
    assert result.pixeldq.dtype == np.uint32
    assert result.groupdq is None
    assert result.warnings == ()


def test_flags_that_the_image_has_are_kept():
    pixeldq = np.zeros((8, 12), np.uint32)
    pixeldq[2, 3], pixeldq[4, 5] = 4, 2
    result = initialize_dq(image(pixeldq=pixeldq), reference({(2, 3): 1}), CONFIG)
    assert result.pixeldq[2, 3] == 5
    assert result.pixeldq[4, 5] == 2
    assert np.count_nonzero(result.pixeldq) == 2


def test_a_ramp_gets_flags_for_pixels_and_groups():
    result = initialize_dq(image((2, 3, 8, 12)), reference({(1, 2): 1, (3, 4): 2, (5, 6): 5}), CONFIG)
    assert result.pixeldq.shape == (8, 12)
    assert result.groupdq.shape == (2, 3, 8, 12)
    assert result.groupdq.dtype == np.uint8
    assert (result.groupdq[..., 1, 2] == 1).all()
    assert (result.groupdq[..., 5, 6] == 1).all()
    assert np.count_nonzero(result.groupdq) == 2 * 2 * 3


def test_group_flags_that_the_ramp_has_are_kept():
    groupdq = np.zeros((1, 2, 8, 12), np.uint8)
    groupdq[0, 1, 1, 2] = 4
    result = initialize_dq(image((1, 2, 8, 12), groupdq=groupdq), reference({(1, 2): 1}), CONFIG)
    assert result.groupdq[0, :, 1, 2].tolist() == [1, 5]


def test_running_twice_changes_nothing():
    pixeldq = np.full((8, 12), 4, np.uint32)
    once = initialize_dq(image((2, 2, 8, 12), pixeldq=pixeldq), reference({(1, 2): 1, (0, 0): 32}), CONFIG)
    twice = initialize_dq(once, reference({(1, 2): 1, (0, 0): 32}), CONFIG)
    np.testing.assert_array_equal(once.pixeldq, twice.pixeldq)
    np.testing.assert_array_equal(once.groupdq, twice.groupdq)
    assert once.warnings == twice.warnings
    assert len(once.warnings) == 1


def test_the_inputs_are_not_changed():
    ramp = image((1, 2, 8, 12), pixeldq=np.zeros((8, 12), np.uint32), groupdq=np.zeros((1, 2, 8, 12), np.uint8))
    static = reference({(1, 2): 1})
    initialize_dq(ramp, static, CONFIG)
    assert not ramp.pixeldq.any()
    assert not ramp.groupdq.any()
    assert static.dq[1, 2] == 1
    assert np.count_nonzero(static.dq) == 1


def test_the_result_shares_no_flags_with_the_image():
    before = image((1, 2, 8, 12), pixeldq=np.zeros((8, 12), np.uint32), groupdq=np.zeros((1, 2, 8, 12), np.uint8))
    for static in (None, reference()):
        after = initialize_dq(before, static, CONFIG)
        assert not np.shares_memory(after.pixeldq, before.pixeldq)
        assert not np.shares_memory(after.groupdq, before.groupdq)


def test_a_subarray_gets_its_window_of_the_full_detector():
    # a 288 x 224 window of a 1032 x 1024 detector, starting at column 1 and row 467 counted from 1
    window = Window(0, 466, 288, 690)
    static = reference({(542, 100): 2, (466, 0): 1, (689, 287): 4, (465, 0): 16, (690, 0): 16}, (1024, 1032))
    result = initialize_dq(image((2, 3, 224, 288), window=window), static, CONFIG)
    assert result.pixeldq.shape == (224, 288)
    assert (result.pixeldq[76, 100], result.pixeldq[0, 0], result.pixeldq[223, 287]) == (1024, 1, 2048)
    assert np.count_nonzero(result.pixeldq) == 3


def test_a_window_is_cut_from_a_reference_of_a_larger_window():
    static = reference({(2, 3): 1}, window=Window(100, 200, 112, 208))
    result = initialize_dq(image((3, 4), window=Window(102, 201, 106, 204)), static, CONFIG)
    assert np.argwhere(result.pixeldq).tolist() == [[1, 1]]


def test_a_window_outside_the_reference_is_refused():
    sentence = r"CCD 1-2 covers x 10\.\.13, y 0\.\.2 of the detector, but reference mask\.fits covers only x 0\.\.11"
    with pytest.raises(ReferenceMismatchError, match=sentence):
        initialize_dq(image((3, 4), window=Window(10, 0, 14, 3), subject="CCD 1-2"), reference(), CONFIG)


def test_an_image_of_another_shape_that_does_not_say_its_window_is_refused():
    sentence = (
        r"CCD 1-2 has shape \(4, 4\) and no SUBSTRT1 and SUBSTRT2, but reference mask\.fits covers x 0\.\.11, y 0\.\.7"
    )
    with pytest.raises(ReferenceMismatchError, match=sentence):
        initialize_dq(image((4, 4), subject="CCD 1-2"), reference(), CONFIG)


def test_unknown_flags_are_left_out_and_told():
    definitions = (FlagDefinition(1, "DO_NOT_USE"), FlagDefinition(2, "CROSS_BAD"))
    result = initialize_dq(image(), reference({(0, 0): 7}, definitions=definitions), CONFIG)
    assert result.pixeldq[0, 0] == 1
    assert result.warnings == (
        "mask.fits defines CROSS_BAD, which is no standard flag: ignored",
        "mask.fits has bits without a definition (0x4): ignored",
    )


def test_without_definitions_the_bits_are_standard():
    result = initialize_dq(image(), reference({(0, 0): 1025}, definitions=None), CONFIG)
    assert result.pixeldq[0, 0] == 1025


def test_the_highest_bit_is_kept():
    static = reference({(0, 0): 2**31}, definitions=(FlagDefinition(2**31, "REFERENCE_PIXEL"),))
    assert initialize_dq(image(), static, CONFIG).pixeldq[0, 0] == 2**31


def test_flags_of_the_user_are_added_to_those_of_the_reference_and_of_the_image():
    user_dq = np.zeros((8, 12), np.int16)
    user_dq[1, 1], user_dq[2, 2] = 1, 4
    pixeldq = np.full((8, 12), 2, np.uint32)
    result = initialize_dq(image((1, 2, 8, 12), pixeldq=pixeldq), reference({(2, 2): 2}), CONFIG, user_dq)
    assert (result.pixeldq[1, 1], result.pixeldq[2, 2], result.pixeldq[0, 0]) == (3, 1030, 2)
    assert np.argwhere(result.groupdq[0, 1]).tolist() == [[1, 1]]
    assert (user_dq[1, 1], np.count_nonzero(user_dq)) == (1, 2)


def test_flags_of_the_user_are_those_of_the_subarray():
    user_dq = np.zeros((3, 4), np.uint32)
    user_dq[0, 0] = 8
    static = reference({(1, 2): 1})
    result = initialize_dq(image((3, 4), window=Window(2, 1, 6, 4)), static, CONFIG, user_dq)
    assert result.pixeldq[0, 0] == 9
    assert np.count_nonzero(static.dq) == 1
    with pytest.raises(ShapeMismatchError, match=r"user's flags have shape \(8, 12\), but CCD 1-2 needs \(3, 4\)"):
        initialize_dq(
            image((3, 4), window=Window(2, 1, 6, 4), subject="CCD 1-2"), static, CONFIG, np.zeros((8, 12), int)
        )


def test_flags_of_the_user_without_a_reference_are_not_used_and_this_is_told():
    result = initialize_dq(image(), None, CONFIG, np.ones((8, 12), np.uint32))
    assert not result.pixeldq.any()
    assert result.warnings == ("no reference applies, so the user's flags were not used either",)


def test_what_no_flag_can_be_is_refused_from_the_user_too():
    with pytest.raises(BadFileError, match="The user's flags has 96 pixels whose value is not a set of flags"):
        initialize_dq(image(), reference(), CONFIG, np.full((8, 12), -1))


def test_exposures_of_the_guider_get_flags_of_their_pixels_only():
    guider = image((2, 3, 8, 12), guider=True, pixeldq=np.full((8, 12), 8, np.uint32))
    result = initialize_dq(guider, reference({(1, 2): 1}), CONFIG)
    assert (result.pixeldq[1, 2], result.pixeldq[0, 0]) == (9, 8)
    assert result.groupdq is None


def test_superstripes_get_the_flags_of_their_own_lines():
    # columns are read from the left: 1 reference column, then 3 columns of the detector, 3 further in the next stripe
    readout = StripeReadout(1, 0, 3, 0, True, True, 2, 3, 2, 1)
    static = np.zeros((2048, 2048), np.uint32)
    static[0, 0], static[1, 2], static[2, 5] = 4, 1, 3
    ramp = image((4, 2, 8, 4), window=Window(0, 0, 4, 8), stripes=readout)
    result = initialize_dq(ramp, DQReference(static), CONFIG)
    assert result.pixeldq.shape == (2, 8, 4)
    assert np.argwhere(result.pixeldq).tolist() == [[0, 0, 0], [0, 1, 2], [1, 0, 0], [1, 2, 2]]
    assert result.groupdq.shape == (4, 2, 8, 4)
    # integrations follow each other stripe by stripe
    for integration, pixel in enumerate([(1, 2), (2, 2), (1, 2), (2, 2)]):
        assert np.argwhere(result.groupdq[integration, 1]).tolist() == [list(pixel)]


def test_a_reference_in_the_stripes_of_the_image_is_used_as_it_is():
    readout = StripeReadout(1, 9, 3, 0, True, True, 0, 0, 1, 2)
    striped = image((1, 1, 8, 12), window=Window(0, 0, 12, 8), stripes=readout)
    static = reference({(7, 3): 1}, window=Window(0, 0, 12, 8))
    assert np.argwhere(initialize_dq(striped, static, CONFIG).pixeldq).tolist() == [[7, 3]]


def test_flags_can_be_ignored():
    config = DQInitConfig(ignored_flags=("HOT", "DO_NOT_USE"))
    result = initialize_dq(image((1, 1, 8, 12)), reference({(0, 0): 7}), config)
    assert result.pixeldq[0, 0] == 1024
    assert not result.groupdq.any()


def test_a_misspelt_flag_is_refused_before_any_work():
    with pytest.raises(ValueError, match="ignored_flags"):
        DQInitConfig(ignored_flags=("WARMISH",))


def test_without_a_reference_the_flags_are_those_of_the_image():
    pixeldq = np.full((8, 12), 2, np.uint32)
    np.testing.assert_array_equal(initialize_dq(image(pixeldq=pixeldq), None, CONFIG).pixeldq, pixeldq)
    created = initialize_dq(image((1, 2, 8, 12)), None, CONFIG)
    assert not created.pixeldq.any()
    assert created.groupdq.shape == (1, 2, 8, 12)


@pytest.mark.parametrize(
    ("shape", "fields", "error", "sentence"),
    [
        (
            (8, 12),
            {"pixeldq": np.zeros((8, 11), np.uint32)},
            ShapeMismatchError,
            r"pixel flags of shape \(8, 11\) where",
        ),
        ((1, 2, 8, 12), {"pixeldq": np.zeros((1, 2, 8, 12), np.uint32)}, ShapeMismatchError, r"data ask for \(8, 12\)"),
        (
            (1, 2, 8, 12),
            {"groupdq": np.zeros((8, 12), np.uint8)},
            ShapeMismatchError,
            r"group flags of shape \(8, 12\)",
        ),
        (
            (8, 12),
            {"groupdq": np.zeros((8, 12), np.uint8)},
            ShapeMismatchError,
            "only ramps have flags of their groups",
        ),
        ((8, 12), {"pixeldq": np.zeros((8, 12))}, BadFileError, "pixel flags of type float64; they must be uint32"),
        ((8, 12), {"window": Window(0, 0, 12, 9)}, ShapeMismatchError, r"shape \(8, 12\), but .* window of \(9, 12\)"),
        ((2, 8, 12), {}, BadFileError, "The image has 3 dimensions; images have 2"),
        (
            (1, 2, 8, 12),
            {"groupdq": np.zeros((1, 2, 8, 12), np.uint8), "guider": True},
            ShapeMismatchError,
            r"is an exposure of a guider of shape \(8, 12\) but has group flags",
        ),
        (
            (3, 2, 8, 12),
            {"stripes": StripeReadout(1, 0, 3, 0, True, True, 2, 3, 2, 1)},
            ShapeMismatchError,
            r"shape \(3, 2, 8, 12\), which is no whole number of sets of 2 superstripes",
        ),
    ],
)
def test_flags_and_windows_that_do_not_fit_the_data_are_refused(shape, fields, error, sentence):
    with pytest.raises(error, match=sentence):
        image(shape, **fields)


def test_a_reference_of_another_type_is_refused():
    with pytest.raises(BadFileError, match=r"mask\.fits has flags of type int64 .* they must be uint32"):
        DQReference(np.zeros((2, 2), np.int64), name="mask.fits")


# --- the stage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path):
    written = write_simple_cache(tmp_path / "crds")
    dq = np.zeros((8, 12), np.uint32)
    dq[3, 4], dq[0, 0] = 3, 4
    definitions = [(1, "DO_NOT_USE"), (2, "DEAD"), (4, "STRANGE")]
    written.write_reference("CCD0_a.fits", dq, definitions, SUBSTRT1=1, SUBSTRT2=1, SUBSIZE1=12, SUBSIZE2=8)
    return CrdsCache(root=str(written.root), observatory="testobs")


def run(store, cache, **changes):
    ccd = store_ccd(store, **changes)
    references = select_reference_task.fn(ccd, ReferencesConfig(), cache, store)
    return initialize_dq_task.fn(ccd, references, CONFIG, store)


def test_the_stage_writes_the_plane_and_where_it_came_from(store, cache):
    ref = run(store, cache)
    expected = np.zeros((8, 12), np.uint32)
    expected[3, 4] = 1025
    np.testing.assert_array_equal(read_plane(store, ref, "DQ"), expected)
    assert (ref.key, ref.subject) == ("exposures/2113737/ccd-04/dq.fits", "2113737-4")
    assert ref.summary == {"dq_init": "COMPLETE", "n_flagged": 1, "n_new": 1, "n_warnings": 1}
    with open_fits(store, ref) as hdus:
        header = hdus[0].header
    assert (header["R_DQ"], header["CRDS_CTX"]) == ("crds://CCD0_a.fits", "testobs_0001.pmap")
    assert header["S_DQINIT"] == "COMPLETE"
    assert header["CRDS_VER"]


@pytest.mark.parametrize("configured", [True, False])
def test_the_stage_is_skipped_and_says_so_where_no_reference_applies(store, cache, configured):
    ref = run(store, cache if configured else None, DETECTOR="CCD2")
    assert not read_plane(store, ref, "DQ").any()
    assert ref.summary["dq_init"] == "SKIPPED"
    with open_fits(store, ref) as hdus:
        assert hdus[0].header["S_DQINIT"] == "SKIPPED"
        assert hdus[0].header["R_DQ"] == "N/A"


def test_a_changed_reference_runs_both_stages_again_and_an_unchanged_one_runs_none(store, cache):
    with session() as happened:
        first = run(store, cache)
        assert run(store, cache) == first
        assert (happened.count(Outcome.RUN), happened.count(Outcome.REUSED)) == (2, 2)
        with fits.open(cache.locate_reference("CCD0_a.fits"), mode="update") as hdus:
            hdus["DQ"].data[5, 5] = 2
        second = run(store, cache)
        assert (happened.count(Outcome.RUN), happened.count(Outcome.REUSED)) == (4, 2)
    assert read_plane(store, second, "DQ")[5, 5] == 1024


def test_a_subarray_is_read_from_its_keywords(store, cache):
    ccd = store_ccd(store, SUBSTRT1="3", SUBSTRT2="1", SUBSIZE1="12", SUBSIZE2="8")
    references = select_reference_task.fn(ccd, ReferencesConfig(), cache, store)
    with pytest.raises(ReferenceMismatchError, match=r"CCD 2113737-4 covers x 2\.\.13, y 0\.\.7 of the detector, but"):
        initialize_dq_task.fn(ccd, references, CONFIG, store)
