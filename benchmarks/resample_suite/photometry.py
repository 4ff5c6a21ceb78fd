"""Fluxes and positions of the stars in a coadd, beside the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resample_suite.inputs import STAR_SIGMA, Floats, Stars
from resample_suite.sky import PIXEL_ARCSEC

APERTURE = 8.0
"""Radius of the aperture, pixels: 4.7 sigma of a star."""
HALF_STAMP = 10
ITERATIONS = 20
MAS = 1000 * PIXEL_ARCSEC
SIGMA_OF_MAD = 1.4826


@dataclass(frozen=True)
class StarFigures:
    """What the stars of a coadd show; the median and the robust scatter over the stars."""

    n_stars: int
    flux_ratio: float
    """Measured to true flux."""
    flux_scatter: float
    offset_mas: tuple[float, float]
    """Measured minus true position along x and y."""
    offset_scatter_mas: float
    """The larger of the two axes."""


def measure_coadd(image: NDArray[np.float32], stars: Stars) -> StarFigures:
    """Measure all stars of a coadd at scale ratio 1; stars with a pixel without value are left out."""
    values, dx, dy = stamps(image, stars)
    complete = np.isfinite(values).all(axis=1)
    values, dx, dy, flux = values[complete], dx[complete], dy[complete], stars.flux[complete]
    # a pixel that the edge crosses counts by how far its centre lies inside
    inside = np.clip(APERTURE + 0.5 - np.hypot(dx, dy), 0.0, 1.0)
    ratio = (inside * values).sum(axis=1) / flux / (1 - np.exp(-(APERTURE**2) / (2 * STAR_SIGMA**2)))
    x, y = centroids(values, dx, dy)
    return StarFigures(
        n_stars=int(complete.sum()),
        flux_ratio=float(np.median(ratio)),
        flux_scatter=scatter(ratio),
        offset_mas=(float(np.median(x) * MAS), float(np.median(y) * MAS)),
        offset_scatter_mas=max(scatter(x), scatter(y)) * MAS,
    )


def stamps(image: NDArray[np.float32], stars: Stars) -> tuple[Floats, Floats, Floats]:
    """Return the pixels around every star and their distances from its true place, shape (n_stars, n_pixels)."""
    dy, dx = np.mgrid[-HALF_STAMP : HALF_STAMP + 1, -HALF_STAMP : HALF_STAMP + 1]
    columns = np.rint(stars.x).astype(int)[:, None] + dx.ravel()
    rows = np.rint(stars.y).astype(int)[:, None] + dy.ravel()
    return image[rows, columns].astype(float), columns - stars.x[:, None], rows - stars.y[:, None]


def centroids(values: Floats, dx: Floats, dy: Floats) -> tuple[Floats, Floats]:
    """Return where the stars are, from their true places: centroids under a Gaussian that follows them."""
    x, y = np.zeros(len(values)), np.zeros(len(values))
    for _ in range(ITERATIONS):
        u, v = dx - x[:, None], dy - y[:, None]
        weighted = values * np.exp(-(u**2 + v**2) / (2 * STAR_SIGMA**2))
        # the Gaussian halves the distance that is seen
        x += 2 * (weighted * u).sum(axis=1) / weighted.sum(axis=1)
        y += 2 * (weighted * v).sum(axis=1) / weighted.sum(axis=1)
    return x, y


def scatter(values: Floats) -> float:
    """Return the scatter of values from the median of their distances from their median."""
    return float(SIGMA_OF_MAD * np.median(np.abs(values - np.median(values))))
