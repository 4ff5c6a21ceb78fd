"""Where a tile lies on the sky."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TileFootprint:
    """A rectangle in the tangent plane at the centre of a tile."""

    ra: float
    """Right ascension of the centre, ICRS degrees."""
    dec: float
    """Declination of the centre, ICRS degrees."""
    half_width: float
    """Half of the side along right ascension, arcsec in the tangent plane."""
    half_height: float
    """Half of the side along declination, arcsec in the tangent plane."""
