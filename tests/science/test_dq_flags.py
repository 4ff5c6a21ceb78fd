"""Arithmetic of data-quality flags."""

import typing

import numpy as np
import pytest

from tasks.errors import BadFileError, ConfigError, ShapeMismatchError
from tasks.products.detector import FlagDefinition, as_flag_plane
from tasks.products.dq import DQ_MEANINGS, GROUP_FLAGS, MASK_MEANINGS, DQFlag, DQName, MaskFlag, MaskName
from tasks.science.dq_flags import (
    clear_flags,
    count_flags,
    decode_flags,
    encode_flags,
    flag_pixels,
    translate_flags,
)

# the definitions of JWST's own test of dq_init
DEFINITIONS = tuple(
    FlagDefinition(value, name)
    for value, name in [(1, "DO_NOT_USE"), (2, "DEAD"), (4, "HOT"), (8, "UNRELIABLE_SLOPE"), (16, "RC")]
)


def test_the_table_has_32_bits_each_with_a_name_and_a_meaning():
    assert [int(flag) for flag in DQFlag] == [2**bit for bit in range(32)]
    assert tuple(flag.name for flag in DQFlag) == typing.get_args(DQName)
    assert tuple(DQ_MEANINGS) == tuple(DQFlag)


def test_the_mask_has_its_own_bits_each_with_a_name_and_a_meaning():
    assert tuple(flag.name for flag in MaskFlag) == typing.get_args(MaskName)
    assert tuple(MASK_MEANINGS) == tuple(MaskFlag)
    assert int(MaskFlag.MISSING) == 256


@pytest.mark.parametrize(
    ("name", "value"),
    [("DO_NOT_USE", 1), ("DEAD", 1024), ("HOT", 2048), ("RC", 16384), ("UNRELIABLE_SLOPE", 2**24),
     ("REFERENCE_PIXEL", 2**31), ("UNRELIABLE_ERROR", 256)],
)  # fmt: skip
def test_values_are_those_of_jwst(name, value):
    assert encode_flags([name]) == value


def test_group_flags_fit_into_a_byte():
    assert int(GROUP_FLAGS) == 1 + 2 + 4 + 8 + 32 + 64 + 128


def test_names_and_values_are_inverse():
    assert decode_flags(encode_flags(["HOT", "DO_NOT_USE"])) == ("DO_NOT_USE", "HOT")
    assert decode_flags(0) == ()
    assert decode_flags(2**32 - 1) == typing.get_args(DQName)


def test_a_misspelt_flag_is_answered_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no data-quality flag 'satured'; the nearest is SATURATED"):
        encode_flags(["satured"])
    with pytest.raises(ConfigError, match=r"no data-quality flag 'xyzzy'\."):
        encode_flags(["xyzzy"])


@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_value_that_is_no_set_of_flags_is_refused(value):
    with pytest.raises(BadFileError, match="not a set of data-quality flags"):
        decode_flags(value)


def test_flags_are_counted():
    dq = np.array([[0, 1, 1025], [2**31, 1024, 0]], dtype=np.uint32)
    assert count_flags(dq) == {"DO_NOT_USE": 2, "DEAD": 2, "REFERENCE_PIXEL": 1}


def test_foreign_bits_are_translated_by_name():
    raw = np.array([0, 1, 2, 4, 8, 16, 3, 5, 9, 17], dtype=np.uint32)
    translated = translate_flags(raw, DEFINITIONS)
    expected = [0, 1, 1024, 2048, 2**24, 2**14, 1025, 2049, 16777217, 16385]
    np.testing.assert_array_equal(translated.dq, expected)
    assert translated.dq.dtype == np.uint32
    assert (translated.unknown_names, translated.undefined_bits) == ((), 0)


def test_unknown_names_are_dropped_and_reported():
    definitions = [FlagDefinition(1, "DO_NOT_USE"), FlagDefinition(2, "HOT"), FlagDefinition(4, "XYZ")]
    translated = translate_flags(np.array([7], dtype=np.uint32), definitions)
    np.testing.assert_array_equal(translated.dq, [2049])
    assert translated.unknown_names == ("XYZ",)


def test_bits_without_a_definition_are_dropped_and_reported():
    translated = translate_flags(np.array([[0, 33], [64, 0]], dtype=np.uint32), DEFINITIONS)
    np.testing.assert_array_equal(translated.dq, [[0, 1], [0, 0]])
    assert translated.undefined_bits == 96


def test_without_definitions_the_bits_are_the_standard_ones():
    raw = np.array([0, 5, 2**31], dtype=np.uint32)
    translated = translate_flags(raw, None)
    np.testing.assert_array_equal(translated.dq, raw)
    translated.dq[0] = 9
    assert raw[0] == 0


def test_the_highest_bit_is_translated():
    translated = translate_flags(np.array([2**31], np.uint32), [FlagDefinition(2**31, "REFERENCE_PIXEL")])
    assert translated.dq[0] == 2**31


def test_a_name_without_a_bit_changes_nothing():
    translated = translate_flags(np.array([0, 1], np.uint32), [FlagDefinition(0, "GOOD"), FlagDefinition(1, "HOT")])
    np.testing.assert_array_equal(translated.dq, [0, 2048])


def test_a_definition_that_no_pixel_can_carry_is_refused():
    with pytest.raises(BadFileError, match="flag 'HOT' has the value -2, not a bit"):
        translate_flags(np.ones(1, np.uint32), [FlagDefinition(-2, "HOT")])


def test_translation_does_not_change_its_input():
    raw = np.array([1, 2, 31], dtype=np.uint32)
    before = raw.copy()
    translate_flags(raw, DEFINITIONS)
    np.testing.assert_array_equal(raw, before)


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.int16, np.uint16, np.int32, np.uint64, np.float32, np.float64]
)
def test_flags_of_any_numeric_type_become_uint32(dtype):
    plane = as_flag_plane(np.ones((2, 3), dtype=dtype), "mask.fits")
    assert plane.dtype == np.uint32
    np.testing.assert_array_equal(plane, np.ones((2, 3)))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([[0.5, 1.0]], "mask.fits has 1 pixels whose value is not a set of flags, such as 0.5"),
        ([[np.nan, 1.0]], "such as nan"),
        ([[-1, -2]], "mask.fits has 2 pixels whose value is not a set of flags, such as -1"),
        ([[2.0**32]], "such as 4294967296.0"),
        (np.array([[2**32]], np.uint64), "value 4294967296, which needs more than 32 bits"),
        ([["a"]], "flags of type <U1"),
    ],
)
def test_what_no_flag_can_be_is_refused(values, sentence):
    with pytest.raises(BadFileError, match=sentence):
        as_flag_plane(values, "mask.fits")


def test_pairs_flag_single_pixels_and_not_rows():
    dq = np.zeros((6, 5), dtype=np.uint32)
    flagged = flag_pixels(dq, [(1, 2), (5, 4)], ["DEAD"])
    assert count_flags(flagged) == {"DEAD": 2}
    assert flagged[1, 2] == flagged[5, 4] == 1024
    assert not dq.any()


def test_flagging_keeps_the_flags_that_are_there():
    dq = np.full((2, 2), 4, dtype=np.uint32)
    assert flag_pixels(dq, [(0, 1)], ["DO_NOT_USE"])[0, 1] == 5


@pytest.mark.parametrize(
    ("positions", "sentence"),
    [([[1, 2, 3]], "must be pairs"), ([[0, 5]], r"Pixel \(y=0, x=5\) lies outside"), ([[-1, 0]], r"\(y=-1, x=0\)")],
)
def test_positions_that_are_not_pixels_are_refused(positions, sentence):
    with pytest.raises(ShapeMismatchError, match=sentence):
        flag_pixels(np.zeros((5, 5), np.uint32), positions, ["HOT"])


def test_flags_can_be_cleared():
    dq = np.array([2049, 2**31, 2048], dtype=np.uint32)
    cleared = clear_flags(dq, ["HOT"])
    np.testing.assert_array_equal(cleared, [1, 2**31, 0])
    assert cleared.dtype == np.uint32
