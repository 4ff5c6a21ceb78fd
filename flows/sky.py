"""Where processed exposures lie on the survey grid: which may overlap a tile, and which do."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from blocks.store import DataStore
from tasks.archive.wcs_index import read_index
from tasks.errors import DataError, MissingProductError
from tasks.find_exposures import FindExposuresConfig, tile_outline
from tasks.products.identity import ExposureId, TileId
from tasks.products.processed import ExposureSummary
from tasks.science.geometry import TileGrid
from tasks.science.sphere import (
    ARCSEC_PER_DEGREE,
    bounding_circle,
    polygons_overlap,
    tangent_plane,
    unit_vectors,
)

Floats = NDArray[np.float64]

SAMPLES_PER_CELL = 2
"""Samples along the side of a cell of the grid: none that holds a centre is missed."""
EDGE_ARCSEC = 1e-3
"""Outlines that end this close to the edge of a tile are compared corner by corner."""


class Sky:
    """Processed exposures on the sky, by circles that hold their CCDs, and by the CCDs where it matters.

    An exposure whose WCS index cannot be read is in ``unreadable``, with the sentence that says why. If no circle was
    recorded of it either, nobody knows where it lies, and it is not here.

    Parameters
    ----------
    grid
        The survey grid and the size of its tiles.
    store
        Where the WCS indexes of the exposures are.
    """

    def __init__(self, grid: FindExposuresConfig, store: DataStore) -> None:
        self._grid, self._store = grid, store
        self._tiles = TileGrid(grid.spacing_deg)
        half_width = np.radians(grid.size_px * grid.pixel_scale_arcsec / ARCSEC_PER_DEGREE / 2.0)
        self._tile_radius = float(np.degrees(np.arctan(half_width * np.sqrt(2.0))))
        self._half_arcsec = grid.size_px * grid.pixel_scale_arcsec / 2.0
        self.unreadable: dict[ExposureId, str] = {}
        self._summaries: dict[ExposureId, ExposureSummary] = {}
        self._circles: dict[ExposureId, tuple[float, float, float]] = {}
        self._arrays: tuple[list[ExposureId], Floats, Floats] | None = None
        self._footprints: dict[ExposureId, list[Floats]] = {}
        self._overlaps: dict[tuple[TileId, ExposureId], bool] = {}
        self._centre = lru_cache(maxsize=None)(self._tiles.centre)

    def add(self, summary: ExposureSummary) -> None:
        """Add an exposure, or put it in the place of an older version of itself."""
        before = self._summaries.get(summary.exposure)
        if before is None or before.headers != summary.headers:
            self.discard(summary.exposure)
            circle = summary.circle or self._measure_circle(summary)
            if circle is None:
                return
            self._circles[summary.exposure] = circle
            self._arrays = None
        self._summaries[summary.exposure] = summary

    def discard(self, exposure: ExposureId) -> None:
        """Forget an exposure."""
        self.unreadable.pop(exposure, None)
        if self._summaries.pop(exposure, None) is not None:
            del self._circles[exposure]
            self._forget_footprint(exposure)
            self._arrays = None

    def exposures(self) -> list[ExposureId]:
        """Return the exposures that are here, by name."""
        return self._as_arrays()[0]

    def summary(self, exposure: ExposureId) -> ExposureSummary | None:
        """Return what is known of an exposure; none if it is not here."""
        return self._summaries.get(exposure)

    def near(self, tile: TileId) -> list[ExposureId]:
        """Return the exposures whose circle touches that of a tile, by name: all that overlap it are among them.

        Raises
        ------
        DataError
            If the grid has no such tile.
        """
        names, vectors, radii = self._as_arrays()
        offset = vectors - unit_vectors(*self._centre(tile))
        # written out, so that the last bit does not depend on how many exposures there are
        chord = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2 + offset[:, 2] ** 2)
        touching = chord <= 2.0 * np.sin(np.radians(np.minimum(radii + self._tile_radius, 180.0)) / 2.0)
        return [names[index] for index in np.flatnonzero(touching)]

    def tiles_near(self, exposure: ExposureId) -> list[TileId]:
        """Return the tiles whose circle touches that of an exposure, by row and column."""
        ra, dec, radius = self._circles[exposure]
        reach = radius + self._tile_radius
        columns, rows = self._tiles.indices(*_disk(ra, dec, reach, self._grid.spacing_deg / SAMPLES_PER_CELL))
        cells = set(zip(rows.tolist(), columns.tolist(), strict=True))
        # the last cell of a row may be so narrow that samples pass it by
        cells |= {(row, self._last_column(row)) for row, column in cells if column == 0}
        tiles = [TileId(f"{column:03d}.{row:03d}") for row, column in sorted(cells)]
        centres = np.array([self._centre(tile) for tile in tiles])
        offset = unit_vectors(centres[:, 0], centres[:, 1]) - unit_vectors(ra, dec)
        touching = np.linalg.norm(offset, axis=1) <= 2.0 * np.sin(np.radians(min(reach, 180.0)) / 2.0)
        return [tiles[index] for index in np.flatnonzero(touching)]

    def _last_column(self, row: int) -> int:
        cosine = np.cos(np.radians(row * self._grid.spacing_deg - 90.0))
        return max(0, int(np.ceil(360.0 * cosine / self._grid.spacing_deg)) - 1)

    def overlaps(self, tile: TileId, exposure: ExposureId) -> bool:
        """Tell whether a CCD of an exposure overlaps a tile; true also if its WCS index cannot be read."""
        if (tile, exposure) not in self._overlaps:
            footprints = self._footprint(exposure)
            if footprints is None:
                return True
            self._overlaps[tile, exposure] = self._overlap(tile, footprints)
        return self._overlaps[tile, exposure]

    def _overlap(self, tile: TileId, footprints: list[Floats]) -> bool:
        centre, half = self._centre(tile), self._half_arcsec
        near = []
        for ccd in footprints:
            u, v = tangent_plane(ccd[:, 0], ccd[:, 1], *centre)
            # a corner inside decides for nearly all, an edge of the tile between them for nearly all others
            if bool(((np.abs(u) < half - EDGE_ARCSEC) & (np.abs(v) < half - EDGE_ARCSEC)).any()):
                return True
            reach = min(u.max(), v.max(), -u.min(), -v.min())
            if reach > -half - EDGE_ARCSEC:
                near.append(ccd)
        outline = tile_outline(tile, self._grid) if near else None
        return outline is not None and any(polygons_overlap(outline, ccd) for ccd in near)

    def tiles_overlapped(self, exposure: ExposureId) -> list[TileId]:
        """Return the tiles that CCDs of an exposure overlap, by row and column."""
        return [tile for tile in self.tiles_near(exposure) if self.overlaps(tile, exposure)]

    def _forget_footprint(self, exposure: ExposureId) -> None:
        self._footprints.pop(exposure, None)
        for pair in [pair for pair in self._overlaps if pair[1] == exposure]:
            del self._overlaps[pair]

    def _footprint(self, exposure: ExposureId) -> list[Floats] | None:
        if exposure not in self._footprints and exposure not in self.unreadable:
            footprint = self._read_footprint(self._summaries[exposure])
            if footprint is not None:
                self._footprints[exposure] = footprint
        return self._footprints.get(exposure)

    def _measure_circle(self, summary: ExposureSummary) -> tuple[float, float, float] | None:
        """Return the circle of an exposure that was indexed before circles were recorded; none if it is unreadable."""
        footprint = self._read_footprint(summary)
        if footprint is None:
            return None
        outline = np.concatenate(footprint)
        return bounding_circle(outline[:, 0], outline[:, 1])

    def _read_footprint(self, summary: ExposureSummary) -> list[Floats] | None:
        try:
            footprint = [record.outline for record in read_index(self._store, summary.headers)]
        except (MissingProductError, DataError) as error:
            self.unreadable[summary.exposure] = f"its WCS index cannot be read: {error}"
            return None
        if not footprint:
            self.unreadable[summary.exposure] = f"its WCS index {summary.headers.key} has no CCDs."
            return None
        return footprint

    def _as_arrays(self) -> tuple[list[ExposureId], Floats, Floats]:
        if self._arrays is None:
            names = sorted(self._circles, key=str)
            circles = np.array([self._circles[name] for name in names]).reshape(-1, 3)
            self._arrays = names, unit_vectors(circles[:, 0], circles[:, 1]), circles[:, 2]
        return self._arrays


def _disk(ra: float, dec: float, radius: float, step: float) -> tuple[Floats, Floats]:
    """Return positions that fill a disk on the sky, no further apart than a step, in degrees."""
    steps = np.arange(-np.ceil(radius / step), np.ceil(radius / step) + 1) * step
    x, y = (offsets.ravel() for offsets in np.meshgrid(np.radians(steps), np.radians(steps)))
    distance = np.hypot(x, y)
    sinc = np.where(distance > 0, np.sin(distance) / np.where(distance > 0, distance, 1.0), 1.0)
    # azimuthal equidistant (Calabretta & Greisen 2002, section 5.1.6), turned to the centre of the disk
    sin_dec, cos_dec = np.sin(np.radians(dec)), np.cos(np.radians(dec))
    sample_dec = np.arcsin(np.clip(np.cos(distance) * sin_dec + y * sinc * cos_dec, -1.0, 1.0))
    sample_ra = np.radians(ra) + np.arctan2(x * sinc, cos_dec * np.cos(distance) - y * sinc * sin_dec)
    return np.mod(np.degrees(sample_ra), 360.0), np.degrees(sample_dec)
