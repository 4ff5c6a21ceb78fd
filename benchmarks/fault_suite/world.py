"""A small but real survey for the fault suite: simulated exposures, and copies of them on other fields of the sky."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from blocks.store import DataStore
from flows.config import SurveyConfig, dump_survey, load_survey
from tasks.archive.raw_survey import STAR_CATALOG
from tasks.products.identity import ExposureId, TileId
from tasks.science.geometry import TileGrid
from tasks.simulate import list_simulated_exposures, simulate_exposure_task, simulate_sky_task

SPACING_DEG = 0.06
FIRST_TILE = TileId("2165.2000")
# the fields lie side by side along right ascension: turning the sky leaves every picture as it is
RA_DEG, DEC_DEG = TileGrid(SPACING_DEG).centre(FIRST_TILE)
FIELD_STEP_DEG = RA_DEG / FIRST_TILE.column
FIRST_NUMBER = 3_000_000
FILES = ("p.fits.fz", "p.weight.fits.fz", "p.flag.fits.fz")

CHANGES = (
    "simulation.seed=3",
    f"simulation.field={{center_ra_deg: {RA_DEG}, center_dec_deg: {DEC_DEG}, width_deg: 0.03, height_deg: 0.022}}",
    "simulation.galaxies.density_arcmin2=30",
    "simulation.galaxies.faint_magnitude=23.5",
    "exposure.min_ccds=1",
    f"tile.find_exposures.spacing_deg={SPACING_DEG}",
    "tile.find_exposures.min_exposures=1",
)
# two CCDs with some 30 stars each
TWO_CCDS = (
    *CHANGES,
    "simulation.stars={density_arcmin2: 26, faint_magnitude: 21, n_bright: 1}",
    "simulation.camera={n_columns: 2, n_rows: 1, ccd_width_px: 420, ccd_height_px: 420, gap_arcsec: 2,"
    " distortion_arcsec: 1}",
    "simulation.pointing={n_per_pointing: 2, dither_ra_arcsec: 6, dither_dec_arcsec: 6}",
    "exposure.instrument.n_ccds=2",
    "tile.find_exposures.size_px=420",
)
# as little work as an exposure can be
ONE_CCD = (
    *CHANGES,
    "simulation.stars={density_arcmin2: 50, faint_magnitude: 20.5, n_bright: 0}",
    "simulation.camera={n_columns: 1, n_rows: 1, ccd_width_px: 300, ccd_height_px: 300, distortion_arcsec: 1}",
    "simulation.pointing={n_per_pointing: 5, dither_ra_arcsec: 3, dither_dec_arcsec: 3}",
    "exposure.instrument.n_ccds=1",
    "exposure.psf_fit.min_stars=10",
    "tile.find_exposures.size_px=200",
)
# small, but with stages that take as long as Prefect needs for a few of them
NIGHT = (
    *CHANGES,
    "simulation.stars={density_arcmin2: 12, faint_magnitude: 21, n_bright: 1}",
    "simulation.camera={n_columns: 1, n_rows: 1, ccd_width_px: 1000, ccd_height_px: 1000, distortion_arcsec: 1}",
    "simulation.pointing={n_per_pointing: 4, dither_ra_arcsec: 6, dither_dec_arcsec: 6}",
    "exposure.instrument.n_ccds=1",
    "tile.find_exposures.size_px=420",
)


@dataclass(frozen=True)
class World:
    """A survey on disk."""

    config: SurveyConfig
    survey_file: Path
    raw: DataStore
    tiles: dict[TileId, tuple[ExposureId, ...]]

    @property
    def exposures(self) -> tuple[ExposureId, ...]:
        """All exposures, tile by tile."""
        return tuple(name for names in self.tiles.values() for name in names)


def make_world(
    folder: Path,
    changes: Sequence[str],
    raw: DataStore,
    n_exposures: int,
    per_tile: int,
    staging: DataStore | None = None,
) -> World:
    """Simulate a pointing and copy it over as many fields as are needed.

    A copy has another name and another place on the sky; its pixels are those of the simulated exposure. Every field
    has one tile, which waits for the exposures of its field.

    Parameters
    ----------
    folder
        Gets the survey file.
    changes
        Settings of the survey, as on the command line.
    raw
        Where the raw files go.
    n_exposures, per_tile
        Number of exposures, and how many of them make a field; the last field may have fewer.
    staging
        Where the exposures go instead, until somebody delivers them; the files that all share go to ``raw``.
    """
    base = load_survey("demo", changes)
    if base.simulation is None:
        raise ValueError("the demo simulates nothing")
    simulated = list_simulated_exposures(base.simulation)
    scratch = DataStore(root=str(folder / "simulated"))
    simulate_sky_task.fn(base.simulation, scratch)
    for name in simulated:
        simulate_exposure_task.fn(name, base.simulation, scratch)
    for key in scratch.list_keys("crds"):
        raw.put_bytes(key, scratch.read_bytes(key))
    tiles: dict[TileId, tuple[ExposureId, ...]] = {}
    for field in range(-(-n_exposures // per_tile)):
        n_here = min(per_tile, n_exposures - field * per_tile)
        names = tuple(ExposureId(f"{FIRST_NUMBER + field * 100 + k:07d}") for k in range(n_here))
        for k, name in enumerate(names):
            copy_exposure(scratch, simulated[k % len(simulated)], staging or raw, name, field * FIELD_STEP_DEG)
        tiles[TileId(f"{FIRST_TILE.column + field}.{FIRST_TILE.row}")] = names
    raw.put_bytes(STAR_CATALOG, star_catalog(scratch, len(tiles)))
    return write_survey(folder, base, raw, tiles)


def write_survey(
    folder: Path, base: SurveyConfig, raw: DataStore, tiles: dict[TileId, tuple[ExposureId, ...]]
) -> World:
    """Write the survey file of a world."""
    known = {"tile_exposures": tiles} if "tile_exposures" in SurveyConfig.model_fields else {}
    config = base.model_copy(update={"simulation": None, "truth": None, "tiles": tuple(tiles), **known})
    file = folder / "survey.yaml"
    file.write_text(dump_survey(config))
    return World(config, file, raw, tiles)


def copy_exposure(source: DataStore, simulated: ExposureId, raw: DataStore, name: ExposureId, shift_deg: float) -> None:
    """Publish a simulated exposure under another name and further East; the image comes last, as from a telescope."""
    for suffix in reversed(FILES):
        data = io.BytesIO(source.read_bytes(f"{simulated}{suffix}"))
        # the compressed tables are copied as they are: only headers change
        with fits.open(data, disable_image_compression=True) as hdus:
            hdus[0].header["OBSID"] = int(name.name)
            for hdu in hdus[1:]:
                hdu.header["CRVAL1"] += shift_deg
            out = io.BytesIO()
            hdus.writeto(out)
        raw.put_bytes(f"{name}{suffix}", out.getvalue())


def star_catalog(source: DataStore, n_fields: int) -> bytes:
    """Return the star catalogue of all fields: that of the simulated one, repeated towards the East."""
    with fits.open(io.BytesIO(source.read_bytes(STAR_CATALOG))) as hdus:
        stars = np.asarray(hdus[1].data)
        fields = []
        for field in range(n_fields):
            here = stars.copy()
            here["RA"] += field * FIELD_STEP_DEG
            fields.append(here)
        out = io.BytesIO()
        fits.HDUList([hdus[0], fits.BinTableHDU(np.concatenate(fields), header=hdus[1].header)]).writeto(out)
    return out.getvalue()
