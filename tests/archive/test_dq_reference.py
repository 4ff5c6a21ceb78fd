"""From the bytes of DQ references to flags and windows."""

import io

import numpy as np
import pytest
from astropy.io import fits
from crds_cache import dq_hdus

from tasks.archive.dq_reference import check_reference_bytes, parse_dq_reference, read_window, reference_cards
from tasks.archive.reference_bytes import read_dq_reference_file, read_user_flags
from tasks.errors import BadFileError, MissingKeywordError, ShapeMismatchError
from tasks.products.detector import FlagDefinition
from tasks.products.images import Window
from tasks.products.references import ReferenceRecord

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize 67115520\n"
)


def file_bytes(hdus):
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    return buffer.getvalue()


def test_flags_definitions_and_window_are_read():
    dq = np.zeros((8, 12), np.uint32)
    dq[7, 11], dq[2, 3] = 2**31, 5
    keywords = {"SUBSTRT1": 11, "SUBSTRT2": 21, "SUBSIZE1": 12, "SUBSIZE2": 8}
    reference = parse_dq_reference(file_bytes(dq_hdus(dq, [(1, "HOT"), (2**31, "DEAD")], **keywords)), "mask.fits")
    np.testing.assert_array_equal(reference.dq, dq)
    assert reference.dq.dtype == np.uint32
    assert reference.dq.dtype.isnative
    assert reference.definitions == (FlagDefinition(1, "HOT"), FlagDefinition(2**31, "DEAD"))
    assert reference.window == Window(10, 20, 22, 28)
    assert reference.name == "mask.fits"


def test_a_reference_may_have_neither_definitions_nor_window():
    reference = parse_dq_reference(file_bytes(dq_hdus()), "mask.fits")
    assert reference.definitions is None
    assert reference.window is None


def test_a_table_without_rows_defines_nothing():
    # as JWST has it: the bits are the standard ones
    assert parse_dq_reference(file_bytes(dq_hdus(definitions=[])), "mask.fits").definitions is None


def test_tables_of_unusual_columns_are_read():
    hdus = dq_hdus(np.ones((4, 4), np.uint32))
    columns = [fits.Column("name", "PA(9)", array=["HOT", "DEAD"]), fits.Column("value", "D", array=[1.0, 2.0])]
    hdus.append(fits.BinTableHDU.from_columns(columns, name="DQ_DEF"))
    definitions = parse_dq_reference(file_bytes(hdus), "mask.fits").definitions
    assert definitions == (FlagDefinition(1, "HOT"), FlagDefinition(2, "DEAD"))


def test_a_file_is_read_as_its_bytes_are(tmp_path):
    dq = np.random.default_rng(5).integers(0, 2**32, (30, 40), np.uint64).astype(np.uint32)
    path = tmp_path / "mask.fits"
    path.write_bytes(file_bytes(dq_hdus(dq, [(4, "HOT")], SUBSTRT1=3, SUBSTRT2=4)))
    from_file, from_bytes = read_dq_reference_file(path), parse_dq_reference(path.read_bytes(), "mask.fits")
    np.testing.assert_array_equal(from_file.dq, dq)
    assert from_file.dq.dtype.isnative
    assert (from_file.definitions, from_file.window) == (from_bytes.definitions, from_bytes.window)
    assert (from_file.window, from_file.name) == (Window(2, 3, 42, 33), "mask.fits")


def test_a_file_that_is_not_there_or_not_itself_is_refused(tmp_path):
    with pytest.raises(BadFileError, match=r"nowhere\.fits cannot be opened: No such file"):
        read_dq_reference_file(tmp_path / "nowhere.fits")
    (tmp_path / "mask.fits").write_bytes(POINTER)
    with pytest.raises(BadFileError, match=r"mask\.fits is a git-LFS pointer of 133 bytes"):
        read_dq_reference_file(tmp_path / "mask.fits")


@pytest.mark.parametrize("primary", [True, False])
def test_the_first_image_of_a_file_holds_the_flags_of_the_user(tmp_path, primary):
    plane = np.arange(12, dtype=np.int32).reshape(3, 4)
    first = fits.PrimaryHDU(plane if primary else None)
    fits.HDUList([first, fits.ImageHDU(plane, name="MINE")]).writeto(tmp_path / "mine.fits")
    np.testing.assert_array_equal(read_user_flags(tmp_path / "mine.fits"), plane)


def test_a_file_without_flags_of_the_user_is_refused(tmp_path):
    fits.PrimaryHDU().writeto(tmp_path / "mine.fits")
    with pytest.raises(BadFileError, match=r"mine\.fits holds no image"):
        read_user_flags(tmp_path / "mine.fits")
    (tmp_path / "mine.fits").write_bytes(b"hello")
    with pytest.raises(BadFileError, match=r"mine\.fits cannot be read as FITS: the file ends inside header 0"):
        read_user_flags(tmp_path / "mine.fits")
    with pytest.raises(BadFileError, match=r"yours\.fits cannot be read as FITS: .*No such file"):
        read_user_flags(tmp_path / "yours.fits")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_flags_may_be_of_any_numeric_type(dtype):
    reference = parse_dq_reference(file_bytes(dq_hdus(np.full((3, 4), 17, dtype))), "mask.fits")
    assert reference.dq.dtype == np.uint32
    assert (reference.dq == 17).all()


def test_flags_may_be_compressed():
    plane = np.arange(64 * 64, dtype=np.int32).reshape(64, 64)
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(plane, name="DQ")])
    np.testing.assert_array_equal(parse_dq_reference(file_bytes(hdus), "mask.fits").dq, plane)


def test_a_pointer_of_git_lfs_is_recognised():
    with pytest.raises(BadFileError, match=r"iris_mask\.fits is a git-LFS pointer of 133 bytes .* run `git lfs pull`"):
        parse_dq_reference(POINTER, "iris_mask.fits")


@pytest.mark.parametrize("length", [100, 2880 * 2 - 1])
def test_a_file_cut_inside_a_block_is_truncated(length):
    data = file_bytes(dq_hdus(np.zeros((200, 200), np.uint32)))
    with pytest.raises(BadFileError, match=rf"mask\.fits is truncated: its {length} bytes are not a multiple of 2880"):
        parse_dq_reference(data[:length], "mask.fits")


@pytest.mark.parametrize("blocks", [3, 10])
def test_a_file_cut_between_blocks_is_truncated(blocks):
    data = file_bytes(dq_hdus(np.zeros((200, 200), np.uint32), [(1, "HOT")]))
    with pytest.raises(BadFileError, match=r"mask\.fits \(\d+ bytes\) cannot be read as FITS: .*may be truncated"):
        parse_dq_reference(data[: 2880 * blocks], "mask.fits")


@pytest.mark.parametrize(
    ("data", "name", "sentence"),
    [
        (b"", "mask.fits", "is empty"),
        (b"<html>not found</html>", "mask.fits", r"is not a FITS file: it begins with b'<html>not found<'"),
        (b"", "distortion.asdf", "is empty"),
        (POINTER, "distortion.asdf", "git-LFS pointer"),
    ],
)
def test_what_is_not_the_file_itself_is_refused(data, name, sentence):
    with pytest.raises(BadFileError, match=sentence):
        check_reference_bytes(data, name)


def test_other_formats_than_fits_are_let_through():
    check_reference_bytes(b"#ASDF 1.0.0\n", "distortion.asdf")


def without_dq():
    return fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2), np.int16), name="MASK")])


def with_table_as_dq():
    table = fits.BinTableHDU.from_columns([fits.Column("VALUE", "J", array=[1])], name="DQ")
    return fits.HDUList([fits.PrimaryHDU(), table])


def with_other_table():
    hdus = dq_hdus()
    hdus.append(fits.BinTableHDU.from_columns([fits.Column("BIT", "J", array=[1])], name="DQ_DEF"))
    return hdus


@pytest.mark.parametrize(
    ("hdus", "sentence"),
    [
        (without_dq(), r"mask\.fits has no HDU DQ; it has 0 PRIMARY, 1 MASK"),
        (with_table_as_dq(), r"HDU DQ of reference mask\.fits is not an image of two dimensions"),
        (dq_hdus(np.zeros((2, 3, 4), np.int16)), "not an image of two dimensions"),
        (with_other_table(), r"DQ_DEF of reference mask\.fits has no column NAME and VALUE"),
        (dq_hdus(np.full((2, 2), 0.5)), r"mask\.fits has 4 pixels whose value is not a set of flags"),
    ],
)
def test_what_is_no_dq_reference_is_refused(hdus, sentence):
    with pytest.raises(BadFileError, match=sentence):
        parse_dq_reference(file_bytes(hdus), "mask.fits")


def test_a_reference_of_another_shape_than_its_window_is_refused():
    data = file_bytes(dq_hdus(SUBSTRT1=1, SUBSTRT2=1, SUBSIZE1=12, SUBSIZE2=9))
    with pytest.raises(
        ShapeMismatchError, match=r"mask\.fits has flags of shape \(8, 12\), but .* window of \(9, 12\)"
    ):
        parse_dq_reference(data, "mask.fits")


@pytest.mark.parametrize(
    ("header", "window"),
    [
        ({}, None),
        ({"SUBSTRT1": 1, "SUBSTRT2": 467, "SUBSIZE1": 288, "SUBSIZE2": 224}, Window(0, 466, 288, 690)),
        ({"SUBSTRT1": "3", "SUBSTRT2": "4.0"}, Window(2, 3, 290, 227)),
        ({"SUBSIZE1": 288, "SUBSIZE2": 224}, None),
        ({"SUBSTRT1": "", "SUBSTRT2": ""}, None),
    ],
)
def test_windows_are_converted_from_counting_from_one(header, window):
    assert read_window(header, (224, 288), "CCD 1-2") == window


@pytest.mark.parametrize(
    ("header", "error", "sentence"),
    [
        ({"SUBSTRT1": 1}, MissingKeywordError, "CCD 1-2 has only one of SUBSTRT1 and SUBSTRT2"),
        ({"SUBSTRT1": 0, "SUBSTRT2": 1}, BadFileError, "CCD 1-2 has SUBSTRT1 = 0 and SUBSTRT2 = 1; .* count from 1"),
        ({"SUBSTRT1": "left", "SUBSTRT2": 1}, BadFileError, "SUBSTRT1 = 'left', which is not a whole number"),
        ({"SUBSTRT1": 1.5, "SUBSTRT2": 1}, BadFileError, "SUBSTRT1 = 1.5, which is not a whole number"),
    ],
)
def test_window_keywords_that_make_no_window_are_refused(header, error, sentence):
    with pytest.raises(error, match=sentence):
        read_window(header, (8, 12), "CCD 1-2")


def test_the_cards_say_which_reference_was_used():
    record = ReferenceRecord(
        outcome="selected",
        reference_type="mask",
        name="tmt_iris_mask_0001.fits",
        context="tmt_0001.pmap",
        crds_version="14",
    )
    cards = reference_cards(record)
    assert cards["R_MASK"] == "crds://tmt_iris_mask_0001.fits"
    assert (cards["CRDS_CTX"], cards["CRDS_VER"], cards["S_DQINIT"]) == ("tmt_0001.pmap", "14", "COMPLETE")


def test_the_cards_say_that_none_was_used():
    cards = reference_cards(ReferenceRecord(outcome="not_applicable", reference_type="dq", reason="switched off"))
    assert (cards["R_DQ"], cards["S_DQINIT"]) == ("N/A", "SKIPPED")
    assert "CRDS_CTX" not in cards
