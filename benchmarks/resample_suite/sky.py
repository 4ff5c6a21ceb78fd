"""Positions: headers of the exposures and of the output, all of which see the same field.

A smaller exposure is the window of a full one at its lower left corner, so that its distortion is as strong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from resample_suite.cases import Distortion

RA, DEC = 150.1, 2.2
PIXEL_ARCSEC = 0.187
FULL_SIZE = 2048
MARGIN = 300
"""Pixels by which an output is wider than an exposure at scale ratio 1: none reaches its edge, where the peer errs."""
DITHER = 90.0
"""Largest offset of an exposure of full size along x and y, pixels."""
ROTATION = 1.5
"""Largest rotation of an exposure, degrees."""
# pixels at the upper right corner of a full exposure, by powers of x and y; together about 5 at the worst corner
X_TERMS = {(2, 0): 0.4, (1, 1): -0.3, (0, 2): 0.2, (3, 0): 1.3, (1, 2): 1.3, (4, 0): 0.4, (2, 2): 0.3, (1, 3): -0.3}
Y_TERMS = {(2, 0): -0.2, (1, 1): 0.3, (0, 2): 0.3, (0, 3): 1.3, (2, 1): 1.3, (0, 4): -0.4, (2, 2): 0.3, (3, 1): 0.2}
# of TPV: number of the coefficient of a term; the first power is of the axis itself
TPV_NUMBER = {
    (2, 0): 4, (1, 1): 5, (0, 2): 6, (3, 0): 7, (2, 1): 8, (1, 2): 9, (0, 3): 10, (4, 0): 12, (3, 1): 13, (2, 2): 14,
    (1, 3): 15, (0, 4): 16,
}  # fmt: skip


@dataclass(frozen=True)
class Pointing:
    """Where an exposure looks: offset in pixels along x and y, and rotation in degrees."""

    dx: float
    dy: float
    rotation: float


def pointings(n_exposures: int, size: int) -> list[Pointing]:
    """Return the same pointings every time, spread over the largest dither and rotation."""
    rng = np.random.default_rng(5)
    spread = rng.uniform(-1, 1, (n_exposures, 3)) * [DITHER * size / FULL_SIZE, DITHER * size / FULL_SIZE, ROTATION]
    return [Pointing(*map(float, row)) for row in spread]


def output_header(size: int, scale_ratio: float) -> fits.Header:
    """Return the header of an output, north up, that holds all exposures of this size."""
    n_pixels = math.ceil((size + MARGIN) / scale_ratio)
    step = PIXEL_ARCSEC / 3600 * scale_ratio
    return tangent_header(n_pixels, np.array([[-step, 0.0], [0.0, step]]), (FULL_SIZE - size) / 2 / scale_ratio)


def exposure_header(size: int, pointing: Pointing, distortion: Distortion) -> fits.Header:
    """Return the header of an exposure."""
    angle = math.radians(pointing.rotation)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    step = PIXEL_ARCSEC / 3600
    header = tangent_header(size, step * np.array([[-1.0, 0.0], [0.0, 1.0]]) @ turn, (FULL_SIZE - size) / 2)
    header["CRPIX1"] += pointing.dx
    header["CRPIX2"] += pointing.dy
    if distortion == "SIP":
        header.update(sip_cards())
    elif distortion == "TPV":
        header.update(tpv_cards(step))
    return header


def tangent_header(n_pixels: int, cd: np.ndarray, offset: float) -> fits.Header:
    """Return a gnomonic header of a square image whose middle is this far left of and below that of the field."""
    header = fits.Header({"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": n_pixels, "NAXIS2": n_pixels})
    for axis, (ctype, centre) in enumerate((("RA---TAN", RA), ("DEC--TAN", DEC)), start=1):
        header[f"CTYPE{axis}"], header[f"CUNIT{axis}"], header[f"CRVAL{axis}"] = ctype, "deg", centre
        header[f"CRPIX{axis}"] = (n_pixels + 1) / 2 + offset
        header[f"CD{axis}_1"], header[f"CD{axis}_2"] = map(float, cd[axis - 1])
    header["RADESYS"] = "ICRS"
    return header


def sip_cards() -> dict[str, float | str | int]:
    """Return the distortion as SIP of order 4."""
    cards: dict[str, float | str | int] = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"}
    for letter, terms in (("A", X_TERMS), ("B", Y_TERMS)):
        cards[f"{letter}_ORDER"] = 4
        for (p, q), pixels in terms.items():
            cards[f"{letter}_{p}_{q}"] = pixels / (FULL_SIZE / 2) ** (p + q)
    return cards


def tpv_cards(step: float) -> dict[str, float | str]:
    """Return a distortion of the same strength as TPV: polynomials of the projected degrees."""
    cards: dict[str, float | str] = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "PV1_1": 1.0, "PV2_1": 1.0}
    for axis, terms in ((1, X_TERMS), (2, Y_TERMS)):
        for (p, q), pixels in terms.items():
            number = TPV_NUMBER[(p, q) if axis == 1 else (q, p)]
            cards[f"PV{axis}_{number}"] = pixels * step / (step * FULL_SIZE / 2) ** (p + q)
    return cards


def wcs_of(header: fits.Header) -> WCS:
    """Return the WCS of a header, with the shape of its image."""
    wcs = WCS(header)
    wcs.array_shape = (header["NAXIS2"], header["NAXIS1"])
    return wcs
