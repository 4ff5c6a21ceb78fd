"""Lensing mask of a CCD or tile: borders, bright stars, deep-sky objects, bad data."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import coadds, keys
from tasks.archive.external_tables import read_columns, read_text
from tasks.archive.images import read_ccd_image
from tasks.archive.planes import read_plane, write_plane
from tasks.errors import NoGoodPixelsError
from tasks.products.config import StageConfig
from tasks.products.dq import DQName, MaskFlag
from tasks.products.identity import ProductRef
from tasks.products.images import CcdImage, Coadd
from tasks.science import masking
from tasks.science.starlists import StarList, make_star_list, parse_gsc_text
from tasks.stage import stage


class MaskConfig(StageConfig):
    """Settings of the lensing mask."""

    border_px: int = Field(0, ge=0)
    """Width of the masked border on all four sides, in pixels."""

    halo_mag_limit: float | None = 13.0
    """Only stars of the star catalogue that are brighter than this have a halo; none masks no halos."""

    halo_slope: float = Field(0.05, ge=0)
    """The halo of a star has 1 - slope * (mag - 13.8) times the size of the template."""

    halo_radius_arcsec: float = Field(masking.HALO_RADIUS_ARCSEC, gt=0)
    """Radius of the halo of a star of magnitude 13.8."""

    halo_offset_arcsec: tuple[float, float] = masking.HALO_OFFSET_ARCSEC
    """Centre of that halo beside the star, along x and y."""

    spike_mag_limit: float | None = 18.0
    """Only stars of the star catalogue that are brighter than this have spikes; none masks no spikes."""

    spike_slope: float = Field(0.3, ge=0)
    """The spikes of a star have max(0, 1 - slope * (mag - 13.8)) times the size of the template."""

    spike_arms_arcsec: tuple[float, float, float, float] = masking.SPIKE_ARMS_ARCSEC
    """Lengths of the spikes of a star of magnitude 13.8, towards +x, +y, -x and -y."""

    spike_angle_deg: float = 0.0
    """Rotation of the spikes from x towards y."""

    messier: bool = True
    """Whether Messier objects are masked, from the list that comes with Shearline."""

    ngc_catalog: str | None = None
    """NGC objects in the raw store: FITS or CSV with RA, DEC (degrees), SIZE_ARCMIN. Changed, it needs a new name."""

    size_plus: float = Field(0.0, ge=-1)
    """The disc of a Messier or NGC object has the radius (1 + this) times its full extent."""

    bad_flags: tuple[DQName, ...] = ("DO_NOT_USE", "JUMP_DET", "OUTLIER", "NON_SCIENCE", "DEAD", "HOT")
    """Data-quality flags that rule a pixel out."""

    max_missing_fraction: float = Field(0.75, ge=0, le=1)
    """An image with a larger fraction of pixels without data is set aside."""


def make_mask(
    image: CcdImage | Coadd,
    dq: NDArray[np.uint32] | None,
    stars: StarList | None,
    ngc: masking.DeepSkyObjects | None,
    saturation: float,
    config: MaskConfig,
) -> NDArray[np.uint16]:
    """Return why each pixel is kept out of lensing: bits of `MaskFlag`, combined by OR, shape (ny, nx).

    Raises
    ------
    NoGoodPixelsError
        If a larger fraction of the pixels than allowed has no data.
    """
    shape, wcs = (image.sci.shape[0], image.sci.shape[1]), image.wcs
    missing = masking.missing_mask(image.sci)
    if missing.mean() > config.max_missing_fraction:
        raise NoGoodPixelsError(
            f"{image.id} has no data in {missing.mean():.1%} of its pixels; at most {config.max_missing_fraction:.0%} "
            "may be missing (mask.max_missing_fraction)."
        )
    flags = dq if dq is not None else np.zeros(shape, np.uint32)
    planes = {
        MaskFlag.MISSING: missing,
        MaskFlag.WEIGHT: masking.weight_mask(image.weight),
        MaskFlag.SATURATED: (image.sci >= saturation) | masking.flagged_mask(flags, ["SATURATED"]),
        MaskFlag.BORDER: masking.border_mask(shape, config.border_px),
        MaskFlag.EXTERNAL: masking.flagged_mask(flags, config.bad_flags),
    }
    if stars is not None:
        planes |= {flag: masking.star_mask(shape, wcs, stars, law) for flag, law in _star_laws(config).items()}
    for flag, objects in (MaskFlag.MESSIER, masking.load_messier() if config.messier else None), (MaskFlag.NGC, ngc):
        if objects is not None:
            planes[flag] = masking.deep_sky_mask(shape, wcs, objects, size_plus=config.size_plus)
    return masking.combine_masks(planes)


def _star_laws(config: MaskConfig) -> dict[MaskFlag, masking.StarLaw]:
    halo = masking.halo_template(radius_arcsec=config.halo_radius_arcsec, offset_arcsec=config.halo_offset_arcsec)
    cross = masking.spike_template(arms_arcsec=config.spike_arms_arcsec, angle_deg=config.spike_angle_deg)
    laws = {}
    if config.halo_mag_limit is not None:
        laws[MaskFlag.HALO] = masking.StarLaw(halo, config.halo_slope, config.halo_mag_limit)
    if config.spike_mag_limit is not None:
        laws[MaskFlag.SPIKE] = masking.StarLaw(cross, config.spike_slope, config.spike_mag_limit)
    return laws


def _read_objects(
    store: DataStore, stars: ProductRef | None, config: MaskConfig
) -> tuple[StarList | None, masking.DeepSkyObjects | None]:
    objects = None
    if config.ngc_catalog is not None:
        objects = masking.DeepSkyObjects(*read_columns(store, config.ngc_catalog, ("RA", "DEC", "SIZE_ARCMIN")))
    if stars is None:
        return None, objects
    if stars.key.endswith((".cat", ".txt")):
        return parse_gsc_text(read_text(store, stars.key), stars.key), objects
    return make_star_list(*read_columns(store, stars.key, ("RA", "DEC", "MAG"))), objects


@stage(name="mask")
def mask_ccd_task(
    image: ProductRef, dq: ProductRef, stars: ProductRef | None, config: MaskConfig, store: DataStore, raw: DataStore
) -> ProductRef:
    """Read a CCD image, its DQ plane and the star list of the raw store, make the lensing mask, store it."""
    ccd, flags = read_ccd_image(store, image), read_plane(store, dq, "DQ")
    mask = make_mask(ccd, flags, *_read_objects(raw, stars, config), ccd.photometry.saturation, config)
    key, summary = keys.ccd(ccd.id, "mask.fits"), masking.masked_fractions(mask)
    return write_plane(store, key, mask, "MASK", subject=ccd.id, summary=summary)


@stage(name="mask")
def mask_tile_task(
    coadd: ProductRef, stars: ProductRef | None, config: MaskConfig, store: DataStore, raw: DataStore
) -> ProductRef:
    """Read a coadd and the star list of the raw store, make the lensing mask, store it."""
    tile = coadds.read_coadd(store, coadd)
    mask = make_mask(tile, None, *_read_objects(raw, stars, config), tile.saturation, config)
    key, summary = keys.tile(tile.id, "mask.fits"), masking.masked_fractions(mask)
    return write_plane(store, key, mask, "MASK", subject=tile.id, summary=summary)
