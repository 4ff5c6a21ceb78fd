"""Images written some rows at a time are what common readers find them to be."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits

from tasks.archive.fits_files import TILE_ROWS
from tasks.archive.tiled_images import TiledPlane, write_tiled_image

SHAPE = (2 * TILE_ROWS + 22, 37)


def values_of(kind: type[np.generic]) -> np.ndarray:
    rng = np.random.default_rng(4)
    if kind is np.float32:
        values = rng.normal(0, 1e3, SHAPE).astype(np.float32)
        values[3, 4], values[5, 6], values[7, 8] = np.nan, -0.0, np.inf
        return values
    info = np.iinfo(kind)
    return rng.integers(info.min, info.max, SHAPE, dtype=kind, endpoint=True)


def file_of(*images: tuple[str, list[np.ndarray]], header: fits.Header | None = None, bands: tuple[int, ...]) -> bytes:
    """A file whose images were given band by band, rows at these edges."""
    buffer = io.BytesIO()
    fits.PrimaryHDU().writeto(buffer)
    for name, arrays in images:
        planes = []
        for array in arrays:
            plane = TiledPlane(io.BytesIO(), SHAPE, array.dtype.type)
            for start, stop in zip((0, *bands), (*bands, SHAPE[0]), strict=True):
                plane.append(array[start:stop])
            planes.append(plane)
        write_tiled_image(buffer, name, planes, header)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint32])
def test_every_value_comes_back_to_the_bit_through_astropy_and_cfitsio(kind: type[np.generic], tmp_path: Path) -> None:
    values = values_of(kind)
    data = file_of(("ONE", [values]), ("CUBE", [values, values[::-1]]), bands=(TILE_ROWS,))
    (tmp_path / "x.fits").write_bytes(data)

    with fits.open(io.BytesIO(data)) as hdus:
        hdus.verify("exception")
        one, cube = hdus["ONE"].data, hdus["CUBE"].data
        strip = hdus["ONE"].section[60:70]
    with fitsio.FITS(str(tmp_path / "x.fits")) as file:
        through_cfitsio = file["CUBE"].read()

    assert one.dtype == kind
    assert np.array_equal(one.view(np.uint32), values.view(np.uint32))
    assert np.array_equal(strip, values[60:70], equal_nan=kind is np.float32)
    assert np.array_equal(cube, [values, values[::-1]], equal_nan=kind is np.float32)
    assert np.array_equal(through_cfitsio, [values, values[::-1]], equal_nan=kind is np.float32)


def test_the_bytes_do_not_depend_on_the_bands_nor_on_threads() -> None:
    values = values_of(np.float32)
    first = file_of(("ONE", [values]), bands=(TILE_ROWS,))
    assert file_of(("ONE", [values]), bands=()) == first
    with ThreadPoolExecutor(2) as pool:
        plane = TiledPlane(io.BytesIO(), SHAPE, np.float32, pool.map)
        plane.append(values)
        buffer = io.BytesIO()
        fits.PrimaryHDU().writeto(buffer)
        write_tiled_image(buffer, "ONE", [plane])
    assert buffer.getvalue() == first


def test_a_header_keeps_its_cards() -> None:
    header = fits.Header([("PHOTZP", 30.0, "[mag] zero point"), ("HISTORY", "input CCD 2113737 10")])
    with fits.open(io.BytesIO(file_of(("SCI", [values_of(np.float32)]), header=header, bands=()))) as hdus:
        assert (hdus["SCI"].header["PHOTZP"], str(hdus["SCI"].header["HISTORY"])) == (30.0, "input CCD 2113737 10")


def test_rows_of_zeros_fill_up_what_was_not_there() -> None:
    plane = TiledPlane(io.BytesIO(), SHAPE, np.int32)
    plane.append_zeros(2 * TILE_ROWS)
    plane.append(values_of(np.int32)[2 * TILE_ROWS :])
    buffer = io.BytesIO()
    fits.PrimaryHDU().writeto(buffer)
    write_tiled_image(buffer, "CTX", [plane], cube=True)
    with fits.open(io.BytesIO(buffer.getvalue())) as hdus:
        assert hdus["CTX"].shape == (1, *SHAPE)
        assert not hdus["CTX"].data[0, : 2 * TILE_ROWS].any()
        assert np.array_equal(hdus["CTX"].data[0, 2 * TILE_ROWS :], values_of(np.int32)[2 * TILE_ROWS :])


def test_rows_that_do_not_follow_are_refused() -> None:
    plane = TiledPlane(io.BytesIO(), SHAPE, np.float32)
    for rows in (np.zeros((10, 37), np.float32), np.zeros((64, 36), np.float32), np.zeros((64, 37), np.int32)):
        with pytest.raises(ValueError, match=r"rows of shape \(\d+, 3\d\) and type \w+ do not follow 0 rows"):
            plane.append(rows)
    plane.append_zeros(TILE_ROWS)
    with pytest.raises(ValueError, match=r"SCI has 64 of its 150 rows"):
        write_tiled_image(io.BytesIO(), "SCI", [plane])
    with pytest.raises(ValueError, match="an image of type float64 cannot be written strip by strip"):
        TiledPlane(io.BytesIO(), SHAPE, np.float64)
