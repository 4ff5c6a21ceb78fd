"""The shapes stage: every source has a row, neighbours are masked, and the same stamps give the same bits."""

import sys

import galsim
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.archive.meds import write_stamps
from tasks.archive.tables import read_table
from tasks.errors import ConfigError
from tasks.products.columns import SHAPES
from tasks.products.stamps import MultiEpochStamps
from tasks.science.metacal import ShapeFlag
from tasks.science.metacal_stamps import epoch_stamps
from tasks.shapes import ShapesConfig, measure_shapes, measure_shapes_task

SIZE = 51
JACOBIAN = 0.187 * np.array([[0.0, 1.0], [-1.0, 0.0]])
SIGMA = 0.05
TILE = "210.296"
G = [(0.2, -0.1), (-0.1, 0.1), (0.0, 0.3)]


@pytest.fixture(scope="module")
def stamps() -> MultiEpochStamps:
    """Sources 11, 12, 13 with 2, 0 and 1 epochs; a bright neighbour in the corner of 13, a bad column through it."""
    n_cutout = np.array([3, 1, 2])
    first = np.concatenate([[0], np.cumsum(n_cutout)])
    m = int(first[-1])
    rng = np.random.default_rng(4)
    wcs = galsim.JacobianWCS(JACOBIAN[1, 1], JACOBIAN[1, 0], JACOBIAN[0, 1], JACOBIAN[0, 0])
    shape = {"nx": SIZE, "ny": SIZE, "wcs": wcs, "dtype": float}
    model = galsim.Moffat(beta=3.0, fwhm=0.65).shear(g1=0.05, g2=-0.03)
    image, seg, psf = np.zeros((m, SIZE, SIZE)), np.zeros((m, SIZE, SIZE), np.int32), np.zeros((m, SIZE, SIZE))
    weight = np.full((m, SIZE, SIZE), SIGMA**-2)
    bmask = np.zeros((m, SIZE, SIZE), np.int32)
    for i in range(3):
        galaxy = galsim.Gaussian(sigma=0.4, flux=300.0).shear(g1=G[i][0], g2=G[i][1])
        for k in range(first[i], first[i + 1]):
            image[k] = galsim.Convolve(galaxy, model).drawImage(**shape).array + rng.normal(
                scale=SIGMA, size=(SIZE, SIZE)
            )
            seg[k, 20:31, 20:31] = 11 + i
            if k > first[i]:
                psf[k] = model.drawImage(**shape).array
    image[4:, 31:, 34:] += 200.0
    seg[4:, 32:, 35:] = 77
    image[5, :, 15] = 1e9
    bmask[5, :, 15] = 8
    weight[1, 3, 3] = 0.0
    return MultiEpochStamps(
        tile=TILE,
        ids=np.array([11, 12, 13]),
        ra=np.full(3, 10.0),
        dec=np.full(3, 58.0),
        first=first,
        images=(TILE, "2113737-10", "2113738-3"),
        image_index=np.array([0, 1, 2, 0, 0, 1]),
        orig_row=np.full(m, 125.0),
        orig_col=np.full(m, 225.0),
        start_row=np.full(m, 100),
        start_col=np.full(m, 200),
        jacobian=np.broadcast_to(JACOBIAN, (m, 2, 2)).copy(),
        image=image.astype(np.float32),
        weight=weight.astype(np.float32),
        bmask=bmask,
        seg=seg,
        psf=psf.astype(np.float32),
    )


def test_every_source_has_a_row_and_unmeasured_ones_a_flag(stamps):
    table = measure_shapes(stamps, ShapesConfig())

    assert tuple(table.colnames) == SHAPES.names
    assert table["number"].tolist() == [11, 12, 13]
    assert table["n_epoch_stamps"].tolist() == [2, 0, 1]
    assert table["n_epoch_used"].tolist() == [2, 0, 1]
    assert table["flags"].tolist() == [0, ShapeFlag.NO_ATTEMPT | ShapeFlag.NO_EPOCH, 0]
    assert np.isnan(table["g1_noshear"][1])
    for i in (0, 2):
        for axis in (0, 1):
            error = table[f"g{axis + 1}_err_noshear"][i]
            assert 0.001 < error < 0.03
            # the prior draws shapes in by a few times the squared error
            assert abs(table[f"g{axis + 1}_noshear"][i] - G[i][axis]) < 4 * error + 0.01
    assert table["g1_psf"][0] == pytest.approx(0.0483, abs=1e-3)


def test_neighbours_and_bad_pixels_are_masked(stamps):
    uberseg = epoch_stamps(stamps, 2, neighbours="uberseg", noise="weight")[0]
    segmentation = epoch_stamps(stamps, 2, neighbours="segmentation", noise="weight")[0]
    ignored = epoch_stamps(stamps, 2, neighbours="ignore", noise="weight")[0]

    assert uberseg.mask.sum() == SIZE
    assert segmentation.neighbours.sum() == (SIZE - 32) * (SIZE - 35)
    assert np.all(uberseg.neighbours[segmentation.neighbours])
    assert uberseg.neighbours.sum() > segmentation.neighbours.sum()
    assert ignored.neighbours is None
    size = {
        kind: measure_shapes(stamps, ShapesConfig(neighbours=kind))["t_noshear"][2] for kind in ("uberseg", "ignore")
    }
    assert size["uberseg"] == pytest.approx(2 * 0.4**2 * 1.09 / 0.91, rel=0.15)
    assert abs(size["ignore"] / size["uberseg"] - 1) > 0.05


def test_noise_comes_from_the_weight_or_from_the_sky(stamps):
    # the wings of the galaxy reach beyond its segment
    for noise, tolerance in (("weight", 1e-5), ("sky", 0.15)):
        sigmas = [e.noise_sigma for e in epoch_stamps(stamps, 0, neighbours="uberseg", noise=noise)]
        assert sigmas == pytest.approx([SIGMA, SIGMA], rel=tolerance)
    table = measure_shapes(stamps, ShapesConfig(noise="sky"))
    assert table["flags"][0] == 0


def test_settings_reach_the_engine(stamps):
    default = measure_shapes(stamps, ShapesConfig())
    coarse = measure_shapes(stamps, ShapesConfig(step=0.02, target="azgauss", core_radius=12.0))

    assert coarse["metacal_step"].tolist() == [0.02] * 3
    assert coarse["n_epoch_masked_core"].tolist() == [0, 0, 1]
    difference = (coarse["g1_1p"] - coarse["g1_1m"])[0] / (default["g1_1p"] - default["g1_1m"])[0]
    assert difference == pytest.approx(2.0, rel=0.1)


def test_two_runs_and_any_number_of_threads_give_the_same_bits(stamps):
    tables = [
        measure_shapes(stamps, ShapesConfig()),
        measure_shapes(stamps, ShapesConfig()),
        measure_shapes(stamps, ShapesConfig(threads=2)),
    ]
    for name in SHAPES.names:
        for table in tables[1:]:
            np.testing.assert_array_equal(table[name], tables[0][name], err_msg=name)
    other_seed = measure_shapes(stamps, ShapesConfig(seed=1))
    assert other_seed["g1_noshear"][0] != tables[0]["g1_noshear"][0]


def test_a_tile_without_sources_gives_an_empty_table(stamps):
    nothing = {
        name: value[:0] if isinstance(value, np.ndarray) and name != "first" else value
        for name, value in vars(stamps).items()
    }
    table = measure_shapes(MultiEpochStamps(**(nothing | {"first": np.array([0])})), ShapesConfig())

    assert len(table) == 0
    assert tuple(table.colnames) == SHAPES.names


def test_the_task_stores_the_table(store, stamps):
    ref = write_stamps(store, f"tiles/{TILE}/stamps.fits", stamps)

    shapes = measure_shapes_task.fn(ref, ShapesConfig(), store)

    assert shapes.key == f"tiles/{TILE}/shapes.fits"
    assert shapes.summary == {"n_sources": 3, "n_measured": 2}
    stored = read_table(store, shapes, SHAPES)
    measured = measure_shapes(stamps, ShapesConfig())
    for name in SHAPES.names:
        np.testing.assert_array_equal(stored[name], measured[name], err_msg=name)


def test_ngmix_is_asked_for_by_name(stamps, monkeypatch):
    monkeypatch.setitem(sys.modules, "ngmix", None)

    with pytest.raises(ConfigError, match=r"conda install -c conda-forge ngmix\)"):
        measure_shapes(stamps, ShapesConfig(engine="ngmix"))


def test_settings_are_bounded():
    with pytest.raises(ValidationError, match=r"less than 0\.1"):
        ShapesConfig(step=0.2)
    with pytest.raises(ValidationError, match="'kmetacal' or 'ngmix'"):
        ShapesConfig(engine="im3shape")
