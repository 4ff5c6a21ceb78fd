"""PSF models in the layout of PSFEx: ours to files, and everybody's from files.

Two layouts are read: the ``.psf`` file, whose table ``PSF_DATA`` has one row and the polynomial in its header, and the
merged table of the Legacy Surveys, with a row per CCD and the header's cards as columns. Positions count from 1 there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.io import fits

from blocks.store import DataStore
from tasks.archive.fits_files import open_fits, put_fits
from tasks.errors import BadFileError
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.psf import PsfModel, n_terms

EXTENSION = "PSF_DATA"
COLUMN = "PSF_MASK"
POSITION_AXES = 2


def write_psf(
    store: DataStore, key: str, model: PsfModel, summary: dict[str, SummaryValue] | None = None
) -> ProductRef:
    """Publish a PSF model as a ``.psf`` file that PSFEx's readers open."""
    return put_fits(store, key, [psf_hdu(model)], subject=model.subject, summary=summary)


def psf_hdu(model: PsfModel) -> fits.BinTableHDU:
    """Return a PSF model as the table ``PSF_DATA``."""
    n, ny, nx = model.coefficients.shape
    array = np.ascontiguousarray(model.coefficients, np.float32)[None]
    column = fits.Column(COLUMN, f"{n * ny * nx}E", dim=f"({nx},{ny},{n})", array=array)
    hdu = fits.BinTableHDU.from_columns([column], name=EXTENSION)
    cards = hdu.header
    cards["LOADED"] = (model.n_loaded, "Number of loaded sources")
    cards["ACCEPTED"] = (model.n_accepted, "Number of accepted sources")
    cards["CHI2"] = (model.chi2, "Final reduced chi2")
    cards["POLNAXIS"] = (POSITION_AXES, "Number of context parameters")
    cards["POLGRP1"] = (1, "Polynom group for this context parameter")
    cards["POLNAME1"] = ("XWIN_IMAGE", "Name of this context parameter")
    cards["POLZERO1"] = (model.x0 + 1.0, "Offset value for this context parameter")
    cards["POLSCAL1"] = (model.x_scale, "Scale value for this context parameter")
    cards["POLGRP2"] = (1, "Polynom group for this context parameter")
    cards["POLNAME2"] = ("YWIN_IMAGE", "Name of this context parameter")
    cards["POLZERO2"] = (model.y0 + 1.0, "Offset value for this context parameter")
    cards["POLSCAL2"] = (model.y_scale, "Scale value for this context parameter")
    cards["POLNGRP"] = (1, "Number of context groups")
    cards["POLDEG1"] = (model.degree, "Polynom degree for this context group")
    cards["PSF_FWHM"] = (model.fwhm, "PSF FWHM in image pixels")
    cards["PSF_SAMP"] = (model.sampling, "Sampling step of the PSF data in image pixels")
    cards["PSFNAXIS"] = (3, "Dimensionality of the PSF data")
    cards["PSFAXIS1"] = (nx, "Number of element along this axis")
    cards["PSFAXIS2"] = (ny, "Number of element along this axis")
    cards["PSFAXIS3"] = (n, "Number of element along this axis")
    return hdu


def read_psf(store: DataStore, ref: ProductRef) -> PsfModel:
    """Return the PSF model of a product.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If it is not a PSF model.
    """
    with open_fits(store, ref) as hdus:
        return psf_from_hdus(hdus, ref.key)


def psf_from_hdus(hdus: fits.HDUList, name: str, *, ccd_name: str | None = None) -> PsfModel:
    """Return a PSF model from an open file in either layout.

    Parameters
    ----------
    hdus
        The file.
    name
        Its name, for errors, and for the model if the file does not say what it is about.
    ccd_name
        Which row of a merged table is meant, by its column ``ccdname``; not needed if there is only one row.

    Raises
    ------
    BadFileError
        If the file is not a PSF model, has no such CCD, or depends on something other than the position.
    """
    for hdu in hdus:
        if isinstance(hdu, fits.BinTableHDU) and COLUMN in (column.upper() for column in hdu.columns.names):
            row = _row(hdu, name, ccd_name)
            values = {column.upper(): hdu.data[column][row] for column in hdu.columns.names}
            cards: dict[str, Any] = {**dict(hdu.header.items()), **values}
            subject = str(hdus[0].header.get("OBJECTID", "")) or _merged_name(values) or name
            return _model(cards, name, subject)
    raise BadFileError(f"{name} is not a PSF model: no table of it has a column {COLUMN}.")


def _row(hdu: fits.BinTableHDU, name: str, ccd_name: str | None) -> int:
    columns = {column.upper(): column for column in hdu.columns.names}
    if ccd_name is None or "CCDNAME" not in columns:
        if len(hdu.data) != 1:
            raise BadFileError(f"{name} has the PSF models of {len(hdu.data)} CCDs; say which one is meant.")
        return 0
    names = [str(value).strip() for value in hdu.data[columns["CCDNAME"]]]
    if ccd_name not in names:
        raise BadFileError(f"{name} has no PSF model of CCD {ccd_name}; it has {', '.join(names)}.")
    return names.index(ccd_name)


def _merged_name(values: Mapping[str, Any]) -> str:
    if "EXPNUM" not in values or "CCDNAME" not in values:
        return ""
    return f"{values['EXPNUM']}-{str(values['CCDNAME']).strip()}"


def _model(cards: Mapping[str, Any], name: str, subject: str) -> PsfModel:
    axes = int(cards.get("POLNAXIS", 0))
    degree = int(cards.get("POLDEG1", 0)) if axes else 0
    if axes not in {0, POSITION_AXES} or int(cards.get("POLNGRP", 1)) > 1:
        raise BadFileError(
            f"{name}: the PSF depends on {axes} parameters; only x and y in one polynomial are understood."
        )
    for axis, letter in enumerate("XY"[:axes], start=1):
        if not str(cards.get(f"POLNAME{axis}", letter)).strip().upper().startswith(letter):
            raise BadFileError(f"{name}: the PSF depends on {cards[f'POLNAME{axis}']}, not on the position {letter}.")
    coefficients = np.asarray(cards[COLUMN], np.float32)
    if coefficients.ndim == POSITION_AXES:
        coefficients = coefficients[None]
    if coefficients.ndim != POSITION_AXES + 1 or len(coefficients) != n_terms(degree):
        raise BadFileError(
            f"{name}: PSF_MASK has shape {coefficients.shape}, which is no polynomial of degree {degree}."
        )
    try:
        return PsfModel(
            subject=subject,
            coefficients=coefficients,
            degree=degree,
            x0=float(cards["POLZERO1"]) - 1.0 if axes else 0.0,
            x_scale=float(cards["POLSCAL1"]) if axes else 1.0,
            y0=float(cards["POLZERO2"]) - 1.0 if axes else 0.0,
            y_scale=float(cards["POLSCAL2"]) if axes else 1.0,
            n_loaded=int(cards.get("LOADED", 0)),
            n_accepted=int(cards.get("ACCEPTED", 0)),
            chi2=float(cards.get("CHI2", 0.0)),
            fwhm=float(cards.get("PSF_FWHM", np.nan)),
            sampling=float(cards["PSF_SAMP"]),
        )
    except (KeyError, ValueError) as error:
        raise BadFileError(f"{name} is not a PSF model: {error}") from error
