"""Choosing stars: the narrow locus of sizes, and the share that is kept out of the PSF model to test it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from tasks.errors import ConfigError
from tasks.products.identity import CcdId
from tasks.science.robust import mode
from tasks.science.selection import Selection, parse_selection


@dataclass(frozen=True)
class StellarLocus:
    """Stars of a table."""

    chosen: NDArray[np.bool_]
    """Whether each row is a star, shape (n,)."""
    fwhm: float
    """Middle of the locus in pixels; NaN if no source passes the preselection."""


def select_locus(
    sources: Table, *, preselection: str, selection: str, half_width_px: float, excluded_bits: int = 0
) -> StellarLocus:
    """Choose the stars of a source table.

    The locus is the mode of the FWHM of the sources that pass the preselection: bright and compact ones, among which
    stars outnumber galaxies of any one size. Stars are the sources of the selection whose FWHM is near to it.

    Parameters
    ----------
    sources
        Columns of ``tasks.products.columns.SOURCES``; not changed.
    preselection, selection
        Conditions in the language of `tasks.science.selection`.
    half_width_px
        Largest distance of a star's FWHM from the locus, pixels.
    excluded_bits
        Sources with one of these bits in ``imaflags`` are in neither selection.

    Returns
    -------
    StellarLocus
        Perhaps without any star.

    Raises
    ------
    ConfigError
        If a condition is wrong or names an unknown column.
    """
    fwhm = np.asarray(sources["fwhm"], np.float64)
    allowed = (np.asarray(sources["imaflags"]).astype(np.int64) & excluded_bits) == 0
    locus = mode(fwhm[allowed & _evaluate(parse_selection(preselection), sources)])
    # nothing is near to NaN
    near = np.abs(fwhm - locus) <= half_width_px
    return StellarLocus(allowed & near & _evaluate(parse_selection(selection), sources), locus)


def _evaluate(selection: Selection, sources: Table) -> NDArray[np.bool_]:
    selection.require(sources.colnames)
    if not selection.columns:
        raise ConfigError(f"Selection {selection.text!r} names no column; it would take all sources or none.")
    return selection.evaluate({name: np.asarray(sources[name]) for name in selection.columns})


def reserve_stars(
    x: NDArray[np.float64], y: NDArray[np.float64], *, fraction: float, ccd: CcdId, seed: int
) -> NDArray[np.bool_]:
    """Choose at random the stars that the PSF model must not see.

    The random numbers follow from the survey's seed and the name of the CCD, by SHA-256, and the stars are numbered by
    their position (y, then x), so that neither the order of the table nor that of the work changes the choice.

    Parameters
    ----------
    x, y
        Positions on the CCD, shape (n,).
    fraction
        Share to reserve; the number is rounded to the nearest, halves up.
    ccd
        The CCD.
    seed
        Seed of the survey.

    Returns
    -------
    ndarray of bool
        Shape (n,).
    """
    digest = hashlib.sha256(f"reserved stars {seed} {ccd}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    order = np.lexsort((x, y))
    n_reserved = int(np.floor(fraction * len(x) + 0.5))
    reserved = np.zeros(len(x), np.bool_)
    reserved[order[rng.permutation(len(x))[:n_reserved]]] = True
    return reserved
