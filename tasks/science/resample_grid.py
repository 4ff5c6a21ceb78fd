"""The grid that `Resample` fills: coordinates, shape, pixel scale, and the areas of pixels."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.science import resample_settings as settings
from tasks.science.resample_area import mean_pixel_area
from tasks.science.resample_inputs import Model
from tasks.science.resample_wcs import ImageWCS, bounds_of, check_axes, pixel_frame
from tasks.science.sphere import ARCSEC_PER_RADIAN

log = logging.getLogger(__name__)

ROUNDING_PIXELS = 1e-9
"""By how much the edge of a bounding box may miss the edge of a pixel."""


class ResampleGrid:
    """The part of `Resample` that knows where pixels are on the sky."""

    def __init__(self, output_wcs: Mapping[str, Any] | None) -> None:
        """Take the output's coordinates; see `Resample`."""
        if output_wcs is None:
            raise ValueError("output_wcs must be given: a dictionary with the key 'wcs'.")
        if not isinstance(output_wcs, Mapping):
            raise TypeError(f"output_wcs is a {type(output_wcs).__name__}; it must be a dictionary with the key 'wcs'.")
        if output_wcs.get("wcs") is None:
            raise ValueError("output_wcs has no 'wcs'; it must hold the coordinate system of the output.")
        self._output_wcs = output_wcs["wcs"]
        self._given_pixel_scale_ratio: float | None = output_wcs.get("pixel_scale_ratio")
        self._pixel_scale_ratio = self._given_pixel_scale_ratio
        for name in ("pixel_scale", "pixel_scale_ratio"):
            if output_wcs.get(name) is not None:
                settings.check_scale(output_wcs[name], name)
        self.check_output_wcs(self._output_wcs)
        ny, nx = self._output_wcs.array_shape
        self._output_array_shape = (int(ny), int(nx))
        settings.check_output_shape(self._output_array_shape)
        self._output_frame = pixel_frame(self._output_wcs, "the output")
        self._output_pixel_scale = float(output_wcs.get("pixel_scale") or self._measured_pixel_scale())

    @property
    def output_wcs(self) -> ImageWCS:
        """WCS of the output."""
        return self._output_wcs

    @property
    def output_array_shape(self) -> tuple[int, int]:
        """Shape (ny, nx) of the output."""
        return self._output_array_shape

    @property
    def output_pixel_scale(self) -> float:
        """Pixel scale of the output in arcseconds."""
        return self._output_pixel_scale

    @property
    def pixel_scale_ratio(self) -> float | None:
        """Size of an output pixel in pixels of the first model; None before it is known."""
        return self._pixel_scale_ratio

    def check_output_wcs(self, output_wcs: ImageWCS, estimate_output_shape: bool = True) -> None:
        """Check the axes of an output WCS, and that its shape is known.

        Parameters
        ----------
        output_wcs
            An `astropy.wcs.WCS` or a gwcs. Its ``array_shape`` is set if it is None and may be estimated.
        estimate_output_shape
            Whether a missing shape may be taken from the upper edges of the bounding box.

        Raises
        ------
        UnsupportedWCSError
            If it has not two axes, or three with a spectral one.
        ValueError
            If the shape is wanted and cannot be found.
        """
        check_axes(output_wcs, "the output")
        if output_wcs.array_shape is None and estimate_output_shape:
            bounds = bounds_of(output_wcs)
            if bounds is None:
                raise ValueError(
                    "The size of the output is not known: set 'array_shape' or 'bounding_box' of the output WCS."
                )
            output_wcs.array_shape = tuple(math.floor(edge[1] + 0.5 + ROUNDING_PIXELS) for edge in bounds[::-1])

    def get_output_model_pixel_area(self, model: Model) -> float | None:
        """Return the mean pixel area of an output model, from its ``"wcs"``, in steradians."""
        return mean_pixel_area(pixel_frame(model["wcs"], "the output"))

    def get_input_model_pixel_area(self, model: Model, prefer_mean: bool = True) -> float | None:
        """Return the pixel area of an input model.

        Subclasses may override this.

        Parameters
        ----------
        model
            Its ``"wcs"``, ``"data"`` and ``"pixelarea_steradians"`` are used.
        prefer_mean
            True takes the mean over the image, and the nominal area where that fails; False the other way round.

        Returns
        -------
        float or None
            Steradians; None, and a warning in the log, if neither is known.
        """
        nominal = model["pixelarea_steradians"]
        for use_mean in (prefer_mean, not prefer_mean):
            area = self._mean_area(model) if use_mean else nominal
            if area is not None and 0 < area < math.inf:
                return float(area)
        log.warning("The pixel area of model %r is not known.", model.get("filename"))
        return None

    @staticmethod
    def _mean_area(model: Model) -> float | None:
        return mean_pixel_area(pixel_frame(model["wcs"], "a model"), np.shape(model["data"]))

    def _measured_pixel_scale(self) -> float:
        area = self.get_output_model_pixel_area({"wcs": self._output_wcs})
        if area is None or area <= 0:
            raise ValueError(
                "The pixel scale of the output cannot be measured: its outline is not on the sky, or it is only one "
                "pixel wide. Give 'pixel_scale' in arcseconds in output_wcs."
            )
        return pixel_scale(area)


def pixel_scale(area_steradians: float) -> float:
    """Return the side in arcseconds of a square pixel of this area."""
    return math.sqrt(area_steradians) * ARCSEC_PER_RADIAN
