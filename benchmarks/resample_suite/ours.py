"""Our side, which takes the WCS of astropy as it is; the settings hold the number of threads as well."""

from __future__ import annotations

from typing import Any

from resample_suite.driving import run
from tasks.science.resample import Resample


def make(output: dict[str, Any], settings: dict[str, Any], n_exposures: int) -> Resample:
    """Return our object, told how many exposures will come."""
    return Resample(output, n_input_models=n_exposures, **settings)


def as_it_is(wcs: Any) -> Any:  # noqa: ANN401
    """Return a WCS as it is."""
    return wcs


if __name__ == "__main__":
    run(make, as_it_is)
