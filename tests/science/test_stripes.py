"""Detectors that are read in stripes."""

import numpy as np
import pytest

from tasks.errors import BadFileError, ReferenceMismatchError
from tasks.products.detector import StripeReadout
from tasks.products.windows import Window
from tasks.science.stripes import assemble_stripes, stripe_lines

FULL = Window(0, 0, 2048, 2048)
# of the subarray SUB204STRIPE_SOSS of NIRISS: 4 reference columns and 204 others, from the right
SOSS = StripeReadout(4, 0, 204, 0, True, True, 10, 204, -2, -1)


def numbered(axis):
    line = np.arange(2048, dtype=np.uint32)
    return np.broadcast_to(line[:, None] if axis == "y" else line, (2048, 2048))


def assemble(plane, wanted, readout, covered=FULL):
    return assemble_stripes(plane, covered, wanted, readout, name="reference mask.fits", subject="CCD 3")


@pytest.mark.parametrize(
    ("readout", "n_lines", "superstripe", "lines"),
    [
        # skip from stripe to stripe, without coming back
        (StripeReadout(2, 3, 2, 4, False, False, 0, 0, 1, 2), 6, 0, [10, 11, 15, 16, 21, 22]),
        # come back to the reference lines before every stripe, the stripe staying where it is
        (StripeReadout(1, 3, 2, 4, True, False, 0, 0, 1, 2), 6, 0, [10, 14, 15, 10, 14, 15]),
        # and the stripe moving on
        (StripeReadout(1, 3, 2, 4, True, True, 0, 0, 1, 2), 6, 0, [10, 14, 15, 10, 20, 21]),
        # no reference lines
        (StripeReadout(0, 3, 2, 4, True, True, 0, 0, 1, 2), 4, 0, [13, 14, 19, 20]),
        # superstripes: the same frame further on
        (StripeReadout(1, 3, 2, 0, True, False, 4, 5, 1, 2), 6, 2, [10, 24, 25, 10, 24, 25]),
        # a stripe as long as the step
        (StripeReadout(1, 0, 0, 0, True, False, 4, 3, 1, 2), 4, 1, [10, 14, 15, 16]),
    ],
)
def test_lines_follow_each_other_as_they_are_read(readout, n_lines, superstripe, lines):
    assert stripe_lines(readout, 10, n_lines, superstripe, "CCD 3").tolist() == lines


def test_superstripes_that_are_read_from_the_right_hold_the_columns_that_they_should():
    frames = assemble(numbered("x"), Window(2047, 1792, 2255, 2048), SOSS)
    assert frames.shape == (10, 256, 208)
    for number, frame in enumerate(frames):
        assert (frame == frame[0]).all()
        # the readout begins at the last column, which comes last in the image too
        np.testing.assert_array_equal(frame[0, -4:], [2044, 2045, 2046, 2047])
        first = 2044 - 204 * (number + 1)
        np.testing.assert_array_equal(frame[0, :204], np.arange(first, first + 204))


def test_the_fast_axis_is_cut_to_the_window():
    frames = assemble(numbered("y"), Window(2047, 1792, 2255, 2048), SOSS)
    np.testing.assert_array_equal(frames[3, :, 7], np.arange(1792, 2048))


def test_lines_along_y_are_assembled_from_the_top():
    readout = StripeReadout(1, 165, 1, 0, True, False, 64, 1, 1, -2)
    frames = assemble(numbered("y"), Window(1850, 2045, 1914, 2053), readout)
    assert frames.shape == (64, 8, 64)
    # the readout starts at line 2046 from 1 and goes down; the stripe is 166 lines below, and one more in every frame
    assert frames[5, :, 0].tolist() == [2045 - 166 - 5, 2045] * 4


def test_a_frame_without_superstripes_has_no_further_axis():
    readout = StripeReadout(2, 0, 2, 0, False, False, 0, 0, 1, 2)
    np.testing.assert_array_equal(assemble(numbered("y"), Window(7, 30, 9, 34), readout)[:, 0], [30, 31, 32, 33])


def test_subarrays_of_dhs_start_at_the_edge_whatever_they_say():
    readout = StripeReadout(1, 9, 2, 0, True, True, 0, 0, 1, -2, starts_at_edge=True)
    assert assemble(numbered("y"), Window(0, 500, 5, 503), readout)[:, 0].tolist() == [2036, 2037, 2047]


def test_early_files_that_start_at_the_first_line_start_at_the_edge():
    readout = StripeReadout(1, 9, 2, 0, True, True, 0, 0, 1, -2)
    assert assemble(numbered("y"), Window(0, 0, 5, 3), readout)[:, 0].tolist() == [2036, 2037, 2047]


def test_the_result_is_a_copy():
    plane = np.zeros((2048, 2048), np.uint32)
    assemble(plane, Window(0, 0, 2048, 4), StripeReadout(2, 0, 2, 0, False, False, 0, 0, 1, 2))[:] = 1
    assert not plane.any()


@pytest.mark.parametrize(
    ("readout", "wanted", "error", "sentence"),
    [
        (StripeReadout(1, 0, 2, 0, True, True, 0, 0, 1, 1), Window(0, 0, 5, 3), BadFileError,
         "CCD 3 has FASTAXIS = 1 and SLOWAXIS = 1; one must be 1 or -1"),
        (StripeReadout(1, 0, 0, 0, True, True, 0, 0, 1, 2), Window(0, 0, 5, 3), BadFileError,
         r"CCD 3 is read in stripes of 0 lines \(MSTR_RD2\)"),
        (StripeReadout(1, 0, 2, 0, True, True, 0, 0, 1, 2), Window(0, 0, 5, 4), BadFileError,
         "CCD 3 has 4 lines along its slow axis, but its stripes of 1 and 2 lines make 6"),
        (StripeReadout(1, 2046, 2, 0, True, True, 0, 0, 1, 2), Window(0, 0, 5, 3), ReferenceMismatchError,
         r"CCD 3 has lines 0\.\.2048 in its stripes, but reference mask\.fits only 0\.\.2047"),
        (StripeReadout(1, 0, 2, 0, True, True, 0, 0, 1, 2), Window(2046, 0, 2051, 3), ReferenceMismatchError,
         r"CCD 3 covers x 2046\.\.2050, .* but reference mask\.fits covers only x 0\.\.2047"),
    ],
)  # fmt: skip
def test_stripes_that_cannot_be_are_refused(readout, wanted, error, sentence):
    with pytest.raises(error, match=sentence):
        assemble(numbered("y"), wanted, readout)


def test_a_reference_of_a_part_of_the_lines_is_refused():
    sentence = (
        r"reference mask\.fits covers only a part of the 2048 lines of the detector, but CCD 3 is read in stripes"
    )
    with pytest.raises(ReferenceMismatchError, match=sentence):
        assemble(numbered("y")[:2000], Window(0, 0, 5, 208), SOSS, Window(0, 0, 2000, 2048))
