"""Raw exposures and star lists in the conventions of CFIS: what a simulated survey leaves in the raw store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from numpy.typing import NDArray

from blocks.store import DataStore
from tasks.archive.fits_files import TILE_ROWS, fits_bytes, image_hdu, put_bytes
from tasks.archive.fits_wcs import wcs_to_header
from tasks.archive.images import format_section
from tasks.archive.tables import table_hdu
from tasks.products.columns import TableSchema
from tasks.products.identity import ProductRef
from tasks.products.images import ZERO_POINT
from tasks.products.raw_survey import RAW_FLAG_MEANINGS, RawCcd

INSTRUMENT = "SIMCAM"
STAR_CATALOG = "star_catalog.fits"
TRUTH_GALAXIES = "truth/galaxies.fits"
TRUTH_STARS = "truth/stars.fits"
TRUTH_SURVEY = "truth/survey.json"

STAR_LIST_HEADER = """\
#Guide star catalogue of a simulated survey, in the layout of findgsc2.2
#Center: {ra:.6f} {dec:+.6f} deg, radius {radius:.4f} arcmin
#
#GSC2-id RA(J2000) Dec(J2000) Epoch Fmag Jmag Vmag Nmag Clas
"""
STAR_LIST_FOOTER = """\
#
#--- {n} objects
#
#
#
"""


def survey_manifest_key() -> str:
    """Return the key of the list of all raw files of a survey."""
    return "manifest.json"


def part_manifest_key(part: str) -> str:
    """Return the key of the list of the raw files of one exposure, or of the ``sky``."""
    return f"manifests/{part}.json"


def star_list_key(exposure: str, ccd: int) -> str:
    """Return the key of the star list of one CCD."""
    return f"star_cat/star_cat-{exposure}-{ccd}.cat"


def detector_name(ccd: int) -> str:
    """Return the name of the detector in headers and reference files."""
    return f"CCD{ccd:02d}"


def write_raw_exposure(
    store: DataStore,
    exposure: str,
    ccds: Sequence[RawCcd],
    convention: Literal["TPV", "TAN"],
) -> list[ProductRef]:
    """Publish one exposure as image, weight and flag files.

    Each file is a tile-compressed multi-extension FITS file with an empty primary HDU, and CCD k in HDU k + 1 with the
    EXTNAME ``ccd00`` and so on. Compression is lossless: 16-bit integers with BZERO for the image, 32-bit floats for
    the weight (0 = bad), 16-bit integers for the flags.

    Parameters
    ----------
    store
        The raw store.
    exposure
        Name of the exposure: seven digits.
    ccds
        Its CCDs in order.
    convention
        CTYPE of the distortion: ``TPV``, or ``TAN`` with the same PV terms.

    Returns
    -------
    list of ProductRef
        The three files.
    """
    primary = _primary_header(exposure, ccds[0])
    refs = []
    for suffix, plane in (("", "adu"), (".weight", "weight"), (".flag", "flag")):
        hdus: list[fits.hdu.base._BaseHDU] = [fits.PrimaryHDU(header=primary)]
        for ccd in ccds:
            name = f"ccd{ccd.ccd:02d}"
            hdus.append(_plane_hdu(ccd, plane, name, _ccd_header(ccd, plane, convention)))
        refs.append(put_bytes(store, f"{exposure}p{suffix}.fits.fz", fits_bytes(hdus), subject=exposure))
    return refs


def _primary_header(exposure: str, ccd: RawCcd) -> fits.Header:
    header = fits.Header()
    header["OBJECT"] = ("simulated survey", "target")
    header["OBSID"] = (int(exposure), "number of the exposure")
    header.extend(_observation_cards(ccd).cards)
    return header


def _observation_cards(ccd: RawCcd) -> fits.Header:
    photometry, header = ccd.photometry, fits.Header()
    date, time = Time(photometry.mjd, format="mjd", scale="utc").isot.split("T")
    header["INSTRUME"] = (INSTRUMENT, "camera")
    header["FILTER"] = (photometry.band, "filter")
    header["EXPTIME"] = (photometry.exposure_time_s, "[s] exposure time")
    header["DATE-OBS"] = (date, "UTC date of the start")
    header["TIME-OBS"] = (time.split(".")[0], "UTC of the start")
    header["MJD-OBS"] = (photometry.mjd, "[d] start of the exposure")
    return header


def _ccd_header(ccd: RawCcd, plane: str, convention: str) -> fits.Header:
    photometry, (ny, nx) = ccd.photometry, ccd.adu.shape
    header = _observation_cards(ccd)
    header["DETECTOR"] = (detector_name(ccd.ccd), "detector")
    header["CCDNUM"] = (ccd.ccd, "number of the CCD, from 0")
    header["SUBARRAY"] = ("FULL", "part of the detector that was read")
    header["SUBSTRT1"], header["SUBSTRT2"] = (1, "first column"), (1, "first row")
    header["SUBSIZE1"], header["SUBSIZE2"] = (nx, "columns"), (ny, "rows")
    header["DATASEC"] = (format_section(ccd.data_section), "light-sensitive part")
    header["GAIN"] = (photometry.gain, "[electron/adu]")
    header["RDNOISE"] = (photometry.read_noise, "[electron] read noise")
    header["SATURATE"] = (photometry.saturation, "[adu] saturation level")
    header["PHOTZP"] = (photometry.zero_point, "[mag] zero point of the pixel values")
    header["FSCALE"] = (photometry.flux_scale, f"factor to zero point {ZERO_POINT:g}")
    if plane == "adu":
        header["BUNIT"] = ("adu", "not sky-subtracted")
    elif plane == "weight":
        header["BUNIT"] = ("adu**-2", "inverse variance of the sky; 0 = bad")
    else:
        for value, meaning in RAW_FLAG_MEANINGS.items():
            header[f"FLAG{value}"] = (meaning, f"meaning of bit value {value}")
    header.extend(wcs_to_header(ccd.wcs).cards)
    header["CTYPE1"] = (f"RA---{convention}", "gnomonic with polynomial distortion")
    header["CTYPE2"] = (f"DEC--{convention}", "gnomonic with polynomial distortion")
    return header


def _plane_hdu(ccd: RawCcd, plane: str, name: str, header: fits.Header) -> fits.CompImageHDU:
    if plane == "weight":
        # smooth floats: with their bytes shuffled, gzip takes a third of the time and of the space
        tile = min(TILE_ROWS, ccd.weight.shape[0]), ccd.weight.shape[1]
        hdu = fits.CompImageHDU(ccd.weight, compression_type="GZIP_2", quantize_level=0.0, tile_shape=tile, name=name)
        hdu.header.extend(header.cards, strip=True, unique=True)
    else:
        hdu = image_hdu(ccd.adu if plane == "adu" else ccd.flag, name, header)
    hdu.header["EXTNAME"] = name
    return hdu


def write_raw_table(store: DataStore, key: str, table: Table, schema: TableSchema) -> ProductRef:
    """Publish a table without provenance: raw files are facts, the same whatever software wrote them."""
    return put_bytes(store, key, fits_bytes([fits.PrimaryHDU(), table_hdu(table, schema)]), subject="sky")


def write_star_list(
    store: DataStore,
    exposure: str,
    ccd: int,
    circle: tuple[float, float, float],
    stars: tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
) -> ProductRef:
    """Publish the star list of one CCD in the text format of the GSC2 server; ``---`` is a missing magnitude.

    Stars have no colour: the bands that a star has hold the same magnitude.

    Parameters
    ----------
    store
        The raw store.
    exposure, ccd
        Which CCD.
    circle
        Right ascension and declination in degrees and radius in arcmin of what was asked for.
    stars
        Numbers, right ascensions and declinations in degrees, and magnitudes.
    """
    ra, dec, radius = circle
    lines = [STAR_LIST_HEADER.format(ra=ra, dec=dec, radius=radius)]
    for number, star_ra, star_dec, mag in zip(*stars, strict=True):
        # every star keeps at least one band, so that none loses its mask
        bands = [f"{mag:.2f}" if has else "---" for has in (number % 3 != 0, number % 3 != 1, number % 2 == 0, False)]
        lines.append(f"SIM{number:07d} {star_ra:.7f} {star_dec:+.7f} 2016.000 {' '.join(bands)} 0\n")
    lines.append(STAR_LIST_FOOTER.format(n=len(stars[0])))
    return put_bytes(store, star_list_key(exposure, ccd), "".join(lines).encode(), subject=f"{exposure}-{ccd}")
