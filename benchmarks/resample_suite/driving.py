"""What both sides do alike: add all exposures, finalize, measure, and keep what came out."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import peak_kib, release_memory, reset_peak, resident_kib

from resample_suite.reading import read_exposure, read_wcs

ARRAYS = ("data", "wht", "con", "dq", "err", "var_rnoise", "var_poisson", "var_flat")
NUMBERS = (
    "pointings", "exposure_time", "measurement_time", "start_time", "end_time", "duration", "pixel_scale_ratio",
    "pixelarea_steradians", "pixelarea_arcsecsq", "level", "subtracted", "pixfrac", "kernel", "weight_type",
)  # fmt: skip

Making = Callable[[dict[str, Any], dict[str, Any], int], Any]
"""From the output's WCS and pixel scale, the settings, and the number of exposures: the object that resamples."""
Adapting = Callable[[Any], Any]
"""From an ``astropy.wcs.WCS``: what a side takes as a WCS."""


class Clock:
    """Wall and processor time of the calls made through it."""

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.cpu_s = 0.0

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        """Call a function while the clock runs."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*arguments)
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu
        return result


def run(make: Making, adapt: Adapting) -> None:
    """Do the job in the file that the command line names and print one line of JSON.

    A small run first: it loads what is loaded late, and compiles.
    """
    warnings.simplefilter("ignore")
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    resample_all(make, adapt, job["settings"], job["warm_up"], keep=None)
    print(json.dumps(resample_all(make, adapt, job["settings"], job["inputs"], keep=job["keep"])))


def resample_all(
    make: Making, adapt: Adapting, settings: dict[str, Any], inputs: dict[str, Any], *, keep: str | None
) -> dict[str, Any]:
    """Resample all exposures of a folder; return seconds, KiB and the numbers of the result.

    Memory is counted above what the process holds when its imports are done and one exposure is read. Each exposure is
    read while the clock stands, and let go after it was added.
    """
    folders = sorted((path for path in Path(inputs["folder"]).iterdir() if path.is_dir()), key=lambda p: int(p.name))
    output = {"wcs": adapt(read_wcs(inputs["output_header"])), "pixel_scale": inputs["output_scale"]}
    clock = Clock()
    model: dict[str, Any] = read_exposure(folders[0])
    release_memory()
    baseline = resident_kib()
    reset_peak()
    resample = clock.call(make, output, settings, len(folders))
    for number in range(len(folders)):
        if number:
            model = read_exposure(folders[number])
        model["wcs"] = adapt(model["wcs"])
        clock.call(resample.add_model, model)
        model = {}
    clock.call(resample.finalize)
    peak = peak_kib()
    if keep is not None:
        keep_arrays(Path(keep), resample.output_model)
    return {
        "wall_s": clock.wall_s,
        "cpu_s": clock.cpu_s,
        "baseline_kib": baseline,
        "above_baseline_kib": peak - baseline,
        "peak_kib": peak,
        "numbers": {name: resample.output_model[name] for name in NUMBERS},
    }


def keep_arrays(folder: Path, output_model: dict[str, Any]) -> None:
    """Write the arrays that came out; one that is not there is not written."""
    folder.mkdir()
    for name in ARRAYS:
        if output_model.get(name) is not None:
            np.save(folder / f"{name}.npy", output_model[name])
