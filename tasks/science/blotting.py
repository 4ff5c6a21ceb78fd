"""Blot: an image on its own grid, such as a coadd, resampled back to the pixels of an exposure.

The inverse of drizzling, by interpolation (Fruchter & Hook 2002, PASP 114, 144). Compiled, without the GIL, in float64:
the function of the `drizzle` package takes positions in float32, which are 5e-4 pixels off in an image of 10000 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ConfigError, ShapeMismatchError
from tasks.products.windows import Window
from tasks.science.interpolation import POINTS, Interpolation, as_plane, interpolate
from tasks.science.pixel_map import PixelMap, make_pixel_map
from tasks.science.resample_maps import valid_window
from tasks.science.resample_wcs import ImageWCS, map_between, pixel_frame

PixelsHold = Literal["flux", "surface_brightness"]
"""What a pixel value is: the flux that fell on the pixel, or that flux divided by the area of the pixel."""

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

LEAST_FOR_SLOPES = 3
"""Rows and columns from which on the slopes of positions are exact to second order at the edges, too."""
BAND_ROWS = 64
"""Rows of an exposure that are blotted at a time."""


def blot(
    data: Plane,
    pixel_map: PixelMap | Floats,
    *,
    interpolation: Interpolation = "poly5",
    pixels_hold: PixelsHold = "flux",
    fill_value: float = np.nan,
    n_threads: int = 1,
) -> Plane:
    """Resample an image to the pixels of an exposure, through the map from the exposure to the image.

    The value at the centre of each exposure pixel is interpolated by a polynomial through the pixels around it, that of
    the `drizzle` package's ``blot_image``. Where one of these is missing, that is not finite or outside the image, the
    interpolation is linear, with the pixels that are known, if these have at least half of the weight.

    Values keep their meaning: if pixels hold flux, the interpolated value is multiplied by the area of the exposure's
    pixel in pixels of the image, the inverse of what ``DrizzleImage.holds_flux`` does; surface brightness stays as it
    is. The flux of the whole is kept as well as the interpolation does, not exactly as drizzling does.

    Parameters
    ----------
    data
        The image, shape (my, mx), float32; NaN, or masked, where it knows nothing; not changed.
    pixel_map
        Where the pixels of the exposure fall on the image: a map with the exposure as input and the image as output, or
        the positions themselves, x first, shape (ny, nx, 2), NaN where there are none.
    interpolation
        How values between pixel centres are found.
    pixels_hold
        What a pixel value is, in image and exposure.
    fill_value
        Value of exposure pixels of which the image knows nothing.
    n_threads
        Threads that share the rows; the result does not depend on it.

    Returns
    -------
    ndarray
        The image on the pixels of the exposure, shape (ny, nx), float32.

    Raises
    ------
    ShapeMismatchError
        If the image has not two axes.
    ConfigError
        If the interpolation, the kind of the values, or the number of threads is not one of those above.
    ValueError
        If positions have another shape than (ny, nx, 2), or fewer than two rows or columns.
    """
    return blot_all(
        [(data, interpolation)], pixel_map, pixels_hold=pixels_hold, fill_value=fill_value, n_threads=n_threads
    )[0]


def blot_all(
    images: Sequence[tuple[Plane, Interpolation]],
    pixel_map: PixelMap | Floats,
    *,
    pixels_hold: PixelsHold = "flux",
    fill_value: float = np.nan,
    n_threads: int = 1,
) -> list[Plane]:
    """Resample several images on one grid to the pixels of an exposure, whose positions are worked out once.

    Parameters
    ----------
    images
        The images, of one shape, each with its interpolation.
    pixel_map, pixels_hold, fill_value, n_threads
        As for `blot`, which raises the same errors.

    Returns
    -------
    list of ndarray
        The images on the pixels of the exposure, shape (ny, nx), float32.
    """
    _check_choice("pixels_hold", pixels_hold, get_args(PixelsHold))
    if n_threads < 1:
        raise ConfigError(f"An image is to be blotted by {n_threads} threads; give at least one.")
    for image, interpolation in images:
        _check_choice("interpolation", interpolation, get_args(Interpolation))
        if image.ndim != 2:
            raise ShapeMismatchError(f"An image of shape {image.shape} cannot be blotted; it must have two axes.")
    known_map = pixel_map if isinstance(pixel_map, PixelMap) else PixelMap.from_positions(pixel_map)
    sources = [(as_plane(image), POINTS[choice]) for image, choice in images]
    results = [np.full(known_map.shape, fill_value, np.float32) for _ in images]
    window = known_map.window

    def fill(first: int) -> None:
        rows = Window(window.x_min, first, window.x_max, min(first + BAND_ROWS, window.y_max))
        positions, areas = _positions_and_areas(known_map, rows, with_areas=pixels_hold == "flux")
        values = np.empty(rows.shape, np.float32)
        for (image, n_points), result in zip(sources, results, strict=True):
            interpolate(image, positions, areas, n_points, values)
            result[rows.slices] = np.where(np.isfinite(values), values, np.float32(fill_value))

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(fill, range(window.y_min, window.y_max, BAND_ROWS)))
    return results


def blot_to_wcs(
    data: Plane,
    data_wcs: ImageWCS,
    wcs: ImageWCS,
    shape: tuple[int, int],
    *,
    interpolation: Interpolation = "poly5",
    pixels_hold: PixelsHold = "flux",
    fill_value: float = np.nan,
    n_threads: int = 1,
) -> Plane:
    """Resample an image to the pixels of an exposure, both given by their coordinate systems.

    Parameters
    ----------
    data, data_wcs
        The image, shape (my, mx), and its coordinate system: FITS (TAN, SIP, TPV ...) or gwcs.
    wcs, shape
        Coordinate system and shape (ny, nx) of the exposure.
    interpolation, pixels_hold, fill_value, n_threads
        As for `blot`, which raises the same errors.

    Returns
    -------
    ndarray
        The image on the pixels of the exposure, shape (ny, nx), float32; ``fill_value`` everywhere if the two do not
        overlap.
    """
    pixel_map = map_to_image(wcs, shape, data_wcs, (data.shape[0], data.shape[1]))
    if pixel_map is None:
        return np.full(shape, fill_value, np.float32)
    return blot(
        data,
        pixel_map,
        interpolation=interpolation,
        pixels_hold=pixels_hold,
        fill_value=fill_value,
        n_threads=n_threads,
    )


def map_to_image(
    wcs: ImageWCS, shape: tuple[int, int], image_wcs: ImageWCS, image_shape: tuple[int, int]
) -> PixelMap | None:
    """Return where the pixels of an exposure fall on an image; None if none does.

    Parameters
    ----------
    wcs, shape
        Coordinate system and shape (ny, nx) of the exposure; outside the bounding box of a gwcs there are no positions.
    image_wcs, image_shape
        Those of the image.
    """
    source, target = pixel_frame(wcs, "the exposure"), pixel_frame(image_wcs, "the image")
    bounds = valid_window(shape, source.bounds)
    if bounds is None:
        return None
    return make_pixel_map(map_between(source, target, "the exposure"), shape, image_shape, bounds=bounds)


def _check_choice(name: str, choice: str, choices: tuple[str, ...]) -> None:
    if choice not in choices:
        raise ConfigError(f"The setting {name} of a blot is {choice!r}; it must be one of {', '.join(choices)}.")


def _positions_and_areas(pixel_map: PixelMap, part: Window, *, with_areas: bool) -> tuple[Floats, Floats]:
    """Return where the pixels of a part of an exposure fall, shape (ny, nx, 2), and their areas there, or ones."""
    y, x = np.mgrid[part.slices].astype(float)
    positions = np.stack(pixel_map(x, y), axis=-1)
    if not with_areas:
        return positions, np.ones(part.shape)
    if min(part.shape) < LEAST_FOR_SLOPES:
        return positions, pixel_map.area(x, y)
    along_y, along_x = (np.asarray(np.gradient(positions, axis=axis, edge_order=2)) for axis in (0, 1))
    return positions, np.abs(along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0])
