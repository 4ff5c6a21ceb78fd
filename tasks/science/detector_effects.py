"""What a simulated detector adds to the light: bad pixels, cosmic rays, full wells and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.products.dq import DQFlag
from tasks.products.images import Photometry, Window
from tasks.products.simulated_survey import DefectParameters

DEAD_RESPONSE: Final = 0.05
COLUMN_RESPONSE: Final = 0.1
TRACK_STEP_PX: Final = 0.25
MAX_ADU: Final = 65535


@dataclass(frozen=True)
class StaticDefects:
    """The bad pixels of one detector between two reference dates."""

    response: NDArray[np.float64]
    """Share of the light that is counted, shape (ny, nx)."""
    dark_electrons: NDArray[np.float64]
    """Electrons that come without light in one exposure, shape (ny, nx)."""
    dq: NDArray[np.uint32]
    """Standard data-quality flags, shape (ny, nx)."""
    columns: NDArray[np.bool_]
    """Pixels of bad columns: the camera's own flag images know these and the dead pixels."""


@dataclass(frozen=True)
class ReadOut:
    """One CCD as it comes from the camera."""

    adu: NDArray[np.uint16]
    """Pixel values, shape (ny, nx)."""
    saturated: NDArray[np.bool_]
    """Pixels at the saturation level, shape (ny, nx)."""


def draw_static_defects(
    shape: tuple[int, int],
    data_section: Window,
    defects: DefectParameters,
    age: float,
    rng: np.random.Generator,
) -> StaticDefects:
    """Draw the bad pixels of one detector; older detectors keep their bad pixels and gain new ones.

    Parameters
    ----------
    shape
        Shape (ny, nx) of the detector.
    data_section
        Its light-sensitive part; the rest is NON_SCIENCE.
    defects
        Numbers of bad pixels at the end of the survey.
    age
        Between 0, without the new bad pixels, and 1, with all of them.
    rng
        Source of the random numbers; the same for all ages.

    Returns
    -------
    StaticDefects
        Dead and hot pixels and bad columns are DO_NOT_USE; warm pixels carry WARM alone.
    """
    ny, nx = shape
    area = ny * nx / 1024.0**2
    response, dark = np.ones(shape), np.zeros(shape)
    dq, columns = np.zeros(shape, np.uint32), np.zeros(shape, np.bool_)
    share = 1.0 - defects.new_fraction * (1.0 - age)

    def pick(per_area: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # all are drawn at any age, so that the random stream does not depend on it
        n = round(per_area * area)
        y, x = rng.integers(0, ny, n), rng.integers(0, nx, n)
        kept = round(n * share)
        return y[:kept], x[:kept]

    starts, x_columns = pick(defects.n_bad_columns)
    for start, x in zip(starts // 2, x_columns, strict=True):
        response[start:, x] = COLUMN_RESPONSE
        columns[start:, x] = True
        dq[start:, x] |= np.uint32(DQFlag.DO_NOT_USE | DQFlag.DEAD)
    dead, hot, warm = pick(defects.n_dead), pick(defects.n_hot), pick(defects.n_warm)
    response[dead] = DEAD_RESPONSE
    dq[dead] |= np.uint32(DQFlag.DO_NOT_USE | DQFlag.DEAD)
    dark[hot] = 10.0 ** rng.uniform(3.5, 4.7, round(defects.n_hot * area))[: len(hot[0])]
    dq[hot] |= np.uint32(DQFlag.DO_NOT_USE | DQFlag.HOT)
    dark[warm] += rng.uniform(150.0, 500.0, round(defects.n_warm * area))[: len(warm[0])]
    dq[warm] |= np.uint32(DQFlag.WARM)
    outside = np.ones(shape, np.bool_)
    outside[data_section.slices] = False
    dq[outside] |= np.uint32(DQFlag.NON_SCIENCE | DQFlag.DO_NOT_USE)
    return StaticDefects(response, dark, dq, columns)


def add_cosmic_rays(
    electrons: NDArray[np.float64], data_section: Window, defects: DefectParameters, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Add straight tracks of cosmic rays to an image, in place.

    Parameters
    ----------
    electrons
        Image in electrons, shape (ny, nx); changed.
    data_section
        Part of the detector that is hit.
    defects
        Number, charge and mean length of the tracks.
    rng
        Source of the random numbers.

    Returns
    -------
    ndarray, shape (ny, nx), bool
        Pixels that a track crosses.
    """
    hit = np.zeros(electrons.shape, np.bool_)
    ny, nx = data_section.shape
    n_tracks = int(rng.poisson(defects.n_cosmic_rays * ny * nx / 1024.0**2))
    for _ in range(n_tracks):
        length = 1.0 + float(rng.exponential(defects.cosmic_ray_length_px))
        angle = float(rng.uniform(0.0, 2.0 * np.pi))
        charge = defects.cosmic_ray_electrons * float(rng.lognormal(0.0, 0.5))
        along = np.arange(0.0, length, TRACK_STEP_PX)
        x = np.floor(data_section.x_min + rng.uniform(0.0, nx) + along * np.cos(angle)).astype(np.int64)
        y = np.floor(data_section.y_min + rng.uniform(0.0, ny) + along * np.sin(angle)).astype(np.int64)
        inside = (
            (x >= data_section.x_min) & (x < data_section.x_max) & (y >= data_section.y_min) & (y < data_section.y_max)
        )
        np.add.at(electrons, (y[inside], x[inside]), charge * TRACK_STEP_PX)
        hit[y[inside], x[inside]] = True
    return hit


def bleed_along_columns(electrons: NDArray[np.float64], full_well: float) -> NDArray[np.bool_]:
    """Let charge above the full well spill along its column, in place, half of it each way.

    Parameters
    ----------
    electrons
        Image in electrons, shape (ny, nx); changed. Charge that reaches an end of the column is lost.
    full_well
        Electrons that a pixel can hold.

    Returns
    -------
    ndarray, shape (ny, nx), bool
        Pixels that are full.
    """
    # column by column as a contiguous row: only the few columns that overflow are touched
    overflowing = np.flatnonzero((electrons > full_well).any(axis=0))
    charge = electrons[:, overflowing].copy()
    excess = 0.5 * np.maximum(charge - full_well, 0.0)
    np.minimum(charge, full_well, out=charge)
    for rows in (range(len(charge)), range(len(charge) - 1, -1, -1)):
        carried = np.zeros(len(overflowing))
        for row in rows:
            carried += excess[row]
            taken = np.minimum(carried, full_well - charge[row])
            charge[row] += taken
            carried -= taken
    electrons[:, overflowing] = charge
    full: NDArray[np.bool_] = electrons >= full_well
    return full


def collect_electrons(
    light_adu: NDArray[np.float64],
    defects: StaticDefects,
    gain: float,
    data_section: Window,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Turn expected light into collected electrons, with their Poisson noise.

    Parameters
    ----------
    light_adu
        Expected sky and objects in ADU, shape (ny, nx).
    defects
        Bad pixels of the detector.
    gain
        Electrons per ADU.
    data_section
        Light-sensitive part of the detector.
    rng
        Source of the random numbers.

    Returns
    -------
    ndarray, shape (ny, nx), float64
        Electrons, zero outside the data section.
    """
    window = data_section.slices
    electrons = np.zeros(light_adu.shape)
    expected = light_adu[window] * gain * defects.response[window] + defects.dark_electrons[window]
    electrons[window] = rng.poisson(expected)
    return electrons


def read_out(
    electrons: NDArray[np.float64], photometry: Photometry, data_section: Window, rng: np.random.Generator
) -> ReadOut:
    """Let full wells bleed, add the read noise, and round to the numbers of a 16-bit converter.

    Parameters
    ----------
    electrons
        Collected electrons, shape (ny, nx); changed.
    photometry
        Gain, read noise and saturation level.
    data_section
        Light-sensitive part of the detector; the rest stays zero.
    rng
        Source of the random numbers.

    Returns
    -------
    ReadOut
        Values in ADU; saturated pixels hold exactly the saturation level.
    """
    full = bleed_along_columns(electrons, photometry.saturation * photometry.gain)
    electrons[data_section.slices] += photometry.read_noise * rng.standard_normal(data_section.shape)
    level = min(round(photometry.saturation), MAX_ADU)
    adu = np.clip(np.rint(electrons / photometry.gain), 0, level)
    adu[full] = level
    return ReadOut(adu.astype(np.uint16), adu >= level)
