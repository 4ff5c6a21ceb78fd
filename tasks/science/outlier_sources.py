"""Where outlier rejection gets its exposures from, as a whole or in part, so that no more is read than a band needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from tasks.errors import ShapeMismatchError
from tasks.products.windows import Window
from tasks.science.outlier_exposures import Exposure, OutlierSettings, map_to_grid, overlaps, target_window
from tasks.science.resample_wcs import ImageWCS


@runtime_checkable
class ExposureSource(Protocol):
    """An exposure of which a part can be read."""

    def __call__(self) -> Exposure:
        """Read it whole."""
        ...

    def reaching(self, band: Window) -> Exposure | None:
        """Read at least the rows that reach a band of the common grid; None if none does.

        The part has a coordinate system of its own.
        """
        ...


class WholeExposure:
    """An exposure that a function reads whole."""

    def __init__(
        self,
        number: int,
        read: Callable[[], Exposure],
        grid_wcs: ImageWCS,
        shape: tuple[int, int],
        settings: OutlierSettings,
    ) -> None:
        """Take the function; where the exposure falls on the grid is known when it has been read once."""
        self._number, self._read = number, read
        self._grid_wcs, self._shape, self._settings = grid_wcs, shape, settings
        self._target: Window | None = None

    def __call__(self) -> Exposure:
        """Read it, and refuse it if its planes are not images of one shape."""
        exposure = self._read()
        if exposure.data.ndim != 2 or exposure.data.shape != exposure.weight.shape:
            raise ShapeMismatchError(
                f"Exposure {self._number}, counted from 0, has data of shape {exposure.data.shape} and weights of "
                f"shape {exposure.weight.shape}; they must be images of one shape."
            )
        return exposure

    def reaching(self, band: Window) -> Exposure | None:
        """Read it if it reaches a band, or if that is not known yet; None if it does not reach it."""
        if self._target is not None and not overlaps(self._target, band):
            return None
        exposure = self()
        if self._target is None:
            pixel_map = map_to_grid(exposure, self._grid_wcs, self._shape)
            self._target = target_window(pixel_map, self._settings, self._shape)
        return exposure if overlaps(self._target, band) else None


def as_sources(
    exposures: Sequence[Callable[[], Exposure] | ExposureSource],
    grid_wcs: ImageWCS,
    shape: tuple[int, int],
    settings: OutlierSettings,
) -> list[ExposureSource]:
    """Return sources as they are, and functions as sources that read whole exposures."""
    return [
        read if isinstance(read, ExposureSource) else WholeExposure(number, read, grid_wcs, shape, settings)
        for number, read in enumerate(exposures)
    ]
