"""One CCD out of the multi-extension files of a raw exposure, plain or tile-compressed."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from blocks.store import DataStore
from tasks.archive.fits_files import get_hdu, open_fits
from tasks.archive.fits_wcs import read_wcs
from tasks.archive.images import parse_section
from tasks.errors import BadFileError, MissingKeywordError
from tasks.products.identity import CcdId, ProductRef, RawExposure
from tasks.products.images import Photometry
from tasks.products.instrument import HeaderValue, Instrument
from tasks.products.raw_planes import RawPlanes

IMAGE_AXES = 2
MAX_ZERO_POINT = 50.0


def read_raw_ccd(raw_store: DataStore, raw: RawExposure, ccd: CcdId, instrument: Instrument) -> RawPlanes:
    """Return one CCD of a raw exposure; of each file only the HDU of that CCD is loaded.

    Keywords are looked up in the header of the CCD, then in the primary header.

    Parameters
    ----------
    raw_store, raw
        Where the files are.
    ccd
        Which CCD.
    instrument
        Which HDU it is, and what its keywords are called.

    Raises
    ------
    MissingProductError
        If a file is not in the store.
    BadFileError
        If a file is truncated, or lacks the HDU.
    MissingKeywordError
        If a header lacks a keyword that the instrument names, or its value cannot be.
    WCSError
        If the header has no celestial WCS.
    """
    number = instrument.first_hdu + ccd.ccd
    weight = _other_file(raw_store, raw.weight, number)
    flag = _whole_numbers(_other_file(raw_store, raw.flag, number), ccd)
    with open_fits(raw_store, raw.image, checksum=False) as hdus:
        hdu = get_hdu(hdus, number, raw.image)
        image = _pixels(hdu, number, raw.image)
        header, primary = hdu.header, hdus[0].header
        keywords = {
            keyword: str(_find(keyword, header, primary)).strip()
            for keyword in instrument.reference_keywords
            if _find(keyword, header, primary) is not None
        }
        section = instrument.data_section and str(_required(instrument.data_section, header, primary, ccd))
        return RawPlanes(
            id=ccd,
            image=image,
            weight=weight,
            flag=flag,
            wcs=read_wcs(header, f"CCD {ccd}"),
            photometry=_photometry(header, primary, ccd, instrument),
            data_section=parse_section(section, f"CCD {ccd}") if section else None,
            header_text=header.tostring(),
            keywords=keywords,
        )


def _other_file(raw_store: DataStore, ref: ProductRef | None, number: int) -> NDArray[np.generic] | None:
    if ref is None:
        return None
    with open_fits(raw_store, ref, checksum=False) as hdus:
        return _pixels(get_hdu(hdus, number, ref), number, ref)


def _whole_numbers(flag: NDArray[np.generic] | None, ccd: CcdId) -> NDArray[np.generic] | None:
    if flag is not None and flag.dtype.kind not in "iu":
        raise BadFileError(f"CCD {ccd}: its flag image has values of type {flag.dtype.name}; flags are whole numbers.")
    return flag


def _pixels(hdu: fits.hdu.base._BaseHDU, number: int, ref: ProductRef) -> NDArray[np.generic]:
    if not hdu.is_image or hdu.header.get("NAXIS") != IMAGE_AXES:
        raise BadFileError(f"{ref.key}: HDU {number} is not an image of two axes; check `first_hdu` of the instrument.")
    return np.asarray(hdu.data)


def _find(keyword: str, header: fits.Header, primary: fits.Header) -> object:
    for cards in (header, primary):
        value = cards.get(keyword)
        if value is not None and not isinstance(value, fits.card.Undefined):
            return value
    return None


def _required(keyword: str, header: fits.Header, primary: fits.Header, ccd: CcdId) -> object:
    value = _find(keyword, header, primary)
    if value is None:
        raise MissingKeywordError(
            f"CCD {ccd} has no keyword {keyword} in its header nor in the primary header; add it, or name another one "
            "in the instrument description."
        )
    return value


def _number(source: HeaderValue, header: fits.Header, primary: fits.Header, ccd: CcdId) -> float:
    if not isinstance(source, str):
        return float(source)
    value = _required(source, header, primary, ccd)
    try:
        number = float(str(value))
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise MissingKeywordError(f"CCD {ccd}: the keyword {source} is {value!r}, which is not a number.")
    return number


def _positive(source: HeaderValue, header: fits.Header, primary: fits.Header, ccd: CcdId) -> float:
    number = _number(source, header, primary, ccd)
    if number <= 0:
        raise MissingKeywordError(f"CCD {ccd}: the keyword {source} is {number:g}; it must be larger than 0.")
    return number


def _zero_point(source: HeaderValue, header: fits.Header, primary: fits.Header, ccd: CcdId) -> float:
    number = _number(source, header, primary, ccd)
    # pipelines write 99 or -99 where the photometry was not calibrated
    if abs(number) > MAX_ZERO_POINT:
        raise MissingKeywordError(
            f"CCD {ccd}: the keyword {source} is {number:g}, which is not a zero point: it must lie within "
            f"{MAX_ZERO_POINT:g} magnitudes of 0."
        )
    return number


def _band(keyword: str, header: fits.Header, primary: fits.Header, ccd: CcdId) -> str:
    words = str(_required(keyword, header, primary, ccd)).split()
    if not words:
        raise MissingKeywordError(f"CCD {ccd}: the keyword {keyword} is empty; it must name the filter.")
    # some cameras add the wavelength to the name of the filter
    return words[0]


def _photometry(header: fits.Header, primary: fits.Header, ccd: CcdId, instrument: Instrument) -> Photometry:
    return Photometry(
        gain=_positive(instrument.gain, header, primary, ccd),
        read_noise=_number(instrument.read_noise, header, primary, ccd),
        saturation=_positive(instrument.saturation, header, primary, ccd),
        exposure_time_s=_positive(instrument.exposure_time, header, primary, ccd),
        zero_point=_zero_point(instrument.zero_point, header, primary, ccd),
        mjd=_number(instrument.mjd, header, primary, ccd),
        band=_band(instrument.band, header, primary, ccd),
    )
