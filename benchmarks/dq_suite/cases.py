"""Exposures and references for the comparison of data-quality initialisation, written with astropy alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

STANDARD = ((1, "DO_NOT_USE"), (2, "DEAD"), (4, "HOT"), (8, "UNRELIABLE_SLOPE"), (16, "RC"), (32, "REFERENCE_PIXEL"))
WITH_UNKNOWN = (*STANDARD, (64, "CROSS_BAD"), (128, "GOOD"), (256, "hot"))
OVERLAPPING = ((3, "LOW_QE"), (1, "DO_NOT_USE"), (6, "OPEN"), (2, "ADJ_OPEN"), (2, "TELEGRAPH"))
FULL_MIRI = (1024, 1032)
FULL = (2048, 2048)
SOSS = {
    "SUBARRAY": "SUB204STRIPE_SOSS", "FASTAXIS": -2, "SLOWAXIS": -1, "MSTR_RD1": 4, "MSTR_SK1": 0, "MSTR_RD2": 204,
    "MSTR_SK2": 0, "MSTR_RPT": 1, "MSTR_ILV": 1, "SSTR_NST": 10, "SSTR_STP": 204,
}  # fmt: skip
SUB64P = {
    "SUBARRAY": "SUB64P_SUPSTP002", "FASTAXIS": 1, "SLOWAXIS": -2, "MSTR_RD1": 1, "MSTR_SK1": 165, "MSTR_RD2": 1,
    "MSTR_SK2": 0, "MSTR_RPT": 1, "MSTR_ILV": 0, "SSTR_NST": 64, "SSTR_STP": 1,
}  # fmt: skip
DHS = {
    "SUBARRAY": "SUB164STRIPE4_DHS", "FASTAXIS": 1, "SLOWAXIS": -2, "MSTR_RD1": 1, "MSTR_SK1": 1100, "MSTR_RD2": 40,
    "MSTR_SK2": 82, "MSTR_RPT": 1, "MSTR_ILV": 1, "SSTR_NST": 0, "SSTR_STP": 0,
}  # fmt: skip
SLANTED = {
    "SUBARRAY": "SUB512", "FASTAXIS": 2, "SLOWAXIS": 1, "MSTR_RD1": 3, "MSTR_SK1": 20, "MSTR_RD2": 15,
    "MSTR_SK2": 7, "MSTR_RPT": 0, "MSTR_ILV": 0, "SSTR_NST": 0, "SSTR_STP": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One exposure, its reference, and how the step is called."""

    name: str
    shape: tuple[int, ...]
    """Shape of the ramp (nints, ngroups, ny, nx)."""
    start: tuple[int, int] = (1, 1)
    """SUBSTRT1 and SUBSTRT2 of the exposure."""
    instrument: str = "MIRI"
    exposure_type: str = "MIR_IMAGE"
    reference_shape: tuple[int, int] = FULL_MIRI
    reference_start: tuple[int, int] = (1, 1)
    definitions: Sequence[tuple[int, str]] | None = STANDARD
    """Value and name of every row of DQ_DEF; none for a reference without the table."""
    all_bits: bool = False
    """Whether pixels of the reference carry any of 32 bits; otherwise those that are defined, and one that is not."""
    existing: bool = False
    """Whether the exposure comes with flags."""
    user: bool = False
    """Whether there are user-supplied flags."""
    override: bool = True
    """Whether the reference overrides CRDS; if not, ``N/A`` does."""
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def is_guider(self) -> bool:
        """Whether the exposure has flags of its pixels only."""
        return self.instrument == "FGS"


NIRCAM = {"instrument": "NIRCAM", "exposure_type": "NRC_IMAGE", "reference_shape": FULL}
FGS = {"instrument": "FGS", "reference_shape": FULL}
NIRISS = {"instrument": "NIRISS", "exposure_type": "NIS_SOSS", "reference_shape": FULL}

CASES = (
    Case("MIRI full frame", (1, 5, 1024, 1032)),
    Case("MIRI several integrations", (3, 4, 1024, 1032)),
    Case("MIRI subarray", (1, 5, 224, 288), (1, 467)),
    Case("MIRI existing PIXELDQ and GROUPDQ", (2, 3, 1024, 1032), existing=True),
    Case("MIRI subarray with existing flags", (2, 3, 256, 256), (413, 51), existing=True),
    Case("DQ_DEF with unknown names", (1, 2, 1024, 1032), definitions=WITH_UNKNOWN),
    Case("DQ_DEF with overlapping values", (1, 2, 1024, 1032), definitions=OVERLAPPING),
    Case("reference without DQ_DEF, 32 bits", (1, 2, 1024, 1032), definitions=None, all_bits=True),
    Case("DQ_DEF of 32 reversed bits", (1, 2, 1024, 1032), all_bits=True, definitions=()),
    Case("user-supplied DQ", (1, 5, 1024, 1032), user=True),
    Case("user-supplied DQ, subarray, existing", (1, 2, 224, 288), (1, 467), user=True, existing=True),
    Case("override N/A", (1, 5, 1024, 1032), override=False),
    Case("override N/A, existing flags", (1, 2, 1024, 1032), override=False, existing=True),
    Case("reference of the same subarray", (1, 3, 64, 72), (1, 779), reference_shape=(64, 72),
         reference_start=(1, 779)),
    Case("subarray in a reference of a subarray", (1, 3, 32, 40), (9, 790), reference_shape=(64, 72),
         reference_start=(1, 779)),
    Case("NIRCam 10 x 2048 x 2048", (1, 10, 2048, 2048), **NIRCAM),
    Case("NIRCam subarray", (2, 2, 160, 160), (1889, 1), **NIRCAM, existing=True, user=True),
    Case("NIRSpec IRS2, 3200 lines", (1, 2, 3200, 2048), instrument="NIRSPEC", exposure_type="NRS_MSASPEC",
         reference_shape=(3200, 2048), keywords={"SUBSIZE2": 2048}),
    Case("NIRISS superstripe SUB204STRIPE_SOSS", (20, 2, 256, 208), (2048, 1793), **NIRISS, keywords=SOSS),
    Case("NIRISS superstripe, existing and user DQ", (10, 2, 256, 208), (2048, 1793), **NIRISS, keywords=SOSS,
         existing=True, user=True),
    Case("NIRCam superstripe SUB64P", (64, 2, 8, 64), (1851, 2046), **NIRCAM, keywords=SUB64P),
    Case("NIRCam multistripe DHS", (1, 2, 164, 2048), (1, 1), **NIRCAM, keywords=DHS),
    Case("NIRSpec multistripe, fast axis y", (1, 2, 64, 63), (101, 65), instrument="NIRSPEC",
         exposure_type="NRS_BRIGHTOBJ", reference_shape=FULL, keywords=SLANTED),
    Case("FGS_ID-IMAGE", (1, 2, 2048, 2048), **FGS, exposure_type="FGS_ID-IMAGE"),
    Case("FGS_ID-STACK", (1, 2, 512, 640), (33, 65), **FGS, exposure_type="FGS_ID-STACK"),
    Case("FGS_ACQ1, existing DQ", (3, 2, 128, 128), (960, 961), **FGS, exposure_type="FGS_ACQ1", existing=True),
    Case("FGS_ACQ2", (5, 2, 32, 32), (1001, 1001), **FGS, exposure_type="FGS_ACQ2"),
    Case("FGS_TRACK, user DQ", (4, 2, 32, 32), (1001, 900), **FGS, exposure_type="FGS_TRACK", user=True),
    Case("FGS_FINEGUIDE, existing and user DQ", (7, 4, 8, 8), (2041, 2041), **FGS, exposure_type="FGS_FINEGUIDE",
         existing=True, user=True),
)  # fmt: skip


@dataclass(frozen=True)
class Files:
    """Where the files of a case are."""

    exposure: Path
    override: str
    """Path of the reference, or ``N/A``."""
    user: str
    """Path of the user's flags, or empty."""


def write_cases(folder: Path, cases: Sequence[Case] = CASES) -> Iterator[tuple[Case, Files]]:
    """Write the files of every case into a folder, the same ones every time."""
    for number, case in enumerate(cases):
        rng = np.random.default_rng([20, number])
        files = Files(
            folder / f"case{number:02}_uncal.fits",
            str(folder / f"case{number:02}_mask.fits") if case.override else "N/A",
            str(folder / f"case{number:02}_user.fits") if case.user else "",
        )
        write_exposure(files.exposure, case, rng)
        if case.override:
            write_reference(Path(files.override), case, rng)
        if case.user:
            fits.PrimaryHDU(scattered(rng, flags_shape(case), bits=32)).writeto(files.user)
        yield case, files


def flags_shape(case: Case) -> tuple[int, ...]:
    """Return the shape of the flags of the pixels."""
    stripes = case.keywords.get("SSTR_NST", 0)
    return (stripes, *case.shape[2:]) if stripes else case.shape[2:]


def scattered(rng: np.random.Generator, shape: tuple[int, ...], bits: int, share: float = 0.04) -> NDArray[np.uint32]:
    """Return a plane on which a share of the pixels carry some of the lowest bits."""
    values = rng.integers(1, 1 << bits, shape, np.uint32 if bits < 32 else np.uint64).astype(np.uint32)
    return np.where(rng.random(shape) < share, values, 0).astype(np.uint32)


def write_exposure(path: Path, case: Case, rng: np.random.Generator) -> None:
    """Write a ramp as JWST has them."""
    ny, nx = case.shape[2:]
    primary = fits.PrimaryHDU()
    primary.header.update(
        {
            "TELESCOP": "JWST", "INSTRUME": case.instrument, "EXP_TYPE": case.exposure_type, "DATE-OBS": "2025-01-01",
            "TIME-OBS": "00:00:00.000", "NINTS": case.shape[0], "NGROUPS": case.shape[1],
            "DATAMODL": "GuiderRawModel" if case.is_guider else "RampModel",
            "SUBSTRT1": case.start[0], "SUBSTRT2": case.start[1], "SUBSIZE1": nx, "SUBSIZE2": ny,
        } | case.keywords
    )  # fmt: skip
    science = np.broadcast_to(np.arange(nx, dtype=np.float32), case.shape)
    hdus = [primary, fits.ImageHDU(np.ascontiguousarray(science), name="SCI")]
    if case.existing:
        name = "DQ" if case.is_guider else "PIXELDQ"
        hdus.append(fits.ImageHDU(scattered(rng, flags_shape(case), bits=32), name=name))
    if case.existing and not case.is_guider:
        hdus.append(fits.ImageHDU(scattered(rng, case.shape, bits=8).astype(np.uint8), name="GROUPDQ"))
    fits.HDUList(hdus).writeto(path)


def write_reference(path: Path, case: Case, rng: np.random.Generator) -> None:
    """Write a bad-pixel mask as JWST has them."""
    ny, nx = case.reference_shape
    primary = fits.PrimaryHDU()
    primary.header.update(
        {
            "TELESCOP": "JWST", "INSTRUME": case.instrument, "REFTYPE": "MASK", "USEAFTER": "2020-01-01T00:00:00",
            "PEDIGREE": "GROUND", "AUTHOR": "generated", "DESCRIP": "bad pixels at random", "DATAMODL": "MaskModel",
            "SUBSTRT1": case.reference_start[0], "SUBSTRT2": case.reference_start[1], "SUBSIZE1": nx, "SUBSIZE2": ny,
        } | {key: value for key, value in case.keywords.items() if key == "SUBSIZE2"}
    )  # fmt: skip
    definitions = reversed_bits() if case.all_bits and case.definitions is not None else case.definitions
    bits = 32 if case.all_bits else max(value for value, _ in definitions or ()).bit_length() + 1
    hdus = [primary, fits.ImageHDU(scattered(rng, case.reference_shape, bits), name="DQ")]
    if definitions is not None:
        hdus.append(definition_table(definitions))
    fits.HDUList(hdus).writeto(path)


def reversed_bits() -> list[tuple[int, str]]:
    """Return definitions in which every bit of the file is another one of the standard table."""
    from tasks.products.dq import DQFlag

    names = [str(flag.name) for flag in DQFlag if flag]
    return [(1 << (31 - bit), name) for bit, name in enumerate(names)]


def definition_table(definitions: Sequence[tuple[int, str]]) -> fits.BinTableHDU:
    """Return a table DQ_DEF."""
    values = np.array([value for value, _ in definitions], np.uint32)
    columns = [
        fits.Column("BIT", "J", array=np.arange(len(values))),
        fits.Column("VALUE", "J", bzero=1 << 31, array=values),
        fits.Column("NAME", "40A", array=[name for _, name in definitions]),
        fits.Column("DESCRIPTION", "80A", array=["" for _ in definitions]),
    ]
    return fits.BinTableHDU.from_columns(columns, name="DQ_DEF")
