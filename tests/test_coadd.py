"""A tile keeps the stars of its exposures: their places, their fluxes at zero point 30, and no bad pixel."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

from tasks.archive.documents import write_document
from tasks.archive.fits_wcs import read_wcs, wcs_to_header_text
from tasks.archive.images import read_coadd, write_ccd_image
from tasks.archive.planes import write_plane
from tasks.archive.sources import write_sources
from tasks.archive.tables import empty_table
from tasks.coadd import CoaddConfig, coadd_tile, coadd_tile_task, prepare_ccd
from tasks.errors import DataError, NoGoodPixelsError, ShapeMismatchError
from tasks.products.columns import SOURCES
from tasks.products.dq import MaskFlag
from tasks.products.identity import CcdId, CcdProducts, TileId
from tasks.products.images import CcdImage, Photometry, Window
from tasks.products.sources import SourceList
from tasks.products.wcs_index import CcdRecord, TileExposures
from tasks.science.geometry import image_footprint, pixel_area_arcsec2, pixel_to_sky, sky_to_pixel
from tasks.science.resampling import contributing_inputs
from tasks.science.sphere import bounding_circle, tangent_plane

CENTRE = (210.0, 54.0)
SHAPE = (220, 240)
SIZE = 160
SCALE = 0.187
STAR_MAG = 18.0
STAR_FLUX = 10 ** (0.4 * (30 - STAR_MAG))
SKY = 1500.0


def make_wcs(x0, y0, angle_deg):
    header = fits.Header()
    angle, step = np.radians(angle_deg), SCALE / 3600
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"], header["CRPIX1"], header["CRPIX2"] = *CENTRE, x0, y0
    header["CD1_1"], header["CD1_2"] = -step * np.cos(angle), step * np.sin(angle)
    header["CD2_1"], header["CD2_2"] = step * np.sin(angle), step * np.cos(angle)
    for axis, sign in ((1, 1), (2, -1)):
        header[f"PV{axis}_1"], header[f"PV{axis}_4"], header[f"PV{axis}_5"] = 1.0, sign * 1.2, 0.5
    return read_wcs(header), header.tostring()


def star_sky():
    u, v = np.array([[-9.0, 8.2, 0.3, -7.7, 8.9], [-8.4, -9.1, 0.1, 8.8, 7.9]])
    return CENTRE[0] - u / 3600 / np.cos(np.radians(CENTRE[1])), CENTRE[1] + v / 3600


def make_image(exposure, ccd=0, *, dither=(0.0, 0.0), angle=0.0, zero_point=26.0, noise=0.0, stars=True, section=None):
    """A CCD with a sloping sky and five stars of magnitude 18."""
    wcs, text = make_wcs(120.0 + dither[0], 110.0 + dither[1], angle)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    sky = pixel_to_sky(wcs, x, y)
    area = pixel_area_arcsec2(wcs, x.ravel(), y.ravel()).reshape(SHAPE)
    light = np.zeros(SHAPE)
    for ra, dec in zip(*star_sky(), strict=True):
        u, v = tangent_plane(*sky, ra, dec)
        light += np.exp(-0.5 * (u**2 + v**2) / 0.35**2) / (2 * np.pi * 0.35**2)
    adu = 10 ** (0.4 * (zero_point - STAR_MAG)) * light * area * stars
    rng = np.random.default_rng([int(exposure), ccd])
    sci = SKY + 0.2 * x + adu + noise * rng.normal(size=SHAPE)
    return CcdImage(
        id=CcdId(exposure=exposure, ccd=ccd),
        sci=sci.astype(np.float32),
        weight=np.full(SHAPE, 2.0, np.float32),
        dq=np.zeros(SHAPE, np.uint32),
        wcs=wcs,
        photometry=Photometry(1.6, 4.0, 60000.0, 200.0, zero_point, 57000.0, "r"),
        data_section=section or Window.full(SHAPE),
        header_text=text,
    )


def make_sources(image, *, variance_scale=50.0):
    """What detection leaves: here the true sky in boxes of 20 pixels, and the noise."""
    columns = np.arange(12) * 20 + 9.5
    mesh = np.tile(SKY + 0.2 * columns, (11, 1))
    return SourceList(
        str(image.id),
        empty_table(SOURCES, flux_aper=(1,), fluxerr_aper=(1,), mag_aper=(1,), magerr_aper=(1,)),
        np.zeros(SHAPE, np.int32),
        mesh,
        np.full_like(mesh, 5.0),
        20,
        variance_scale,
        image.photometry.zero_point,
    )


def make_tile(*images, size=SIZE):
    records = []
    for image in sorted(images, key=lambda image: (image.id.exposure, image.id.ccd)):
        outline = image_footprint(image.wcs, SHAPE)
        records.append(
            CcdRecord(
                ccd=image.id,
                shape=SHAPE,
                data_section=image.data_section,
                footprint=tuple(map(tuple, outline.tolist())),
                circle=bounding_circle(outline[:, 0], outline[:, 1]),
                photometry=image.photometry,
                wcs_text=wcs_to_header_text(image.wcs),
            )
        )
    return TileExposures(
        tile=TileId("210.288"), ra=CENTRE[0], dec=CENTRE[1], size_px=size, pixel_scale_arcsec=SCALE, ccds=tuple(records)
    )


def coadd(*images, masks=None, config=None, size=SIZE):
    config, masks = config or CoaddConfig(), masks or {}
    blank = np.zeros(SHAPE, np.uint32)
    ccds = {
        image.id: lambda image=image: prepare_ccd(image, masks.get(image.id, blank), make_sources(image), config)
        for image in images
    }
    return coadd_tile(make_tile(*images, size=size), ccds, config)


def exposures(**options):
    dithers = [((0.0, 0.0), 0.0, 26.0), ((7.3, -4.6), 2.0, 26.4), ((-5.8, 8.1), 181.0, 25.7)]
    return [
        make_image(f"{2000001 + n}", dither=dither, angle=angle, zero_point=zero_point, **options)
        for n, (dither, angle, zero_point) in enumerate(dithers)
    ]


def measure(image, x, y, half=14):
    column, row = round(float(x)), round(float(y))
    stamp = image[row - half : row + half + 1, column - half : column + half + 1].astype(float)
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1]
    return stamp.sum(), column + (stamp * dx).sum() / stamp.sum(), row + (stamp * dy).sum() / stamp.sum()


def test_stars_of_exposures_of_unlike_zero_points_keep_flux_and_place():
    tile = coadd(*exposures())
    x, y, found = sky_to_pixel(tile.wcs, *star_sky(), (SIZE, SIZE))
    assert found.all()
    for star_x, star_y in zip(x, y, strict=True):
        flux, found_x, found_y = measure(tile.sci, star_x, star_y)
        assert flux == pytest.approx(STAR_FLUX, rel=1e-4)
        assert np.hypot(found_x - star_x, found_y - star_y) * SCALE < 2e-3


def test_the_background_is_zero_and_the_weight_says_how_large_the_noise_is():
    tile = coadd(*exposures(noise=5.0, stars=False))
    inner = (slice(20, 140), slice(20, 140))
    pulls = tile.sci[inner] * np.sqrt(tile.weight[inner])
    blocks = tile.sci[inner].reshape(12, 10, 12, 10).sum(axis=(1, 3)) * np.sqrt(tile.weight[inner].mean()) / 10
    assert abs(pulls.mean()) < 0.05
    # neighbours share noise, so single pixels scatter less than large areas, which scatter as the weight says
    assert 0.4 < pulls.std() < 0.95
    assert blocks.std() == pytest.approx(1.0, abs=0.2)


def test_noisy_exposures_count_less():
    good, bad = make_image("2000001", zero_point=26.0), make_image("2000002", zero_point=24.0)
    bad.sci[:] += 100.0
    tile = coadd(good, bad)
    share = 10 ** (0.8 * (24.0 - 26.0))
    excess = 100.0 * bad.photometry.flux_scale * share / (1 + share)
    assert np.median(tile.sci) == pytest.approx(excess, rel=2e-2)


def test_masked_pixels_are_taken_from_the_other_exposures():
    images = exposures()
    clean = coadd(*images)
    broken = images[1]
    broken.sci[100:104, :] = 6e4
    broken.sci[110, 110] = np.nan
    mask = np.zeros(SHAPE, np.uint32)
    mask[100:104, :] = MaskFlag.EXTERNAL
    mask[110, 110] = MaskFlag.WEIGHT
    tile = coadd(*images, masks={broken.id: mask})
    assert np.isfinite(tile.sci).all()
    assert np.abs(tile.sci - clean.sci).max() < 0.05 * clean.sci.max()
    x, y, _ = sky_to_pixel(tile.wcs, *star_sky(), (SIZE, SIZE))
    for star_x, star_y in zip(x, y, strict=True):
        assert measure(tile.sci, star_x, star_y)[0] == pytest.approx(STAR_FLUX, rel=1e-2)


def test_only_the_bits_of_the_settings_keep_pixels_out():
    image = make_image("2000001")
    mask = np.full(SHAPE, MaskFlag.HALO, np.uint32)
    assert (prepare_ccd(image, mask, make_sources(image), CoaddConfig()).weight > 0).all()
    assert not prepare_ccd(image, mask, make_sources(image), CoaddConfig(excluded=("HALO",))).weight.any()


def test_pixels_beside_the_data_section_are_kept_out():
    image = make_image("2000001", section=Window(10, 5, 230, 215))
    weight = prepare_ccd(image, np.zeros(SHAPE, np.uint32), make_sources(image), CoaddConfig()).weight
    assert np.count_nonzero(weight) == 210 * 220
    assert not weight[:, :10].any()


def test_context_gain_and_saturation_tell_of_the_inputs():
    images = exposures()
    tile = coadd(*images[::-1])
    assert [ccd.exposure for ccd in tile.inputs] == ["2000001", "2000002", "2000003"]
    assert contributing_inputs(tile.context, SIZE // 2, SIZE // 2) == (0, 1, 2)
    electrons = sum(image.photometry.gain / image.photometry.flux_scale for image in images)
    assert tile.gain == pytest.approx(electrons, rel=0.02)
    lowest = min((60000.0 - SKY) * image.photometry.flux_scale for image in images)
    assert tile.saturation == pytest.approx(lowest, rel=0.05)


def test_more_than_32_ccds_have_a_second_context_plane():
    image = make_image("2000001", stars=False)
    images = [replace(image, id=CcdId(exposure=f"{2000001 + n}", ccd=0)) for n in range(34)]
    tile = coadd(*images, size=24)
    assert tile.context.shape == (2, 24, 24)
    assert contributing_inputs(tile.context, 12, 12) == tuple(range(34))


def test_a_ccd_that_adds_nothing_is_no_input():
    near, far = make_image("2000001"), make_image("2000002", dither=(2000.0, 0.0))
    assert coadd(near, far).inputs == (near.id,)


def test_the_order_of_arrival_changes_no_bit():
    images = exposures(noise=5.0)
    first, second = coadd(*images), coadd(*images[::-1])
    np.testing.assert_array_equal(first.sci, second.sci)
    np.testing.assert_array_equal(first.weight, second.weight)


def test_a_tile_on_which_no_ccd_has_a_usable_pixel_is_refused():
    image = make_image("2000001")
    mask = np.full(SHAPE, MaskFlag.EXTERNAL, np.uint32)
    with pytest.raises(NoGoodPixelsError, match=r"Tile 210.288: none of the 1 CCDs has a usable pixel on it"):
        coadd(image, masks={image.id: mask})


def test_a_ccd_that_is_missing_is_an_error_and_not_a_shallower_tile():
    with pytest.raises(DataError, match="1 of the 1 CCDs that overlap it have no products, such as 2000001-0"):
        coadd_tile(make_tile(make_image("2000001")), {}, CoaddConfig())


def test_a_mask_of_another_shape_is_refused():
    image = make_image("2000001")
    with pytest.raises(ShapeMismatchError, match=r"CCD 2000001-0: its mask has the shape \(3, 3\)"):
        prepare_ccd(image, np.zeros((3, 3), np.uint32), make_sources(image), CoaddConfig())


def test_the_task_reads_products_and_writes_a_tile_that_reads_back(store):
    images, products = exposures(noise=5.0)[:2], []
    for image in images:
        folder = f"exposures/{image.id.exposure}/ccd-00"
        ref = write_ccd_image(store, f"{folder}/image.fits", image)
        mask = write_plane(store, f"{folder}/mask.fits", np.zeros(SHAPE, np.uint32), "MASK", subject=image.id)
        found = write_sources(store, f"{folder}/sources.fits", make_sources(image))
        refs = {"image": ref, "dq": mask, "mask": mask, "sources": found, "stars": ref, "psf": ref, "residuals": ref}
        products.append(CcdProducts(ccd=image.id, **refs))
    tile = write_document(store, "tiles/210.288/exposures.json", make_tile(*images), subject="210.288")
    ref = coadd_tile_task.fn(TileId("210.288"), tile, products, CoaddConfig(), store)
    assert ref.key == "tiles/210.288/coadd.fits"
    assert ref.summary["n_ccds"] == 2
    assert ref.summary["covered_fraction"] > 0.95
    expected, back = coadd(*images), read_coadd(store, ref)
    np.testing.assert_array_equal(back.sci, expected.sci)
    np.testing.assert_array_equal(back.context, expected.context)
    assert back.inputs == expected.inputs
    x, y = np.array([0.0, SIZE - 1.0]), np.array([SIZE - 1.0, 3.0])
    np.testing.assert_allclose(pixel_to_sky(back.wcs, x, y), pixel_to_sky(expected.wcs, x, y), rtol=0, atol=1e-9)
    again = coadd_tile_task.fn(TileId("210.288"), tile, products[::-1], CoaddConfig(), store)
    np.testing.assert_array_equal(read_coadd(store, again).sci, back.sci)
