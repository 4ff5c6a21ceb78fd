"""What the header and the table of inputs of a coadd say of it, and back."""

from __future__ import annotations

import math

import numpy as np
from astropy.io import fits
from astropy.table import Row, Table
from astropy.wcs import WCS

from tasks.archive.fits_wcs import wcs_to_header
from tasks.products.columns import COADD_INPUTS
from tasks.products.identity import CcdId
from tasks.products.images import ZERO_POINT, CoaddInput, CoaddMetadata, Photometry

LIGHT = ("gain", "read_noise", "saturation", "zero_point", "mjd", "band")
"""Columns that are called as the photometry calls them."""


def coadd_header(wcs: WCS, metadata: CoaddMetadata) -> fits.Header:
    """Return the cards of the science plane; of what is not known there is none."""
    header = wcs_to_header(wcs)
    begin, end = metadata.mjd_range
    numbers = (
        ("PHOTZP", ZERO_POINT, "[mag] zero point of the pixel values"),
        ("SATURATE", metadata.saturation, "saturation level of the lowest input"),
        ("GAIN", metadata.gain, "electrons per unit of the pixel values"),
        ("PIXSCALE", metadata.pixel_scale_arcsec, "[arcsec] size of a pixel"),
        ("PIXFRAC", metadata.pixfrac, "size of the drop in input pixels"),
        ("EXPTIME", metadata.exposure_time_s, "[s] mean over the covered pixels"),
        ("TEXPTIME", metadata.total_exposure_time_s, "[s] sum of all exposures"),
        ("MJD-BEG", begin, "[d] start of the first exposure"),
        ("MJD-AVG", metadata.mean_mjd, "[d] weighted mean of the exposures"),
        ("MJD-END", end, "[d] end of the last exposure"),
        ("PSF_FWHM", metadata.fwhm_arcsec, "[arcsec] weighted mean of the inputs"),
        ("NOISECOR", metadata.noise_correlation, "large-scale noise / noise of pixels"),
    )
    for keyword, value, comment in numbers:
        if math.isfinite(value):
            header[keyword] = (float(value), comment)
    for keyword, word, comment in (
        ("KERNEL", metadata.kernel, "shape of the drop"),
        ("FILTER", ",".join(metadata.bands), "filter of the exposures"),
    ):
        if word:
            header[keyword] = (word, comment)
    header["NCOMBINE"] = (metadata.n_exposures, "number of exposures")
    header["NCCDS"] = (len(metadata.inputs), "number of CCDs")
    return header


def input_table(metadata: CoaddMetadata) -> Table:
    """Return the inputs as a table, columns of ``tasks.products.columns.COADD_INPUTS``."""
    rows = [_row(item) for item in metadata.inputs]
    return Table(
        {column.name: np.array([row[column.name] for row in rows], column.dtype) for column in COADD_INPUTS.columns}
    )


def _row(item: CoaddInput) -> dict[str, object]:
    light = item.photometry
    return {
        "exposure": item.ccd.exposure,
        "ccd": item.ccd.ccd,
        "exposure_time": light.exposure_time_s,
        "n_pixels": item.n_pixels,
        "weight": item.weight,
        "fwhm": item.fwhm_arcsec,
        "n_outliers": item.n_outliers,
        **{name: getattr(light, name) for name in LIGHT},
    }


def read_metadata(header: fits.Header, table: Table) -> CoaddMetadata:
    """Return what the header of the science plane and the table of inputs say.

    Raises
    ------
    KeyError
        If saturation level or gain is missing.
    """
    return CoaddMetadata(
        saturation=float(header["SATURATE"]),
        gain=float(header["GAIN"]),
        inputs=tuple(_input(row) for row in table),
        kernel=str(header.get("KERNEL", "")),
        pixfrac=float(header.get("PIXFRAC", math.nan)),
        pixel_scale_arcsec=float(header.get("PIXSCALE", math.nan)),
        exposure_time_s=float(header.get("EXPTIME", math.nan)),
        noise_correlation=float(header.get("NOISECOR", math.nan)),
    )


def _input(row: Row) -> CoaddInput:
    light = {name: float(row[name]) for name in LIGHT if name != "band"}
    return CoaddInput(
        ccd=CcdId(exposure=str(row["exposure"]), ccd=int(row["ccd"])),
        photometry=Photometry(**light, band=str(row["band"]), exposure_time_s=float(row["exposure_time"])),
        n_pixels=int(row["n_pixels"]),
        weight=float(row["weight"]),
        fwhm_arcsec=float(row["fwhm"]),
        n_outliers=int(row["n_outliers"]),
    )
