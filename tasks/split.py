"""One raw exposure to one image per CCD: science, weight and data-quality planes."""

from __future__ import annotations

import re
from typing import Annotated

import numpy as np
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.images import write_ccd_image
from tasks.archive.raw_ccd import read_raw_ccd
from tasks.errors import NoGoodPixelsError, ShapeMismatchError, UnknownExposureError
from tasks.products.config import StageConfig
from tasks.products.dq import DQFlag
from tasks.products.identity import CcdId, ProductRef, RawExposure
from tasks.products.images import CcdImage, Window
from tasks.products.instrument import Instrument
from tasks.products.raw_planes import RawPlanes
from tasks.science.flag_images import translate_flag_image
from tasks.stage import stage


class SplitConfig(StageConfig):
    """Settings of the split of an exposure into CCDs."""

    min_good_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Smallest share of pixels with data and weight with which a CCD still stands; 0 asks for one pixel."""


def split_ccd(raw: RawPlanes, config: SplitConfig, instrument: Instrument) -> CcdImage:
    """Return the image of one CCD from its raw planes.

    Pixels whose value is not finite become 0 with weight 0 and DO_NOT_USE. Weights that are negative or not finite
    become 0; without a weight file every pixel with data has weight 1. The coordinate system and header stay as
    they are.

    Parameters
    ----------
    raw
        What the files hold; not changed.
    config
        Settings.
    instrument
        Meaning of the flag images.

    Returns
    -------
    CcdImage
        ADU, not background-subtracted.

    Raises
    ------
    UnknownExposureError
        If the name of the exposure is not one of the instrument's, or the instrument has no such CCD.
    ShapeMismatchError
        If weight or flag have another shape than the image, or the data section lies outside it.
    NoGoodPixelsError
        If too few pixels have data and weight.
    """
    _check_identity(raw.id, instrument)
    shape = raw.image.shape
    for name, plane in (("weight", raw.weight), ("flag", raw.flag)):
        if plane is not None and plane.shape != shape:
            raise ShapeMismatchError(
                f"CCD {raw.id}: the {name} image has {_size(plane.shape)} pixels, the image {_size(shape)}; they must "
                "agree. Check that both files are of one exposure."
            )
    finite = np.isfinite(raw.image)
    weight = np.ones(shape, np.float32) if raw.weight is None else raw.weight.astype(np.float32)
    weight = np.where(finite & np.isfinite(weight) & (weight > 0), weight, np.float32(0))
    good = int(np.count_nonzero(weight))
    if not finite.any():
        raise NoGoodPixelsError(f"CCD {raw.id}: none of its {finite.size} pixels has a value; the image is all NaN.")
    if good == 0 or good < config.min_good_fraction * finite.size:
        raise NoGoodPixelsError(
            f"CCD {raw.id}: {good} of {finite.size} pixels have data and weight, a share of {good / finite.size:.3f}; "
            f"it needs {config.min_good_fraction} and at least one pixel."
        )
    dq = (
        np.zeros(shape, np.uint32)
        if raw.flag is None
        else translate_flag_image(raw.flag, instrument.flag_bits, codes=instrument.flag_codes)
    )
    return CcdImage(
        id=raw.id,
        sci=np.where(finite, raw.image, 0).astype(np.float32),
        weight=weight,
        dq=dq | np.where(finite, np.uint32(0), np.uint32(DQFlag.DO_NOT_USE)),
        wcs=raw.wcs,
        photometry=raw.photometry,
        data_section=_section_inside(raw),
        header_text=raw.header_text,
        keywords=raw.keywords,
    )


def _check_identity(ccd: CcdId, instrument: Instrument) -> None:
    if not re.fullmatch(instrument.exposure_pattern, ccd.exposure):
        raise UnknownExposureError(
            f"{ccd.exposure} is not an exposure of {instrument.name}: names match {instrument.exposure_pattern!r}."
        )
    if instrument.n_ccds is not None and ccd.ccd >= instrument.n_ccds:
        raise UnknownExposureError(
            f"{instrument.name} has {instrument.n_ccds} CCDs, counted from 0; there is no {ccd}."
        )


def _section_inside(raw: RawPlanes) -> Window:
    full = Window.full(raw.image.shape)
    section = raw.data_section or full
    starts_outside = min(section.x_min, section.y_min) < 0
    if starts_outside or section.x_max > full.x_max or section.y_max > full.y_max or min(section.shape) < 1:
        raise ShapeMismatchError(
            f"CCD {raw.id}: its data section [{section.x_min + 1}:{section.x_max},{section.y_min + 1}:{section.y_max}] "
            f"is not inside its image of {_size(raw.image.shape)} pixels."
        )
    return section


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in reversed(shape))


@stage(name="split")
def split_ccd_task(
    ccd: CcdId,
    raw: RawExposure,
    config: SplitConfig,
    instrument: Instrument,
    raw_store: DataStore,
    store: DataStore,
) -> ProductRef:
    """Read one CCD of a raw exposure, make its planes, store the result."""
    image = split_ccd(read_raw_ccd(raw_store, raw, ccd, instrument), config, instrument)
    good = float(np.mean(image.weight > 0))
    return write_ccd_image(store, keys.ccd(ccd, "image.fits"), image, summary={"good_fraction": round(good, 4)})
