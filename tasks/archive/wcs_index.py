"""The WCS index: one SQLite file with one row per CCD, the same bytes whenever the same rows are written.

The file is made in memory and published whole, so it has one writer, and no reader ever sees half of it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing

from pydantic import ValidationError

from blocks.store import DataStore
from tasks.archive.fits_files import get_bytes, put_bytes
from tasks.archive.provenance import provenance_cards
from tasks.errors import BadFileError, DataError
from tasks.products.identity import CcdId, ProductRef
from tasks.products.images import Photometry, Window
from tasks.products.wcs_index import CcdRecord

SCHEMA = """
CREATE TABLE provenance (keyword TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE ccds (
    exposure TEXT NOT NULL, ccd INTEGER NOT NULL,
    nx INTEGER NOT NULL, ny INTEGER NOT NULL,
    x_min INTEGER NOT NULL, y_min INTEGER NOT NULL, x_max INTEGER NOT NULL, y_max INTEGER NOT NULL,
    ra REAL NOT NULL, dec REAL NOT NULL, radius REAL NOT NULL,
    gain REAL NOT NULL, read_noise REAL NOT NULL, saturation REAL NOT NULL, exposure_time_s REAL NOT NULL,
    zero_point REAL NOT NULL, flux_scale REAL NOT NULL, mjd REAL NOT NULL, band TEXT NOT NULL,
    footprint TEXT NOT NULL, wcs TEXT NOT NULL,
    PRIMARY KEY (exposure, ccd)
) WITHOUT ROWID;
CREATE INDEX ccds_by_dec ON ccds (dec);
"""
MAGIC = b"SQLite format 3\0"
COLUMNS = (
    "exposure, ccd, nx, ny, x_min, y_min, x_max, y_max, ra, dec, radius, gain, read_noise, saturation, "
    "exposure_time_s, zero_point, mjd, band, footprint, wcs"
)
INSERT = f"INSERT INTO ccds ({COLUMNS}, flux_scale) VALUES ({', '.join('?' * (COLUMNS.count(',') + 2))})"
SELECT = f"SELECT {COLUMNS} FROM ccds WHERE dec + radius >= ? AND dec - radius <= ? ORDER BY exposure, ccd"


def write_index(store: DataStore, key: str, records: Iterable[CcdRecord], *, subject: object) -> ProductRef:
    """Publish an index.

    Parameters
    ----------
    store, key
        Where to.
    records
        One per CCD, in any order.
    subject
        What the index is about: an exposure, a tile or a survey.

    Raises
    ------
    DataError
        If two different records are of the same CCD.
    """
    rows = _unique(records)
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(SCHEMA)
        cards = sorted((keyword, str(value)) for keyword, value in provenance_cards().items())
        database.executemany("INSERT INTO provenance VALUES (?, ?)", cards)
        database.executemany(INSERT, [_to_row(record) for record in rows])
        database.commit()
        database.execute("VACUUM")
        data = database.serialize()
    n_exposures = len({record.ccd.exposure for record in rows})
    return put_bytes(store, key, data, subject=subject, summary={"n_ccds": len(rows), "n_exposures": n_exposures})


def _unique(records: Iterable[CcdRecord]) -> list[CcdRecord]:
    by_ccd: dict[tuple[str, int], CcdRecord] = {}
    for record in records:
        if by_ccd.setdefault(record.sort_key, record) != record:
            raise DataError(f"CCD {record.ccd} is in the WCS index twice with different values; index it again.")
    return [by_ccd[key] for key in sorted(by_ccd)]


def _to_row(record: CcdRecord) -> tuple[object, ...]:
    photometry, section = record.photometry, record.data_section
    return (
        *record.sort_key,
        record.shape[1],
        record.shape[0],
        section.x_min,
        section.y_min,
        section.x_max,
        section.y_max,
        *record.circle,
        photometry.gain,
        photometry.read_noise,
        photometry.saturation,
        photometry.exposure_time_s,
        photometry.zero_point,
        photometry.mjd,
        photometry.band,
        json.dumps(record.footprint),
        record.wcs_text,
        photometry.flux_scale,
    )


def read_index(
    store: DataStore, ref: ProductRef, *, dec_range: tuple[float, float] = (-90.0, 90.0)
) -> tuple[CcdRecord, ...]:
    """Return the records of an index, by exposure and CCD number.

    Parameters
    ----------
    store, ref
        Where from.
    dec_range
        Strip of declination in degrees: only CCDs that may reach into it are returned.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If it is not a WCS index.
    """
    data = get_bytes(store, ref)
    if not data.startswith(MAGIC):
        raise BadFileError(f"{ref.key} ({len(data)} bytes) is not a WCS index: it is not an SQLite file.")
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.deserialize(data)
            return tuple(_from_row(row) for row in database.execute(SELECT, dec_range))
        except (sqlite3.Error, ValidationError, json.JSONDecodeError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise BadFileError(f"{ref.key} ({len(data)} bytes) is not a WCS index: {reason}.") from error


def _from_row(row: tuple[object, ...]) -> CcdRecord:
    value = dict(zip(COLUMNS.split(", "), row, strict=True))
    return CcdRecord.model_validate(
        {
            "ccd": CcdId.model_validate({"exposure": value["exposure"], "ccd": value["ccd"]}),
            "shape": (value["ny"], value["nx"]),
            "data_section": Window(*(value[name] for name in ("x_min", "y_min", "x_max", "y_max"))),  # type: ignore[arg-type]
            "footprint": json.loads(str(value["footprint"])),
            "circle": (value["ra"], value["dec"], value["radius"]),
            "photometry": Photometry(
                **{name: value[name] for name in Photometry.__dataclass_fields__}  # type: ignore[arg-type]
            ),
            "wcs_text": value["wcs"],
        }
    )
