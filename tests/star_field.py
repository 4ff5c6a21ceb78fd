"""A small CCD full of stars whose PSF is known everywhere, taken through the real stages of an exposure."""

from dataclasses import dataclass

import galsim
import numpy as np

from blocks.store import DataStore
from tasks.archive.images import write_ccd_image
from tasks.archive.planes import write_plane
from tasks.detect import DetectConfig, detect_ccd_task
from tasks.products.dq import MaskFlag
from tasks.products.identity import CcdId, ProductRef
from tasks.products.images import CcdImage, Photometry, Window
from tasks.psf_fit import PsfFitConfig, fit_psf_task
from tasks.psf_validate import PsfValidateConfig, validate_psf_task
from tasks.science.geometry import tile_wcs
from tasks.stars import StarsConfig, select_stars_task

CCD = CcdId(exposure="2113737", ccd=10)
SHAPE = (720, 700)
SCALE = 0.187
SKY, GAIN, READ_NOISE, ZERO_POINT = 1000.0, 1.6, 5.0, 32.5


def psf_shape(x: float, y: float) -> tuple[float, float, float]:
    """FWHM in pixels and shape in the pixel frame."""
    u, v = x / 350.0 - 1.0, y / 360.0 - 1.0
    return 3.7 * (1.0 + 0.01 * u), 0.03 + 0.01 * u, -0.02 + 0.01 * v


def draw_psf(x: float, y: float, dx: float = 0.0, dy: float = 0.0, size: int = 51) -> np.ndarray:
    fwhm, g1, g2 = psf_shape(x, y)
    star = galsim.Moffat(beta=3.5, fwhm=fwhm).shear(g1=g1, g2=g2).shift(dx, dy)
    return star.drawImage(nx=size, ny=size, scale=1.0).array.astype(np.float64)


def make_ccd(n_side: int = 7, seed: int = 1) -> tuple[CcdImage, np.ndarray]:
    """Return a CCD with ``n_side`` squared stars and its lensing mask, which has a bad column and a halo."""
    rng = np.random.default_rng(seed)
    ny, nx = SHAPE
    image = np.full(SHAPE, SKY)
    grid = (np.arange(n_side) + 0.5) / n_side
    for gx, gy in ((gx, gy) for gy in grid for gx in grid):
        x, y = gx * nx + rng.uniform(-12, 12), gy * ny + rng.uniform(-12, 12)
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        stamp = draw_psf(x, y, x - column, y - row, 61) * 10.0 ** (0.4 * (ZERO_POINT - rng.uniform(18.3, 21.0)))
        r0, c0 = max(0, row - 30), max(0, column - 30)
        part = stamp[r0 - row + 30 : ny - row + 30, c0 - column + 30 : nx - column + 30]
        image[r0 : r0 + part.shape[0], c0 : c0 + part.shape[1]] += part
    image = rng.normal(image, np.sqrt(image / GAIN + (READ_NOISE / GAIN) ** 2))
    mask = np.zeros(SHAPE, np.uint16)
    mask[:, 255] = int(MaskFlag.EXTERNAL)
    image[:, 255] = 7.0
    mask[:60, 640:] = int(MaskFlag.HALO)
    ccd = CcdImage(
        id=CCD,
        sci=image.astype(np.float32),
        weight=np.where(mask == int(MaskFlag.EXTERNAL), 0, 1).astype(np.float32),
        dq=np.zeros(SHAPE, np.uint32),
        wcs=tile_wcs(210.0, 54.0, size_px=700, pixel_scale_arcsec=SCALE),
        photometry=Photometry(
            gain=GAIN, read_noise=READ_NOISE, saturation=6e4, exposure_time_s=200.0, zero_point=ZERO_POINT,
            mjd=57429.25, band="r",
        ),
        data_section=Window.full(SHAPE),
    )  # fmt: skip
    return ccd, mask


@dataclass(frozen=True)
class Products:
    """What the stages left in the store."""

    store: DataStore
    image: ProductRef
    mask: ProductRef
    sources: ProductRef
    stars: ProductRef

    def fit(self, **settings: object) -> ProductRef:
        config = PsfFitConfig(**settings)  # type: ignore[arg-type]
        return fit_psf_task.fn(self.image, self.mask, self.sources, self.stars, config, self.store)

    def validate(self, psf: ProductRef, stars: ProductRef | None = None) -> ProductRef:
        return validate_psf_task.fn(
            self.image, self.mask, self.sources, stars or self.stars, psf, PsfValidateConfig(), self.store
        )


def process(store: DataStore, n_side: int = 7, **settings: object) -> Products:
    ccd, plane = make_ccd(n_side)
    image = write_ccd_image(store, "exposures/2113737/ccd-10/image.fits", ccd)
    mask = write_plane(store, "exposures/2113737/ccd-10/mask.fits", plane, "MASK", subject=CCD)
    sources = detect_ccd_task.fn(image, mask, DetectConfig(), store)
    stars = select_stars_task.fn(image, sources, StarsConfig(**settings), store)  # type: ignore[arg-type]
    return Products(store, image, mask, sources, stars)
