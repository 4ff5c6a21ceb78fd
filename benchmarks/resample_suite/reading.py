"""Reads what was written for both sides, as the models of document 003; numpy and astropy, which both sides have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

ARRAYS = ("data", "dq", "err", "var_rnoise", "var_poisson", "var_flat")


def read_exposure(folder: Path) -> dict[str, Any]:
    """Read one exposure, its WCS as an ``astropy.wcs.WCS``; nothing else keeps its arrays."""
    arrays = {name: np.load(folder / f"{name}.npy") for name in ARRAYS}
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    wcs = read_wcs((folder / "header.txt").read_text(encoding="ascii"))
    area = abs(np.linalg.det(wcs.wcs.cd)) * np.deg2rad(1) ** 2
    return arrays | meta | {"wcs": wcs, "pixelarea_steradians": float(area)}


def read_wcs(text: str) -> WCS:
    """Return the WCS of a header in text, with the shape of its image."""
    header = fits.Header.fromstring(text, sep="\n")
    wcs = WCS(header)
    wcs.array_shape = (header["NAXIS2"], header["NAXIS1"])
    return wcs
