"""Planes of the lensing mask: borders, bright stars, deep-sky objects, bad data.

Every function returns a boolean plane of shape (ny, nx); `combine_masks` turns planes into bits by OR. Star templates
are polygons in arcseconds, so they serve every pixel scale; a pixel belongs to a polygon if its centre lies inside.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.products.dq import DQFlag, DQName, MaskFlag
from tasks.science.compiled import njit
from tasks.science.geometry import local_jacobian, pixel_scale_arcsec, pixel_to_sky
from tasks.science.sphere import separation_deg, tangent_plane
from tasks.science.starlists import StarList

Floats = NDArray[np.float64]
Plane = NDArray[np.bool_]

REFERENCE_MAG = 13.8
"""Magnitude at which the star templates have scale 1."""
HALO_RADIUS_ARCSEC = 50.3
HALO_OFFSET_ARCSEC = (1.03, -0.24)
SPIKE_ARMS_ARCSEC = (35.5, 35.2, 35.5, 29.0)
"""Lengths of the arms towards +x, +y, -x, -y."""
SPIKE_ROOT_ARCSEC = 4.0
SPIKE_TIP_ARCSEC = 0.8
ARCMIN_PER_DEGREE = 60.0
ARCSEC_PER_DEGREE = 3600.0


@dataclass(frozen=True)
class DeepSkyObjects:
    """Extended objects of a catalogue."""

    ra: Floats
    """Right ascension, ICRS degrees, shape (n,)."""
    dec: Floats
    """Declination, ICRS degrees, shape (n,)."""
    size_arcmin: Floats
    """Largest apparent extent, shape (n,)."""


def load_messier() -> DeepSkyObjects:
    """Return the 110 objects of Messier's list; positions to 0.01 degrees."""
    text = files("tasks.science").joinpath("data", "messier.csv").read_text(encoding="ascii")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    columns = ([float(row[name]) for row in rows] for name in ("ra_deg", "dec_deg", "size_arcmin"))
    return DeepSkyObjects(*(np.array(column) for column in columns))


def combine_masks(planes: Mapping[MaskFlag, Plane]) -> NDArray[np.uint16]:
    """Return the mask whose bits are set where the planes are true.

    Parameters
    ----------
    planes
        At least one plane by its bit, all of shape (ny, nx).
    """
    shape = next(iter(planes.values())).shape
    mask = np.zeros(shape, dtype=np.uint16)
    for flag, plane in planes.items():
        mask |= np.where(plane, np.uint16(flag), np.uint16(0))
    return mask


def masked_fractions(mask: NDArray[np.uint16]) -> dict[str, int | float | str | bool]:
    """Return which fraction of the pixels is masked at all, and by each bit that occurs, rounded to 1e-5."""
    fractions: dict[str, int | float | str | bool] = {"masked": round(float((mask > 0).mean()), 5)}
    for flag in MaskFlag:
        fraction = float(((mask & np.uint16(flag)) > 0).mean())
        if fraction > 0:
            fractions[str(flag.name).lower()] = round(fraction, 5)
    return fractions


def border_mask(shape: tuple[int, int], width: int) -> Plane:
    """Return the outer ``width`` pixels of all four sides."""
    ny, nx = shape
    plane = np.ones(shape, dtype=np.bool_)
    plane[width : max(ny - width, width), width : max(nx - width, width)] = False
    return plane


def missing_mask(sci: NDArray[np.float32]) -> Plane:
    """Return the pixels without data: exactly 0, or not finite."""
    return np.asarray((sci == 0) | ~np.isfinite(sci))


def weight_mask(weight: NDArray[np.float32]) -> Plane:
    """Return the pixels whose weight is zero, negative or not finite."""
    return ~(np.isfinite(weight) & (weight > 0))


def flagged_mask(dq: NDArray[np.uint32], names: Iterable[DQName]) -> Plane:
    """Return the pixels with any of the named data-quality flags."""
    bits = np.bitwise_or.reduce([np.uint32(0), *(np.uint32(DQFlag[name]) for name in names)])
    return np.asarray((dq & bits) > 0)


def polygon_mask(shape: tuple[int, int], vertices: Floats) -> Plane:
    """Return the pixels whose centres lie inside a polygon, by the even-odd rule.

    Parameters
    ----------
    shape
        Shape (ny, nx) of the image.
    vertices
        Corners (x, y) in pixels in order around the polygon, shape (n, 2); they may lie outside the image. Left and
        lower edges belong to the polygon, right and upper ones do not, so neighbours share no pixel.
    """
    plane = np.zeros(shape, dtype=np.bool_)
    fill_polygon(plane, np.ascontiguousarray(vertices, dtype=np.float64))
    return plane


@dataclass(frozen=True)
class StarLaw:
    """How the mask of a star follows from its magnitude."""

    template: Floats
    """Outline for magnitude 13.8, arcseconds along x and y from the star, shape (m, 2)."""
    slope: float
    """Loss of scale per magnitude."""
    mag_limit: float
    """Only stars brighter than this are masked."""

    def scale(self, mag: Floats) -> Floats:
        """Return the scale of the template for stars, max(0, 1 - slope (mag - 13.8)), and 0 beyond the limit.

        ShapePipe's laws; its spikes turned round where the law goes below 0, from magnitude 17.13.
        """
        return np.where(mag < self.mag_limit, np.maximum(0.0, 1.0 - self.slope * (mag - REFERENCE_MAG)), 0.0)


def halo_template(
    *, radius_arcsec: float = HALO_RADIUS_ARCSEC, offset_arcsec: tuple[float, float] = HALO_OFFSET_ARCSEC
) -> Floats:
    """Return the outline of a halo of scale 1 around its star, arcseconds along x and y, shape (64, 2).

    The defaults are the halo of MegaCam at a star of magnitude 13.8, whose centre is a little beside the star.
    """
    angle = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)
    circle = radius_arcsec * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return np.asarray(circle + np.array(offset_arcsec))


def spike_template(
    *,
    arms_arcsec: tuple[float, float, float, float] = SPIKE_ARMS_ARCSEC,
    root_arcsec: float = SPIKE_ROOT_ARCSEC,
    tip_arcsec: float = SPIKE_TIP_ARCSEC,
    angle_deg: float = 0.0,
) -> Floats:
    """Return the outline of the diffraction spikes of scale 1, arcseconds along x and y, shape (12, 2).

    Parameters
    ----------
    arms_arcsec
        Lengths towards +x, +y, -x, -y before the rotation.
    root_arcsec, tip_arcsec
        Half widths of the arms at the star and at their ends.
    angle_deg
        Rotation from x towards y.
    """
    corners = []
    for quarter, length in enumerate(arms_arcsec):
        angle = 0.5 * np.pi * quarter
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        corners += [length * along - tip_arcsec * across, length * along + tip_arcsec * across]
        # the corner between this arm and the next
        corners.append(root_arcsec * (along + across))
    turn = np.radians(angle_deg)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(np.array(corners) @ rotation)


def star_mask(shape: tuple[int, int], wcs: WCS, stars: StarList, law: StarLaw) -> Plane:
    """Return the pixels inside the scaled templates of stars.

    Parameters
    ----------
    shape, wcs
        Of the image.
    stars
        Stars on the image and around it.
    law
        Template and how it scales with magnitude.
    """
    plane = np.zeros(shape, dtype=np.bool_)
    frame, scale, template = _Frame.of(shape, wcs), law.scale(stars.mag), law.template
    reach = scale * float(np.hypot(template[:, 0], template[:, 1]).max()) / ARCSEC_PER_DEGREE
    near = np.flatnonzero((scale > 0) & (frame.separation_deg(stars.ra, stars.dec) < reach + frame.radius_deg))
    x, y = frame.to_pixels(stars.ra[near], stars.dec[near])
    for k, x_star, y_star in zip(near, x, y, strict=True):
        fill_polygon(plane, np.array([x_star, y_star]) + scale[k] * template / frame.scale_arcsec)
    return plane


def deep_sky_mask(shape: tuple[int, int], wcs: WCS, objects: DeepSkyObjects, *, size_plus: float = 0.0) -> Plane:
    """Return the pixels inside the discs around extended objects.

    The radius of a disc is the full extent of the object times (1 + ``size_plus``), ShapePipe's generous choice. An
    object counts if its disc can reach the image: its distance from the centre is less than the radius plus half the
    diagonal.
    """
    ny, nx = shape
    plane = np.zeros(shape, dtype=np.bool_)
    frame = _Frame.of(shape, wcs)
    radius = objects.size_arcmin * (1.0 + size_plus) / ARCMIN_PER_DEGREE
    near = np.flatnonzero(frame.separation_deg(objects.ra, objects.dec) < radius + frame.radius_deg)
    centers = frame.to_pixels(objects.ra[near], objects.dec[near])
    for k, x, y in zip(near, *centers, strict=True):
        r = radius[k] * ARCSEC_PER_DEGREE / frame.scale_arcsec
        plane |= (np.arange(nx) - x) ** 2 + ((np.arange(ny) - y) ** 2)[:, None] <= r * r
    return plane


@dataclass(frozen=True)
class _Frame:
    """Where an image is on the sky."""

    wcs: WCS
    center: tuple[float, float]
    ra: float
    dec: float
    radius_deg: float
    scale_arcsec: float

    @classmethod
    def of(cls, shape: tuple[int, int], wcs: WCS) -> _Frame:
        x, y = 0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1)
        ra, dec = pixel_to_sky(wcs, np.array([x]), np.array([y]))
        scale = float(pixel_scale_arcsec(wcs, np.array([x]), np.array([y]))[0])
        radius = 0.5 * float(np.hypot(*shape)) * scale / ARCSEC_PER_DEGREE
        return cls(wcs, (x, y), float(ra[0]), float(dec[0]), radius, scale)

    def separation_deg(self, ra: Floats, dec: Floats) -> Floats:
        return separation_deg(ra, dec, self.ra, self.dec)

    def to_pixels(self, ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
        """Return pixels by Newton steps through the full WCS near the image, and along its tangent plane beyond.

        A distortion polynomial has no meaning far outside its image, but the disc of a large object may reach in from
        there.
        """
        jacobian = np.linalg.inv(local_jacobian(self.wcs, *(np.array([c]) for c in self.center))[0])

        def offset(ra_to: Floats, dec_to: Floats, ra_from: Floats | float, dec_from: Floats | float) -> Floats:
            u, v = tangent_plane(ra_to, dec_to, ra_from, dec_from)
            return np.asarray(jacobian @ np.stack([v, u]))

        y, x = offset(ra, dec, self.ra, self.dec) + np.array(self.center[::-1])[:, None]
        near = self.separation_deg(ra, dec) < 2.0 * self.radius_deg
        for _ in range(4):
            dy, dx = offset(ra[near], dec[near], *pixel_to_sky(self.wcs, x[near], y[near]))
            x[near] += dx
            y[near] += dy
        return x, y


@njit(cache=True, nogil=True)
def fill_polygon(plane, vertices):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Set the pixels of a boolean plane whose centres lie inside a polygon, row by row."""
    ny, nx = plane.shape
    n = vertices.shape[0]
    crossings = np.empty(n)
    lowest, highest = vertices[:, 1].min(), vertices[:, 1].max()
    for j in range(max(int(np.ceil(lowest)), 0), min(int(np.floor(highest)), ny - 1) + 1):
        count = 0
        for k in range(n):
            x1, y1 = vertices[k]
            x2, y2 = vertices[(k + 1) % n]
            if (y1 <= j) != (y2 <= j):
                crossings[count] = x1 + (j - y1) * (x2 - x1) / (y2 - y1)
                count += 1
        ordered = np.sort(crossings[:count])
        for k in range(0, count - 1, 2):
            first, end = max(np.ceil(ordered[k]), 0.0), min(np.ceil(ordered[k + 1]), float(nx))
            for i in range(int(first), int(end)):
                plane[j, i] = True
