"""Drizzle: images resampled to one output grid and averaged, all planes in one pass.

The method is that of Fruchter & Hook (2002, PASP 114, 144), the numbers are those of the `drizzle` package.

The output is worked on in bands of rows. A band takes, in the order of the input, what every pixel gives it, in a small
buffer; then this image's part is merged into the output, and the next band follows. Memory is therefore that of the
output, and each output pixel is summed by one thread in one order: the result has the same bits for any number of
threads.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.science.band_sums import MAX_PLANES
from tasks.science.band_threads import BandThreads, BandWork, touched_bands
from tasks.science.drizzle_image import DrizzleImage, band_layout, readable
from tasks.science.drizzle_planes import CONTEXT_BITS, OutputPlanes
from tasks.science.drop_kernels import LANCZOS, make_drop
from tasks.science.map_tiles import tile_extents

__all__ = ["CONTEXT_BITS", "KERNELS", "DrizzleImage", "Drizzler", "FluxKernel", "Kernel"]

Plane = NDArray[np.float32]
Kernel = Literal["square", "gaussian", "point", "turbo", "lanczos2", "lanczos3"]
FluxKernel = Literal["square", "turbo", "point"]
"""The kernels that conserve flux."""
KERNELS: tuple[Kernel, ...] = ("square", "gaussian", "point", "turbo", "lanczos2", "lanczos3")
SCALED_KERNELS: tuple[Kernel, ...] = ("gaussian", "turbo", "lanczos2", "lanczos3")
"""The kernels whose size is given in output pixels."""
MAX_PIXFRAC = 2.0


class Drizzler:
    """An output grid to which images are added.

    Every plane below is valid at any time, without a last step, and is the array that the next `add` works on: copy
    what must not change. Values of the output are means weighted by overlap x weight (the data of drizzle and stcal).

    Attributes
    ----------
    data : (ny, nx) float32
        Weighted mean of all values; ``fill_value`` where nothing contributed.
    weight : (ny, nx) float32
        Sum of weight x share of the drop that falls on the output pixel (drizzle's weight: overlap / area of the drop).
    averaged_variances : (n, ny, nx) float32, or None
        stcal's variances, before its factor of the pixel scale ratio: of each image V = (weighted mean of sqrt(v))^2,
        of all images sum(V g^2) / sum(g)^2 with the weight g of `DrizzleImage.variance_weight`. NaN where nothing
        contributed.
    propagated_variances : (n, ny, nx) float32, or None
        Variance of ``data``: sum(a^2 v) / sum(a)^2 over all contributing pixels, a = weight x overlap / area, noise of
        input pixels being independent. NaN where nothing contributed.
    error : (ny, nx) float32, or None
        Weighted mean of the errors (stcal's ``driz_err`` before its factor); ``fill_value`` where nothing contributed.
    dq : (ny, nx) uint32, or None
        Flags of all contributing pixels, by OR.
    exposure_time : (ny, nx) float32, or None
        Sum of the exposure times of the images that contributed.
    """

    data: Plane
    weight: Plane
    averaged_variances: Plane | None
    propagated_variances: Plane | None
    error: Plane | None
    dq: NDArray[np.uint32] | None
    exposure_time: Plane | None

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        kernel: Kernel = "square",
        pixfrac: float = 1.0,
        fill_value: float = 0.0,
        n_images: int | None = None,
        context: bool = True,
        variances: int = 0,
        averaged: bool = True,
        propagated: bool = False,
        weight_plane: int = 0,
        error: bool = False,
        dq: bool = False,
        exposure_time: bool = False,
        n_threads: int = 1,
    ) -> None:
        """Make an empty output.

        Parameters
        ----------
        shape
            Shape (ny, nx) of the output.
        kernel
            Shape of the drop that each pixel is. Only square, turbo and point conserve flux.
        pixfrac
            Size of the drop in input pixels; up to 0.001 the drop is a point. Without meaning for lanczos.
        fill_value
            Value of ``data`` and ``error`` where nothing contributed.
        n_images
            Number of images expected, to have their context planes from the start.
        context, error, dq, exposure_time
            Whether to make these planes.
        variances
            Number of variance planes that each image brings.
        averaged, propagated
            Which outputs to make of the variances.
        weight_plane
            The variance plane whose reciprocal weights an image's averaged variances.
        n_threads
            Threads that share the bands of the output.

        Raises
        ------
        ValueError
            If the kernel is unknown, or a number is out of its range.
        """
        if kernel not in KERNELS:
            raise ValueError(f"Kernel '{kernel}' is not supported; kernels are {', '.join(KERNELS)}.")
        if not 0 < pixfrac <= MAX_PIXFRAC:
            raise ValueError(f"pixfrac is {pixfrac}; it must be above 0 and at most {MAX_PIXFRAC:g}.")
        if min(shape) < 1:
            raise ValueError(f"The output has the shape {shape}; both numbers must be positive.")
        if not 0 <= variances < MAX_PLANES:
            raise ValueError(f"{variances} variance planes were asked for; at most {MAX_PLANES - 1} can be made.")
        if variances and not 0 <= weight_plane < variances:
            raise ValueError(f"Variance plane {weight_plane} cannot give the weights: there are {variances}.")
        if n_threads < 1:
            raise ValueError(f"n_threads is {n_threads}; it must be at least 1.")
        self.shape = (int(shape[0]), int(shape[1]))
        self.kernel, self.pixfrac, self.fill_value = kernel, float(pixfrac), float(fill_value)
        self.n_threads = n_threads
        self._n_images = 0
        self._n_variances, self._weight_plane = variances, weight_plane
        self._threads = BandThreads(n_threads)
        self._averaged, self._propagated = averaged and variances > 0, propagated and variances > 0
        self._planes = OutputPlanes(
            self.shape,
            self.fill_value,
            n_images=n_images,
            context=context,
            averaged=variances if averaged else 0,
            propagated=variances if propagated else 0,
            error=error,
            dq=dq,
            exposure_time=exposure_time,
        )
        self.data, self.weight, self.error = self._planes.data, self._planes.weight, self._planes.error
        self.averaged_variances = self._planes.averaged if self._averaged else None
        self.propagated_variances = self._planes.propagated if self._propagated else None
        self.dq, self.exposure_time = self._planes.dq, self._planes.exposure_time

    @property
    def n_images(self) -> int:
        """Number that the next image gets by default: one more than the last."""
        return self._n_images

    @property
    def context(self) -> NDArray[np.int32] | None:
        """Context planes, shape (nplanes, ny, nx), or None.

        Bit i % 32 of plane i // 32 is set where image i contributed. There are as many planes as the numbers of the
        images need.
        """
        words = self._planes.context_words
        return None if words is None else words[: self._planes.n_context].view(np.int32)

    def add(self, image: DrizzleImage, *, number: int | None = None) -> int:
        """Add an image.

        Parameters
        ----------
        image
            The image.
        number
            Its number, which chooses its context bit; by default it is counted on with every call, whether or not
            anything of the image reached the output.

        Returns
        -------
        int
            Number of output pixels to which it contributed: 0 if nothing landed.

        Raises
        ------
        ValueError
            If an array has another shape than the pixel map, there are not as many variances as planes, the number is
            negative, a scale is not positive and finite, or the level is not finite.
        TypeError
            If the flags are not integers of at most 32 bits.
        """
        if len(image.variances) != self._n_variances:
            raise ValueError(f"The image has {len(image.variances)} variances, the output {self._n_variances}.")
        scale_ratio = image.scale_ratio
        if scale_ratio is None:
            # a map of few scattered pixels may not know it, and the other kernels do not need it
            scale_ratio = image.pixel_map.scale_ratio if self.kernel in SCALED_KERNELS else 1.0
        if not 0 < scale_ratio < np.inf:
            raise ValueError(f"The scale ratio of an image must be positive and finite, not {scale_ratio}.")
        number = self._n_images if number is None else number
        if number < 0:
            raise ValueError(f"The number of an image is {number}; numbers count from 0.")
        layout = band_layout(image, averaged=self._averaged, propagated=self._propagated, error=self.error is not None)
        source = readable(image, layout, with_dq=self.dq is not None)
        self._n_images = number + 1
        drop, table = make_drop(self.kernel, self.pixfrac, scale_ratio)
        arrays = image.pixel_map.arrays
        extents = tile_extents(arrays, image.pixel_map.window, half=drop.half, reach=drop.reach)
        self._planes.prepare(image, source, number)
        bands = touched_bands(extents, self.shape)
        if not bands:
            return 0
        merge = self._planes.merge(
            image,
            layout,
            number,
            weight_plane=self._weight_plane,
            has_dq=source.has_dq,
            has_marks=drop.kind == LANCZOS,
        )
        output = self._planes.output(number)
        work = BandWork(arrays, source, drop, table, extents, output, merge, layout.n_linear)
        return self._threads.run(work, bands)
