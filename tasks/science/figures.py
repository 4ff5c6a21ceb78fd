"""Figures of reports as PNG bytes.

Figures are drawn without a display and without pyplot, which keeps state and is not safe in threads; the bytes carry no
date and no version, so that the same numbers give the same file.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec

import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

Floats = NDArray[np.float64]
P = ParamSpec("P")

DPI = 110
BLUE, ORANGE, GREY, GREEN = "#2f5d8a", "#d1772c", "#8a8f98", "#3f8f5f"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555b66",
    "axes.labelcolor": "#23272f",
    "axes.titlesize": 10.0,
    "legend.frameon": False,
    "svg.hashsalt": "shearline",
}
_STYLE_LOCK = threading.Lock()
WIDE, SINGLE = (9.6, 3.2), (5.6, 3.4)


def _as_png(
    size: tuple[float, float],
) -> Callable[[Callable[Concatenate[Figure, P], None]], Callable[P, bytes]]:
    """Make a function that draws on a figure one that returns PNG bytes."""

    def decorate(draw: Callable[Concatenate[Figure, P], None]) -> Callable[P, bytes]:
        @wraps(draw)
        def png(*args: P.args, **kwargs: P.kwargs) -> bytes:
            # the style is matplotlib's one global state; the caller's must not show, and no other thread may change it
            with _STYLE_LOCK, style.context(["default", STYLE]):
                figure = Figure(figsize=size, dpi=DPI, layout="constrained")
                FigureCanvasAgg(figure)
                draw(figure, *args, **kwargs)
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png", metadata={"Software": None})
            return buffer.getvalue()

        return png

    return decorate


def _finite(values: Floats) -> Floats:
    values = np.asarray(values, dtype=np.float64).ravel()
    return values[np.isfinite(values)]


def _limit(values: Floats, percentile: float = 99.0) -> float:
    """Return a symmetric axis limit that holds nearly all values."""
    values = np.abs(_finite(values))
    limit = float(np.percentile(values, percentile)) if len(values) else 0.0
    return limit if limit > 0.0 else 1.0


@_as_png(WIDE)
def plot_psf_residuals(figure: Figure, d_g1: Floats, d_g2: Floats, d_size: Floats) -> None:
    """Draw histograms of star minus model at the reserved stars.

    Parameters
    ----------
    d_g1, d_g2
        Shape residuals, shape (n,); values that are not finite are left out.
    d_size
        Relative size residuals (T star - T model) / T star, shape (n,).
    """
    labels = (r"$g_1$ star $-$ model", r"$g_2$ star $-$ model", r"$\Delta T / T$")
    for axes, values, label in zip(figure.subplots(1, 3), (d_g1, d_g2, d_size), labels, strict=True):
        good, limit = _finite(values), _limit(values)
        axes.hist(np.clip(good, -limit, limit), bins=31, range=(-limit, limit), color=BLUE, alpha=0.85)
        axes.axvline(0.0, color=GREY, lw=0.8)
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=5)
        if len(good):
            axes.axvline(good.mean(), color=ORANGE, lw=1.4)
            error = good.std() / np.sqrt(len(good))
            axes.set_title(f"mean {good.mean():+.1e} ± {error:.0e},  rms {good.std():.1e}")
        else:
            axes.set_title("no stars")


@_as_png((6.4, 5.2))
def plot_psf_whiskers(figure: Figure, ra: Floats, dec: Floats, g1: Floats, g2: Floats) -> None:
    """Draw the PSF ellipticity on the sky as headless whiskers, with east to the left.

    Parameters
    ----------
    ra, dec
        Positions in degrees, shape (n,).
    g1, g2
        Reduced-shear shapes in the frame with u West and v North, so that g1 > 0 is a horizontal whisker; rows with a
        value that is not finite are left out.
    """
    axes = figure.subplots()
    good = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(g1) & np.isfinite(g2)
    ra, dec, g1, g2 = (np.asarray(values)[good] for values in (ra, dec, g1, g2))
    modulus, angle = np.hypot(g1, g2), 0.5 * np.arctan2(g2, g1)
    # angles on the page: u grows to the West, which is to the right on an inverted axis of right ascension
    across, up = modulus * np.cos(angle), modulus * np.sin(angle)
    typical = float(np.median(modulus)) if len(modulus) and np.median(modulus) > 0 else 0.01
    quiver = axes.quiver(
        ra, dec, across, up, modulus, pivot="mid", cmap="viridis",
        headwidth=0, headlength=0, headaxislength=0, scale=30.0 * typical, width=0.003,
    )  # fmt: skip
    if len(modulus):
        figure.colorbar(quiver, ax=axes, label="$|g|$ of the PSF")
        axes.set_aspect(1.0 / max(float(np.cos(np.radians(dec.mean()))), 1e-3))
    axes.invert_xaxis()
    axes.set(xlabel="right ascension [deg]", ylabel="declination [deg]")
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(nbins=6)


@dataclass(frozen=True)
class ShearPoint:
    """Mean shear of one tile or of the survey."""

    label: str
    g1: float
    g1_error: float
    g2: float
    g2_error: float


@_as_png(WIDE)
def plot_mean_shear(figure: Figure, points: Sequence[ShearPoint], truth: tuple[float, float] | None = None) -> None:
    """Draw the mean shear of tiles with error bars, and the true shear of a simulation as a line."""
    for component, axes in enumerate(figure.subplots(1, 2)):
        value = [(point.g1, point.g2)[component] for point in points]
        error = [(point.g1_error, point.g2_error)[component] for point in points]
        place = np.arange(len(points))
        axes.errorbar(place, value, yerr=error, fmt="o", color=BLUE, ms=5, capsize=3, label="measured")
        if truth is not None:
            axes.axhline(truth[component], color=ORANGE, lw=1.4, label=f"true {truth[component]:+.3f}")
        axes.set_xticks(place, [point.label for point in points], rotation=30 if len(points) > 4 else 0)
        axes.set_xlim(-0.6, len(points) - 0.4)
        axes.set_ylabel(f"mean $g_{component + 1}$")
        axes.legend(loc="best")


@_as_png(SINGLE)
def plot_magnitudes(figure: Figure, detected: Floats, measured: Floats) -> None:
    """Draw the magnitudes of all detected sources and of those with a shape, half-magnitude bins."""
    axes = figure.subplots()
    everything = _finite(detected)
    low, high = (np.floor(everything.min()), np.ceil(everything.max())) if len(everything) else (18.0, 26.0)
    bins = [float(edge) for edge in np.arange(low, high + 0.51, 0.5)]
    axes.hist(everything, bins=bins, histtype="step", color=GREY, lw=1.4, label=f"detected, {len(detected)}")
    axes.hist(_finite(measured), bins=bins, color=BLUE, alpha=0.75, label=f"with a shape, {len(measured)}")
    axes.set(xlabel="magnitude (AUTO)", ylabel="sources per half magnitude")
    axes.margins(y=0.3)
    axes.legend(loc="upper left")


@_as_png(SINGLE)
def plot_completeness(figure: Figure, magnitude: Floats, found: NDArray[np.bool_]) -> None:
    """Draw the share of true objects that were found, against true magnitude, with binomial errors.

    Parameters
    ----------
    magnitude
        True magnitudes, shape (n,).
    found
        Whether each was found, shape (n,).
    """
    axes = figure.subplots()
    low, high = (np.floor(magnitude.min()), np.ceil(magnitude.max())) if len(magnitude) else (18.0, 26.0)
    edges = np.arange(low, high + 0.51, 0.5)
    total, _ = np.histogram(magnitude, edges)
    hits, _ = np.histogram(magnitude[found], edges)
    used = total > 0
    share, middle = hits[used] / total[used], (edges[:-1] + 0.25)[used]
    # the rule of succession keeps the error of an all-found bin above zero
    smooth = (hits[used] + 1) / (total[used] + 2)
    axes.errorbar(
        middle, share, yerr=np.sqrt(smooth * (1 - smooth) / (total[used] + 2)), fmt="o-", color=GREEN, ms=4, capsize=2
    )
    axes.set(xlabel="true magnitude", ylabel="share found", ylim=(-0.03, 1.08))
    axes.axhline(1.0, color=GREY, lw=0.8)


@_as_png(SINGLE)
def plot_size_magnitude(figure: Figure, magnitude: Floats, fwhm: Floats, is_star: NDArray[np.bool_]) -> None:
    """Draw size against magnitude of the sources of a CCD, with the chosen stars marked."""
    axes = figure.subplots()
    axes.plot(magnitude, fwhm, ".", color=GREY, ms=3, label="sources")
    axes.plot(magnitude[is_star], fwhm[is_star], "o", color=ORANGE, ms=3.5, label=f"stars, {int(is_star.sum())}")
    good = _finite(fwhm)
    if len(good):
        axes.set_ylim(0.0, float(np.percentile(good, 95)) * 1.5)
    axes.set(xlabel="magnitude (AUTO)", ylabel="FWHM [pixel]")
    axes.legend(loc="upper left")
