"""Resample: images of any FITS or gwcs coordinates drizzled onto one grid, with stcal's interface and its numbers.

The class has the parameters, attributes, methods and hooks of ``stcal.resample.Resample``; where it differs is listed
in the page on Resample. The work is done by `tasks.science.drizzling`.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tasks.products.windows import Window
from tasks.science.drizzling import DrizzleImage
from tasks.science.pixel_map import PixelMap
from tasks.science.resample_errors import UnsupportedWCSError
from tasks.science.resample_inputs import InputArrays, Model, model_name
from tasks.science.resample_maps import Placement, place_model
from tasks.science.resample_models import ResampleModels
from tasks.science.resample_output import Plane
from tasks.science.resample_wcs import Floats, pixel_frame

__all__ = ["Resample", "UnsupportedWCSError"]

log = logging.getLogger(__name__)


class Resample(ResampleModels):
    """Images added one by one to an output grid.

    Parameters
    ----------
    output_wcs
        Dictionary: ``"wcs"``, an `astropy.wcs.WCS` or a gwcs; ``"pixel_scale"`` in arcseconds (measured by default),
        and ``"pixel_scale_ratio"``, the size of an output pixel in input pixels (by default that of the first model).
    n_input_models
        Number of models expected, to have their context planes from the start.
    pixfrac
        Size of the drop that each pixel is, in pixels.
    kernel
        Shape of the drop: square, gaussian, point, turbo, lanczos2 or lanczos3; gaussian and lanczos do not conserve
        flux.
    fillval
        Value of pixels without data: a number or its text; None, ``""`` and ``"INDEF"`` are NaN.
    weight_type
        ``"ivm"``: inverse of ``var_rnoise``; ``"ivm-sky"``: inverse of ``var_sky``; 1 if a model has none.
        ``"exptime"``: measurement time, or exposure time if that is None.
    good_bits
        Flags that do not spoil a pixel, see `tasks.science.good_bits.interpret_good_bits`; None ignores all flags.
    enable_ctx, enable_var
        Whether to make the context, and a plane for each name in ``variance_array_names``.
    compute_err
        ``"from_var"``: the error is the root of the summed variances (and variances are made); ``"driz_err"``: the mean
        of the models' errors; None: no error.
    propagate_dq
        Whether to combine the flags of contributing pixels by OR.
    pixmap_stepsize, pixmap_order
        1 or None: pixel positions are interpolated with an error below 1e-6 pixels. More: at nodes that far apart,
        bilinearly (order 1) or bicubically (3), whatever the error.
    variance_rule
        ``"averaged"``: stcal's variances, right for sums over many pixels; ``"propagated"``: variance of each single
        pixel, by squared coefficients, its correlation with its neighbours left out.
    n_threads
        Threads that share the work; the result does not depend on it.
    memory_limit_gib
        What the output may need; by default the memory of the machine or container.

    Raises
    ------
    ValueError, TypeError, KeyError
        If a setting cannot be.
    UnsupportedWCSError
        If the output has other axes than two on the sky, or three with a spectral one.
    MemoryError
        If the output needs more memory than there is.
    """

    def add_model(self, model: Model) -> None:
        """Resample a model and add it to the output.

        A model that is refused changes nothing. One that does not reach the output has its number in the context, but
        counts neither among the pointings nor in the times.

        Parameters
        ----------
        model
            Dictionary of arrays and values, see the page on Resample; not changed.

        Raises
        ------
        RuntimeError
            If the output is finalized, or the data are not an image.
        KeyError, TypeError, ValueError
            If the model lacks something, or something in it cannot be.
        """
        if self._finalized:
            raise RuntimeError(
                "The output is finalized, and no model can be added; call reset_arrays to start a new one."
            )
        self.validate_input_model(model)
        name = model_name(model, self._n_models + 1)
        arrays = self._read(model, name)
        frame = pixel_frame(model["wcs"], name)
        placement = place_model(
            frame,
            arrays.data.shape,
            self._output_frame,
            self._output_array_shape,
            name,
            step=self.pixmap_stepsize,
            order=self.pixmap_order,
        )
        weight = self._weight(model, arrays)
        self._find_pixel_scale_ratio(model, imaging=frame.imaging)
        iscale = self._intensity_scale(model, spectral=frame.spectral)
        landed = placement.pixel_map is not None and self._drizzle(model, arrays, weight, placement.pixel_map, iscale)
        self._n_models += 1
        self._call_hooks(model, placement, iscale, weight)
        if landed:
            self._count(model)
        else:
            log.warning("No pixel of %s contributes to the output.", name)
        self._publish()

    def add_model_hook(
        self,
        model: Model,
        pixmap: Floats,
        pixel_scale_ratio: float | None,
        iscale: float,
        weight_map: Plane,
        xmin: int,
        xmax: int,
        ymin: int,
        ymax: int,
    ) -> None:
        """Do nothing: for subclasses, called by `add_model` after a model has been resampled.

        The positions of all pixels are worked out only if a subclass has a hook. ``pixel_scale_ratio`` is left out if
        the hook does not take it.

        Parameters
        ----------
        model
            The model.
        pixmap
            Output x and y of every pixel, shape (ny, nx, 2), float64; NaN where there are none.
        pixel_scale_ratio
            Size of an output pixel in input pixels.
        iscale
            Factor of the data.
        weight_map
            Weight of every pixel, shape (ny, nx), float32.
        xmin, xmax, ymin, ymax
            First and last column and row that are used.
        """

    def resample_variance_arrays(
        self,
        model: Model,
        pixmap: Floats,
        pixel_scale_ratio: float | None,
        iscale: float,
        weight_map: Plane | None,
        xmin: int,
        xmax: int,
        ymin: int,
        ymax: int,
    ) -> None:
        """Resample the variances of a model apart from its data, and add them.

        `add_model` does this together with the data in one pass. A subclass that overrides this method is called
        instead, and may call this one; parameters as in `add_model_hook`.

        Raises
        ------
        RuntimeError
            If it is called without having been overridden: the variances would count twice.
        """
        if self._apart is None:
            raise RuntimeError(
                "add_model resamples the variances already; override resample_variance_arrays to do it here."
            )
        name = model_name(model, self._n_models)
        arrays = self._read(model, name)
        weight = np.ones_like(arrays.data) if weight_map is None else weight_map
        self._apart.add(
            DrizzleImage(
                weight,
                weight,
                PixelMap.from_positions(pixmap, bounds=Window(xmin, ymin, xmax + 1, ymax + 1)),
                variances=self._variances(arrays),
                scale=iscale,
                scale_ratio=pixel_scale_ratio,
                variance_weight=self._variance_weight(model, arrays),
            )
        )

    def _drizzle(self, model: Model, arrays: InputArrays, weight: Plane, pixel_map: PixelMap, iscale: float) -> bool:
        fused = self._enable_var and self._apart is None
        err = None if arrays.err is None else arrays.err * np.float32(math.sqrt(self._variance_factor()))
        dq = arrays.dq.astype(np.uint32, copy=False) if self._propagate_dq and arrays.dq is not None else None
        image = DrizzleImage(
            arrays.data,
            weight,
            pixel_map,
            variances=self._variances(arrays) if fused else (),
            error=err,
            dq=dq,
            level=arrays.level,
            scale=iscale,
            scale_ratio=self._pixel_scale_ratio,
            variance_weight=self._variance_weight(model, arrays),
        )
        return self._drizzler.add(image, number=self._n_models) > 0

    def _call_hooks(self, model: Model, placement: Placement, iscale: float, weight: Plane) -> None:
        names = ["add_model_hook"] + (["resample_variance_arrays"] if self._enable_var else [])
        names = [name for name in names if self._overrides(name)]
        if not names:
            return
        limits = dict(zip(("xmin", "xmax", "ymin", "ymax"), placement.limits, strict=True))
        arguments = {
            "model": model,
            "pixmap": placement.dense(),
            "pixel_scale_ratio": self._pixel_scale_ratio,
            "iscale": iscale,
            "weight_map": weight,
        } | limits
        for name in names:
            call_with_known(getattr(self, name), arguments)

    def _overrides(self, name: str) -> bool:
        method = getattr(self, name)
        return getattr(method, "__func__", method) is not Resample.__dict__[name]

    def _variances_apart(self) -> bool:
        return self._overrides("resample_variance_arrays")


def call_with_known(function: Callable[..., None], arguments: Mapping[str, Any]) -> None:
    """Call a hook with those of the arguments that it takes: older hooks have no ``pixel_scale_ratio``."""
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    known = {parameter.name for parameter in parameters}
    function(**{name: value for name, value in arguments.items() if takes_all or name in known})
