"""Files of single detectors: what is read of them, and that writing changes the flags and nothing else."""

import io

import numpy as np
import pytest
from astropy.io import fits

from tasks.archive.detector_files import read_detector_file
from tasks.archive.detector_writing import write_detector_file
from tasks.errors import BadFileError, ConfigError, MissingKeywordError, MissingProductError, ShapeMismatchError
from tasks.products.detector import DetectorImage
from tasks.products.windows import Window

SHAPE = (2, 3, 8, 12)
STRIPES = {
    "MSTR_RD1": 1, "MSTR_SK1": 0, "MSTR_RD2": 2, "MSTR_SK2": 0, "MSTR_RPT": 1, "MSTR_ILV": 1, "SSTR_NST": 2,
    "SSTR_STP": 2, "FASTAXIS": -2, "SLOWAXIS": -1,
}  # fmt: skip


def hdus_of(data, *others, **keywords):
    primary = fits.PrimaryHDU()
    primary.header.update({key.replace("__", "-"): value for key, value in keywords.items()})
    name = "DATA" if keywords.get("INSTRUME") in {"Liger", "IRIS"} else "SCI"
    return fits.HDUList([primary, fits.ImageHDU(np.asarray(data), name=name), *others])


def written(path, hdus):
    hdus.writeto(path)
    return path


def ramp(shape=SHAPE):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def flagged(image, pixel=(1, 2), **changes):
    pixeldq = image.flags.copy()
    pixeldq[pixel] |= 2**31
    groupdq = np.zeros(image.data.shape, np.uint8) if image.groupdq is None else image.groupdq.copy()
    groupdq[..., pixel[0], pixel[1]] |= 1
    fields = {"pixeldq": pixeldq, "groupdq": groupdq if image.has_group_flags else None} | changes
    return DetectorImage(image.data, window=image.window, guider=image.guider, **fields)


def test_a_ramp_without_flags_is_read(tmp_path):
    path = written(
        tmp_path / "a_uncal.fits", hdus_of(ramp(), INSTRUME="MIRI", EXP_TYPE="MIR_IMAGE", DATE__OBS="2025-01-01")
    )
    read = read_detector_file(path)
    np.testing.assert_array_equal(read.image.data, ramp())
    assert (read.image.pixeldq, read.image.groupdq, read.image.window) == (None, None, None)
    assert (read.family, read.image.has_group_flags, read.image.subject) == ("jwst", True, "a_uncal.fits")
    assert (read.keywords["INSTRUME"], read.keywords["DATE-OBS"]) == ("MIRI", "2025-01-01")


def test_flags_and_window_are_read_from_bytes_too():
    pixeldq, groupdq = np.full((8, 12), 2**31 + 5, np.uint32), np.full(SHAPE, 200, np.uint8)
    buffer = io.BytesIO()
    flags = fits.ImageHDU(pixeldq, name="PIXELDQ"), fits.ImageHDU(groupdq, name="GROUPDQ")
    hdus_of(ramp(), *flags, SUBSTRT1=11, SUBSTRT2=21, SUBSIZE1=12, SUBSIZE2=8).writeto(buffer)
    image = read_detector_file(buffer.getvalue()).image
    np.testing.assert_array_equal(image.data, ramp())
    np.testing.assert_array_equal(image.pixeldq, pixeldq)
    np.testing.assert_array_equal(image.groupdq, groupdq)
    assert (image.pixeldq.dtype, image.groupdq.dtype) == (np.uint32, np.uint8)
    assert image.window == Window(10, 20, 22, 28)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_flags_of_other_types_are_converted(tmp_path, dtype):
    flags = (
        fits.ImageHDU(np.full((8, 12), 17, dtype), name="PIXELDQ"),
        fits.ImageHDU(np.full(SHAPE, 9, dtype), name="GROUPDQ"),
    )
    image = read_detector_file(written(tmp_path / "a.fits", hdus_of(ramp(), *flags))).image
    assert (image.pixeldq == 17).all()
    assert (image.groupdq == 9).all()
    assert (image.pixeldq.dtype, image.groupdq.dtype) == (np.uint32, np.uint8)


@pytest.mark.parametrize("kind", ["FGS_ID-IMAGE", "FGS_ID-STACK", "FGS_ACQ1", "FGS_ACQ2", "FGS_TRACK", "fgs_fineguide"])
def test_exposures_of_the_guider_have_flags_of_their_pixels_only(tmp_path, kind):
    dq = fits.ImageHDU(np.full((8, 12), 4, np.uint32), name="DQ")
    read = read_detector_file(written(tmp_path / "a.fits", hdus_of(ramp(), dq, INSTRUME="FGS", EXP_TYPE=kind)))
    assert (read.image.guider, read.image.has_group_flags) == (True, False)
    target = write_detector_file(read, flagged(read.image), {}, tmp_path / "b.fits")
    with fits.open(target) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "DQ"]
        assert (hdus["DQ"].data[1, 2], hdus["DQ"].data[0, 0]) == (2**31 + 4, 4)


def test_liger_ramps_are_turned_and_written_back_in_their_own_order(tmp_path):
    data = ramp((8, 12, 3, 2)).astype(np.uint16)
    groupdq = np.zeros((8, 12, 3, 2), np.uint8)
    groupdq[7, 11, 2, 1] = 4
    hdus = hdus_of(data, fits.ImageHDU(groupdq, name="GROUPDQ"), INSTRUME="Liger", SUBARRAY="FULL", SUBSTRT1=0)
    read = read_detector_file(written(tmp_path / "a.fits", hdus))
    assert read.family == "liger"
    assert read.image.data.shape == (2, 3, 8, 12)
    assert read.image.groupdq[1, 2, 7, 11] == 4
    assert read.image.window is None
    target = write_detector_file(read, flagged(read.image), {}, tmp_path / "b.fits")
    with fits.open(target) as result:
        assert [hdu.name for hdu in result] == ["PRIMARY", "DATA", "PIXELDQ", "GROUPDQ"]
        np.testing.assert_array_equal(result["DATA"].data, data)
        assert result["PIXELDQ"].data.shape == (8, 12)
        expected = groupdq.copy()
        expected[1, 2] |= 1
        np.testing.assert_array_equal(result["GROUPDQ"].data, expected)


def test_subarray_keywords_of_liger_cut_a_window(tmp_path):
    hdus = hdus_of(ramp((8, 12)), INSTRUME="IRIS", SUBARRAY="CUSTOM", SUBARRID=1, SUBSTRT1=101, SUBSTRT2=201)
    assert read_detector_file(written(tmp_path / "a.fits", hdus)).image.window == Window(100, 200, 112, 208)


def test_a_ramp_of_iris_in_the_order_of_jwst_is_told_by_its_keywords(tmp_path):
    hdus = hdus_of(ramp(), INSTRUME="IRIS", SUBSTRT1=1, SUBSTRT2=1, SUBSIZE1=12, SUBSIZE2=8)
    read = read_detector_file(written(tmp_path / "a.fits", hdus))
    assert (read.family, read.image.data.shape) == ("jwst", SHAPE)


def test_the_interleaved_pixels_of_irs2_belong_to_the_window(tmp_path):
    hdus = hdus_of(np.zeros((3200, 16), np.uint8), SUBSTRT1=1, SUBSTRT2=1, SUBSIZE1=16, SUBSIZE2=2048)
    assert read_detector_file(written(tmp_path / "a.fits", hdus)).image.window == Window(0, 0, 16, 3200)


def test_superstripes_have_flags_for_every_stripe(tmp_path):
    read = read_detector_file(written(tmp_path / "a.fits", hdus_of(ramp((4, 3, 8, 12)), SUBARRAY="X", **STRIPES)))
    assert read.image.flags_shape == (2, 8, 12)
    assert (read.image.stripes.interleaves, read.image.stripes.superstripe_step) == (True, 2)


def test_everything_but_the_flags_keeps_its_bytes(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1, 2])], name="ASDF")
    packed = fits.CompImageHDU(np.arange(64 * 64, dtype=np.int32).reshape(64, 64), name="ZEROFRAME")
    old = fits.ImageHDU(np.ones((8, 12), np.uint32), name="PIXELDQ")
    old.header["NOTE"] = ("kept", "a card of the flags")
    source = written(tmp_path / "a.fits", hdus_of(ramp(), old, packed, table, TARGNAME="M 31"))
    before = source.read_bytes()
    read = read_detector_file(source)
    target = write_detector_file(read, flagged(read.image), {"S_DQINIT": ("COMPLETE", "done")}, tmp_path / "b.fits")
    assert source.read_bytes() == before
    after = target.read_bytes()
    result = read_detector_file(target)
    assert [hdu.name for hdu in result.hdus] == ["PRIMARY", "SCI", "GROUPDQ", "PIXELDQ", "ZEROFRAME", "ASDF"]
    at = {hdu.name: hdu for hdu in result.hdus}
    for hdu in read.hdus:
        if hdu.name in {"SCI", "ZEROFRAME", "ASDF"}:
            new = at[hdu.name]
            assert after[new.start : new.end] == before[hdu.start : hdu.end]
    with fits.open(target) as hdus:
        hdus.verify("exception")
        assert (hdus[0].header["S_DQINIT"], hdus[0].header["TARGNAME"]) == ("COMPLETE", "M 31")
        assert hdus["PIXELDQ"].header["NOTE"] == "kept"
        np.testing.assert_array_equal(hdus["PIXELDQ"].data, flagged(read.image).pixeldq)
        np.testing.assert_array_equal(hdus["GROUPDQ"].data, flagged(read.image).groupdq)
    assert len(after) % 2880 == 0


def test_flags_larger_than_a_block_are_written_whole(tmp_path):
    rng = np.random.default_rng(3)
    read = read_detector_file(written(tmp_path / "a.fits", hdus_of(np.zeros((2, 2, 700, 900), np.uint8))))
    pixeldq = rng.integers(0, 2**32, (700, 900), np.uint64).astype(np.uint32)
    groupdq = rng.integers(0, 256, (2, 2, 700, 900)).astype(np.uint8)
    target = write_detector_file(read, DetectorImage(read.image.data, pixeldq, groupdq), {}, tmp_path / "b.fits")
    with fits.open(target) as hdus:
        np.testing.assert_array_equal(hdus["PIXELDQ"].data, pixeldq)
        np.testing.assert_array_equal(hdus["GROUPDQ"].data, groupdq)


def test_compressed_and_checksummed_flags_are_replaced(tmp_path):
    packed = fits.CompImageHDU(np.full((64, 64), 6, np.int32), name="PIXELDQ")
    groups = fits.ImageHDU(np.full((1, 1, 64, 64), 2, np.uint8), name="GROUPDQ")
    path = tmp_path / "a.fits"
    hdus_of(np.zeros((1, 1, 64, 64), np.float32), packed, groups).writeto(path, checksum=True)
    read = read_detector_file(path)
    assert (read.image.pixeldq == 6).all()
    target = write_detector_file(read, flagged(read.image), {"S_DQINIT": ("COMPLETE", "")}, tmp_path / "b.fits")
    with fits.open(target, checksum=True) as hdus:  # warns, which is an error here, where a checksum is wrong
        assert (hdus["PIXELDQ"].data[1, 2], hdus["PIXELDQ"].data[0, 0]) == (2**31 + 6, 6)
        assert (hdus["GROUPDQ"].data[0, 0, 1, 2], hdus["GROUPDQ"].data[0, 0, 0, 0]) == (3, 2)
        assert not isinstance(hdus["PIXELDQ"], fits.CompImageHDU)
        assert "CHECKSUM" not in hdus["GROUPDQ"].header


def test_a_compressed_image_is_read(tmp_path):
    data = np.arange(64 * 64, dtype=np.int32).reshape(64, 64)
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, name="SCI")])
    read = read_detector_file(written(tmp_path / "a.fits", hdus))
    np.testing.assert_array_equal(read.image.data, data)
    target = write_detector_file(read, flagged(read.image), {}, tmp_path / "b.fits")
    with fits.open(target) as result:
        np.testing.assert_array_equal(result["SCI"].data, data)
        assert result["DQ"].data[1, 2] == 2**31


def test_an_image_in_the_primary_hdu_is_read(tmp_path):
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(ramp((8, 12))).writeto(path)
    read = read_detector_file(path)
    np.testing.assert_array_equal(read.image.data, ramp((8, 12)))
    target = write_detector_file(read, flagged(read.image), {"S_DQINIT": ("COMPLETE", "")}, tmp_path / "b.fits")
    with fits.open(target) as hdus:
        np.testing.assert_array_equal(hdus[0].data, ramp((8, 12)))
        assert hdus["DQ"].data[1, 2] == 2**31


def test_bytes_are_copied_to_a_file(tmp_path):
    path = written(tmp_path / "a.fits", hdus_of(ramp()))
    read = read_detector_file(path.read_bytes())
    target = write_detector_file(read, flagged(read.image), {}, tmp_path / "b.fits")
    np.testing.assert_array_equal(fits.getdata(target, "SCI"), ramp())


def test_the_input_is_never_overwritten(tmp_path):
    path = written(tmp_path / "a.fits", hdus_of(ramp()))
    read = read_detector_file(path)
    with pytest.raises(ConfigError, match=r"a\.fits is the input itself, which is never changed"):
        write_detector_file(read, flagged(read.image), {}, tmp_path / "." / "a.fits")


def test_a_file_that_cannot_be_finished_leaves_nothing_behind(tmp_path):
    path = written(tmp_path / "a.fits", hdus_of(ramp((3, 2, 64, 64))))
    read = read_detector_file(path)
    (tmp_path / "b.fits").mkdir()
    with pytest.raises(OSError, match=r"b\.fits"):
        write_detector_file(read, flagged(read.image), {}, tmp_path / "b.fits")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a.fits", "b.fits"]


def test_a_source_that_shrank_since_is_noticed(tmp_path):
    path = written(tmp_path / "a.fits", hdus_of(np.zeros((1, 1, 64, 64), np.float32)))
    read = read_detector_file(path)
    flags = flagged(read.image)
    path.write_bytes(path.read_bytes()[:8640])
    with pytest.raises(OSError, match="the source ended at byte 8640, before HDUs that it had"):
        write_detector_file(read, flags, {}, tmp_path / "b.fits")
    assert not (tmp_path / "b.fits").exists()


def bad_groups():
    return fits.ImageHDU(np.full(SHAPE, 256, np.int16), name="GROUPDQ")


def pixel_flags(shape):
    return fits.ImageHDU(np.zeros(shape, np.uint32), name="PIXELDQ")


@pytest.mark.parametrize(
    ("hdus", "error", "sentence"),
    [
        (
            hdus_of(ramp(), pixel_flags((8, 11))),
            ShapeMismatchError,
            r"a\.fits has pixel flags of shape \(8, 11\) where",
        ),
        (hdus_of(ramp(), pixel_flags(SHAPE)), ShapeMismatchError, r"data ask for \(8, 12\)"),
        (hdus_of(ramp(), bad_groups()), BadFileError, r"a\.fits has the flag value 256 in GROUPDQ, but .* 8 bits"),
        (hdus_of(ramp((2, 8, 12))), BadFileError, r"a\.fits has 3 dimensions; images have 2"),
        (hdus_of(ramp(), SUBSTRT1=1), MissingKeywordError, r"a\.fits has only one of SUBSTRT1 and SUBSTRT2"),
        (hdus_of(ramp(), SUBSTRT1=1, SUBSTRT2=1, SUBSIZE1=13), ShapeMismatchError, r"describe a window of \(8, 13\)"),
        (
            hdus_of(ramp(), SSTR_NST=2),
            MissingKeywordError,
            r"a\.fits is read in stripes, but its header lacks MSTR_RD1 and",
        ),
        (hdus_of(ramp((3, 3, 8, 12)), **STRIPES), ShapeMismatchError, "no whole number of sets of 2 superstripes"),
        (hdus_of(ramp(), fits.ImageHDU(ramp(), name="SCI")), BadFileError, "has 2 HDUs SCI or DATA where"),
        (fits.HDUList([fits.PrimaryHDU()]), BadFileError, "has no image HDU SCI or DATA .* it has 0 PRIMARY"),
    ],
)
def test_files_that_are_no_detector_image_are_refused(tmp_path, hdus, error, sentence):
    with pytest.raises(error, match=sentence):
        read_detector_file(written(tmp_path / "a.fits", hdus))


def test_a_truncated_file_is_refused(tmp_path):
    path = written(tmp_path / "a.fits", hdus_of(ramp((2, 3, 64, 64))))
    path.write_bytes(path.read_bytes()[:-2880])
    with pytest.raises(BadFileError, match=r"a\.fits \(\d+ bytes\) cannot be read as FITS: HDU SCI ends at byte"):
        read_detector_file(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a git-LFS pointer; run `git lfs pull`"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"", r"a\.fits \(0 bytes\) is not a FITS file"),
        (b"SIMPLE  =                    T", "the file ends inside header 0"),
    ],
)
def test_what_is_no_fits_file_is_refused(tmp_path, content, sentence):
    (tmp_path / "a.fits").write_bytes(content)
    with pytest.raises(BadFileError, match=sentence):
        read_detector_file(tmp_path / "a.fits")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingProductError, match=r"nowhere\.fits cannot be opened: No such file"):
        read_detector_file(tmp_path / "nowhere.fits")
