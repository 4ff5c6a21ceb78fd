"""Where every product lives in a collection: the only key templates there are."""

from tasks.products.identity import CcdId, ExposureId, TileId

SURVEY_CATALOG = "survey/catalog.fits"
SURVEY_CATALOG_PARQUET = "survey/catalog.parquet"
SURVEY_SHEAR = "survey/shear.json"
SURVEY_REPORT = "survey/report.html"


def ccd(ccd_id: CcdId, name: str) -> str:
    """Return the key of a product of one CCD, such as ``exposures/2113737/ccd-10/mask.fits``."""
    return f"exposures/{ccd_id.exposure}/ccd-{ccd_id.ccd:02d}/{name}"


def exposure(exposure_id: ExposureId, name: str) -> str:
    """Return the key of a product of one exposure, such as ``exposures/2113737/headers.sqlite``."""
    return f"exposures/{exposure_id}/{name}"


def tile(tile_id: TileId, name: str) -> str:
    """Return the key of a product of one tile, such as ``tiles/210.296/catalog.fits``."""
    return f"tiles/{tile_id}/{name}"


def reference(observatory: str, name: str) -> str:
    """Return the key under which a collection keeps a copy of a reference file."""
    return f"references/{observatory}/{name}"


def night(date: str, name: str) -> str:
    """Return the key of what a night leaves, such as ``nights/2026-11-20/report.json``."""
    return f"nights/{date}/{name}"


def record(stage: str, subject: str) -> str:
    """Return the key of the record that says how a product was made."""
    return f"records/{stage}/{subject}.json"
