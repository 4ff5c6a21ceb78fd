"""Joining tables by the numbers of their sources, with nothing lost and nothing doubled on the way."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.errors import DataError


def rows_by_number(number: NDArray[np.int64], other: ArrayLike, *, who: str) -> NDArray[np.int64]:
    """Return which row of another table belongs to each source.

    Parameters
    ----------
    number
        Numbers of the sources, shape (n,), each once.
    other
        Numbers of the rows of the other table, in any order.
    who
        What the other table is, for the error sentence.

    Returns
    -------
    NDArray[np.int64]
        Row indices, shape (n,): ``other[rows] == number``.

    Raises
    ------
    DataError
        If the other table does not have every source exactly once.
    """
    theirs = np.asarray(other, dtype=np.int64)
    order, wanted = np.argsort(theirs, kind="stable"), np.argsort(number, kind="stable")
    if not np.array_equal(theirs[order], number[wanted]):
        absent, unknown = np.setdiff1d(number, theirs), np.setdiff1d(theirs, number)
        raise DataError(
            f"{who} has {len(theirs)} rows for {len(number)} sources: {len(absent)} sources are missing "
            f"({absent[:3].tolist()}) and {len(unknown)} are unknown ({unknown[:3].tolist()}). Run its stage again."
        )
    rows = np.empty(len(number), dtype=np.int64)
    rows[wanted] = order
    return rows


def count_by_number(number: NDArray[np.int64], other: ArrayLike, *, who: str) -> NDArray[np.int64]:
    """Return how many rows of another table belong to each source, shape (n,).

    Parameters
    ----------
    number
        Numbers of the sources, shape (n,), each once.
    other
        Numbers of the rows of the other table, any number of times each.
    who
        What the other table is, for the error sentence.

    Raises
    ------
    DataError
        If the other table has rows of sources that do not exist.
    """
    theirs = np.asarray(other, dtype=np.int64)
    unknown = np.setdiff1d(theirs, number)
    if len(unknown):
        raise DataError(
            f"{who} has rows of {len(unknown)} sources that do not exist ({unknown[:3].tolist()}). Run its stage again."
        )
    wanted = np.argsort(number, kind="stable")
    place = wanted[np.searchsorted(number[wanted], theirs)]
    return np.bincount(place, minlength=len(number)).astype(np.int64)
