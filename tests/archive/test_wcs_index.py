"""The WCS index gives back what was written, the same bytes every time, and refuses what is no index."""

import pytest

from tasks.archive.fits_files import put_bytes
from tasks.archive.wcs_index import read_index, write_index
from tasks.errors import BadFileError, DataError, MissingProductError
from tasks.products.identity import CcdId
from tasks.products.images import Photometry, Window
from tasks.products.wcs_index import CcdRecord


def make_record(exposure="2113737", ccd=10, *, dec=54.0, zero_point=26.5):
    return CcdRecord(
        ccd=CcdId(exposure=exposure, ccd=ccd),
        shape=(4644, 2112),
        data_section=Window(32, 0, 2080, 4612),
        footprint=((10.0, dec - 0.1), (9.9, dec - 0.1), (9.9, dec + 0.1 / 3), (10.0, dec + 0.1)),
        circle=(9.95, dec, 0.12),
        photometry=Photometry(1.5, 4.9, 65000.0, 200.123456789, zero_point, 57000.123456789012, "r"),
        wcs_text="CTYPE1  = 'RA---TPV'",
    )


def test_what_was_written_comes_back_to_the_bit(store):
    records = (make_record(ccd=1), make_record(ccd=2), make_record("2113738", 1))
    ref = write_index(store, "headers.sqlite", records, subject="survey")
    assert read_index(store, ref) == records
    assert ref.summary == {"n_ccds": 3, "n_exposures": 2}


def test_rows_are_sorted_and_the_bytes_do_not_depend_on_their_order(store):
    records = [make_record(ccd=number) for number in (11, 2, 30)] + [make_record("1000000", 5)]
    first = write_index(store, "a.sqlite", records, subject="survey")
    second = write_index(store, "b.sqlite", reversed(records), subject="survey")
    assert first.sha256 == second.sha256
    assert [str(record.ccd) for record in read_index(store, first)] == [
        "1000000-5",
        "2113737-2",
        "2113737-11",
        "2113737-30",
    ]


def test_the_same_row_twice_counts_once(store):
    ref = write_index(store, "a.sqlite", [make_record(), make_record()], subject="survey")
    assert len(read_index(store, ref)) == 1


def test_two_rows_that_disagree_on_a_ccd_are_refused(store):
    with pytest.raises(DataError, match="CCD 2113737-10 is in the WCS index twice with different values"):
        write_index(store, "a.sqlite", [make_record(), make_record(zero_point=26.6)], subject="survey")


def test_only_ccds_that_reach_into_a_strip_are_read(store):
    records = [make_record(ccd=number, dec=50.0 + number) for number in range(5)]
    ref = write_index(store, "a.sqlite", records, subject="survey")
    near = read_index(store, ref, dec_range=(51.11, 52.89))
    assert [record.ccd.ccd for record in near] == [1, 2, 3]


def test_an_empty_index_is_an_index(store):
    assert read_index(store, write_index(store, "a.sqlite", [], subject="survey")) == ()


@pytest.mark.parametrize("data", [b"", b"not a database", b"SQLite format 3\0" + bytes(100)])
def test_other_bytes_are_no_index(store, data):
    ref = put_bytes(store, "a.sqlite", data, subject="survey")
    with pytest.raises(BadFileError, match=rf"a.sqlite \({len(data)} bytes\) is not a WCS index: "):
        read_index(store, ref)


def test_a_truncated_index_is_refused(store):
    write_index(store, "a.sqlite", [make_record(ccd=n) for n in range(40)], subject="survey")
    ref = put_bytes(store, "a.sqlite", store.read_bytes("a.sqlite")[:8192], subject="survey")
    with pytest.raises(BadFileError, match="is not a WCS index"):
        read_index(store, ref)


def test_an_index_that_is_not_there_is_missing(store):
    ref = write_index(store, "a.sqlite", [], subject="survey").model_copy(update={"key": "b.sqlite"})
    with pytest.raises(MissingProductError, match=r"b\.sqlite"):
        read_index(store, ref)
