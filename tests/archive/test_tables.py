import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from blocks.store import DataStore
from tasks.archive.tables import empty_table, read_table, write_table
from tasks.errors import BadFileError
from tasks.products.columns import SCHEMAS, Column, TableSchema

SCHEMA = TableSchema(
    "THINGS",
    "Things for tests.",
    (
        Column("x_win", "f8", "pix", "Position", fits_name="XWIN_IMAGE", origin_one=True),
        Column("number", "i4", "", "Number"),
        Column("good", "bool", "", "Whether it is good"),
        Column("name", "U8", "", "Name"),
        Column("stamp", "f4", "", "Pixels", shape=(3, 5)),
        Column("g", "f8", "", "Shear", shape=(2,)),
    ),
)
TABLE = Table(
    {
        "number": np.array([1, 2], np.int32),
        "x_win": [0.0, 10.25],
        "good": [True, False],
        "name": ["a", "tile 1"],
        "stamp": np.arange(30, dtype=np.float32).reshape(2, 3, 5),
        "g": np.array([[0.1, 0.2], [0.3, 0.4]]),
    }
)


def test_a_table_comes_back_as_it_was(store: DataStore) -> None:
    ref = write_table(store, "t.fits", TABLE, SCHEMA, subject="1-2")
    back = read_table(store, ref, SCHEMA)

    assert back.colnames == list(SCHEMA.names)
    for name in SCHEMA.names:
        assert np.array_equal(back[name], TABLE[name]), name
        assert back[name].dtype.kind == np.dtype(SCHEMA[name].dtype).kind


def test_pixel_positions_count_from_one_in_the_file_only(store: DataStore) -> None:
    ref = write_table(store, "t.fits", TABLE, SCHEMA, subject="1-2")

    with store.open(ref.key) as handle, fits.open(handle) as hdus:
        assert list(hdus["THINGS"].data["XWIN_IMAGE"]) == [1.0, 11.25]
        assert hdus["THINGS"].header["TUNIT1"] == "pix"
        assert hdus["THINGS"].header["TCOMM2"] == "Number"
    assert list(TABLE["x_win"]) == [0.0, 10.25]


def test_the_same_table_gives_the_same_bytes(store: DataStore) -> None:
    refs = [write_table(store, f"{name}.fits", TABLE, SCHEMA, subject="1-2") for name in "ab"]

    assert refs[0].sha256 == refs[1].sha256


def test_an_empty_table_survives(store: DataStore) -> None:
    ref = write_table(store, "t.fits", empty_table(SCHEMA), SCHEMA, subject="1-2")

    assert len(read_table(store, ref, SCHEMA)) == 0


def test_a_table_with_other_columns_is_a_bug(store: DataStore) -> None:
    table = TABLE.copy()
    table.remove_column("good")
    table["odd"] = [1, 2]

    with pytest.raises(ValueError, match=r"lacks columns \['good'\] and has unknown columns \['odd'\]"):
        write_table(store, "t.fits", table, SCHEMA, subject="1-2")


def test_a_file_without_a_column_has_a_sentence(store: DataStore) -> None:
    smaller = TableSchema("THINGS", "", SCHEMA.columns[:2])
    ref = write_table(store, "t.fits", TABLE["x_win", "number"], smaller, subject="1-2")

    with pytest.raises(BadFileError, match=r"t\.fits: table THINGS lacks the columns GOOD, NAME, STAMP, G"):
        read_table(store, ref, SCHEMA)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_every_schema_has_columns_with_a_meaning_and_distinct_fits_names(schema: TableSchema) -> None:
    assert schema.columns
    assert all(column.meaning for column in schema.columns)
    assert len({column.ttype.upper() for column in schema.columns}) == len(schema.columns)
