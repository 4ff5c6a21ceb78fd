"""CCD images to multi-extension FITS files and back."""

from __future__ import annotations

import re

import numpy as np
from astropy.io import fits

from blocks.store import DataStore
from tasks.archive.fits_files import get_hdu, image_hdu, open_fits, put_fits
from tasks.archive.fits_wcs import read_wcs
from tasks.errors import BadFileError, MissingKeywordError
from tasks.products.identity import CcdId, ProductRef, SummaryValue
from tasks.products.images import ZERO_POINT, CcdImage, Photometry, Window

# cards that describe the bytes of the raw file, not the sky or the detector
STRUCTURAL = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|TFIELDS|EXTNAME|EXTVER|INHERIT|BSCALE|BZERO|BLANK"
    r"|CHECKSUM|DATASUM|Z(IMAGE|TENSION|BITPIX|NAXIS\d*|TILE\d+|CMPTYPE|NAME\d+|VAL\d+|QUANTIZ|DITHER0|BLANK|SCALE"
    r"|ZERO|PCOUNT|GCOUNT|SIMPLE|EXTEND|HECKSUM|DATASUM)|T(FORM|TYPE|UNIT|DIM|NULL|DISP)\d+|END"
)
SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")


def descriptive_header(header: fits.Header) -> fits.Header:
    """Return the cards of a raw header that say something of the sky, the detector or the history."""
    kept = [card for card in header.cards if not STRUCTURAL.fullmatch(card.keyword)]
    return fits.Header(kept)


def parse_section(text: str, subject: object) -> Window:
    """Return the window of an IRAF section ``[x1:x2,y1:y2]``, which counts from 1 and includes its ends.

    Raises
    ------
    MissingKeywordError
        If the text is not a section.
    """
    match = SECTION.fullmatch(text.strip())
    if match is None:
        raise MissingKeywordError(f"{subject}: {text!r} is not a section of the form [x1:x2,y1:y2].")
    x1, x2, y1, y2 = (int(number) for number in match.groups())
    return Window(x1 - 1, y1 - 1, x2, y2)


def format_section(window: Window) -> str:
    """Return a window as an IRAF section."""
    return f"[{window.x_min + 1}:{window.x_max},{window.y_min + 1}:{window.y_max}]"


def write_ccd_image(
    store: DataStore, key: str, image: CcdImage, summary: dict[str, SummaryValue] | None = None
) -> ProductRef:
    """Publish a CCD image as SCI, WHT and DQ extensions; the SCI header keeps the raw CCD's cards and WCS."""
    raw = descriptive_header(fits.Header.fromstring(image.header_text)) if image.header_text else image.wcs.to_header()
    hdus = [
        image_hdu(image.sci, "SCI", raw),
        image_hdu(image.weight, "WHT"),
        image_hdu(image.dq, "DQ"),
    ]
    return put_fits(store, key, hdus, subject=image.id, summary=summary, header=_ccd_cards(image))


def _ccd_cards(image: CcdImage) -> fits.Header:
    photometry, header = image.photometry, fits.Header()
    header["EXPOSURE"] = (image.id.exposure, "exposure")
    header["CCD"] = (image.id.ccd, "number of the CCD, from 0")
    header["GAIN"] = (photometry.gain, "[electron/adu]")
    header["RDNOISE"] = (photometry.read_noise, "[electron]")
    header["SATURATE"] = (photometry.saturation, "[adu] saturation level")
    header["EXPTIME"] = (photometry.exposure_time_s, "[s] exposure time")
    header["PHOTZP"] = (photometry.zero_point, "[mag] zero point of the pixel values")
    header["FSCALE"] = (photometry.flux_scale, f"factor to zero point {ZERO_POINT:g}")
    header["MJD-OBS"] = (photometry.mjd, "[d] start of the exposure")
    header["FILTER"] = (photometry.band, "filter")
    header["DATASEC"] = (format_section(image.data_section), "light-sensitive part")
    for number, (keyword, value) in enumerate(sorted(image.keywords.items()), start=1):
        header[f"RKEY{number}"] = (keyword, "keyword that selects reference files")
        header[f"RVAL{number}"] = (value, "and its value")
    return header


def read_ccd_image(store: DataStore, ref: ProductRef) -> CcdImage:
    """Return a CCD image.

    Raises
    ------
    MissingProductError
        If the product is not in the store.
    BadFileError
        If the file is truncated or not a CCD image.
    """
    with open_fits(store, ref) as hdus:
        primary = hdus[0].header
        sci = get_hdu(hdus, "SCI", ref)
        try:
            identity, photometry = CcdId(exposure=primary["EXPOSURE"], ccd=primary["CCD"]), _photometry(primary)
            section = parse_section(primary["DATASEC"], identity)
        except KeyError as error:
            raise BadFileError(f"{ref.key} is not a CCD image: {error}") from error
        return CcdImage(
            id=identity,
            sci=np.asarray(sci.data).astype(np.float32),
            weight=np.asarray(get_hdu(hdus, "WHT", ref).data).astype(np.float32),
            dq=np.asarray(get_hdu(hdus, "DQ", ref).data).astype(np.uint32),
            wcs=read_wcs(sci.header),
            photometry=photometry,
            data_section=section,
            header_text=descriptive_header(sci.header).tostring(),
            keywords={primary[f"RKEY{n}"]: primary[f"RVAL{n}"] for n in range(1, len(primary["RKEY*"]) + 1)},
        )


def _photometry(header: fits.Header) -> Photometry:
    return Photometry(
        gain=float(header["GAIN"]),
        read_noise=float(header["RDNOISE"]),
        saturation=float(header["SATURATE"]),
        exposure_time_s=float(header["EXPTIME"]),
        zero_point=float(header["PHOTZP"]),
        mjd=float(header["MJD-OBS"]),
        band=str(header["FILTER"]),
    )
