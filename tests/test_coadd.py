"""A tile keeps the stars of its exposures: their places, their fluxes at zero point 30, and no bad pixel."""

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from pydantic import ValidationError

from tasks.archive.coadds import PLANES, read_coadd
from tasks.archive.documents import write_document
from tasks.archive.fits_wcs import read_wcs, wcs_to_header_text
from tasks.archive.images import write_ccd_image
from tasks.archive.planes import write_plane
from tasks.archive.psfex import write_psf
from tasks.archive.sources import write_sources
from tasks.archive.tables import empty_table
from tasks.coadd import CoaddConfig, coadd_tile, coadd_tile_task
from tasks.errors import DataError, NoGoodPixelsError, ShapeMismatchError
from tasks.products.ccd_rows import CcdRows, CcdSource
from tasks.products.columns import SOURCES
from tasks.products.dq import DQFlag, MaskFlag
from tasks.products.identity import CcdId, CcdProducts, TileId
from tasks.products.images import CcdImage, Photometry, Window
from tasks.products.psf import PsfModel
from tasks.products.sources import SourceList
from tasks.products.wcs_index import CcdRecord, TileExposures
from tasks.records import wanted_record
from tasks.science.ccd_flux import flux_rows
from tasks.science.coadd_planes import contributing_inputs
from tasks.science.geometry import image_footprint, pixel_area_arcsec2, pixel_to_sky, sky_to_pixel
from tasks.science.outliers import GROUND, OutlierSettings
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


def draw_stars(wcs, sigma_arcsec=0.35):
    """Stars of flux 1: surface brightness times the area of each pixel."""
    image = np.zeros(SHAPE)
    columns, rows, _ = sky_to_pixel(wcs, *star_sky(), SHAPE)
    for column, row, ra, dec in zip(columns, rows, *star_sky(), strict=True):
        if np.isnan(column):
            continue
        y, x = np.mgrid[round(row) - 20 : round(row) + 21, round(column) - 20 : round(column) + 21]
        u, v = tangent_plane(*pixel_to_sky(wcs, x.astype(float), y.astype(float)), ra, dec)
        area = pixel_area_arcsec2(wcs, x.ravel(), y.ravel()).reshape(x.shape)
        image[y, x] += area * np.exp(-0.5 * (u**2 + v**2) / sigma_arcsec**2) / (2 * np.pi * sigma_arcsec**2)
    return image


def make_image(exposure, ccd=0, *, dither=(0.0, 0.0), angle=0.0, zero_point=26.0, noise=0.0, stars=True, section=None):
    """A CCD with a sloping sky and five stars of magnitude 18."""
    wcs, text = make_wcs(120.0 + dither[0], 110.0 + dither[1], angle)
    x = np.arange(SHAPE[1], dtype=float)
    adu = 10 ** (0.4 * (zero_point - STAR_MAG)) * draw_stars(wcs) if stars else np.zeros(SHAPE)
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


def as_source(image, mask=None, *, fwhm_px=4.0):
    """A CCD as the coaddition reads it, from memory."""
    mask = np.zeros(SHAPE, np.uint32) if mask is None else mask

    def read(rows):
        return CcdRows(image.sci[rows], image.weight[rows], image.dq[rows], mask[rows])

    return CcdSource(read, image.wcs, make_sources(image).sky, fwhm_px)


def coadd(*images, masks=None, config=None, size=SIZE):
    ccds = {image.id: as_source(image, (masks or {}).get(image.id)) for image in images}
    return coadd_tile(make_tile(*images, size=size), ccds, config or CoaddConfig())


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


def weights(image, mask=None, excluded=("EXTERNAL",)):
    mask = np.zeros(SHAPE, np.uint32) if mask is None else mask
    rows, record = as_source(image, mask).read(slice(50, 90)), make_tile(image).ccds[0]
    return flux_rows(rows, 50, make_sources(image).sky, record, excluded)


def test_a_satellite_is_left_out_if_outliers_are_rejected():
    clean, images = coadd(*exposures(noise=5.0)), exposures(noise=5.0)
    for column in range(SHAPE[1]):
        images[1].sci[column // 2 + 40 : column // 2 + 43, column] += 400.0
    crossed, rejected = coadd(*images), coadd(*images, config=CoaddConfig(reject_outliers=True))
    # pixels that are partly beside the tile are not judged
    inner = (slice(2, -2), slice(2, -2))
    deviation = [(np.abs(tile.sci - clean.sci) * np.sqrt(clean.weight))[inner] for tile in (crossed, rejected)]
    assert deviation[0].max() > 20
    assert deviation[1].max() < 5
    assert [item.n_outliers > 400 for item in rejected.metadata.inputs] == [False, True, False]
    x, y, _ = sky_to_pixel(rejected.wcs, *star_sky(), (SIZE, SIZE))
    for star_x, star_y in zip(x, y, strict=True):
        # the noise of the stamp is some 2 per cent
        expected = measure(clean.sci, star_x, star_y)[0]
        assert measure(rejected.sci, star_x, star_y)[0] == pytest.approx(expected, rel=0.04)


def test_seeing_that_differs_makes_no_outliers():
    sharp, middle, blurred = exposures(noise=5.0)
    for image, sigma_arcsec in ((sharp, 0.28), (middle, 0.35), (blurred, 0.42)):
        bright = 10 ** (0.4 * (image.photometry.zero_point - STAR_MAG + 4))
        image.sci[...] += bright * draw_stars(image.wcs, sigma_arcsec)
    images = (sharp, middle, blurred)
    kept, rejected = coadd(*images), coadd(*images, config=CoaddConfig(reject_outliers=True))
    assert sum(item.n_outliers for item in rejected.metadata.inputs) < 10
    assert np.abs(rejected.sci / kept.sci - 1)[kept.sci > 0.1 * kept.sci.max()].max() < 1e-3


def test_with_rejection_a_ccd_is_read_in_the_parts_that_a_band_needs(monkeypatch):
    monkeypatch.setattr("tasks.science.tile_outliers.SEEING_DIFFERS", OutlierSettings(band_rows=40, thresholds=GROUND))
    image, other = exposures(noise=5.0)[:2]
    source, rows_read = as_source(image), []

    def read(rows):
        rows_read.append(rows.stop - rows.start)
        return source.read(rows)

    ccds = {image.id: replace(source, read=read), other.id: as_source(other)}
    coadd_tile(make_tile(image, other), ccds, CoaddConfig(reject_outliers=True))
    # in parts for the clean image and for the tile, whole to be compared
    assert max(rows_read) == SHAPE[0]
    assert sum(rows_read) < 3.5 * SHAPE[0]


def test_only_the_bits_of_the_settings_keep_pixels_out():
    image = make_image("2000001")
    mask = np.full(SHAPE, MaskFlag.HALO, np.uint32)
    assert (weights(image, mask).weight > 0).all()
    assert not weights(image, mask, ("HALO",)).weight.any()


def test_pixels_beside_the_data_section_and_of_bad_weight_are_kept_out():
    image = make_image("2000001", section=Window(10, 60, 230, 80))
    image.weight[70, 100:103] = np.nan, -1, np.inf
    weight = weights(image).weight
    assert np.count_nonzero(weight) == 20 * 220 - 3
    assert not weight[:, :10].any()
    assert not weight[:10].any()


def test_rows_are_those_of_the_whole_ccd():
    image = make_image("2000001", noise=5.0)
    record, sky = make_tile(image).ccds[0], make_sources(image).sky
    whole = flux_rows(as_source(image).read(slice(0, SHAPE[0])), 0, sky, record, ())
    part = weights(image, excluded=())
    np.testing.assert_array_equal(part.flux, whole.flux[50:90])
    np.testing.assert_array_equal(part.variance, 1 / whole.weight[50:90])


def test_saturated_pixels_carry_their_flag_into_the_tile():
    image = make_image("2000001")
    mask = np.zeros(SHAPE, np.uint32)
    mask[110, 120], image.dq[100, 100], image.dq[90, 90] = MaskFlag.SATURATED, DQFlag.HOT, DQFlag.DEAD
    image.weight[90, 90] = 0
    dq = coadd(image, masks={image.id: mask}).planes.dq
    assert np.bitwise_or.reduce(dq.ravel()) == DQFlag.SATURATED | DQFlag.HOT
    assert 1 <= np.count_nonzero(dq & np.uint32(DQFlag.SATURATED)) <= 9


def test_pixels_that_nothing_contributed_to_are_not_to_be_used():
    image = make_image("2000001")
    image.weight[:, :150] = 0
    tile = coadd(image)
    empty = tile.weight == 0
    assert 0.1 < empty.mean() < 0.9
    assert np.array_equal(tile.planes.dq == DQFlag.DO_NOT_USE, empty)
    for plane in (tile.sci, tile.planes.variance, tile.planes.time, tile.planes.context[0]):
        assert not plane[empty].any()


def test_context_gain_and_saturation_tell_of_the_inputs():
    images = exposures()
    tile = coadd(*images[::-1])
    assert [ccd.exposure for ccd in tile.metadata.ccds] == ["2000001", "2000002", "2000003"]
    assert contributing_inputs(tile.planes.context, SIZE // 2, SIZE // 2) == (0, 1, 2)
    electrons = sum(image.photometry.gain / image.photometry.flux_scale for image in images)
    assert tile.gain == pytest.approx(electrons, rel=0.02)
    lowest = min((60000.0 - SKY) * image.photometry.flux_scale for image in images)
    assert tile.saturation == pytest.approx(lowest, rel=0.05)


def test_the_metadata_weigh_the_inputs_as_the_pixels_do():
    images = [make_image("2000001", zero_point=26.0), make_image("2000002", zero_point=25.0)]
    late = replace(images[1].photometry, mjd=57010.0, exposure_time_s=100.0)
    images[1] = replace(images[1], photometry=late)
    ccds = {images[0].id: as_source(images[0]), images[1].id: as_source(images[1], fwhm_px=6.0)}
    tile = coadd_tile(make_tile(*images), ccds, CoaddConfig())
    metadata, share = tile.metadata, 10**0.8
    # a magnitude less of zero point is 2.5 times the noise
    assert metadata.inputs[0].weight / metadata.inputs[1].weight == pytest.approx(share, rel=1e-4)
    assert metadata.fwhm_arcsec == pytest.approx((4 * share + 6) / (share + 1) * SCALE, rel=1e-3)
    middles = 57000 + 100 / 86400, 57010 + 50 / 86400
    assert metadata.mean_mjd == pytest.approx((middles[0] * share + middles[1]) / (share + 1), abs=1e-3)
    assert metadata.mjd_range == (57000.0, 57010 + 100 / 86400)
    assert (metadata.n_exposures, metadata.total_exposure_time_s, metadata.bands) == (2, 300.0, ("r",))
    assert metadata.inputs[0].n_pixels == pytest.approx(SIZE**2, rel=0.01)
    assert np.array_equal(np.unique(tile.planes.time), [300.0])
    assert metadata.exposure_time_s == 300.0
    # Fruchter & Hook (2002), section 7: 1.5 on average over all dithers, 2 where all are half a pixel off
    assert 1.0 < metadata.noise_correlation <= 2.0


def test_more_than_64_ccds_have_a_third_context_plane():
    image = make_image("2000001", stars=False)
    images = [replace(image, id=CcdId(exposure=f"{2000001 + n}", ccd=0)) for n in range(66)]
    context = coadd(*images, size=16).planes.context
    assert context.shape == (3, 16, 16)
    assert contributing_inputs(context, 8, 8) == tuple(range(66))


def test_a_ccd_that_adds_nothing_is_no_input():
    near, far = make_image("2000002"), make_image("2000003", dither=(2000.0, 0.0))
    masked, mask = make_image("2000001"), np.full(SHAPE, MaskFlag.EXTERNAL, np.uint32)
    tile = coadd(near, far, masked, masks={masked.id: mask})
    assert tile.metadata.ccds == (near.id,)
    assert contributing_inputs(tile.planes.context, 80, 80) == (0,)


def test_the_order_of_arrival_and_the_number_of_threads_change_no_bit():
    images = exposures(noise=5.0)
    first = coadd(*images)
    for other in (coadd(*images[::-1]), coadd(*images, config=CoaddConfig(threads=2))):
        for field, _ in PLANES.values():
            assert getattr(first.planes, field).tobytes() == getattr(other.planes, field).tobytes()
        assert other.metadata == first.metadata


def test_the_number_of_threads_makes_no_tile_stale():
    one, two = CoaddConfig(), CoaddConfig(threads=2)
    assert one.fingerprint() == two.fingerprint()
    records = [wanted_record("tasks.coadd", "coadd", "210.288", {"config": config}) for config in (one, two)]
    assert records[0].matches(records[1])
    other = wanted_record("tasks.coadd", "coadd", "210.288", {"config": CoaddConfig(pixfrac=0.8)})
    assert not records[0].matches(other)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kernel": "lanczos3"}, "Input should be 'square', 'turbo' or 'point'"),
        ({"pixfrac": 1.5}, "less than or equal to 1"),
        ({"threads": 0}, "greater than or equal to 1"),
        ({"excluded": ["DUST"]}, "Input should be 'WEIGHT'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, sentence):
    with pytest.raises(ValidationError, match=sentence):
        CoaddConfig(**settings)


def test_a_tile_on_which_no_ccd_has_a_usable_pixel_is_refused():
    image = make_image("2000001")
    mask = np.full(SHAPE, MaskFlag.EXTERNAL, np.uint32)
    with pytest.raises(NoGoodPixelsError, match=r"Tile 210.288: none of the 1 CCDs has a usable pixel on it"):
        coadd(image, masks={image.id: mask})


def test_a_ccd_that_is_missing_is_an_error_and_not_a_shallower_tile():
    with pytest.raises(DataError, match="1 of the 1 CCDs that overlap it have no products, such as 2000001-0"):
        coadd_tile(make_tile(make_image("2000001")), {}, CoaddConfig())


def put_ccd(store, image, mask=None):
    """Write what the exposure flow leaves of a CCD."""
    folder, plane = f"exposures/{image.id.exposure}/ccd-00", np.zeros(SHAPE, np.uint32)
    psf = PsfModel(str(image.id), np.ones((1, 5, 5), np.float32), 0, 0.0, 1.0, 0.0, 1.0, 30, 25, 1.0, 4.0)
    ref = write_ccd_image(store, f"{folder}/image.fits", image)
    return CcdProducts(
        ccd=image.id,
        image=ref,
        dq=write_plane(store, f"{folder}/dq.fits", image.dq, "DQ", subject=image.id),
        mask=write_plane(store, f"{folder}/mask.fits", plane if mask is None else mask, "MASK", subject=image.id),
        sources=write_sources(store, f"{folder}/sources.fits", make_sources(image)),
        stars=ref,
        psf=write_psf(store, f"{folder}/psf.psf", psf),
        residuals=ref,
    )


def run_task(store, images, products, config=None, size=SIZE):
    listed = make_tile(*images, size=size)
    tile = write_document(store, "tiles/210.288/exposures.json", listed, subject="210.288")
    return coadd_tile_task.fn(TileId("210.288"), tile, products, config or CoaddConfig(), store)


def test_the_task_reads_products_and_writes_a_tile_that_reads_back(store, caplog):
    images = exposures(noise=5.0)[:2]
    images[0].dq[50, 60] = DQFlag.HOT
    products = [put_ccd(store, image) for image in images]
    with caplog.at_level("INFO", "shearline"):
        ref = run_task(store, images, products)
    assert "coadd 210.288: rows up to 160 of 160 are done, 100% of the work" in caplog.text
    assert ref.key == "tiles/210.288/coadd.fits"
    assert (ref.summary["n_ccds"], ref.summary["n_exposures"]) == (2, 2)
    assert ref.summary["fwhm_arcsec"] == pytest.approx(4 * SCALE, rel=1e-3)
    assert ref.summary["covered_fraction"] > 0.95
    expected, back = coadd(*images), read_coadd(store, ref, ("CTX", "VAR", "DQ", "TIME"))
    for field, _ in PLANES.values():
        np.testing.assert_array_equal(getattr(back.planes, field), getattr(expected.planes, field))
    assert back.metadata == expected.metadata
    x, y = np.array([0.0, SIZE - 1.0]), np.array([SIZE - 1.0, 3.0])
    np.testing.assert_allclose(pixel_to_sky(back.wcs, x, y), pixel_to_sky(expected.wcs, x, y), rtol=0, atol=1e-11)
    with_threads = run_task(store, images, products, CoaddConfig(threads=2))
    assert with_threads.sha256 == ref.sha256


def test_a_plane_of_another_shape_is_refused(store):
    image = make_image("2000001")
    products = put_ccd(store, image, np.zeros((3, 3), np.uint32))
    sentence = r"CCD 2000001-0: MASK of .*mask.fits has the shape \(3, 3\), the CCD \(220, 240\) by the WCS index"
    with pytest.raises(ShapeMismatchError, match=sentence):
        run_task(store, [image], [products])
    assert not store.exists("tiles/210.288/coadd.fits")
