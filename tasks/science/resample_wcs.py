"""Coordinate systems as the resampler sees them: FITS WCS (TAN, SIP, TPV ...) and gwcs behind one face.

gwcs is not imported: an object counts as one by its attributes, those of the shared interface for WCS of astropy
(APE 14) and ``output_frame``, which tells sky from spectrum.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from tasks.science.resample_errors import UnsupportedWCSError

Floats: TypeAlias = NDArray[np.float64]
Bounds: TypeAlias = tuple[tuple[float, float], tuple[float, float]]
ImageWCS: TypeAlias = Any
"""An `astropy.wcs.WCS`, a ``gwcs.WCS`` or anything with the attributes of the latter."""

SPECTRAL_AXES, IMAGING_AXES = 3, 2
INVERSION_PIXELS = 1e-9
"""Tolerance to which distortion polynomials are inverted; astropy's own is 1e-4 pixels."""
POLYNOMIALS = ("TPV", "TPD", "TNX", "ZPX")
"""Projections that are polynomials of another."""
ROUND_TRIP_PIXELS = 1e-6
"""An inverse is believed if it maps back to the sky within this: far off the image, polynomials invert to nonsense."""
FAR = 1e9
"""Pixels: where the open side of a bounding box ends."""
GWCS_ATTRIBUTES = ("output_frame", "bounding_box", "array_shape", "pixel_to_world_values", "world_to_pixel_values")


@dataclass(frozen=True)
class PixelFrame:
    """The pixels of an image and where they are on the sky; 0-based, centres at whole numbers."""

    to_world: Callable[[Floats, Floats], tuple[Floats, ...]]
    """World coordinates of pixels; NaN where there are none."""
    to_pixel: Callable[..., tuple[Floats, Floats]]
    """Pixels of world coordinates; NaN where there are none. The bounding box is not applied."""
    n_axes: int
    """Number of world axes."""
    spatial: tuple[int, ...]
    """Which world axes are longitude and latitude, in degrees."""
    spectral: bool
    """Whether one world axis is a wavelength or frequency."""
    shape: tuple[int, int] | None
    """Shape (ny, nx) of the image, where it is known."""
    bounds: Bounds | None
    """Where the coordinates are valid: ((x_min, x_max), (y_min, y_max)); None stands for everywhere."""
    sky: str
    """Kind of longitude, such as ``pos.eq.ra``; empty if it is not known."""

    @property
    def imaging(self) -> bool:
        """Whether all world axes are on the sky."""
        return len(self.spatial) == self.n_axes


def pixel_frame(wcs: ImageWCS, owner: str) -> PixelFrame:
    """Return what the resampler needs of a coordinate system.

    Parameters
    ----------
    wcs
        An `astropy.wcs.WCS` with two celestial axes, or a gwcs; not changed.
    owner
        Whose it is, for errors, such as ``"the output"``.

    Raises
    ------
    TypeError
        If it is neither.
    UnsupportedWCSError
        If a FITS WCS has other axes than two on the sky.
    """
    if isinstance(wcs, WCS):
        return _fits_frame(wcs, owner)
    missing = [name for name in GWCS_ATTRIBUTES if not hasattr(wcs, name)]
    if missing:
        raise TypeError(
            f"The WCS of {owner} is a {type(wcs).__name__} without {missing[0]!r}; it must be an astropy.wcs.WCS or a "
            "gwcs."
        )
    return _gwcs_frame(wcs)


def check_axes(wcs: ImageWCS, owner: str) -> None:
    """Refuse an output that is neither an image of the sky nor one with a spectral axis.

    Raises
    ------
    UnsupportedWCSError
        If an imaging WCS has not two world axes, or a spectral one not three.
    """
    frame = pixel_frame(wcs, owner)
    wanted = SPECTRAL_AXES if frame.spectral else IMAGING_AXES
    if frame.n_axes != wanted:
        kind = "spectral" if frame.spectral else "imaging"
        raise UnsupportedWCSError(
            f"The {kind} WCS of {owner} has {frame.n_axes} coordinate axes; it must have {wanted}."
        )


def map_between(
    source: PixelFrame, target: PixelFrame, owner: str
) -> Callable[[Floats, Floats], tuple[Floats, Floats]]:
    """Return the function from pixels of one image to pixels of another.

    Raises
    ------
    UnsupportedWCSError
        If the two have different numbers of world axes or different celestial coordinates.
    """
    if source.n_axes != target.n_axes:
        raise UnsupportedWCSError(
            f"The WCS of {owner} has {source.n_axes} coordinate axes, that of the output {target.n_axes}; they must "
            "agree."
        )
    if source.sky and target.sky and source.sky != target.sky:
        raise UnsupportedWCSError(
            f"The longitude of {owner} is {source.sky}, that of the output {target.sky}; transform one of them first."
        )

    def to_output(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        return target.to_pixel(*source.to_world(x, y))

    return to_output


def bounds_of(wcs: ImageWCS) -> Bounds | None:
    """Return the bounding box of a gwcs, or the pixel bounds of a FITS WCS, as ((x_min, x_max), (y_min, y_max))."""
    box = wcs.pixel_bounds if isinstance(wcs, WCS) else wcs.bounding_box
    if box is None:
        return None
    # a box of astropy.modeling keeps its order to itself unless it is asked for one
    box = box.bounding_box(order="F") if hasattr(box, "bounding_box") else box
    if any(interval is None for interval in box):
        return None
    (x_low, x_high), (y_low, y_high) = np.clip(np.sort(np.array(box, np.float64), axis=1), -FAR, FAR).tolist()
    return (x_low, x_high), (y_low, y_high)


def _fits_frame(wcs: WCS, owner: str) -> PixelFrame:
    if wcs.naxis != IMAGING_AXES or not wcs.has_celestial:
        raise UnsupportedWCSError(
            f"The imaging WCS of {owner} has {wcs.naxis} coordinate axes, {wcs.celestial.naxis} of them on the sky; "
            "it must have 2 (its attribute 'celestial' may be what is needed)."
        )
    lon, lat = wcs.wcs.lng, wcs.wcs.lat

    def to_world(x: Floats, y: Floats) -> tuple[Floats, ...]:
        world = wcs.all_pix2world(np.asarray(x, np.float64), np.asarray(y, np.float64), 0)
        return np.asarray(world[lon]), np.asarray(world[lat])

    def to_pixel(*sky: Floats) -> tuple[Floats, Floats]:
        x, y = np.full(sky[0].shape, np.nan), np.full(sky[0].shape, np.nan)
        known = np.isfinite(sky[0]) & np.isfinite(sky[1])
        if known.any():
            there = sky[0][known], sky[1][known]
            found_x, found_y = _invert(wcs, *there, (lon, lat))
            if _has_polynomials(wcs):
                astray = _sky_distance(to_world(found_x, found_y), there) > ROUND_TRIP_PIXELS * _pixel_scale_deg(wcs)
                found_x[astray], found_y[astray] = np.nan, np.nan
            x[known], y[known] = found_x, found_y
        return x, y

    shape = None if wcs.array_shape is None else (int(wcs.array_shape[0]), int(wcs.array_shape[1]))
    kind = str(wcs.world_axis_physical_types[lon] or "")
    return PixelFrame(to_world, to_pixel, IMAGING_AXES, (0, 1), False, shape, bounds_of(wcs), kind)


def _invert(wcs: WCS, lon: Floats, lat: Floats, order: tuple[int, int]) -> tuple[Floats, Floats]:
    world = (lon, lat) if order == (0, 1) else (lat, lon)
    try:
        with warnings.catch_warnings():
            # that all positions are behind the plane of projection is an answer, too
            warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
            x, y = wcs.all_world2pix(*world, 0, tolerance=INVERSION_PIXELS, maxiter=50, quiet=True)
    except (NoConvergence, ValueError):
        # one position that cannot be inverted must not take the others with it
        if lon.size == 1:
            return np.full(1, np.nan), np.full(1, np.nan)
        halves = [_invert(wcs, lon[part], lat[part], order) for part in np.array_split(np.arange(lon.size), 2)]
        return np.concatenate([half[0] for half in halves]), np.concatenate([half[1] for half in halves])
    return np.asarray(x), np.asarray(y)


def _has_polynomials(wcs: WCS) -> bool:
    return bool(wcs.has_distortion or wcs.wcs.get_pv() or any(axis.endswith(POLYNOMIALS) for axis in wcs.wcs.ctype))


def _pixel_scale_deg(wcs: WCS) -> float:
    return float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs))))


def _sky_distance(found: tuple[Floats, ...], wanted: tuple[Floats, Floats]) -> Floats:
    """Return small distances in degrees; infinity where nothing was found."""
    across = (found[0] - wanted[0] + 180.0) % 360.0 - 180.0
    distance = np.hypot(across * np.cos(np.radians(wanted[1])), found[1] - wanted[1])
    return np.where(np.isnan(distance), np.inf, distance)


def _gwcs_frame(wcs: ImageWCS) -> PixelFrame:
    axes = tuple(str(axis) for axis in wcs.output_frame.axes_type)
    spatial = tuple(index for index, axis in enumerate(axes) if axis == "SPATIAL")

    @functools.cache
    def unbounded() -> ImageWCS:
        # the box of the output must not cut drops at its edge; the user's own object stays as it is
        copied = copy.deepcopy(wcs)
        copied.bounding_box = None
        return copied

    def to_world(x: Floats, y: Floats) -> tuple[Floats, ...]:
        return tuple(np.asarray(values, np.float64) for values in wcs.pixel_to_world_values(x, y))

    def to_pixel(*world: Floats) -> tuple[Floats, Floats]:
        x, y = unbounded().world_to_pixel_values(*world)
        return np.asarray(x, np.float64), np.asarray(y, np.float64)

    shape = None if wcs.array_shape is None else (int(wcs.array_shape[0]), int(wcs.array_shape[1]))
    kinds = getattr(wcs, "world_axis_physical_types", None)
    kind = str(kinds[spatial[0]] or "") if kinds and spatial else ""
    return PixelFrame(
        to_world,
        to_pixel,
        int(wcs.output_frame.naxes),
        spatial,
        "SPECTRAL" in axes,
        shape,
        bounds_of(wcs),
        kind if kind.startswith("pos.") else "",
    )
