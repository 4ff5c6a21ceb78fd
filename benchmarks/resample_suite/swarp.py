"""SWarp on the exposures with TPV: files in, files out, science and weight."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from sides import ONE_THREAD, pinned

from resample_suite.inputs import make_stars
from resample_suite.photometry import StarFigures, measure_coadd
from resample_suite.reading import read_exposure
from resample_suite.sky import output_header

NAMES = ("SWarp", "swarp")
SETTINGS = {
    "IMAGEOUT_NAME": "coadd.fits", "WEIGHTOUT_NAME": "coadd.weight.fits", "WEIGHT_TYPE": "MAP_WEIGHT",
    "WEIGHT_SUFFIX": ".weight.fits", "COMBINE_TYPE": "WEIGHTED", "RESAMPLING_TYPE": "LANCZOS3", "SUBTRACT_BACK": "N",
    "FSCALASTRO_TYPE": "NONE", "WRITE_XML": "N", "VERBOSE_TYPE": "QUIET",
}  # fmt: skip


@dataclass(frozen=True)
class SwarpResult:
    """The stars of its coadd, and the best wall time by number of threads."""

    stars: StarFigures
    wall_s: dict[int, float]


def find_swarp() -> str | None:
    """Return the program, or nothing if it is not installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def run_swarp(program: str, inputs: Path, size: int, *, rounds: int) -> SwarpResult:
    """Run SWarp on all exposures of a folder, with one thread and with two."""
    folder = inputs.parent / "swarp"
    folder.mkdir()
    images = write_images(inputs, folder)
    output_header(size, 1.0).totextfile(folder / "coadd.head", endcard=True)
    (folder / "default.swarp").write_bytes(subprocess.run([program, "-d"], check=True, capture_output=True).stdout)
    wall: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for n_threads, seconds in wall.items():
            options = [word for key, value in SETTINGS.items() for word in (f"-{key}", value)]
            command = [*pinned(n_threads), program, *images, *options, "-NTHREADS", str(n_threads)]
            start = time.perf_counter()
            subprocess.run(command, check=True, cwd=folder, capture_output=True, env=os.environ | ONE_THREAD)
            seconds.append(time.perf_counter() - start)
    data, weight = (np.asarray(fits.getdata(folder / name)) for name in ("coadd.fits", "coadd.weight.fits"))
    stars = measure_coadd(np.where(weight > 0, data, np.nan), make_stars(size))
    return SwarpResult(stars, {n: min(seconds) for n, seconds in wall.items()})


def write_images(inputs: Path, folder: Path) -> list[str]:
    """Write the exposures as SWarp reads them, the sky subtracted, weight 0 for bad pixels; return their names."""
    names = []
    for path in sorted((path for path in inputs.iterdir() if path.is_dir()), key=lambda path: int(path.name)):
        model = read_exposure(path)
        good = (model["dq"] == 0) & np.isfinite(model["data"])
        header = fits.Header.fromstring((path / "header.txt").read_text(encoding="ascii"), sep="\n")
        data = np.where(good, model["data"] - np.float32(model["level"]), np.float32(0))
        weight = np.where(good, 1 / model["var_rnoise"], np.float32(0))
        names.append(f"exposure_{path.name}.fits")
        fits.PrimaryHDU(data, header).writeto(folder / names[-1])
        fits.PrimaryHDU(weight).writeto(folder / f"exposure_{path.name}.weight.fits")
    return names
