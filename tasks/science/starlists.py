"""Star lists as catalogue services print them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.errors import BadFileError

Floats = NDArray[np.float64]

BANDS = ("Fmag", "Jmag", "Vmag", "Nmag")
STAR_CLASS = 0.0
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class StarList:
    """Positions and magnitudes of stars; every star has all three."""

    ra: Floats
    """Right ascension, ICRS degrees, shape (n,)."""
    dec: Floats
    """Declination, ICRS degrees, shape (n,)."""
    mag: Floats
    """Magnitude, shape (n,)."""

    def __len__(self) -> int:
        return int(self.ra.size)


def make_star_list(ra: ArrayLike, dec: ArrayLike, mag: ArrayLike) -> StarList:
    """Return the stars that have a position and a magnitude; NaN stands for a missing one."""
    columns = [np.ma.filled(np.ma.asarray(column, np.float64), np.nan).ravel() for column in (ra, dec, mag)]
    known = np.isfinite(columns[0]) & np.isfinite(columns[1]) & np.isfinite(columns[2])
    return StarList(*(np.ascontiguousarray(column[known]) for column in columns))


def parse_gsc_text(text: str, name: str = "The star list") -> StarList:
    """Return the stars of a list that the GSC2 client of the CDS has printed.

    Comment lines, a header line that starts with ``#`` and names the columns, data lines, and possibly a last comment.
    The magnitude is the mean of those of the bands F, J, V and N that are given: ``---`` and ``nan`` are missing, and a
    star without any is left out. Objects that are not classified as stars are left out.

    Parameters
    ----------
    text
        The whole list.
    name
        What to call it in an error.

    Raises
    ------
    BadFileError
        If there is no header line with the columns, or a data line has another number of columns.
    """
    header: list[str] = []
    rows: list[list[str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("#"):
            words = line.lstrip("#").split()
            if "RA(J2000)" in line:
                header = [re.split(r"[,;#]", word.rstrip(",;#"))[-1] for word in words]
        elif line.strip() and header:
            words = [word for word in line.replace(";", " ").split() if word != "|"]
            if len(words) != len(header):
                raise BadFileError(
                    f"{name}: line {number} has {len(words)} columns, its header names {len(header)}; it may be cut."
                )
            rows.append(words)
    absent = [column for column in ("RA(J2000)", "Dec(J2000)", "Clas", *BANDS) if column not in header]
    if absent:
        raise BadFileError(f"{name} has no column {', '.join(absent)}: it is not a GSC2 list.")
    values = np.array([[_number(word) for word in row] for row in rows], np.float64).reshape(-1, len(header))
    column = {key: values[:, k] for k, key in enumerate(header)}
    stars = column["Clas"] == STAR_CLASS
    magnitudes = np.stack([column[band] for band in BANDS], axis=1)[stars]
    return make_star_list(column["RA(J2000)"][stars], column["Dec(J2000)"][stars], _mean_of_known(magnitudes))


def _number(word: str) -> float:
    return float(word) if NUMBER.fullmatch(word) else float("nan")


def _mean_of_known(values: Floats) -> Floats:
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
