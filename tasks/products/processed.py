"""What a plan must know of a processed exposure, small enough to read thousands of them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.products.identity import ExposureId, ExposureProducts, ProductRef, SetAside
from tasks.products.recipe import Recipe

CIRCLE = ("ra_deg", "dec_deg", "radius_deg")
"""Names of the circle on the sky in the summary of a WCS index."""
MJD = "mjd"
"""Name of the date in the summary of a WCS index."""


class ExposureSummary(BaseModel):
    """What a plan must know of a processed exposure."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exposure: ExposureId
    """Name of the exposure."""

    fingerprint: str
    """Checksum of the bytes of all its products."""

    recipe: Recipe
    """What the products were made by and from."""

    headers: ProductRef
    """WCS index of its good CCDs."""

    circle: tuple[float, float, float] | None = None
    """Centre and radius, in degrees, of a circle on the sky that holds all its good CCDs; none if not recorded."""

    mjd: float | None = None
    """Modified Julian date of the start; none if not recorded."""

    n_ccds: int = 0
    """Good CCDs."""

    set_aside: tuple[SetAside, ...] = ()
    """CCDs that are missing, and why."""


def summarize_exposure(products: ExposureProducts) -> ExposureSummary:
    """Return what a plan must know of an exposure's products."""
    numbers = products.headers.summary
    circle = [float(numbers[name]) for name in CIRCLE if name in numbers]
    mjd = numbers.get(MJD)
    return ExposureSummary(
        exposure=products.exposure,
        fingerprint=products.fingerprint(),
        recipe=products.recipe,
        headers=products.headers,
        circle=(circle[0], circle[1], circle[2]) if len(circle) == len(CIRCLE) else None,
        mjd=None if mjd is None else float(mjd),
        n_ccds=len(products.ccds),
        set_aside=products.set_aside,
    )
