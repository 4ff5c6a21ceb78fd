"""Names of exposures, CCDs and tiles, and references to stored products.

Names come from events, file names and headers, so they are data: each is matched against a pattern before it may become
part of a key, and no pattern admits a path separator, a leading dot or a control character.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, StringConstraints

from tasks.products.recipe import Recipe

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_+-]{0,63}$"
TILE_PATTERN = r"^[0-9]{3,6}\.[0-9]{3,6}$"
TILE_PARTS = re.compile(r"([0-9]{1,6})[.-]([0-9]{1,6})")
KEY_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_+.-]*(/[A-Za-z0-9][A-Za-z0-9_+.-]*)*$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"

MAX_CCDS = 1000

Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN, max_length=512)]
SummaryValue = int | float | str | bool


class NamedIdentity(RootModel[str]):
    """An identity that is one word, in Python, in JSON and in print."""

    model_config = ConfigDict(frozen=True)

    @property
    def name(self) -> str:
        """The word."""
        return self.root

    def __str__(self) -> str:
        return self.root


class ExposureId(NamedIdentity):
    """One exposure of the whole camera, such as ``2113737``."""

    root: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


def _canonical_tile(name: object) -> object:
    """Write ``210-296`` and ``0210.296`` as ``210.296``: one tile, one name, one place in the store."""
    parts = TILE_PARTS.fullmatch(name) if isinstance(name, str) else None
    return f"{int(parts[1]):03d}.{int(parts[2]):03d}" if parts else name


class TileId(NamedIdentity):
    """One cell of the survey grid, such as ``210.296``: column, dot, row."""

    # the validator in front hides the pattern from the schema by which Prefect refuses a run
    model_config = ConfigDict(frozen=True, json_schema_extra={"pattern": r"^[0-9]{1,6}[.-][0-9]{1,6}$"})

    root: Annotated[str, BeforeValidator(_canonical_tile), StringConstraints(pattern=TILE_PATTERN)]

    @property
    def column(self) -> int:
        """Index along right ascension."""
        return int(self.root.split(".")[0])

    @property
    def row(self) -> int:
        """Index along declination."""
        return int(self.root.split(".")[1])


class CcdId(BaseModel):
    """One CCD of one exposure; prints as ``2113737-10``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exposure: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    """Name of the exposure."""

    ccd: Annotated[int, Field(ge=0, lt=MAX_CCDS)]
    """Number of the CCD in the instrument description, from 0."""

    def __str__(self) -> str:
        return f"{self.exposure}-{self.ccd}"


Identity = NamedIdentity | CcdId
"""The name of an exposure, a tile or a CCD."""


class ProductRef(BaseModel):
    """What tasks exchange instead of arrays: which bytes are in the store under which key.

    Two references are the same product if key and checksum agree; the summary is for people and never part of a
    cache key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    key: Key
    """Name in the store, relative to the collection."""

    sha256: Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
    """Checksum of the stored bytes."""

    size: Annotated[int, Field(ge=0)]
    """Number of stored bytes."""

    subject: str = ""
    """What the product is about, as people say it: ``2113737-10`` or ``210.296``."""

    summary: dict[str, SummaryValue] = Field(default_factory=dict)
    """A few numbers for tables and reports, such as ``{"n_sources": 153}``."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProductRef) and (self.key, self.sha256) == (other.key, other.sha256)

    def __hash__(self) -> int:
        return hash((self.key, self.sha256))


class RawExposure(BaseModel):
    """The raw files of one exposure in the raw store; weight and flag images are optional."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exposure: ExposureId
    """Name of the exposure."""

    image: ProductRef
    """Image file: a multi-extension FITS file, tile-compressed or not."""

    weight: ProductRef | None = None
    """Weight file with the same extensions, 0 where a pixel is bad."""

    flag: ProductRef | None = None
    """Flag file with the same extensions; the instrument description gives the meaning of the bits."""


class RawStack(BaseModel):
    """The image of a tile that was stacked elsewhere, in the raw store."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tile: TileId
    """Name of the tile."""

    image: ProductRef
    """Its image: a FITS file, tile-compressed or not."""

    weight: ProductRef | None = None
    """Its weight, an image of the same shape; none gives every pixel with a value the same weight."""


class CcdProducts(BaseModel):
    """What the exposure flow leaves of one CCD, as the tile flow needs it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ccd: CcdId
    """The CCD."""

    image: ProductRef
    """Science, weight and DQ as split from the raw exposure."""

    dq: ProductRef
    """DQ plane with the static flags of the detector."""

    mask: ProductRef
    """Lensing mask."""

    sources: ProductRef
    """Detected sources, segmentation, background and rms meshes."""

    stars: ProductRef
    """Stars selected for the PSF model."""

    psf: ProductRef
    """PSF model."""

    residuals: ProductRef
    """PSF residuals at the reserved stars."""


class SetAside(BaseModel):
    """Something that the run went on without, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    subject: str
    """CCD, exposure or tile."""

    stage: str
    """Stage that refused it."""

    reason: str
    """The sentence of the error."""


class ExposureProducts(BaseModel):
    """What the exposure flow leaves: its good CCDs, its WCS index, and what it set aside."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exposure: ExposureId
    """Name of the exposure."""

    headers: ProductRef
    """WCS index of the good CCDs."""

    ccds: tuple[CcdProducts, ...]
    """Products of the good CCDs, by CCD number."""

    set_aside: tuple[SetAside, ...] = ()
    """CCDs that are missing here, and why."""

    recipe: Recipe = Recipe()
    """What the products were made by and from."""

    def all_products(self) -> tuple[ProductRef, ...]:
        """Return every product of the exposure; references to one product occur once."""
        ccds = (getattr(ccd, name) for ccd in self.ccds for name in CcdProducts.model_fields if name != "ccd")
        return tuple(dict.fromkeys([self.headers, *ccds]))

    def fingerprint(self) -> str:
        """Return a checksum of the bytes of all products, the first 16 hexadecimal digits of a SHA-256."""
        lines = sorted(f"{ref.key} {ref.sha256}\n" for ref in self.all_products())
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


class Refusal(BaseModel):
    """An exposure or tile that could not be processed with the data there are; kept until something changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    subject: str
    """Exposure or tile."""

    reason: str
    """The sentence of the error."""

    recipe: Recipe
    """What it was tried with: the same is not tried again."""


class TileProducts(BaseModel):
    """What the tile flow leaves."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    tile: TileId
    """Name of the tile."""

    catalog: ProductRef
    """Catalogue of the tile: one row per detected source."""

    products: dict[str, ProductRef]
    """Every product of the tile by stage."""

    set_aside: tuple[SetAside, ...] = ()
    """What the tile went on without, and why."""

    recipe: Recipe = Recipe()
    """What the products were made by and from."""

    def all_products(self) -> tuple[ProductRef, ...]:
        """Return every product of the tile."""
        return tuple(dict.fromkeys([self.catalog, *self.products.values()]))
