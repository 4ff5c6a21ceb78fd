"""Exposures as outliers are looked for in them, and each of them alone on a part of the common grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ConfigError
from tasks.products.windows import Window
from tasks.science.blotting import PixelsHold, map_to_image
from tasks.science.drizzling import DrizzleImage, Drizzler, FluxKernel
from tasks.science.drop_kernels import make_drop
from tasks.science.interpolation import Interpolation, as_plane
from tasks.science.map_tiles import X_HIGH, X_LOW, Y_HIGH, Y_LOW, tile_extents
from tasks.science.outlier_flags import Thresholds
from tasks.science.outlier_model import BandStack, CombineSettings
from tasks.science.pixel_map import PixelMap
from tasks.science.resample_wcs import ImageWCS

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Exposure:
    """One image of the sky, or of part of it, among others of the same place. Nothing in it is changed."""

    data: Plane
    """Values without background, in units that all exposures share, shape (ny, nx), float32."""
    weight: Plane
    """Inverse variance of the data, shape (ny, nx); pixels where it is not positive and finite are neither used nor
    judged, whatever they hold, nor are masked ones."""
    wcs: ImageWCS
    """Coordinate system: FITS (TAN, SIP, TPV ...) or gwcs."""
    gain: float | None = None
    """Electrons per unit of the data, for the photon noise of the sources; None if the weight includes that."""


@dataclass(frozen=True)
class OutlierSettings:
    """Settings of outlier rejection; the defaults are those of JWST's imaging mode, but for the interpolation."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    """How far a pixel may be from what the other exposures saw."""
    combine: CombineSettings = field(default_factory=CombineSettings)
    """How the exposures become one clean image."""
    maskpt: float = 0.7
    """Share of a pixel of the common grid that good pixels of an exposure must cover for it to have a value there."""
    kernel: FluxKernel = "square"
    """Shape of the drop with which exposures are drizzled."""
    pixfrac: float = 1.0
    """Size of the drop in pixels."""
    interpolation: Interpolation = "poly5"
    """Interpolation of the blot. Linear, as JWST has it, blurs stars so much that narrow ones are flagged."""
    pixels_hold: PixelsHold = "flux"
    """What a pixel value is."""
    band_rows: int = 1024
    """Rows of the common grid that are made at a time: with more of them exposures are read less often."""

    def __post_init__(self) -> None:
        """Refuse choices that do not exist, and numbers out of range."""
        for name, choices in (("kernel", FluxKernel), ("interpolation", Interpolation), ("pixels_hold", PixelsHold)):
            choice = getattr(self, name)
            if choice not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ConfigError(f"The {name} of outlier rejection is {choice!r}; it must be one of {known}.")
        if not 0 <= self.maskpt <= 1:
            raise ConfigError(f"Outlier rejection has a maskpt of {self.maskpt}; it is a share, from 0 to 1.")
        if not 0 < self.pixfrac <= 1:
            raise ConfigError(f"Outlier rejection has a pixfrac of {self.pixfrac}; it must be above 0 and at most 1.")
        if self.band_rows < 1:
            raise ConfigError(f"Outlier rejection is to work on {self.band_rows} rows at a time; give at least one.")


def map_to_grid(exposure: Exposure, wcs: ImageWCS, shape: tuple[int, int]) -> PixelMap | None:
    """Return where the pixels of an exposure fall on a grid; None if none does."""
    ny, nx = exposure.data.shape
    return map_to_image(exposure.wcs, (ny, nx), wcs, shape)


def overlaps(target: Window, band: Window) -> bool:
    """Tell whether a window has pixels in a band of rows."""
    return target.y_min < band.y_max and target.y_max > band.y_min and target.x_max > target.x_min


def target_window(pixel_map: PixelMap | None, settings: OutlierSettings, shape: tuple[int, int]) -> Window:
    """Return the part of the grid that an exposure can reach; empty if there is none."""
    if pixel_map is None:
        return Window(0, 0, 0, 0)
    drop, _ = make_drop(settings.kernel, settings.pixfrac, pixel_map.scale_ratio)
    extents = tile_extents(pixel_map.arrays, pixel_map.window, half=drop.half, reach=drop.reach)
    (x_min, x_max), (y_min, y_max) = (
        np.clip([np.floor(extents[..., low].min()), np.ceil(extents[..., high].max()) + 1], 0, length).astype(int)
        for low, high, length in ((X_LOW, X_HIGH, shape[1]), (Y_LOW, Y_HIGH, shape[0]))
    )
    return Window(int(x_min), int(y_min), int(x_max), int(y_max))


def _moved(pixel_map: PixelMap, part: Window) -> PixelMap:
    """Return a map to a part of the grid, whose first pixel counts as 0."""
    start = np.array([part.x_min, part.y_min], np.float64)
    patches = pixel_map.arrays.patches.copy()
    patches[:, :, 0, 0] -= start[:, np.newaxis]
    arrays = pixel_map.arrays._replace(patches=patches, positions=pixel_map.arrays.positions - start)
    return replace(pixel_map, arrays=arrays)


def push_exposure(
    stack: BandStack,
    exposure: Exposure,
    wcs: ImageWCS,
    shape: tuple[int, int],
    band: Window,
    settings: OutlierSettings,
    n_threads: int,
) -> None:
    """Drizzle one exposure to its part of a band of the grid, and add it to the band's values."""
    pixel_map = map_to_grid(exposure, wcs, shape)
    target = target_window(pixel_map, settings, shape)
    if pixel_map is None or not overlaps(target, band):
        return
    part = Window(target.x_min, max(band.y_min, target.y_min), target.x_max, min(band.y_max, target.y_max))
    drizzled = _drizzled(exposure, _moved(pixel_map, part), part.shape, settings, n_threads)
    flux = settings.pixels_hold == "flux"
    # a pixel that is covered whole has this weight, drizzle's 1 / area times area squared for flux
    full_weight = pixel_map.mean_area if flux else 1 / pixel_map.mean_area
    covered = (drizzled.weight > 0) & (drizzled.weight >= settings.maskpt * full_weight)
    per_electron = 0.0 if exposure.gain is None else 1 / exposure.gain / (pixel_map.mean_area if flux else 1.0)
    here = (slice(part.y_min - band.y_min, part.y_max - band.y_min), slice(part.x_min, part.x_max))
    assert drizzled.averaged_variances is not None
    values = np.where(covered, drizzled.data, np.float32(np.nan))
    stack.push(values, drizzled.averaged_variances[0], per_electron, here)


def _drizzled(
    exposure: Exposure, pixel_map: PixelMap, shape: tuple[int, int], settings: OutlierSettings, n_threads: int
) -> Drizzler:
    """Return the planes of one exposure on a part of the grid, and as its variance the noise of single input pixels."""
    data, weight = as_plane(exposure.data), as_plane(exposure.weight)
    good = (weight > 0) & np.isfinite(weight) & np.isfinite(data)
    drizzler = Drizzler(
        shape, kernel=settings.kernel, pixfrac=settings.pixfrac, context=False, variances=1, n_threads=n_threads
    )
    image = DrizzleImage(
        data,
        # all good pixels alike: weights that know of photon noise would hollow out the stars
        good.astype(np.float32),
        pixel_map,
        variances=(np.divide(1, weight, out=np.zeros(good.shape, np.float32), where=good),),
        variance_weight=1.0,
        holds_flux=settings.pixels_hold == "flux",
    )
    drizzler.add(image)
    return drizzler
