"""From the stamps of a tile to what metacalibration measures: bad pixels, neighbours' pixels, noise."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.products.stamps import MultiEpochStamps, StampEpoch
from tasks.science.metacal import EpochStamp
from tasks.science.pixelmask import uberseg

Neighbours = Literal["uberseg", "segmentation", "ignore"]
NoiseSource = Literal["weight", "sky"]

MAD_TO_SIGMA = 1.482602218505602


def epoch_stamps(
    stamps: MultiEpochStamps, index: int, *, neighbours: Neighbours, noise: NoiseSource
) -> list[EpochStamp]:
    """Prepare the epochs of one source for measurement.

    Parameters
    ----------
    stamps
        Stamps of a tile. Not changed.
    index
        Row of the source.
    neighbours
        Pixels of other sources to mask: "uberseg" those nearer to another segment than to the source's own,
        "segmentation" those of other segments, "ignore" none.
    noise
        Where the noise of an epoch comes from: "weight" its median inverse variance, "sky" the scatter (1.48 times the
        median absolute deviation) of unmasked pixels outside all segments.

    Returns
    -------
    list of EpochStamp
        In the order of the stamps; empty if no CCD saw the source. The noise is NaN where no pixel gives it.
    """
    number = int(stamps.ids[index])
    return [_epoch_stamp(epoch, number, neighbours, noise) for epoch in stamps.epochs(index)]


def _epoch_stamp(epoch: StampEpoch, number: int, neighbours: Neighbours, noise: NoiseSource) -> EpochStamp:
    center = (epoch.cutout_row, epoch.cutout_col)
    mask = epoch.bmask != 0
    theirs = None
    if neighbours == "uberseg":
        theirs = uberseg(epoch.seg, number, center)
    elif neighbours == "segmentation":
        theirs = (epoch.seg != 0) & (epoch.seg != number)
    good = ~mask & (epoch.weight > 0.0)
    return EpochStamp(
        image=epoch.image.astype(np.float64),
        psf=epoch.psf.astype(np.float64),
        weight=epoch.weight.astype(np.float64),
        mask=mask,
        noise_sigma=_weight_noise(epoch.weight[good])
        if noise == "weight"
        else _sky_noise(epoch.image, epoch.seg, good),
        center=center,
        jacobian=epoch.jacobian,
        neighbours=theirs,
    )


def _weight_noise(weight: NDArray[np.float32]) -> float:
    return float(1.0 / np.sqrt(np.median(weight.astype(np.float64)))) if weight.size else float("nan")


def _sky_noise(image: NDArray[np.float32], seg: NDArray[np.int32], good: NDArray[np.bool_]) -> float:
    sky = image[good & (seg == 0)].astype(np.float64)
    return float(MAD_TO_SIGMA * np.median(np.abs(sky - np.median(sky)))) if sky.size else float("nan")
