"""FITS headers to sky coordinates and back.

Ground-based headers state the same TPV polynomial in two ways: as ``RA---TPV``, and as ``RA---TAN`` with PV terms,
which is how SCAMP and the CFHT write it. Both give the same sky here. The distortion is never rewritten as SIP, which
not every reader understands.
"""

from __future__ import annotations

import math
import re

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, WcsError

from tasks.errors import WCSError

AXIS_CARDS = ("CTYPE", "CRVAL", "CRPIX", "CDELT", "CUNIT", "CROTA")
WCS_CARD = re.compile(r"(CD|PC)\d_\d|PV\d_\d+|(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|(LON|LAT)POLE|RADE(CSY|SY)S|EQUINOX")
LAST_STANDARD_PV = 4
"""PV1_1 to PV1_4 of a plain TAN header place the pole; only higher terms, or terms of axis 2, are a polynomial."""
DEGREES = frozenset({"deg", "degree", "degrees", ""})
FRAMES = frozenset({"ICRS", "FK5"})
MIN_DETERMINANT = 0.01
"""In units of the squared elements of the matrix, which give 0.5 for square pixels and 0.12 for binning by 1 x 8."""
TEXT_OPTIONS = {"sep": "", "endcard": True, "padding": False}


def read_wcs(header: fits.Header, subject: str = "") -> WCS:
    """Return the celestial coordinate system of an image header.

    TAN, TAN-SIP, TPV, and TAN with PV terms (taken as TPV) are understood. Coordinates of FK5 at equinox 2000 are taken
    as ICRS, to which such headers are calibrated today.

    Parameters
    ----------
    header
        Header of an image HDU; not changed.
    subject
        What the image is, for the error sentence, such as ``CCD 10 of exposure 2113737``.

    Returns
    -------
    WCS
        Two axes, right ascension first, degrees; it holds nothing but the coordinate system.

    Raises
    ------
    WCSError
        If the header has no usable celestial WCS.
    """
    who = f"{subject} has" if subject else "The header has"
    cards = wcs_cards(header, subject)
    try:
        wcs = WCS(cards, relax=True)
        wcs.wcs.set()
    except (WcsError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise WCSError(f"{who} no celestial WCS that can be used: {reason}") from error
    # wcslib accepts axes that lie on one line, and astropy gives an axis without size pixels of one degree
    matrix = wcs.pixel_scale_matrix
    if abs(np.linalg.det(matrix)) <= MIN_DETERMINANT * np.square(matrix).sum():
        raise WCSError(f"{who} no celestial WCS that can be used: its matrix (CD or PC) is singular, or nearly so.")
    wcs.pixel_shape = _axis_lengths(header)
    return wcs


def wcs_cards(header: fits.Header, subject: str = "") -> fits.Header:
    """Return the cards of a header that fix its coordinate system, with TAN and PV terms written as TPV.

    Raises
    ------
    WCSError
        If a card is missing, is not a number, or names another projection or frame.
    """
    who = f"{subject} has" if subject else "The header has"
    _require_celestial(header, who)
    result = fits.Header()
    for keyword, value in header.items():
        name = keyword.upper()
        if WCS_CARD.fullmatch(name) or (name[-1:] in {"1", "2"} and name[:-1] in AXIS_CARDS):
            result["RADESYS" if name == "RADECSYS" else name] = value
    for keyword in ("CUNIT1", "CUNIT2"):
        if str(result.get(keyword, "deg")).strip().lower() not in DEGREES:
            raise WCSError(f"{who} no celestial WCS that can be used: {keyword} is {result[keyword]!r}, not 'deg'.")
        result[keyword] = "deg"
    _require_numbers(result, who)
    _require_scale(result, who)
    _write_as_tpv(result)
    return result


def _require_celestial(header: fits.Header, who: str) -> None:
    for keyword in ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):
        if keyword not in header:
            raise WCSError(f"{who} no celestial WCS: {keyword} is missing. Calibrate its astrometry first.")
    for keyword, start in (("CTYPE1", "RA---"), ("CTYPE2", "DEC--")):
        value = str(header[keyword])
        if not value.startswith(start) or value[5:8] not in {"TAN", "TPV"}:
            raise WCSError(
                f"{who} no celestial WCS that can be used: {keyword} is {value!r}, not {start}TAN, {start}TAN-SIP "
                f"or {start}TPV."
            )
    frame = str(header.get("RADESYS", header.get("RADECSYS", "ICRS"))).strip().upper()
    if frame not in FRAMES:
        raise WCSError(f"{who} no celestial WCS that can be used: RADESYS is {frame!r}, not ICRS or FK5.")


def _require_numbers(cards: fits.Header, who: str) -> None:
    for keyword, value in cards.items():
        if keyword.startswith(("CTYPE", "CUNIT", "RADESYS")):
            continue
        if isinstance(value, str) or not isinstance(value, int | float) or not math.isfinite(value):
            raise WCSError(f"{who} no celestial WCS that can be used: {keyword} is {value!r}, not a number.")


def _require_scale(cards: fits.Header, who: str) -> None:
    matrix = [cards.get(keyword, 0.0) for keyword in ("CD1_1", "CD1_2", "CD2_1", "CD2_2")]
    steps = [cards.get("CDELT1", 0.0), cards.get("CDELT2", 0.0)]
    # astropy quietly takes a pixel of one degree where a header gives no size, or a size of 0
    if matrix[0] * matrix[3] == matrix[1] * matrix[2] and 0.0 in steps:
        raise WCSError(f"{who} no celestial WCS that can be used: neither CDi_j nor CDELTi gives its pixels a size.")


def _write_as_tpv(cards: fits.Header) -> None:
    terms = [keyword for keyword in cards if keyword.startswith("PV")]
    projection = cards["CTYPE1"]
    if projection.endswith("-SIP"):
        distorted = False
    else:
        distorted = projection.endswith("TPV") or any(
            keyword.startswith("PV2_") or int(keyword[4:]) > LAST_STANDARD_PV for keyword in terms
        )
    if not distorted:
        for keyword in terms:
            del cards[keyword]
        return
    cards["CTYPE1"], cards["CTYPE2"] = "RA---TPV", "DEC--TPV"
    # the convention's default of the linear term is 1; wcslib takes what is missing as 0
    cards.setdefault("PV1_1", 1.0)
    cards.setdefault("PV2_1", 1.0)


def _axis_lengths(header: fits.Header) -> tuple[int, int] | None:
    # a compressed image has its own lengths under other names while it is seen as a table
    names = ("ZNAXIS1", "ZNAXIS2") if "ZNAXIS1" in header else ("NAXIS1", "NAXIS2")
    if not all(isinstance(header.get(name), int) for name in names):
        return None
    return header[names[0]], header[names[1]]


def wcs_to_header(wcs: WCS) -> fits.Header:
    """Return the header cards of a coordinate system, in full precision.

    Unlike `astropy.wcs.WCS.to_header`, which keeps 12 digits, this is what `read_wcs` needs to give the same sky to
    1e-11 degrees.

    Parameters
    ----------
    wcs
        A system that `read_wcs` returned, or a plain TAN system.

    Returns
    -------
    Header
        Only the cards of the coordinate system; the image size is not part of it.
    """
    header = wcs.to_header(relax=True)
    result = fits.Header()
    for axis in (1, 2):
        result[f"CTYPE{axis}"] = wcs.wcs.ctype[axis - 1]
        result[f"CRVAL{axis}"] = float(wcs.wcs.crval[axis - 1])
        result[f"CRPIX{axis}"] = float(wcs.wcs.crpix[axis - 1])
        result[f"CUNIT{axis}"] = "deg"
    matrix = wcs.pixel_scale_matrix
    for row in (0, 1):
        for column in (0, 1):
            result[f"CD{row + 1}_{column + 1}"] = float(matrix[row, column])
    result["RADESYS"] = "ICRS"
    for keyword, value in header.items():
        if re.fullmatch(r"PV\d_\d+|(A|B|AP|BP)_(ORDER|\d_\d)|(LON|LAT)POLE", keyword):
            result[keyword] = value
    if any(keyword.startswith("PV") for keyword in result):
        _write_as_tpv(result)
    return result


def wcs_to_header_text(wcs: WCS) -> str:
    """Return the cards of `wcs_to_header` as the text that `read_wcs_text` reads."""
    return str(wcs_to_header(wcs).tostring(**TEXT_OPTIONS))


def wcs_cards_text(header: fits.Header, subject: str = "") -> str:
    """Return the coordinate system of a header as text, to the digits of the header.

    Raises
    ------
    WCSError
        As `read_wcs`.
    """
    return str(wcs_cards(header, subject).tostring(**TEXT_OPTIONS))


def read_wcs_text(text: str, subject: str = "") -> WCS:
    """Return the celestial coordinate system of a header that was kept as text.

    Raises
    ------
    WCSError
        As `read_wcs`.
    """
    return read_wcs(fits.Header.fromstring(text), subject)
