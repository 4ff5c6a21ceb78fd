"""Metacalibration by the public ngmix package, behind the same interface as the built-in engine.

The settings are those of ShapePipe, in the form of ngmix 2: maximum likelihood of one Gaussian jointly over epochs,
shape prior of Bernstein & Armstrong, Gaussian prior on the centre, flat priors on size and flux, a noise image for
fixnoise.
ngmix is the reference that the built-in engine is compared with; it takes a hundred times longer.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ConfigError, ShapeMismatchError
from tasks.science.metacal import (
    EpochStamp,
    MetacalOptions,
    MetacalShapes,
    ShapeFlag,
    empty_shapes,
    usable_epochs,
)

if TYPE_CHECKING:
    import types

LOWEST_VERSION = (2, 4)
PSF_NOISE = 1e-6
"""Noise of PSFs of flux one; with unit weight the prior of a fit would pull their shapes to zero."""
TRIES = 5
T_RANGE = (-10.0, 1e6)
FLUX_RANGE = (-1e4, 1e9)


def import_ngmix() -> "types.ModuleType":
    """Import ngmix.

    Raises
    ------
    ConfigError
        If it is not installed, or older than 2.4.
    """
    try:
        import ngmix
    except ImportError as error:
        raise ConfigError(
            "The shape engine 'ngmix' needs the package ngmix, which is not installed; it is on conda-forge "
            "(conda install -c conda-forge ngmix). Install it, or use the engine 'kmetacal'."
        ) from error
    version = tuple(int(part) for part in ngmix.__version__.split(".")[:2])
    if version < LOWEST_VERSION:
        raise ConfigError(
            f"The shape engine 'ngmix' needs ngmix 2.4 or later, but {ngmix.__version__} is installed; update it "
            "(conda install -c conda-forge ngmix), or use the engine 'kmetacal'."
        )
    module: types.ModuleType = ngmix
    return module


def measure_ngmix(
    objects: Sequence[Sequence[EpochStamp]],
    rngs: Sequence[np.random.Generator],
    *,
    options: MetacalOptions | None = None,
) -> MetacalShapes:
    """Measure metacalibration shapes with ngmix; arguments, result and flags as of the built-in engine.

    Parameters
    ----------
    objects
        The epochs of every object.
    rngs
        One generator per object; ngmix's own generators are seeded from it.
    options
        Settings; ``tolerance`` and ``max_iterations`` are those of the built-in engine and not used here.

    Returns
    -------
    MetacalShapes
        One row per object. Rows without a measurement carry flags.

    Raises
    ------
    ConfigError
        If ngmix is not installed, or too old.
    ShapeMismatchError
        If there are not as many generators as objects, or the planes of a stamp differ in shape.
    """
    ngmix = import_ngmix()
    options = options or MetacalOptions()
    if len(objects) != len(rngs):
        raise ShapeMismatchError(
            f"There are {len(objects)} objects but {len(rngs)} random generators; give one for each."
        )
    shapes = empty_shapes(len(objects))
    for row, (epochs, rng) in enumerate(zip(objects, rngs, strict=True)):
        used = usable_epochs(epochs, rng, options, shapes, row)
        shapes.n_epoch[row] = len(used)
        if used:
            _measure_object(ngmix, used, rng, options, shapes, row)
        else:
            shapes.flags[row] = ShapeFlag.NO_ATTEMPT | ShapeFlag.NO_EPOCH
    return shapes


def _measure_object(
    ngmix: Any,  # noqa: ANN401 (an optional module)
    used: list[tuple[EpochStamp, NDArray[np.float64]]],
    rng: np.random.Generator,
    options: MetacalOptions,
    shapes: MetacalShapes,
    row: int,
) -> None:
    legacy = np.random.RandomState(rng.integers(2**31))
    observations = ngmix.ObsList()
    for epoch, image in used:
        observations.append(_observation(ngmix, epoch, image, rng))
    pixel = math.sqrt(float(np.mean([abs(np.linalg.det(epoch.jacobian)) for epoch, _ in used])))
    guess_t = 4.0 * pixel**2
    try:
        results, sheared = ngmix.metacal.MetacalBootstrapper(
            runner=_galaxy_runner(ngmix, options, pixel, guess_t, legacy),
            psf_runner=_psf_runner(ngmix, guess_t, legacy),
            rng=legacy,
            psf=options.target,
            step=options.step,
            fixnoise=options.fixnoise,
            use_noise_image=options.fixnoise,
            types=list(shapes.types),
            ignore_failed_psf=False,
        ).go(observations)
        _store_psf(ngmix, observations, sheared, guess_t, legacy, shapes, row)
    except ngmix.gexceptions.BootPSFFailure:
        shapes.flags[row] = ShapeFlag.NO_ATTEMPT | ShapeFlag.BAD_PSF
        return
    except (ngmix.gexceptions.GMixRangeError, ngmix.gexceptions.BootGalFailure, np.linalg.LinAlgError):
        shapes.flags[row] = ShapeFlag.NO_ATTEMPT | ShapeFlag.NONFINITE
        return
    for k, kind in enumerate(shapes.types):
        _store_fit(results[kind], shapes, row, k)


def _observation(ngmix: Any, epoch: EpochStamp, image: NDArray[np.float64], rng: np.random.Generator) -> Any:  # noqa: ANN401
    (dv_drow, dv_dcol), (du_drow, du_dcol) = epoch.jacobian
    slopes = {"dudcol": du_dcol, "dudrow": du_drow, "dvdcol": dv_dcol, "dvdrow": dv_drow}
    middle = (np.array(epoch.psf.shape) - 1.0) / 2.0
    psf = ngmix.Observation(
        epoch.psf / np.sum(epoch.psf),
        weight=np.full(epoch.psf.shape, PSF_NOISE**-2),
        jacobian=ngmix.Jacobian(row=middle[0], col=middle[1], **slopes),
    )
    return ngmix.Observation(
        image,
        weight=np.full(image.shape, epoch.noise_sigma**-2),
        noise=rng.normal(scale=epoch.noise_sigma, size=image.shape),
        jacobian=ngmix.Jacobian(row=epoch.center[0], col=epoch.center[1], **slopes),
        psf=psf,
    )


def _galaxy_runner(ngmix: Any, options: MetacalOptions, pixel: float, guess_t: float, rng: Any) -> Any:  # noqa: ANN401
    wide = 1e3 * pixel
    center = options.center_prior_pixels * pixel or wide
    prior = ngmix.joint_prior.PriorSimpleSep(
        ngmix.priors.CenPrior(0.0, 0.0, center, center, rng=rng),
        ngmix.priors.GPriorBA(options.shape_prior_sigma or 1e3, rng=rng),
        ngmix.priors.FlatPrior(*T_RANGE, rng=rng),
        ngmix.priors.FlatPrior(*FLUX_RANGE, rng=rng),
    )
    guesser = ngmix.guessers.TPSFFluxAndPriorGuesser(
        rng=rng, T=guess_t, prior=_guess_prior(ngmix, center, guess_t, rng)
    )
    return ngmix.runners.Runner(fitter=ngmix.fitting.Fitter(model="gauss", prior=prior), guesser=guesser, ntry=TRIES)


def _guess_prior(ngmix: Any, center: float, guess_t: float, rng: Any) -> Any:  # noqa: ANN401
    """Make the distribution that first guesses are drawn from: centre and shape near zero."""
    return ngmix.joint_prior.PriorSimpleSep(
        ngmix.priors.CenPrior(0.0, 0.0, 0.1 * center, 0.1 * center, rng=rng),
        ngmix.priors.GPriorBA(0.05, rng=rng),
        ngmix.priors.FlatPrior(0.5 * guess_t, 2.0 * guess_t, rng=rng),
        ngmix.priors.FlatPrior(*FLUX_RANGE, rng=rng),
    )


def _psf_runner(ngmix: Any, guess_t: float, rng: Any) -> Any:  # noqa: ANN401
    return ngmix.runners.PSFRunner(
        fitter=ngmix.fitting.Fitter(model="gauss"),
        guesser=ngmix.guessers.SimplePSFGuesser(rng=rng, guess_from_moms=True),
        ntry=TRIES,
    )


def _store_psf(
    ngmix: Any,  # noqa: ANN401 (an optional module)
    observations: Any,  # noqa: ANN401
    sheared: Any,  # noqa: ANN401
    guess_t: float,
    rng: Any,  # noqa: ANN401
    shapes: MetacalShapes,
    row: int,
) -> None:
    """Store means over epochs, weighted by inverse variance: Gaussian fits of the PSF, and of the target."""
    runner = _psf_runner(ngmix, guess_t, rng)
    runner.go(obs=observations)
    weights = np.array([observation.weight[0, 0] for observation in observations])
    weights /= np.sum(weights)
    fits = [observation.psf.meta["result"] for observation in observations]
    if any(fit["flags"] for fit in fits):
        raise ngmix.gexceptions.BootPSFFailure("a PSF could not be fitted")
    shapes.g_psf[row] = np.sum(weights[:, None] * np.array([fit["g"] for fit in fits]), axis=0)
    shapes.T_psf[row] = np.sum(weights * np.array([fit["T"] for fit in fits]))
    targets = np.array([observation.psf.gmix.get_T() for observation in sheared["noshear"]])
    shapes.T_target[row] = np.sum(weights * targets)


def _store_fit(fit: Any, shapes: MetacalShapes, row: int, k: int) -> None:  # noqa: ANN401
    if fit["flags"] != 0:
        shapes.flags[row, k] = ShapeFlag.MAXITER
        return
    shapes.g[row, k], shapes.g_err[row, k] = fit["g"], fit["g_err"]
    shapes.T[row, k], shapes.T_err[row, k] = fit["T"], fit["T_err"]
    shapes.flux[row, k], shapes.flux_err[row, k] = fit["flux"], fit["flux_err"]
    shapes.s2n[row, k] = fit["s2n"]
    shapes.flags[row, k] = 0 if fit["flux"] > 0.0 else ShapeFlag.NONPOS_FLUX
