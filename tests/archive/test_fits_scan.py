"""The quick look at FITS headers agrees with astropy's thorough one."""

import io

import numpy as np
import pytest
from astropy.io import fits

from tasks.archive.fits_scan import OddFileError, read_table, scan_hdus


def stored(hdus):
    buffer = io.BytesIO()
    hdus.writeto(buffer)
    return buffer


def many_hdus():
    primary = fits.PrimaryHDU()
    values = {
        "TEXT": "it's / not a comment", "EMPTY": "", "YES": True, "NO": False, "WHOLE": -17, "REAL": 1.5e-7,
        "BIG": 2**40, "ENDED": "END", "DATE-OBS": "2025-01-01",
    }  # fmt: skip
    for keyword, value in values.items():
        primary.header[keyword] = (value, "a comment / with a stroke")
    for number in range(60):
        primary.header[f"KEY{number}"] = number
    table = fits.BinTableHDU.from_columns([fits.Column("A", "PJ()", array=[[1, 2, 3], [4]])], name="HEAP")
    packed = fits.CompImageHDU(np.arange(64 * 48, dtype=np.int32).reshape(48, 64), name="PACKED")
    empty = fits.ImageHDU(name="EMPTY")
    return fits.HDUList([primary, fits.ImageHDU(np.zeros((2, 3, 5), np.int16), name="sci"), table, packed, empty])


def test_places_shapes_and_values_are_those_of_astropy():
    buffer = stored(many_hdus())
    found = scan_hdus(buffer, len(buffer.getvalue()))
    buffer.seek(0)
    with fits.open(buffer, disable_image_compression=True) as hdus:
        assert len(found) == len(hdus)
        for mine, theirs in zip(found, hdus, strict=True):
            place = theirs.fileinfo()
            assert (mine.start, mine.data_start) == (place["hdrLoc"], place["datLoc"])
            assert mine.end == place["datLoc"] + place["datSpan"]
            assert mine.name == theirs.name
            assert mine.header == {key: theirs.header[key] for key in theirs.header}
    assert [hdu.shape for hdu in found if hdu.is_image] == [(), (2, 3, 5), (48, 64), ()]
    assert [hdu.is_compressed for hdu in found] == [False, False, False, True, False]


def test_a_missing_value_is_none():
    primary = fits.PrimaryHDU()
    primary.header["NOTHING"] = None
    buffer = stored(fits.HDUList([primary]))
    assert scan_hdus(buffer, len(buffer.getvalue()))[0].header["NOTHING"] is None


def test_columns_of_texts_and_whole_numbers_are_read():
    columns = [
        fits.Column("BIT", "J", array=[0, 31]),
        fits.Column("VALUE", "J", bzero=2**31, array=np.array([1, 2**31], np.uint32)),
        fits.Column("NAME", "9A", array=["HOT", "DEAD"]),
        fits.Column("SMALL", "B", array=[200, 3]),
    ]
    buffer = stored(fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]))
    table = read_table(buffer, scan_hdus(buffer, len(buffer.getvalue()))[1])
    assert {name: column.tolist() for name, column in table.items()} == {
        "BIT": [0, 31], "VALUE": [1, 2**31], "NAME": [b"HOT", b"DEAD"], "SMALL": [200, 3],
    }  # fmt: skip


@pytest.mark.parametrize("form", ["D", "3J", "PJ()", "L"])
def test_other_tables_are_left_to_astropy(form):
    array = [[1, 2, 3]] if form in {"3J", "PJ()"} else [1]
    table = fits.BinTableHDU.from_columns([fits.Column("A", form, array=array)])
    buffer = stored(fits.HDUList([fits.PrimaryHDU(), table]))
    assert read_table(buffer, scan_hdus(buffer, len(buffer.getvalue()))[1]) is None


def test_further_records_behind_the_last_hdu_are_passed_over():
    data = stored(many_hdus()).getvalue() + bytes(2880)
    assert len(scan_hdus(io.BytesIO(data), len(data))) == 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[:2000], "the file ends inside header 0"),
        (lambda data: data[: len(data) - 2880], r"HDU PACKED ends at byte \d+, the file at byte \d+"),
        (lambda data: data.replace(b"NAXIS1  =", b"NAXIS9  =", 1), "a header does not say how large its data are"),
        (lambda data: data.replace(b"TEXT", b"TE\xff\xff", 1), "a header is no ASCII text"),
    ],
)
def test_broken_files_are_noticed(change, sentence):
    data = change(stored(many_hdus()[:4]).getvalue())
    with pytest.raises(OddFileError, match=sentence):
        scan_hdus(io.BytesIO(data), len(data))
