"""A survey small enough for tests: two exposures of two CCDs, one tile."""

from flows.config import SurveyConfig, load_survey

CHANGES = (
    "tiles=['2165.2000']",
    "simulation.seed=3",
    "simulation.field={center_ra_deg: 150.0, center_dec_deg: 30.0, width_deg: 0.03, height_deg: 0.022}",
    "simulation.galaxies.density_arcmin2=30",
    "simulation.galaxies.faint_magnitude=23.5",
    "simulation.stars={density_arcmin2: 26, faint_magnitude: 21, n_bright: 1}",
    "simulation.camera={n_columns: 2, n_rows: 1, ccd_width_px: 420, ccd_height_px: 420, gap_arcsec: 2,"
    " distortion_arcsec: 1}",
    "simulation.pointing={n_per_pointing: 2, dither_ra_arcsec: 6, dither_dec_arcsec: 6}",
    "exposure.instrument.n_ccds=2",
    "exposure.min_ccds=1",
    "tile.find_exposures.size_px=420",
    "tile.find_exposures.min_exposures=1",
)


def small_survey(*changes: str) -> SurveyConfig:
    """Return the demo's settings, made small, with further changes."""
    return load_survey("demo", [*CHANGES, *changes])
