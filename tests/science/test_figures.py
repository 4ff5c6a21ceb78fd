"""Figures: real PNG files, the same for the same numbers, also when there is little to draw."""

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from tasks.science import figures

RNG = np.random.default_rng(1)
MAGNITUDE = RNG.uniform(19, 25, 200)
RESIDUALS = RNG.normal(0, 1e-3, (3, 100))
POINTS = [figures.ShearPoint("101.200", 0.02, 0.01, -0.01, 0.01), figures.ShearPoint("all", 0.03, 0.01, 0.0, 0.01)]
EMPTY = np.empty(0)

DRAWN = {
    "residuals": lambda: figures.plot_psf_residuals(*RESIDUALS),
    "residuals with NaN": lambda: figures.plot_psf_residuals(*np.where(RESIDUALS > 0, RESIDUALS, np.nan)),
    "residuals, none": lambda: figures.plot_psf_residuals(EMPTY, EMPTY, EMPTY),
    "residuals, equal": lambda: figures.plot_psf_residuals(*np.zeros((3, 5))),
    "whiskers": lambda: figures.plot_psf_whiskers(*RNG.uniform(10, 11, (2, 50)), np.full(50, 0.02), np.zeros(50)),
    "whiskers, none": lambda: figures.plot_psf_whiskers(EMPTY, EMPTY, EMPTY, EMPTY),
    "whiskers, round": lambda: figures.plot_psf_whiskers(np.arange(3.0), np.arange(3.0), np.zeros(3), np.zeros(3)),
    "shear": lambda: figures.plot_mean_shear(POINTS),
    "shear with truth": lambda: figures.plot_mean_shear(POINTS * 3, (0.02, -0.01)),
    "magnitudes": lambda: figures.plot_magnitudes(MAGNITUDE, MAGNITUDE[::2]),
    "magnitudes, none": lambda: figures.plot_magnitudes(EMPTY, EMPTY),
    "completeness": lambda: figures.plot_completeness(MAGNITUDE, MAGNITUDE < 23),
    "completeness, none": lambda: figures.plot_completeness(EMPTY, EMPTY.astype(bool)),
    "sizes": lambda: figures.plot_size_magnitude(MAGNITUDE, RNG.uniform(2, 6, 200), MAGNITUDE < 20),
    "sizes, none": lambda: figures.plot_size_magnitude(EMPTY, EMPTY, EMPTY.astype(bool)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_a_png_that_can_be_read(name):
    image = imread(io.BytesIO(DRAWN[name]()))
    assert image.shape[1] > 500
    assert image.std() > 0.01


def test_the_same_numbers_give_the_same_bytes():
    first = figures.plot_magnitudes(MAGNITUDE, MAGNITUDE[::2])
    assert figures.plot_magnitudes(MAGNITUDE, MAGNITUDE[::2]) == first
    assert figures.plot_magnitudes(MAGNITUDE, MAGNITUDE[::3]) != first


def test_the_style_of_the_caller_neither_shows_nor_changes():
    first = figures.plot_mean_shear(POINTS)
    with mpl.rc_context({"font.size": 30.0, "axes.facecolor": "red"}):
        assert figures.plot_mean_shear(POINTS) == first
        assert mpl.rcParams["font.size"] == 30.0


def test_east_west_whiskers_are_horizontal():
    """A PSF with g1 > 0 is elongated East-West: its whisker is wider than it is high."""
    flat = figures.plot_psf_whiskers(np.array([10.0]), np.array([0.0]), np.array([0.05]), np.array([0.0]))
    steep = figures.plot_psf_whiskers(np.array([10.0]), np.array([0.0]), np.array([-0.05]), np.array([0.0]))

    def extent(png):
        image = imread(io.BytesIO(png))[:, :, :3]
        colourful = (image.max(axis=2) - image.min(axis=2)) > 0.2
        # the colour bar is on the right
        rows, cols = np.nonzero(colourful[:, :500])
        return np.ptp(rows), np.ptp(cols)

    assert extent(flat)[1] > 5 * extent(flat)[0]
    assert extent(steep)[0] > 5 * extent(steep)[1]
