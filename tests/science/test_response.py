"""Shear is put in by hand and must come out: the response of shapes, of selections, and the jackknife error."""

import numpy as np
import pytest

from tasks.errors import DataError, ShapeMismatchError
from tasks.science.response import mean_shear, select_by_type, shear_response

STEP = 0.01
SHEARS = np.array([[0, 0], [STEP, 0], [-STEP, 0], [0, STEP], [0, -STEP]])
MATRIX = np.array([[0.8, 0.02], [-0.01, 0.75]])


def catalog(n, shear, rng, scatter=0.2):
    """Shapes that respond linearly, in pairs that cancel, and a size that grows with shear along g1."""
    intrinsic = rng.normal(scale=scatter, size=(n // 2, 2))
    intrinsic = np.repeat(intrinsic, 2, axis=0) * np.tile([1, -1], n // 2)[:, None]
    total = shear + SHEARS
    g = intrinsic[:, None] + total @ MATRIX.T
    # selected on what depends on the shape: there is a response of the selection
    brightness = np.repeat(rng.normal(size=n // 2), 2)[:, None] + 1.5 * g[..., 0]
    return g, brightness


def test_the_response_of_shapes_is_the_slope_that_was_put_in():
    g, _ = catalog(1000, np.array([0.02, -0.01]), np.random.default_rng(1))

    response = shear_response(g, np.ones(g.shape[:2], bool), step=STEP)

    np.testing.assert_allclose(response.shear, MATRIX, rtol=1e-9)
    np.testing.assert_allclose(response.selection, 0.0, atol=1e-9)


def test_shear_is_recovered_from_a_whole_sample():
    shear = np.array([0.02, -0.01])
    g, _ = catalog(1000, shear, np.random.default_rng(1))

    measured = mean_shear(g, np.ones(g.shape[:2], bool), step=STEP, groups=np.repeat(np.arange(500), 2))

    np.testing.assert_allclose(measured.g, shear, rtol=1e-9)
    np.testing.assert_allclose(measured.error, 0.0, atol=1e-9)
    assert (measured.n_objects, measured.n_groups) == (1000, 500)


def test_shear_is_recovered_from_a_sample_that_was_selected_on_shapes():
    shear = np.array([0.02, 0.0])
    g, brightness = catalog(400000, shear, np.random.default_rng(2))
    weights = select_by_type({"brightness": brightness}, lambda columns: columns["brightness"] > 1.0)

    measured = mean_shear(g, weights, step=STEP, groups=np.arange(len(g)) // 4000)
    naive = weights[:, 0] @ g[:, 0] / weights[:, 0].sum() / np.diag(MATRIX)

    # the selection prefers large g1, whatever the shear: an offset that the response cannot take away
    flat = catalog(400000, np.zeros(2), np.random.default_rng(2))
    offset = mean_shear(
        flat[0], select_by_type({"brightness": flat[1]}, lambda columns: columns["brightness"] > 1.0), step=STEP,
        groups=np.arange(len(g)) // 4000,
    )  # fmt: skip
    assert abs(measured.response.selection[0, 0]) > 0.02
    assert (measured.g - offset.g)[0] == pytest.approx(0.02, rel=0.05)
    assert naive[0] > 0.02


def test_the_jackknife_error_is_the_scatter_of_the_mean():
    rng = np.random.default_rng(3)
    n = 2000
    g = rng.normal(scale=0.2, size=(n, 1, 2)) + (np.array([0.02, 0.0]) + SHEARS) @ MATRIX.T

    by_object = mean_shear(g, np.ones((n, 5)), step=STEP)
    by_patch = mean_shear(g, np.ones((n, 5)), step=STEP, groups=np.arange(n) % 100)

    expected = 0.2 / np.sqrt(n) / np.diag(MATRIX)
    np.testing.assert_allclose(by_object.error, expected, rtol=0.1)
    np.testing.assert_allclose(by_patch.error, expected, rtol=0.3)
    np.testing.assert_allclose(by_object.g, by_patch.g, rtol=1e-12)


def test_weights_count_as_repeated_objects():
    g, _ = catalog(100, np.array([0.02, -0.01]), np.random.default_rng(4))
    weights = np.repeat(np.arange(1.0, 3.0), 50)[:, None] * np.ones(5)

    weighted = shear_response(g, weights, step=STEP)
    repeated = shear_response(np.concatenate([g, g[50:]]), np.ones((150, 5)), step=STEP)

    np.testing.assert_allclose(weighted.total, repeated.total, rtol=1e-9)


def test_objects_without_weight_may_hold_anything():
    g, _ = catalog(100, np.array([0.02, -0.01]), np.random.default_rng(5))
    weights = np.ones((102, 5), bool)
    weights[100:] = False
    with_lost = np.concatenate([g, np.full((2, 5, 2), np.nan)])

    lost = mean_shear(with_lost, weights, step=STEP, groups=np.repeat(np.arange(51), 2))
    kept = mean_shear(g, weights[:100], step=STEP, groups=np.repeat(np.arange(50), 2))

    np.testing.assert_allclose(lost.g, kept.g, rtol=1e-12)
    np.testing.assert_allclose(lost.error, kept.error, rtol=1e-12)
    assert lost.n_groups == 50


def test_mistakes_of_the_caller_are_named():
    g, _ = catalog(10, np.zeros(2), np.random.default_rng(6))
    everyone = np.ones((10, 5), bool)

    with pytest.raises(ShapeMismatchError, match=r"these are \(10, 5, 2\) and \(10, 4\)"):
        shear_response(g, everyone[:, 1:], step=STEP)
    with pytest.raises(ShapeMismatchError, match="There are 10 shapes but labels of shape"):
        mean_shear(g, everyone, step=STEP, groups=np.arange(9))
    with pytest.raises(DataError, match="The sample has 1 groups; the jackknife error of its shear needs at least 2"):
        mean_shear(g, everyone, step=STEP, groups=np.zeros(10))
    with pytest.raises(DataError, match="The selection is empty for one of the five types"):
        shear_response(g, everyone & (np.arange(5) != 3), step=STEP)
    g[4, 2] = np.nan
    with pytest.raises(DataError, match=r"1 selected objects have no finite shape .* \(the first is row 4\)"):
        shear_response(g, everyone, step=STEP)
