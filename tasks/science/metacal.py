r"""Metacalibration of multi-epoch stamps without making a single metacalibration image.

Metacalibration (Huff & Mandelbaum 2017; Sheldon & Huff 2017, eqs. 5 and 9) deconvolves an image from its PSF, shears it
by S, and convolves it with a round target: in Fourier space :math:`D(S^T k)\,t(k)` with D = image / PSF. A Gaussian
model m fitted to it minimises :math:`\sum_k |D(S^T k) t(k) - m(k) t(k)|^2`. With :math:`k' = S^T k`, a change of
variables of determinant one, the shear leaves the data and moves to the analytic target and model, which are evaluated
at :math:`S^{-T} k'`: the pixels' own transform serves all five shears and nothing is ever interpolated. Per epoch the
only change from shear to shear is the matrix from sky to pixels, :math:`(S J)^{-1}` in place of :math:`J^{-1}`.

Correlated noise is cancelled as in Sheldon & Huff (2017, section 3): a realisation of the noise, rotated by 90 degrees,
goes through the same shear and is added after the rotation is undone. Its frame is :math:`J^{-1} S^{-1} J R J^{-1}`.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from enum import IntFlag
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ConfigError, ShapeMismatchError
from tasks.science.fourier import kept_modes, transform_size
from tasks.science.gaussfit import CONVERGED, NOT_FINITE, SINGULAR
from tasks.science.metacal_fit import N_TYPES, N_VALUES, measure_planes
from tasks.science.pixelmask import fill_masked, masked_radius

TargetName = Literal["gauss", "azgauss"]

METACAL_TYPES: Final = ("noshear", "1p", "1m", "2p", "2m")
"""The five shears, in the order of the second axis of every result."""


class ShapeFlag(IntFlag):
    """Why a shape is missing or not to be trusted; 0 is a good measurement."""

    NO_ATTEMPT = 1
    """No fit was tried; another bit says why."""
    NO_EPOCH = 2
    """No epoch was usable: none saw the object, or all were dropped for their masked pixels."""
    MAXITER = 4
    """The fit did not converge."""
    BAD_SHAPE = 8
    """The fit ended at the edge of the allowed shapes."""
    NONPOS_FLUX = 16
    """The best flux is not positive."""
    NONFINITE = 32
    """Pixels, PSF or result are not finite numbers."""
    SINGULAR = 64
    """The data do not determine the parameters."""
    BAD_PSF = 128
    """The PSF has no target Gaussian or no Gaussian fit."""


@dataclass(frozen=True)
class EpochStamp:
    """One object on one CCD."""

    image: NDArray[np.float64]
    """Pixels, background subtracted, shape (ny, nx)."""
    psf: NDArray[np.float64]
    """Effective PSF (with the pixel), centred on the middle of its stamp, any normalisation, shape (my, mx)."""
    weight: NDArray[np.float64]
    """Inverse variance up to a factor, 0 = no data, shape (ny, nx)."""
    mask: NDArray[np.bool_]
    """True where a pixel must not be used, shape (ny, nx)."""
    noise_sigma: float
    """Standard deviation of the noise of one pixel, in the unit of the image."""
    center: tuple[float, float]
    """Position (row, column) of the object, 0-based pixels of the stamp."""
    jacobian: NDArray[np.float64]
    """[[dv/drow, dv/dcol], [du/drow, du/dcol]], arcsec per pixel; u to the west, v to the north."""
    neighbours: NDArray[np.bool_] | None = None
    """True where another object outshines this one: replaced like masked pixels, but no reason to drop the epoch."""

    @property
    def bad(self) -> NDArray[np.bool_]:
        """Pixels without a usable value, shape (ny, nx)."""
        return self.mask | ~(self.weight > 0.0) | ~np.isfinite(self.image)

    @property
    def unusable(self) -> NDArray[np.bool_]:
        """Pixels that are replaced: bad ones and those of neighbours, shape (ny, nx)."""
        return self.bad if self.neighbours is None else self.bad | self.neighbours


@dataclass(frozen=True)
class MetacalOptions:
    """How shapes are measured."""

    step: float = 0.01
    """Shear of the four sheared types."""
    target: TargetName = "gauss"
    """Rule for the round Gaussian that the PSF is replaced by."""
    fixnoise: bool = True
    """Cancel the correlated noise of sheared images by a rotated noise field."""
    shape_prior_sigma: float = 0.4
    """Width of the prior on g (Bernstein & Armstrong); 0 is no prior."""
    center_prior_pixels: float = 1.0
    """Width of the prior on the centre in pixels; 0 is no prior."""
    core_radius: float = 3.0
    """Epochs with a masked pixel nearer to the object than this, in pixels, are dropped."""
    max_masked_fraction: float = 1.0 / 3.0
    """Epochs with a larger fraction of masked pixels are dropped."""
    tolerance: float = 1e-5
    """The fit is done when a step changes g by less."""
    max_iterations: int = 60
    """Steps of a fit before it is given up."""

    def __post_init__(self) -> None:
        """Refuse a step that is no small shear and an unknown target."""
        if not 0.0 < self.step < 0.1:
            raise ConfigError(
                f"The metacalibration step is {self.step:g}; it must be a small shear, above 0 and below 0.1."
            )
        if self.target not in ("gauss", "azgauss"):
            raise ConfigError(f"The metacalibration target {self.target!r} is unknown; use 'gauss' or 'azgauss'.")


@dataclass(frozen=True)
class MetacalShapes:
    """Shapes of n objects for the five types of :data:`METACAL_TYPES`; NaN where nothing was measured."""

    g: NDArray[np.float64]
    """Reduced shape (g1, g2) before the PSF, shape (n, 5, 2)."""
    g_err: NDArray[np.float64]
    """Standard errors of g for white noise, shape (n, 5, 2)."""
    T: NDArray[np.float64]
    """Size before the PSF, arcsec², shape (n, 5)."""
    T_err: NDArray[np.float64]
    flux: NDArray[np.float64]
    """Flux of the Gaussian, in the unit of the images, shape (n, 5)."""
    flux_err: NDArray[np.float64]
    s2n: NDArray[np.float64]
    """Flux times the root of the summed squares of model over noise, shape (n, 5); fixnoise doubles the variance."""
    flags: NDArray[np.int32]
    """:class:`ShapeFlag` bits, shape (n, 5)."""
    T_target: NDArray[np.float64]
    """Size of the target that all types are convolved with, mean over epochs, arcsec², shape (n,)."""
    g_psf: NDArray[np.float64]
    """Shape of the original PSF, mean over epochs weighted by inverse variance, shape (n, 2)."""
    T_psf: NDArray[np.float64]
    """Size of the original PSF, arcsec², shape (n,)."""
    n_epoch: NDArray[np.int32]
    """Epochs used, shape (n,)."""
    n_masked_core: NDArray[np.int32]
    """Epochs dropped for masked pixels near the object, shape (n,)."""
    n_masked_fraction: NDArray[np.int32]
    """Epochs dropped for too many masked pixels, shape (n,)."""
    n_bad_epoch: NDArray[np.int32]
    """Epochs dropped for pixels, PSF or noise that are no finite numbers, shape (n,)."""
    types: tuple[str, ...] = METACAL_TYPES

    @classmethod
    def concatenate(cls, parts: Sequence["MetacalShapes"]) -> "MetacalShapes":
        """Join the results of consecutive objects."""
        names = [item.name for item in fields(cls) if item.name != "types"]
        with_none = (*parts, empty_shapes(0))
        joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in with_none]) for name in names}
        return cls(**joined)


def empty_shapes(n: int) -> MetacalShapes:
    """Make the result of n objects that nobody has tried to measure."""

    def missing(*shape: int) -> NDArray[np.float64]:
        return np.full((n, *shape), np.nan)

    def zeros() -> NDArray[np.int32]:
        return np.zeros(n, dtype=np.int32)

    return MetacalShapes(
        g=missing(N_TYPES, 2),
        g_err=missing(N_TYPES, 2),
        T=missing(N_TYPES),
        T_err=missing(N_TYPES),
        flux=missing(N_TYPES),
        flux_err=missing(N_TYPES),
        s2n=missing(N_TYPES),
        flags=np.full((n, N_TYPES), int(ShapeFlag.NO_ATTEMPT), dtype=np.int32),
        T_target=missing(),
        g_psf=missing(2),
        T_psf=missing(),
        n_epoch=zeros(),
        n_masked_core=zeros(),
        n_masked_fraction=zeros(),
        n_bad_epoch=zeros(),
    )


def measure_metacal(
    objects: Sequence[Sequence[EpochStamp]],
    rngs: Sequence[np.random.Generator],
    *,
    options: MetacalOptions | None = None,
    threads: int = 1,
) -> MetacalShapes:
    """Measure metacalibration shapes, jointly over the epochs of each object.

    Parameters
    ----------
    objects
        The epochs of every object, any number each, stamps of any size. Not changed.
    rngs
        One generator per object, seeded by its identity: results then depend neither on the order nor on the grouping.
    options
        Settings; the defaults if None.
    threads
        Threads to share the objects among. The result is the same to the last bit for any number.

    Returns
    -------
    MetacalShapes
        One row per object. Rows without a measurement carry flags.

    Raises
    ------
    ShapeMismatchError
        If there are not as many generators as objects, or the planes of a stamp differ in shape.
    """
    options = options or MetacalOptions()
    if len(objects) != len(rngs):
        raise ShapeMismatchError(
            f"There are {len(objects)} objects but {len(rngs)} random generators; give one for each."
        )
    shapes = empty_shapes(len(objects))

    def measure_range(bounds: tuple[int, int]) -> None:
        for i in range(*bounds):
            _measure_object(objects[i], rngs[i], options, shapes, i)

    bounds = [(len(objects) * k // threads, len(objects) * (k + 1) // threads) for k in range(threads)]
    if threads == 1:
        measure_range(bounds[0])
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(measure_range, bounds))
    return shapes


def usable_epochs(
    epochs: Sequence[EpochStamp], rng: np.random.Generator, options: MetacalOptions, shapes: MetacalShapes, row: int
) -> list[tuple[EpochStamp, NDArray[np.float64]]]:
    """Choose the epochs of an object that can be used, with their masked pixels filled; count the others.

    Returns
    -------
    list of tuple
        The epoch and its image without masked pixels, shape (ny, nx).
    """
    used = []
    for epoch in epochs:
        if not epoch.image.shape == epoch.weight.shape == epoch.mask.shape:
            raise ShapeMismatchError(
                f"The planes of a stamp have shapes {epoch.image.shape} (image), {epoch.weight.shape} (weight) and "
                f"{epoch.mask.shape} (mask); they must be equal."
            )
        bad, unusable = epoch.bad, epoch.unusable
        psf_ok = bool(np.all(np.isfinite(epoch.psf))) and float(np.sum(epoch.psf)) > 0.0
        if not (psf_ok and math.isfinite(epoch.noise_sigma) and epoch.noise_sigma > 0.0):
            shapes.n_bad_epoch[row] += 1
        elif not unusable.any():
            used.append((epoch, np.asarray(epoch.image, dtype=np.float64)))
        elif np.mean(bad) > options.max_masked_fraction:
            shapes.n_masked_fraction[row] += 1
        elif masked_radius(bad, epoch.center) < options.core_radius:
            shapes.n_masked_core[row] += 1
        else:
            used.append((epoch, fill_masked(epoch.image, unusable, epoch.center, epoch.noise_sigma, rng)))
    return used


def _measure_object(
    epochs: Sequence[EpochStamp], rng: np.random.Generator, options: MetacalOptions, shapes: MetacalShapes, row: int
) -> None:
    used = usable_epochs(epochs, rng, options, shapes, row)
    shapes.n_epoch[row] = len(used)
    if not used:
        shapes.flags[row] = ShapeFlag.NO_ATTEMPT | ShapeFlag.NO_EPOCH
        return
    size = transform_size(max(max(*epoch.image.shape, *epoch.psf.shape) for epoch, _ in used))
    n_field = 2 if options.fixnoise else 1
    planes = np.zeros((len(used), 1 + n_field, size, size))
    offsets = np.empty((len(used), n_field, 2))
    psf_centers = np.empty((len(used), 2))
    for e, (epoch, image) in enumerate(used):
        (ny, nx), (my, mx) = image.shape, epoch.psf.shape
        planes[e, 0, :my, :mx] = epoch.psf
        planes[e, 1, :ny, :nx] = image
        psf_centers[e] = (my - 1) / 2, (mx - 1) / 2
        offsets[e, 0] = epoch.center
        if options.fixnoise:
            # drawn as it is after the rotation; the object's place turns about the middle of the stamp
            planes[e, 2, :nx, :ny] = rng.normal(scale=epoch.noise_sigma, size=(nx, ny))
            offsets[e, 1] = (nx - 1) - epoch.center[1], epoch.center[0]
    jacobians = np.array([epoch.jacobian for epoch, _ in used], dtype=np.float64)
    sigmas = np.array([epoch.noise_sigma for epoch, _ in used])
    center_sigma = options.center_prior_pixels * math.sqrt(float(np.mean(np.abs(np.linalg.det(jacobians)))))
    values = np.empty((N_TYPES, N_VALUES))
    psf_values = np.empty(4)
    status = measure_planes(
        np.fft.rfft2(planes),
        kept_modes(size),
        offsets,
        psf_centers,
        jacobians,
        # fixnoise adds as much variance again
        1.0 / (n_field * sigmas**2),
        options.step,
        options.target == "azgauss",
        np.array([options.shape_prior_sigma, center_sigma]),
        options.tolerance,
        options.max_iterations,
        values,
        psf_values,
    )
    _store(values, psf_values, status, shapes, row)


def _store(
    values: NDArray[np.float64], psf_values: NDArray[np.float64], bad_psf: bool, shapes: MetacalShapes, row: int
) -> None:
    """Write the numbers of one object into the result."""
    shapes.g_psf[row] = psf_values[:2]
    shapes.T_psf[row] = psf_values[2]
    shapes.T_target[row] = psf_values[3]
    if bad_psf:
        shapes.flags[row] = ShapeFlag.NO_ATTEMPT | ShapeFlag.BAD_PSF
        return
    shapes.g[row], shapes.T[row], shapes.flux[row] = values[:, 2:4], values[:, 4], values[:, 5]
    shapes.g_err[row], shapes.T_err[row], shapes.flux_err[row] = values[:, 6:8], values[:, 8], values[:, 9]
    shapes.s2n[row] = values[:, 10]
    for k in range(N_TYPES):
        shapes.flags[row, k] = int(shape_flags(values[k]))


def shape_flags(values: NDArray[np.float64]) -> ShapeFlag:
    """Name what is wrong with one fit, given its numbers: v, u, g1, g2, T, F, 4 errors, s2n, status, count."""
    flags = ShapeFlag(0)
    if not np.all(np.isfinite(values)) or values[11] == NOT_FINITE:
        return flags | ShapeFlag.NONFINITE
    if values[11] == SINGULAR:
        flags |= ShapeFlag.SINGULAR
    elif values[11] != CONVERGED:
        flags |= ShapeFlag.MAXITER
    if values[5] <= 0.0:
        flags |= ShapeFlag.NONPOS_FLUX
    if values[2] ** 2 + values[3] ** 2 > 0.96:
        flags |= ShapeFlag.BAD_SHAPE
    return flags
