"""The detect stage: settings to sources, and the stored source list."""

import numpy as np
import pytest
from pydantic import ValidationError
from test_mask import SHAPE, ccd, coadd  # noqa: F401 (fixtures)

from tasks.archive import keys
from tasks.archive.coadds import write_coadd
from tasks.archive.fits_files import get_hdu, open_fits
from tasks.archive.images import write_ccd_image
from tasks.archive.planes import write_plane
from tasks.archive.sources import read_sources
from tasks.detect import DetectConfig, detect_ccd_task, detect_tile_task, make_source_list
from tasks.errors import BadFileError, MissingProductError, NoGoodPixelsError, ShapeMismatchError
from tasks.products.columns import SOURCES
from tasks.products.dq import MaskFlag
from tasks.products.sources import SourceList
from tasks.science.background import expand_mesh

STARS = np.array([(60.3, 80.7, 2e5), (200.0, 50.5, 8e4), (250.2, 150.0, 3e4)])


def add_stars(sci, scale=1.0):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for x0, y0, flux in STARS:
        sci += (scale * flux / (8 * np.pi) * np.exp(-0.125 * ((x - x0) ** 2 + (y - y0) ** 2))).astype(np.float32)


def no_mask():
    return np.zeros(SHAPE, np.uint16)


def put_mask(store, mask, subject):
    return write_plane(store, "mask.fits", mask, "MASK", subject=subject)


def test_the_sources_of_a_ccd_are_stored_with_maps_and_background(store, ccd):  # noqa: F811
    add_stars(ccd.sci)
    ccd.sci[:] += np.linspace(0, 100, SHAPE[1], dtype=np.float32)

    ref = detect_ccd_task.fn(
        write_ccd_image(store, "image.fits", ccd), put_mask(store, no_mask(), ccd.id), DetectConfig(), store
    )

    assert ref.key == "exposures/2113737/ccd-03/sources.fits"
    sources = read_sources(store, ref)
    assert sources.subject == "2113737-3"
    assert ref.summary["n_sources"] == len(sources.table)
    bright = sources.table[np.argsort(sources.table["flux_auto"])[::-1][:3]]
    assert np.allclose(np.c_[bright["x_win"], bright["y_win"]], STARS[:, :2], atol=0.05)
    assert np.allclose(bright["mag_auto"], 26.0 - 2.5 * np.log10(STARS[:, 2]), atol=0.06)
    assert sources.segmentation[81, 60] == bright["number"][0]
    background = expand_mesh(sources.background_mesh, SHAPE, sources.box_px)
    assert background[100, 10] == pytest.approx(503, abs=6)
    assert background[100, -10] == pytest.approx(597, abs=6)
    assert sources.variance_scale == pytest.approx(100, rel=0.6)


def test_pixels_count_from_1_in_the_file_only(store, ccd):  # noqa: F811
    add_stars(ccd.sci)
    ref = detect_ccd_task.fn(
        write_ccd_image(store, "image.fits", ccd), put_mask(store, no_mask(), ccd.id), DetectConfig(), store
    )

    with open_fits(store, ref) as hdus:
        table = get_hdu(hdus, "SOURCES", ref)
        number = np.argmax(table.data["FLUX_AUTO"])
        assert table.data["XWIN_IMAGE"][number] == pytest.approx(61.3, abs=0.05)
        assert table.header["VARSCALE"] > 0
        assert [hdu.name for hdu in hdus[1:]] == ["SOURCES", "SEG", "BACKGROUND", "RMS"]


def test_a_source_list_comes_back_to_the_bit(store, ccd):  # noqa: F811
    add_stars(ccd.sci)
    made = make_source_list(ccd, no_mask(), gain=1.5, saturation=6e4, zero_point=26.0, config=DetectConfig())
    ref = detect_ccd_task.fn(
        write_ccd_image(store, "image.fits", ccd), put_mask(store, no_mask(), ccd.id), DetectConfig(), store
    )

    back = read_sources(store, ref)

    assert isinstance(back, SourceList)
    for name in ("segmentation", "background_mesh", "rms_mesh"):
        assert np.array_equal(getattr(back, name), getattr(made, name)), name
        assert getattr(back, name).dtype == getattr(made, name).dtype
    for name in ("subject", "box_px", "variance_scale", "zero_point"):
        assert getattr(back, name) == getattr(made, name), name
    for column in SOURCES.columns:
        if not column.origin_one:
            assert np.array_equal(back.table[column.name], made.table[column.name], equal_nan=True), column.name


def test_running_twice_writes_the_same_bytes(store, ccd):  # noqa: F811
    image, mask = write_ccd_image(store, "image.fits", ccd), put_mask(store, no_mask(), ccd.id)

    first = detect_ccd_task.fn(image, mask, DetectConfig(), store)
    store.remove(keys.record("detect", "2113737-3"))

    assert detect_ccd_task.fn(image, mask, DetectConfig(), store).sha256 == first.sha256


def test_the_sources_of_a_tile_are_at_zero_point_30(store, coadd):  # noqa: F811
    add_stars(coadd.sci, scale=0.01)
    config = DetectConfig(background="none", aperture_diameters_px=(5.0, 10.0))

    ref = detect_tile_task.fn(
        write_coadd(store, "coadd.fits", coadd), put_mask(store, no_mask(), coadd.id), config, store
    )

    assert ref.key == "tiles/210.296/sources.fits"
    sources = read_sources(store, ref)
    assert sources.zero_point == 30.0
    assert not sources.background_mesh.any()
    row = sources.table[np.argmax(sources.table["flux_auto"])]
    assert row["mag_auto"] == pytest.approx(30 - 2.5 * np.log10(2e3), abs=0.06)
    assert row["flux_aper"].shape == (2,)


def test_a_ccd_without_sources_has_an_empty_table(store, ccd):  # noqa: F811
    config = DetectConfig(threshold_sigma=50.0)

    ref = detect_ccd_task.fn(
        write_ccd_image(store, "image.fits", ccd), put_mask(store, no_mask(), ccd.id), config, store
    )

    assert ref.summary["n_sources"] == 0
    assert len(read_sources(store, ref).table) == 0


def test_what_the_mask_excludes_is_a_setting(ccd):  # noqa: F811
    add_stars(ccd.sci)
    mask = no_mask()
    mask[60:100, 40:80] = MaskFlag.HALO
    options = {"gain": 1.5, "saturation": 6e4, "zero_point": 26.0}

    flagged = make_source_list(ccd, mask, config=DetectConfig(), **options).table
    without = make_source_list(ccd, mask, config=DetectConfig(excluded=("HALO",)), **options).table

    brightest = flagged[np.argmax(flagged["flux_auto"])]
    assert brightest["imaflags"] == MaskFlag.HALO
    assert without["flux_auto"].max() == pytest.approx(8e4, rel=0.05)


def test_an_image_that_is_wholly_masked_is_refused_by_name(ccd):  # noqa: F811
    options = {"gain": 1.5, "saturation": 6e4, "zero_point": 26.0, "config": DetectConfig()}

    with pytest.raises(NoGoodPixelsError, match="2113737-3: None of the 60000 pixels has a finite value"):
        make_source_list(ccd, no_mask() + np.uint16(MaskFlag.MISSING), **options)
    ccd.sci[:] = 7
    with pytest.raises(NoGoodPixelsError, match="2113737-3: The background has no noise"):
        make_source_list(ccd, no_mask(), **options)
    with pytest.raises(ShapeMismatchError, match=r"mask \(5, 5\) must have the same shape"):
        make_source_list(ccd, np.zeros((5, 5), np.uint16), **options)


def test_other_products_are_no_source_lists(store, ccd):  # noqa: F811
    ref = write_ccd_image(store, "image.fits", ccd)

    with pytest.raises(BadFileError, match=r"image\.fits has no HDU SOURCES"):
        read_sources(store, ref)
    with pytest.raises(MissingProductError, match=r"gone\.fits"):
        read_sources(store, ref.model_copy(update={"key": "gone.fits"}))


@pytest.mark.parametrize(
    "settings", [{"threshold_sigma": 0}, {"min_area_px": 0}, {"background": "manual"}, {"aperture_diameters_px": ()}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        DetectConfig(**settings)
