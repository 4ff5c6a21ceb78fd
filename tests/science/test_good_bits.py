import numpy as np
import pytest
from astropy.nddata.bitmask import BitFlagNameMap

from tasks.science.good_bits import good_pixels, interpret_good_bits, names_flags

JWST = {"DO_NOT_USE": 1, "JUMP_DET": 4, "DROPOUT": 8, "HOT": 2048}


class Flags(BitFlagNameMap):
    JUMP_DET = 4
    DROPOUT = 8


@pytest.mark.parametrize("forms", ["12", "4+8", "4, 8", "4|8", "JUMP_DET, DROPOUT", "JUMP_DET|DROPOUT"])
def test_all_ways_of_writing_two_flags_mean_the_same(forms):
    assert interpret_good_bits(forms, JWST) == 12
    assert interpret_good_bits(forms, Flags) == 12


@pytest.mark.parametrize("forms", [12, np.uint32(12), [4, 8], (4, 8), {4, 8}, np.array([4, 8]), ["4", "8"]])
def test_numbers_and_lists_need_no_names(forms):
    assert interpret_good_bits(forms) == 12


def test_a_list_of_names_is_a_list_of_flags():
    assert interpret_good_bits(["JUMP_DET", "DROPOUT"], JWST) == 12


@pytest.mark.parametrize("forms", ["~4+8", "~4,8", "~(4+8)", "~JUMP_DET|DROPOUT", -13])
def test_a_tilde_makes_all_other_flags_good(forms):
    assert interpret_good_bits(forms, JWST) == -13


@pytest.mark.parametrize("forms", [None, "", "None", "INDEF", "  "])
def test_none_and_its_names_ignore_all_flags(forms):
    assert interpret_good_bits(forms) is None


def test_nothing_is_ignored_by_zero_and_all_by_its_complement():
    assert interpret_good_bits(0) == 0
    assert interpret_good_bits([]) == 0
    assert interpret_good_bits("~0") == -1


@pytest.mark.parametrize(
    ("good_bits", "names", "error", "sentence"),
    [
        ("5,2", None, ValueError, "good_bits '5,2' lists 5, which is not a single flag .*: a sum of flags must stand"),
        ([5, 2], None, ValueError, "good_bits '5,2' lists 5, which is not a single flag"),
        ("4+8,16", None, ValueError, r"good_bits '4\+8,16' mixes separators: use only one of comma, plus and bar"),
        ("4,~8", None, ValueError, "The ~ of good_bits '4,~8' may only stand once, before the whole list"),
        ("~~4", None, ValueError, "The ~ of good_bits '~~4' may only stand once"),
        ("4,", None, ValueError, "good_bits '4,' has an empty place"),
        ("~", None, ValueError, "good_bits '~' has an empty place"),
        ("(4+8", None, ValueError, r"The brackets of good_bits '\(4\+8' must enclose the whole list"),
        ("~(4)+(8)", None, ValueError, "The brackets of good_bits .* must enclose the whole list"),
        (["~4", "8"], None, ValueError, r"good_bits \['~4', '8'\] holds '~4'; each item of a list must be a single fl"),
        ([""], None, ValueError, r"good_bits \[''\] holds ''; each item of a list must be a single flag"),
        ("HOT", None, ValueError, "good_bits 'HOT' names flags, but there is no table of names: set dq_flag_name_map"),
        ("jump_det", JWST, KeyError, "There is no data-quality flag 'jump_det'; the nearest is 'JUMP_DET'."),
        ("DROPOUT,JMP_DET", Flags, KeyError, "There is no data-quality flag 'JMP_DET'; the nearest is 'JUMP_DET'."),
        ("BLUE", JWST, KeyError, "^There is no data-quality flag 'BLUE'.$"),
        ("4, HOT", JWST, KeyError, "good_bits '4, HOT' mixes names and numbers of flags: use one or the other"),
        (4.0, None, TypeError, "good_bits must be a whole number, a string, a list of them or None, not 4.0"),
        (True, None, TypeError, "good_bits must be a whole number, a string, a list of them or None, not True"),
        ([4, 8.0], None, TypeError, r"not \[4, 8.0\]"),
    ],
)
def test_what_cannot_be_understood_is_explained(good_bits, names, error, sentence):
    with pytest.raises(error) as caught:
        interpret_good_bits(good_bits, names)
    assert caught.match(sentence)


def test_names_are_told_from_numbers():
    assert names_flags("JUMP_DET")
    assert names_flags(["HOT", "DEAD"])
    assert not any(names_flags(forms) for forms in ("~4+8", "INDEF", "None", "", None, 12, [4, 8]))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u4", ">i4"])
def test_flags_of_any_width_are_tested(dtype):
    dq = np.array([0, 4, 12, 1, 5], dtype)
    assert good_pixels(dq, 12).tolist() == [True, True, True, False, False]
    assert good_pixels(dq, -13).tolist() == [True, False, False, True, False]
    assert good_pixels(dq, 0).tolist() == [True, False, False, False, False]
    assert good_pixels(dq, -1).all()
    assert good_pixels(dq, None).all()


def test_the_highest_bit_counts_in_signed_planes():
    dq = np.array([-(2**31), 0], np.int32)
    assert good_pixels(dq, 0).tolist() == [False, True]
    assert good_pixels(dq, 1 << 31).all()
    assert good_pixels(dq.view(np.uint32), 0).tolist() == [False, True]
