"""What Shearline must know of a camera to read its files."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from tasks.products.config import StageConfig

HeaderValue = str | float
"""The name of a header keyword, or a number where the files have none."""


class FlagBit(StageConfig):
    """Meaning of one bit of a camera's flag images."""

    value: Annotated[int, Field(gt=0)]
    """Value of the bit, or of the code if the flag images hold codes."""

    name: str
    """Name of the standard data-quality flag, such as ``SATURATED``."""


class Instrument(StageConfig):
    """Files and header keywords of one camera."""

    name: str
    """Name of the camera or survey, for reports."""

    exposure_pattern: str = r"\d{7}"
    """Regular expression that the name of an exposure matches as a whole."""

    image_file: str = "{exposure}p.fits.fz"
    """Name of the image file in the raw store; ``{exposure}`` is replaced, ``*`` stands for any characters."""

    weight_file: str | None = "{exposure}p.weight.fits.fz"
    """Name of the weight file; none if the camera delivers no weights."""

    flag_file: str | None = "{exposure}p.flag.fits.fz"
    """Name of the flag file; none if the camera delivers no flags."""

    star_list_file: str | None = None
    """Name of a star list per CCD, with ``{exposure}`` and ``{ccd}``; none uses the survey's star catalogue."""

    n_ccds: Annotated[int, Field(ge=1, lt=1000)] | None = None
    """Number of CCDs in an exposure; none takes as many as the image file has HDUs."""

    first_hdu: Annotated[int, Field(ge=0)] = 1
    """HDU of CCD 0; CCD k is HDU ``first_hdu + k``."""

    gain: HeaderValue = "GAIN"
    """Keyword of the gain in electrons per ADU, or its value."""

    read_noise: HeaderValue = "RDNOISE"
    """Keyword of the read noise in electrons, or its value."""

    saturation: HeaderValue = "SATURATE"
    """Keyword of the saturation level in ADU, or its value."""

    exposure_time: HeaderValue = "EXPTIME"
    """Keyword of the exposure time in seconds, or its value."""

    zero_point: HeaderValue = "PHOTZP"
    """Keyword of the zero point of the pixel values in magnitudes, or its value."""

    mjd: HeaderValue = "MJD-OBS"
    """Keyword of the modified Julian date of the start, or its value."""

    band: str = "FILTER"
    """Keyword of the filter name."""

    data_section: str | None = "DATASEC"
    """Keyword of the light-sensitive section, ``[x1:x2,y1:y2]`` from 1, ends included; none for the whole image."""

    flag_bits: tuple[FlagBit, ...] = ()
    """Meaning of the flag images; a pixel with a value that is not listed is DO_NOT_USE."""

    flag_codes: bool = False
    """Whether flag images hold one code per pixel instead of bits."""

    reference_keywords: tuple[str, ...] = ("INSTRUME", "DETECTOR", "SUBARRAY", "DATE-OBS", "TIME-OBS")
    """Header keywords that are kept for the selection of reference files."""

    @field_validator("exposure_pattern")
    @classmethod
    def _is_a_regular_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        return value
