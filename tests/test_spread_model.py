"""The spread_model stage: stars and galaxies of a tile."""

import galsim
import numpy as np
import pytest
from astropy.table import Table
from filled_tables import filled
from pydantic import ValidationError

from blocks.store import DataStore
from tasks.archive.coadds import write_coadd
from tasks.archive.planes import write_plane
from tasks.archive.sources import write_sources
from tasks.archive.tables import read_table, write_table
from tasks.products.columns import EPOCH_PSF, SOURCES, SPREAD
from tasks.products.dq import MaskFlag
from tasks.products.identity import TileId
from tasks.products.images import Coadd, CoaddMetadata, CoaddPlanes
from tasks.products.psf import SpreadFlag
from tasks.products.sources import SourceList
from tasks.science.coadd_psf import mean_psf_size
from tasks.science.geometry import tile_wcs
from tasks.spread_model import SpreadModelConfig, measure_spread_model, measure_spread_task

SCALE, SIZE = 0.187, 200
SIGMA = 1.6
POSITIONS = np.array([(50.3, 50.0), (150.5, 48.7), (60.0, 150.2), (140.0, 152.0), (151.0, 152.0)])
FLUX = np.array([1000.0, 900.0, 1200.0, 800.0, 700.0])
NOISE = 0.05


def make_tile() -> tuple[Coadd, np.ndarray, SourceList]:
    """A star, a galaxy, a star with a bad column, and two stars side by side."""
    image = np.zeros((SIZE, SIZE))
    broad = np.sqrt(SIGMA**2 + 1 / 6)
    for k, ((x, y), flux) in enumerate(zip(POSITIONS, FLUX, strict=True)):
        profile = galsim.Gaussian(sigma=broad, flux=flux)
        if k == 1:
            profile = galsim.Convolve(profile, galsim.Exponential(half_light_radius=0.4 / SCALE))
        moved = profile.shift(x - (SIZE - 1) / 2, y - (SIZE - 1) / 2)
        image += moved.drawImage(nx=SIZE, ny=SIZE, scale=1.0, dtype=np.float64).array
    image += np.random.default_rng(2).normal(scale=NOISE, size=image.shape)
    mask = np.zeros(image.shape, np.uint32)
    mask[:, 63] = int(MaskFlag.EXTERNAL)
    mask[:100] |= int(MaskFlag.HALO)
    image[:, 63] = 1e4
    coadd = Coadd(
        TileId("210.296"), CoaddPlanes(image.astype(np.float32), np.full(image.shape, 4.0, np.float32)),
        tile_wcs(210.0, 54.0, size_px=SIZE, pixel_scale_arcsec=SCALE), CoaddMetadata(saturation=1e5, gain=1.0),
    )  # fmt: skip
    y, x = np.mgrid[:SIZE, :SIZE]
    distance = np.hypot(x[..., None] - POSITIONS[:, 0], y[..., None] - POSITIONS[:, 1])
    segmentation = np.where(distance.min(axis=-1) < 8.0, distance.argmin(axis=-1) + 1, 0).astype(np.int32)
    n = len(POSITIONS)
    table = filled(SOURCES, n, number=np.arange(1, n + 1), x_win=POSITIONS[:, 0], y_win=POSITIONS[:, 1])
    mesh = np.zeros((3, 3))
    return coadd, mask, SourceList("210.296", table, segmentation, mesh, mesh, 64, 4.0 * NOISE**2, 30.0)


def make_psfs(**columns: object) -> Table:
    """Two epochs of every source, one smaller and one larger than the mean."""
    n = 2 * len(POSITIONS)
    sigma = np.tile([SIGMA - 0.1, SIGMA + 0.1], n // 2)
    fields = {"number": np.repeat(np.arange(n // 2) + 1, 2), "sigma_px": sigma, "t": 2.0 * (sigma * SCALE) ** 2}
    return filled(EPOCH_PSF, n, **{**fields, **columns})


def test_stars_have_none_and_a_galaxy_has_much() -> None:
    table = measure_spread_model(*make_tile(), make_psfs(), SpreadModelConfig())

    assert tuple(table.colnames) == SPREAD.names
    assert not table["flags"].any()
    np.testing.assert_allclose(table["spread_model"][[0, 2, 3, 4]], 0.0, atol=4e-4)
    assert table["spread_model"][1] > 0.005
    np.testing.assert_allclose(table["sigma_psf"], np.sqrt(SIGMA**2 + 1 / 6), rtol=1e-4)
    assert (table["n_epoch_psf"] == 2).all()
    assert (table["spreaderr_model"] > 0.0).all()


def test_the_error_is_that_of_the_true_noise() -> None:
    """Weights are relative: the variance scale of the source list makes them inverse variances."""
    coadd, mask, sources = make_tile()
    error = measure_spread_model(coadd, mask, sources, make_psfs(), SpreadModelConfig())["spreaderr_model"]
    scaled = SourceList(**{**vars(sources), "variance_scale": 4.0 * sources.variance_scale})
    double = measure_spread_model(coadd, mask, scaled, make_psfs(), SpreadModelConfig())["spreaderr_model"]

    np.testing.assert_allclose(double / error, 2.0, rtol=1e-6)


def test_without_the_broadening_of_the_coadd_stars_seem_extended() -> None:
    table = measure_spread_model(*make_tile(), make_psfs(), SpreadModelConfig(coadd_variance_px2=0.0))

    assert table["spread_model"][0] > 5e-4


def test_flagged_epochs_do_not_count() -> None:
    flags = np.zeros(10, np.int32)
    flags[[0, 4, 5]] = 2
    sigma = np.where(flags, np.nan, SIGMA)
    table = measure_spread_model(
        *make_tile(), make_psfs(flags=flags, sigma_px=sigma, t=2.0 * (sigma * SCALE) ** 2), SpreadModelConfig()
    )

    assert table["n_epoch_psf"].tolist() == [1, 2, 0, 2, 2]
    assert table["flags"].tolist() == [0, 0, SpreadFlag.NO_PSF, 0, 0]
    assert np.isnan(table["spread_model"][2])
    assert np.isnan(table["spreaderr_model"][2])


def test_epochs_of_unknown_sources_are_ignored_and_sources_without_epochs_have_none() -> None:
    psf = make_psfs()[:4]
    psf["number"] = [7, 7, 3, 3]
    size, count = mean_psf_size(psf, np.array([5, 3, 1]))

    assert count.tolist() == [0, 2, 0]
    assert np.isnan(size[[0, 2]]).all()
    assert size[1] == pytest.approx(SIGMA * SCALE)


def test_the_size_is_the_root_of_the_determinant_also_for_elliptical_psfs() -> None:
    g, sigma = 0.1, 0.3
    psf = make_psfs(g1=np.full(10, g), t=np.full(10, 2 * sigma**2 * (1 + g * g) / (1 - g * g)))

    assert mean_psf_size(psf, np.array([1]))[0][0] == pytest.approx(sigma)


def test_the_stage_stores_one_row_per_source(store: DataStore) -> None:
    coadd, mask, sources = make_tile()
    ref = measure_spread_task.fn(
        write_coadd(store, "coadd.fits", coadd),
        write_plane(store, "mask.fits", mask.astype(np.uint16), "MASK", subject=coadd.id),
        write_sources(store, "sources.fits", sources),
        write_table(store, "psf.fits", make_psfs(), EPOCH_PSF, subject=coadd.id),
        SpreadModelConfig(),
        store,
    )

    assert ref.key == "tiles/210.296/spread_model.fits"
    assert ref.summary == {"n_sources": 5, "n_measured": 5}
    table = read_table(store, ref, SPREAD)
    np.testing.assert_array_equal(
        table["spread_model"],
        measure_spread_model(coadd, mask, sources, make_psfs(), SpreadModelConfig())["spread_model"],
    )


def test_an_even_size_is_refused_before_any_work() -> None:
    with pytest.raises(ValidationError, match="must be odd, so that a stamp has a central pixel, not 50"):
        SpreadModelConfig(stamp_size=50)
