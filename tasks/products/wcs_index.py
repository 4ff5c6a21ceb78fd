"""Rows of the WCS index, and the list of CCDs that overlap a tile."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tasks.errors import DataError
from tasks.products.identity import CcdId, ExposureId, TileId
from tasks.products.images import Photometry, Window


class CcdRecord(BaseModel):
    """What the index knows of one CCD of one exposure."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ccd: CcdId
    """The CCD."""

    shape: tuple[int, int]
    """Shape (ny, nx) of the image."""

    data_section: Window
    """The light-sensitive part of the image."""

    footprint: tuple[tuple[float, float], ...]
    """Outline on the sky: right ascension and declination in degrees, in order around the CCD."""

    circle: tuple[float, float, float]
    """Centre and radius, in degrees, of a circle on the sky that holds the outline."""

    photometry: Photometry
    """Gain, zero point and so on."""

    wcs_text: str
    """The cards of the coordinate system, as ``tasks.archive.fits_wcs.read_wcs_text`` reads them."""

    @property
    def outline(self) -> NDArray[np.float64]:
        """The footprint as an array of shape (n, 2)."""
        return np.asarray(self.footprint, np.float64)

    @property
    def sort_key(self) -> tuple[str, int]:
        """Exposure and number: the order of CCDs everywhere."""
        return self.ccd.exposure, self.ccd.ccd


class TileExposures(BaseModel):
    """A tile, and the CCDs that overlap it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tile: TileId
    """Name of the tile."""

    ra: float
    """Right ascension of its centre in degrees."""

    dec: float
    """Declination of its centre in degrees."""

    size_px: int
    """Width and height of its image in pixels."""

    pixel_scale_arcsec: float
    """Size of its pixels in arcseconds."""

    ccds: tuple[CcdRecord, ...]
    """The CCDs that overlap it, by exposure and number."""

    @property
    def exposures(self) -> tuple[ExposureId, ...]:
        """The exposures that overlap the tile, by name."""
        return tuple(ExposureId(name) for name in sorted({record.ccd.exposure for record in self.ccds}))

    def require(self, available: Iterable[CcdId]) -> None:
        """Refuse a list of CCDs that lacks one of the tile's.

        Raises
        ------
        DataError
            If a CCD that overlaps the tile is not available.
        """
        names = {str(ccd) for ccd in available}
        absent = [str(record.ccd) for record in self.ccds if str(record.ccd) not in names]
        if absent:
            raise DataError(
                f"Tile {self.tile}: {len(absent)} of the {len(self.ccds)} CCDs that overlap it have no products, "
                f"such as {absent[0]}; process their exposures again."
            )
