"""The sky of a simulated survey: galaxies in 90-degree pairs under a constant shear, and stars.

Galaxies come in pairs of equal profile and magnitude whose intrinsic shapes are rotated by 90 degrees against each
other, so that their intrinsic ellipticities sum to zero and the shape noise of the mean shear cancels (Massey et al.
2007, MNRAS 376, 13, sect. 2). The members of a pair stand at independent places, so that each has its own PSF and
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ConfigError
from tasks.products.simulated_survey import FieldParameters, GalaxyParameters, StarParameters

MAX_ELLIPTICITY: Final = 0.6
SIZE_LIMITS_ARCSEC: Final = (0.12, 1.5)
MAX_TRIALS_PER_OBJECT: Final = 2000


@dataclass(frozen=True)
class GalaxyTruth:
    """The galaxies, one array element each."""

    id: NDArray[np.int32]
    """Number from 1."""
    pair_id: NDArray[np.int32]
    """Number of the pair, from 1."""
    ra: NDArray[np.float64]
    """Right ascension in degrees."""
    dec: NDArray[np.float64]
    """Declination in degrees."""
    mag: NDArray[np.float64]
    half_light_radius: NDArray[np.float64]
    """Of the major-minor geometric mean, in arcsec, before shear and PSF."""
    sersic_index: NDArray[np.float64]
    e1: NDArray[np.float64]
    """Intrinsic ellipticity of type (a-b)/(a+b), first component: elongated East-West if positive."""
    e2: NDArray[np.float64]
    """Second component: elongated North-West to South-East if positive."""
    g1: NDArray[np.float64]
    """Applied reduced shear, first component."""
    g2: NDArray[np.float64]
    """Applied reduced shear, second component."""

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True)
class StarTruth:
    """The stars, one array element each."""

    id: NDArray[np.int32]
    """Number from 1."""
    ra: NDArray[np.float64]
    """Right ascension in degrees."""
    dec: NDArray[np.float64]
    """Declination in degrees."""
    mag: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.id)


class SparsePlane:
    """A tangent plane into which points are thrown one by one, none closer to another than a given distance."""

    def __init__(self, min_separation: float) -> None:
        self._min = min_separation
        self._cells: dict[tuple[int, int], list[tuple[float, float]]] = {}

    def _cell(self, x: float, y: float) -> tuple[int, int]:
        return int(np.floor(x / self._min)), int(np.floor(y / self._min))

    def is_free(self, x: float, y: float) -> bool:
        """Tell whether a point is far enough from all that were added."""
        column, row = self._cell(x, y)
        return all(
            (x - other_x) ** 2 + (y - other_y) ** 2 >= self._min**2
            for i in range(column - 1, column + 2)
            for j in range(row - 1, row + 2)
            for other_x, other_y in self._cells.get((i, j), ())
        )

    def throw(self, n: int, half_size: tuple[float, float], rng: np.random.Generator) -> NDArray[np.float64]:
        """Add points at random places of a box around the origin.

        Parameters
        ----------
        n
            Number of points.
        half_size
            Half width and half height of the box, in the units of the minimum separation.
        rng
            Source of the random numbers.

        Returns
        -------
        ndarray, shape (n, 2), float64
            The points.

        Raises
        ------
        ConfigError
            If the box is too full for the minimum separation.
        """
        points = np.empty((n, 2))
        for i in range(n):
            for _ in range(MAX_TRIALS_PER_OBJECT if self._min > 0 else 1):
                x, y = (float(value) for value in rng.uniform(-1.0, 1.0, 2) * half_size)
                if self._min <= 0 or self.is_free(x, y):
                    break
            else:
                raise ConfigError(
                    f"Only {i} of {n} simulated objects fit into the field at least {self._min:g} arcsec apart: "
                    "lower the density or the minimum separation."
                )
            if self._min > 0:
                self._cells.setdefault(self._cell(x, y), []).append((x, y))
            points[i] = x, y
        return points


def deproject_tangent_plane(
    xi_deg: NDArray[np.float64], eta_deg: NDArray[np.float64], ra_deg: float, dec_deg: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn gnomonic coordinates into right ascension and declination.

    Parameters
    ----------
    xi_deg, eta_deg
        Coordinates in degrees, towards East and North, of equal shape.
    ra_deg, dec_deg
        Tangent point in degrees.

    Returns
    -------
    tuple of ndarray, float64
        Right ascension in [0, 360) and declination in degrees.

    Notes
    -----
    Calabretta & Greisen (2002), A&A 395, 1077, sect. 5.1.3, solved for the celestial coordinates.
    """
    xi, eta, dec = np.radians(xi_deg), np.radians(eta_deg), np.radians(dec_deg)
    depth = np.cos(dec) - eta * np.sin(dec)
    ra = np.degrees(np.arctan2(xi, depth)) + ra_deg
    return np.mod(ra, 360.0), np.degrees(np.arctan2(np.sin(dec) + eta * np.cos(dec), np.hypot(xi, depth)))


def draw_magnitudes(n: int, bright: float, faint: float, slope: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw magnitudes with number counts proportional to ``10**(slope * magnitude)`` between two limits.

    Returns
    -------
    ndarray, shape (n,), float64
        Magnitudes.
    """
    uniform = rng.random(n)
    if slope == 0.0:
        return bright + (faint - bright) * uniform
    low, high = 10.0 ** (slope * bright), 10.0 ** (slope * faint)
    magnitudes: NDArray[np.float64] = np.log10(low + (high - low) * uniform) / slope
    return magnitudes


def draw_ellipticities(n: int, rms: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw ellipticities of type (a-b)/(a+b): Rayleigh in size below 0.6, uniform in angle.

    Parameters
    ----------
    n
        Number of galaxies.
    rms
        Dispersion of one component before the cut at 0.6.
    rng
        Source of the random numbers.

    Returns
    -------
    tuple of ndarray, shape (n,), float64
        Both components.
    """
    if rms == 0.0:
        return np.zeros(n), np.zeros(n)
    below_cut = 1.0 - np.exp(-0.5 * (MAX_ELLIPTICITY / rms) ** 2)
    size = rms * np.sqrt(-2.0 * np.log1p(-below_cut * rng.random(n)))
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    return size * np.cos(angle), size * np.sin(angle)


def make_galaxies(
    plane: SparsePlane, field: FieldParameters, galaxies: GalaxyParameters, rng: np.random.Generator
) -> GalaxyTruth:
    """Fill the field with galaxies in 90-degree pairs.

    Magnitudes follow a power law of the counts; half-light radii are log-normal around
    ``size_at_22 * 10**(size_slope * (magnitude - 22))`` arcsec; Sérsic indices come from a short list.

    Parameters
    ----------
    plane
        Tangent plane around the field's centre, in arcsec; the galaxies are added to it.
    field, galaxies
        What to draw.
    rng
        Source of the random numbers.

    Returns
    -------
    GalaxyTruth
        Galaxies 2k-1 and 2k are a pair.

    Raises
    ------
    ConfigError
        If the field is too full for the minimum separation, or there is not one fraction for each Sérsic index.
    """
    if len(galaxies.sersic_indices) != len(galaxies.sersic_fractions):
        raise ConfigError(
            f"There are {len(galaxies.sersic_indices)} Sérsic indices but {len(galaxies.sersic_fractions)} fractions: "
            "give one fraction for each index."
        )
    n_pairs = round(field.width_deg * field.height_deg * 3600.0 * galaxies.density_arcmin2 / 2.0)
    magnitude = draw_magnitudes(n_pairs, galaxies.bright_magnitude, galaxies.faint_magnitude, galaxies.count_slope, rng)
    typical = galaxies.size_at_22_arcsec * 10.0 ** (galaxies.size_slope * (magnitude - 22.0))
    radius = np.clip(typical * np.exp(galaxies.size_scatter * rng.standard_normal(n_pairs)), *SIZE_LIMITS_ARCSEC)
    fractions = np.asarray(galaxies.sersic_fractions) / np.sum(galaxies.sersic_fractions)
    index = rng.choice(np.asarray(galaxies.sersic_indices), n_pairs, p=fractions)
    e1, e2 = draw_ellipticities(n_pairs, galaxies.ellipticity_rms, rng)
    half_size = 1800.0 * field.width_deg, 1800.0 * field.height_deg
    points = plane.throw(2 * n_pairs, half_size, rng) / 3600.0
    ra, dec = deproject_tangent_plane(points[:, 0], points[:, 1], field.center_ra_deg, field.center_dec_deg)
    sign = np.tile([1.0, -1.0], n_pairs)
    return GalaxyTruth(
        id=np.arange(1, 2 * n_pairs + 1, dtype=np.int32),
        pair_id=np.repeat(np.arange(1, n_pairs + 1, dtype=np.int32), 2),
        ra=ra,
        dec=dec,
        mag=np.repeat(magnitude, 2),
        half_light_radius=np.repeat(radius, 2),
        sersic_index=np.repeat(index, 2),
        e1=sign * np.repeat(e1, 2),
        e2=sign * np.repeat(e2, 2),
        g1=np.full(2 * n_pairs, galaxies.shear_g1),
        g2=np.full(2 * n_pairs, galaxies.shear_g2),
    )


def make_stars(
    plane: SparsePlane,
    field: FieldParameters,
    stars: StarParameters,
    half_size_arcsec: tuple[float, float],
    rng: np.random.Generator,
) -> StarTruth:
    """Scatter stars over all sky that the exposures see.

    Parameters
    ----------
    plane
        Tangent plane around the field's centre, in arcsec, that may hold galaxies already; the stars are added to it.
    field, stars
        What to draw.
    half_size_arcsec
        Half width and half height of the box around the field's centre.
    rng
        Source of the random numbers.

    Returns
    -------
    StarTruth
        The bright stars come first.

    Raises
    ------
    ConfigError
        If the box is too full for the minimum separation.
    """
    n_faint = round(4.0 * half_size_arcsec[0] * half_size_arcsec[1] / 3600.0 * stars.density_arcmin2)
    n = stars.n_bright + n_faint
    magnitude = np.concatenate(
        [
            draw_magnitudes(stars.n_bright, stars.brightest_magnitude, stars.bright_magnitude, stars.count_slope, rng),
            draw_magnitudes(n_faint, stars.bright_magnitude, stars.faint_magnitude, stars.count_slope, rng),
        ]
    )
    points = plane.throw(n, half_size_arcsec, rng) / 3600.0
    ra, dec = deproject_tangent_plane(points[:, 0], points[:, 1], field.center_ra_deg, field.center_dec_deg)
    return StarTruth(id=np.arange(1, n + 1, dtype=np.int32), ra=ra, dec=dec, mag=magnitude)
