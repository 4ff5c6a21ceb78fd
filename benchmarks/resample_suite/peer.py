"""The peer's side: ``Resample`` of the public ``stcal`` package, in its own environment."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from astropy.wcs import WCS
from stcal.resample import Resample

from resample_suite.driving import run


class ImagingWCS:
    """A FITS WCS with the names by which the peer asks a gwcs; positions come from astropy as they are."""

    bounding_box = None
    output_frame = SimpleNamespace(naxes=2, axes_type=("SPATIAL", "SPATIAL"))

    def __init__(self, wcs: WCS) -> None:
        self.array_shape = wcs.array_shape
        self.pixel_shape = wcs.pixel_shape
        self.pixel_to_world_values = wcs.pixel_to_world_values
        self.world_to_pixel_values = wcs.world_to_pixel_values

    def __call__(self, x: Any, y: Any) -> Any:  # noqa: ANN401
        """Return the sky position of pixels."""
        return self.pixel_to_world_values(x, y)


def make(output: dict[str, Any], settings: dict[str, Any], n_exposures: int) -> Resample:
    """Return the peer's object, told how many exposures will come."""
    return Resample(output, n_input_models=n_exposures, **settings)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    run(make, ImagingWCS)
