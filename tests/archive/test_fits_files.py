import io
import time

import numpy as np
import pytest
from astropy.io import fits

from blocks.store import DataStore
from tasks.archive.fits_files import fits_bytes, get_hdu, image_hdu, open_fits, put_bytes, put_fits
from tasks.archive.planes import read_plane, write_plane
from tasks.archive.provenance import Provenance, provenance
from tasks.errors import BadFileError, MissingProductError

RNG = np.random.default_rng(3)
IMAGES = {
    "noise": RNG.normal(0, 1, (70, 50)).astype(np.float32),
    "adu": RNG.integers(0, 60000, (70, 50)).astype(np.float32),
    "with NaN": np.where(RNG.random((70, 50)) < 0.1, np.nan, 1.5).astype(np.float32),
    "negative zero": np.full((8, 8), -0.0, np.float32),
    "uint32": RNG.integers(0, 2**32, (70, 50), dtype=np.uint32),
    "int32 cube": RNG.integers(-5, 5, (2, 70, 50), dtype=np.int32),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_kept_to_the_bit(name: str) -> None:
    image = IMAGES[name]

    with fits.open(io.BytesIO(fits_bytes([fits.PrimaryHDU(), image_hdu(image, "X")]))) as hdus:
        back = np.asarray(hdus["X"].data).astype(image.dtype)

    assert back.tobytes() == image.tobytes()


@pytest.mark.parametrize("name", IMAGES)
def test_the_same_image_gives_the_same_bytes_at_any_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fits_bytes([fits.PrimaryHDU(), image_hdu(IMAGES[name], "X")])
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)

    assert fits_bytes([fits.PrimaryHDU(), image_hdu(IMAGES[name], "X")]) == first


def test_the_header_says_how_a_product_was_made(store: DataStore) -> None:
    made = Provenance("mask", "c0de", "c0f1", (("exposures/1/image.fits", "ab" * 32),))

    with provenance(made):
        ref = put_fits(store, "x.fits", [image_hdu(IMAGES["uint32"], "DQ")], subject="1-2")

    with open_fits(store, ref) as hdus:
        header = hdus[0].header
    assert (header["STAGE"], header["CODEHASH"], header["CONFHASH"]) == ("mask", "c0de", "c0f1")
    assert header["INPUT1"] == f"{'ab' * 8} exposures/1/image.fits"
    assert header["SOFTWARE"].startswith("Shearline ")


def test_a_plane_comes_back_as_written(store: DataStore) -> None:
    ref = write_plane(store, "dq.fits", IMAGES["uint32"], "DQ", subject="1-2", summary={"n_bad": 3})

    assert np.array_equal(read_plane(store, ref, "DQ"), IMAGES["uint32"])
    assert ref.summary == {"n_bad": 3}


def test_a_truncated_file_has_a_sentence(store: DataStore) -> None:
    ref = write_plane(store, "dq.fits", IMAGES["uint32"], "DQ", subject="1-2")
    cut = put_bytes(store, "dq.fits", store.read_bytes("dq.fits")[: ref.size - 3000], subject="1-2")

    with pytest.raises(BadFileError, match=rf"dq.fits is truncated: HDU DQ ends at byte {ref.size}, the file at"):
        read_plane(store, cut, "DQ")


def test_a_file_that_is_not_fits_has_a_sentence(store: DataStore) -> None:
    ref = put_bytes(store, "dq.fits", b"version https://git-lfs.github.com/spec/v1", subject="1-2")

    with pytest.raises(BadFileError, match=r"dq.fits \(42 bytes\) cannot be read as FITS"):
        read_plane(store, ref, "DQ")


def test_a_missing_hdu_has_a_sentence_that_lists_the_others(store: DataStore) -> None:
    ref = write_plane(store, "dq.fits", IMAGES["uint32"], "DQ", subject="1-2")

    with open_fits(store, ref) as hdus, pytest.raises(BadFileError, match=r"has no HDU MASK; it has 0 PRIMARY, 1 DQ"):
        get_hdu(hdus, "MASK", ref)


def test_a_missing_product_has_a_sentence(store: DataStore) -> None:
    ref = write_plane(store, "dq.fits", IMAGES["uint32"], "DQ", subject="1-2")
    store.remove("dq.fits")

    with pytest.raises(MissingProductError, match=r"dq\.fits of 1-2 is not in"):
        read_plane(store, ref, "DQ")
