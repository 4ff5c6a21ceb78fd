"""The ngmix engine says how to get ngmix where it is absent, and agrees with ours where it is there."""

import sys
from types import SimpleNamespace

import galsim
import numpy as np
import pytest

from tasks.errors import ConfigError
from tasks.science.metacal import EpochStamp, ShapeFlag, measure_metacal
from tasks.science.ngmix_engine import measure_ngmix

JACOBIANS = 0.187 * np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.03, 1.01], [-0.98, 0.02]]])


def objects(sigma=1e-3):
    """Two galaxies with two epochs each, and one without."""
    psf = galsim.Moffat(beta=3.0, fwhm=0.65).shear(g1=0.05, g2=-0.03)
    found = []
    for g in ((0.2, -0.1), (-0.1, 0.15)):
        galaxy = galsim.Gaussian(sigma=0.4, flux=100.0).shear(g1=g[0], g2=g[1])
        epochs = []
        for (dv_drow, dv_dcol), (du_drow, du_dcol) in JACOBIANS:
            shape = {"nx": 51, "ny": 51, "wcs": galsim.JacobianWCS(du_dcol, du_drow, dv_dcol, dv_drow), "dtype": float}
            image = galsim.Convolve(galaxy, psf).drawImage(**shape).array
            jacobian = np.array([[dv_drow, dv_dcol], [du_drow, du_dcol]])
            epochs.append(
                EpochStamp(
                    image=image,
                    psf=psf.drawImage(**shape).array,
                    weight=np.ones(image.shape),
                    mask=np.zeros(image.shape, bool),
                    noise_sigma=sigma,
                    center=(25.0, 25.0),
                    jacobian=jacobian,
                )
            )
        found.append(epochs)
    return [*found, []]


def generators():
    return [np.random.default_rng([1, i]) for i in range(3)]


def test_without_ngmix_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ngmix", None)

    with pytest.raises(ConfigError, match=r"conda install -c conda-forge ngmix.*or use the engine 'kmetacal'"):
        measure_ngmix(objects(), generators())


def test_an_old_ngmix_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "ngmix", SimpleNamespace(__version__="1.3.9"))

    with pytest.raises(ConfigError, match=r"needs ngmix 2\.4 or later, but 1\.3\.9 is installed"):
        measure_ngmix(objects(), generators())


@pytest.mark.filterwarnings("ignore")
def test_both_engines_measure_the_same_galaxies_alike():
    pytest.importorskip("ngmix")

    theirs = measure_ngmix(objects(), generators())
    again = measure_ngmix(objects(), generators())
    ours = measure_metacal(objects(), generators())

    assert np.all(theirs.flags[:2] == 0)
    assert np.all(theirs.flags[2] == ShapeFlag.NO_ATTEMPT | ShapeFlag.NO_EPOCH)
    assert theirs.n_epoch.tolist() == [2, 2, 0]
    np.testing.assert_array_equal(theirs.g, again.g)
    np.testing.assert_allclose(theirs.g, ours.g, atol=2e-3)
    np.testing.assert_allclose(theirs.T, ours.T, rtol=5e-3)
    np.testing.assert_allclose(theirs.flux, ours.flux, rtol=2e-3)
    np.testing.assert_allclose(theirs.s2n, ours.s2n, rtol=0.02)
    np.testing.assert_allclose(theirs.g_psf, ours.g_psf, atol=1e-4)
    np.testing.assert_allclose(theirs.T_psf, ours.T_psf, rtol=1e-3)
    np.testing.assert_allclose(theirs.T_target, ours.T_target, rtol=0.03)
