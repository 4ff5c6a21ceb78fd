"""Source detection on a CCD or tile: background, segmentation and source table."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.coadds import read_coadd
from tasks.archive.images import read_ccd_image
from tasks.archive.planes import read_plane
from tasks.archive.sources import write_sources
from tasks.errors import NoGoodPixelsError
from tasks.products.config import StageConfig
from tasks.products.dq import MaskFlag, MaskName
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.images import ZERO_POINT, CcdImage, Coadd
from tasks.products.sources import SourceList
from tasks.science.detection import DetectionSettings, detect_sources
from tasks.stage import stage


class DetectConfig(StageConfig):
    """Settings of source detection and photometry; SExtractor's name of each setting is in brackets."""

    threshold_sigma: PositiveFloat = 1.5
    """Threshold in units of the pixel noise [DETECT_THRESH, ANALYSIS_THRESH]."""

    min_area_px: int = Field(5, ge=1)
    """Smallest number of connected pixels above the threshold [DETECT_MINAREA]."""

    deblend_levels: int = Field(32, ge=1)
    """Number of thresholds between the detection threshold and the peak; 1 does not deblend [DEBLEND_NTHRESH]."""

    deblend_contrast: float = Field(0.001, ge=0, le=1)
    """Smallest fraction of the flux of a blend that makes a source of its own [DEBLEND_MINCONT]."""

    deblend_min_area_px: int = Field(40, ge=1)
    """Footprints with fewer pixels are not deblended."""

    clean_exponent: float = Field(2.5, ge=0)
    """Exponent of the wings of bright sources, by which false neighbours are known; 0 does not clean [CLEAN_PARAM]."""

    background: Literal["auto", "none"] = "auto"
    """Whether the background is measured and subtracted, or is 0 already [BACK_TYPE]."""

    background_box_px: int = Field(64, ge=8)
    """Size of the boxes of the background mesh [BACK_SIZE]."""

    background_filter_boxes: int = Field(3, ge=1)
    """Size of the median filter on the mesh, in boxes; 1 does not filter [BACK_FILTERSIZE]."""

    aperture_diameters_px: tuple[PositiveFloat, ...] = Field((5.0,), min_length=1)
    """Diameters of the circular apertures [PHOT_APERTURES]."""

    kron_factor: PositiveFloat = 2.5
    """Scale of the Kron ellipse in units of the first radial moment [first of PHOT_AUTOPARAMS]."""

    kron_min_radius: PositiveFloat = 3.5
    """Least scale of the Kron ellipse in units of the isophotal axes [second of PHOT_AUTOPARAMS]."""

    excluded: tuple[MaskName, ...] = ("WEIGHT", "EXTERNAL", "MISSING")
    """Bits of the lensing mask that keep a pixel out of every source."""


def make_source_list(
    image: CcdImage | Coadd,
    mask: NDArray[np.uint32],
    *,
    gain: float,
    saturation: float,
    zero_point: float,
    config: DetectConfig,
) -> SourceList:
    """Find and measure the sources of an image.

    Raises
    ------
    NoGoodPixelsError
        If no pixel of the image can be used.
    ShapeMismatchError
        If the mask has another shape than the image.
    """
    settings = config.model_dump(exclude={"background", "excluded"})
    excluded = MaskFlag(0)
    for name in config.excluded:
        excluded |= MaskFlag[name]
    try:
        found = detect_sources(
            image.sci,
            image.weight,
            mask,
            wcs=image.wcs,
            gain=gain,
            saturation=saturation,
            zero_point=zero_point,
            settings=DetectionSettings(**settings, excluded=excluded, subtract_background=config.background == "auto"),
        )
    except NoGoodPixelsError as error:
        raise NoGoodPixelsError(f"{image.id}: {error}") from error
    return SourceList(
        subject=str(image.id),
        table=found.table,
        segmentation=found.segmentation,
        background_mesh=found.background.level,
        rms_mesh=found.background.rms,
        box_px=found.background.box_px,
        variance_scale=found.variance_scale,
        zero_point=zero_point,
    )


def _summary(sources: SourceList) -> dict[str, SummaryValue]:
    return {
        "n_sources": len(sources.table),
        "background": round(float(np.median(sources.background_mesh)), 4),
        "noise": round(float(np.median(sources.rms_mesh)), 4),
    }


@stage(name="detect")
def detect_ccd_task(image: ProductRef, mask: ProductRef, config: DetectConfig, store: DataStore) -> ProductRef:
    """Read a CCD image and its lensing mask, find the sources, store them."""
    ccd, plane = read_ccd_image(store, image), read_plane(store, mask, "MASK")
    light = ccd.photometry
    sources = make_source_list(
        ccd, plane, gain=light.gain, saturation=light.saturation, zero_point=light.zero_point, config=config
    )
    return write_sources(store, keys.ccd(ccd.id, "sources.fits"), sources, _summary(sources))


@stage(name="detect")
def detect_tile_task(coadd: ProductRef, mask: ProductRef, config: DetectConfig, store: DataStore) -> ProductRef:
    """Read a coadd and its lensing mask, find the sources, store them."""
    tile, plane = read_coadd(store, coadd), read_plane(store, mask, "MASK")
    sources = make_source_list(
        tile, plane, gain=tile.gain, saturation=tile.saturation, zero_point=ZERO_POINT, config=config
    )
    return write_sources(store, keys.tile(tile.id, "sources.fits"), sources, _summary(sources))
