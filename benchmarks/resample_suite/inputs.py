"""Writes the exposures: stars on a sky with noise, bad pixels, variances; arrays as ``.npy`` that both sides read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from resample_suite.cases import Distortion
from resample_suite.sky import MARGIN, exposure_header, output_header, pointings, wcs_of

N_EXPOSURES = 8
EXPOSURES_PER_GROUP = 2
BAD_FRACTION = 0.012
"""Share of the pixels with a flag: a third of them each with bit 1 (and no value), 4, or 8."""
SKY = 1.5
READ_VARIANCE, FLAT_VARIANCE = 0.01, 0.005
EXPOSURE_S = 60.0
STAR_SPACING = 90.0
"""Pixels of an output at scale ratio 1 between two stars."""
EDGE = 0.07
"""Width of the rim that has no stars, as a share of an exposure: most exposures cover the rest."""
STAR_SIGMA = 1.7
STAR_FLUX = (50.0, 500.0)
STAMP = 12
"""Half the width of what is drawn of a star, pixels: 7 times its sigma."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stars:
    """Stars on the grid of an output at scale ratio 1."""

    x: Floats
    y: Floats
    flux: Floats


def make_stars(size: int) -> Stars:
    """Return stars on a jittered grid, so that none touches another; they cover what most exposures cover."""
    rng = np.random.default_rng(6)
    first = MARGIN / 2 + EDGE * size
    nodes = np.arange(first, size + MARGIN - first, STAR_SPACING)
    y, x = (grid.ravel() + rng.uniform(-20, 20, grid.size) for grid in np.meshgrid(nodes, nodes, indexing="ij"))
    return Stars(x, y, np.exp(rng.uniform(*np.log(STAR_FLUX), x.size)))


def write_inputs(folder: Path, distortion: Distortion, size: int, n_exposures: int = N_EXPOSURES) -> Path:
    """Write the exposures of one distortion into a new folder and return it."""
    folder.mkdir(parents=True)
    stars = make_stars(size)
    for number, pointing in enumerate(pointings(n_exposures, size)):
        header = exposure_header(size, pointing, distortion)
        rng = np.random.default_rng((7, number))
        about = meta(number)
        arrays = make_arrays(rng, draw_stars(header, output_header(size, 1.0), stars), about)
        write_exposure(folder / str(number), header, arrays, about)
    return folder


def exposure_s(number: int) -> float:
    """Return the exposure time of an exposure, seconds; that of its group."""
    return EXPOSURE_S * (1 + number // EXPOSURES_PER_GROUP)


def meta(number: int) -> dict[str, Any]:
    """Return what is known of an exposure beside its pixels; exposures of a group are taken at the same time."""
    group = number // EXPOSURES_PER_GROUP
    return {
        "filename": f"exposure_{number}",
        "group_id": f"group_{group}",
        "exposure_time": exposure_s(number),
        "measurement_time": exposure_s(number) - 2.0,
        "start_time": 1000.0 * group,
        "end_time": 1000.0 * group + exposure_s(number) + 5.0,
        "duration": exposure_s(number) + 5.0,
        "level": SKY + 0.02 * number,
        "subtracted": False,
    }


def draw_stars(header: fits.Header, grid: fits.Header, stars: Stars) -> Floats:
    """Return the stars as an exposure sees them, in surface brightness per pixel of the grid of the stars.

    So distortion moves and stretches a star but changes none of its values, as after a division by the flat field.
    """
    image = np.zeros((header["NAXIS2"], header["NAXIS1"]))
    to_sky, on_grid = wcs_of(header), wcs_of(grid)
    x, y = to_sky.world_to_pixel_values(*on_grid.pixel_to_world_values(stars.x, stars.y))
    dy, dx = np.mgrid[-STAMP : STAMP + 1, -STAMP : STAMP + 1]
    columns = np.rint(x).astype(int)[:, None] + dx.ravel()
    rows = np.rint(y).astype(int)[:, None] + dy.ravel()
    u, v = on_grid.world_to_pixel_values(*to_sky.pixel_to_world_values(columns, rows))
    radius2 = (u - stars.x[:, None]) ** 2 + (v - stars.y[:, None]) ** 2
    values = stars.flux[:, None] / (2 * np.pi * STAR_SIGMA**2) * np.exp(-radius2 / (2 * STAR_SIGMA**2))
    inside = (columns >= 0) & (columns < image.shape[1]) & (rows >= 0) & (rows < image.shape[0])
    np.add.at(image, (rows[inside], columns[inside]), values[inside])
    return image


def make_arrays(rng: np.random.Generator, stars: Floats, about: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Return data, flags, variances and error of an exposure; bad pixels hold what no coadd may show."""
    shape = stars.shape
    variances = {
        "var_rnoise": READ_VARIANCE * rng.uniform(0.8, 1.2, shape),
        "var_poisson": (about["level"] + stars) / about["exposure_time"],
        "var_flat": FLAT_VARIANCE * rng.uniform(0.5, 1.5, shape) + (0.002 * stars) ** 2,
    }
    error = np.sqrt(sum(variances.values()))
    data = about["level"] + stars + error * rng.standard_normal(shape)
    dq = np.zeros(shape, np.uint32)
    bad = np.flatnonzero(rng.random(shape) < BAD_FRACTION)
    dq.flat[bad] = rng.choice(np.array([1, 4, 8], np.uint32), bad.size)
    data[dq > 0] += 20.0
    data[dq == 1] = np.nan
    return {name: plane.astype(np.float32) for name, plane in (variances | {"err": error, "data": data}).items()} | {
        "dq": dq
    }


def write_exposure(folder: Path, header: fits.Header, arrays: dict[str, NDArray[Any]], about: dict[str, Any]) -> None:
    """Write an exposure: a file per array, the header as text, the rest as JSON."""
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "header.txt").write_text(header.tostring(sep="\n"), encoding="ascii")
    (folder / "meta.json").write_text(json.dumps(about), encoding="utf-8")
