"""Making a DQ reference, from single pixels to the flags of an image that the rules give it to."""

import json
import re

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from blocks.crds import CrdsCache
from flows.cli import Exit, app
from flows.dq_file import initialize_dq_file
from flows.dq_reference import DQReferenceBuilder
from tasks.archive.reference_bytes import parse_dq_reference
from tasks.errors import BadFileError, ConfigError, ShapeMismatchError
from tasks.products.dq import DQFlag
from tasks.products.windows import Window
from tasks.science.crds_rules import load_context


def builder(shape=(64, 48), **changes):
    return DQReferenceBuilder(shape, **{"instrument": "IRIS", "detector": "IMG1", "use_after": "2025-01-01"} | changes)


def write_image(path, shape=(64, 48), **keywords):
    header = {"INSTRUME": "IRIS", "DETECTOR": "IMG1", "SUBARRAY": "FULL", "EXPDTST": "20250301120000"} | keywords
    primary = fits.PrimaryHDU()
    primary.header.update({key.replace("_", "-"): value for key, value in header.items()})
    fits.HDUList([primary, fits.ImageHDU(np.ones(shape, np.float32), name="SCI")]).writeto(path)
    return path


def test_pixels_are_flagged_and_not_rows():
    """The example of the documents indexes with an array of pairs, which flags twenty rows of a detector."""
    rng = np.random.default_rng(7)
    mask = DQReferenceBuilder((4096, 4096), instrument="IRIS", detector="IMG1")
    dead, hot = (np.unique(rng.integers(0, 4096, size=(10, 2)), axis=0) for _ in range(2))
    mask.flag(dead, "DEAD")
    mask.flag(hot, "HOT")
    assert mask.count() == {"DEAD": 10, "HOT": 10}
    assert np.histogram(mask.dq, bins=3)[0].tolist() == [16777196, 10, 10]
    assert all(mask.dq[y, x] == DQFlag.DEAD for y, x in dead)


def test_flags_of_a_pixel_are_collected():
    mask = builder()
    mask.flag([(1, 2)], ["HOT", "DO_NOT_USE"])
    mask.flag(((1, 2), (1, 2), (3, 4)), "DEAD")
    mask.flag([], "DEAD")
    mask.flag_where(np.arange(64 * 48).reshape(64, 48) == 0, "WARM")
    assert mask.dq[1, 2] == DQFlag.HOT | DQFlag.DO_NOT_USE | DQFlag.DEAD
    assert (mask.dq[3, 4], mask.dq[0, 0]) == (DQFlag.DEAD, DQFlag.WARM)
    assert np.count_nonzero(mask.dq) == 3


@pytest.mark.parametrize(
    ("pixels", "names", "kind", "sentence"),
    [
        ([(64, 0)], "DEAD", ShapeMismatchError, r"Pixel \(y=64, x=0\) lies outside a plane of shape \(64, 48\)"),
        ([(-1, 0)], "DEAD", ShapeMismatchError, r"Pixel \(y=-1, x=0\) lies outside"),
        ([1, 2], "DEAD", ShapeMismatchError, r"must be pairs \(y, x\), shape \(n, 2\); these have shape \(2,\)"),
        ([(1, 2, 3)], "DEAD", ShapeMismatchError, r"these have shape \(1, 3\)"),
        ([(1.0, 2.5)], "DEAD", BadFileError, "of whole numbers; these are of type float64"),
        ([(True, False)], "DEAD", BadFileError, "of whole numbers; these are of type bool"),
        ([(1, 2)], "DAED", ConfigError, "no data-quality flag 'DAED'; the nearest is DEAD"),
        ([], "DAED", ConfigError, "no data-quality flag 'DAED'"),
    ],
)
def test_what_is_no_pixel_or_flag_is_refused(pixels, names, kind, sentence):
    mask = builder()
    with pytest.raises(kind, match=sentence):
        mask.flag(pixels, names)
    assert not mask.dq.any()


@pytest.mark.parametrize(
    ("plane", "kind", "sentence"),
    [
        (np.zeros((48, 64)), ShapeMismatchError, r"has shape \(64, 48\); these flags have \(48, 64\)"),
        (np.full((64, 48), 0.5), BadFileError, "3072 pixels whose value is not a set of flags, such as 0.5"),
        (np.full((64, 48), -1), BadFileError, "not a set of flags, such as -1"),
        (np.full((64, 48), 2**32), BadFileError, "not a set of flags, such as 4294967296"),
    ],
)
def test_planes_of_a_wrong_shape_or_type_are_refused(plane, kind, sentence):
    mask = builder()
    with pytest.raises(kind, match=sentence):
        mask.dq = plane
    assert mask.dq.dtype == np.uint32


def test_a_plane_of_floats_becomes_flags_and_is_not_shared():
    mask, plane = builder(), np.zeros((64, 48))
    plane[5, 6] = 2.0**31
    mask.dq = plane
    assert (mask.dq.dtype, mask.dq[5, 6]) == (np.uint32, 2**31)
    mask.dq[:] = 1
    assert mask.count() == {"REFERENCE_PIXEL": 1}


def test_a_mask_of_another_kind_is_refused():
    with pytest.raises(
        ShapeMismatchError, match=r"type bool and shape \(64, 48\); it is of type int64 and shape \(2,\)"
    ):
        builder().flag_where([1, 2], "DEAD")


@pytest.mark.parametrize("changes", [{"shape": (0, 4)}, {"shape": (4,)}, {"first_pixel": (0, 1)}])
def test_shapes_and_windows_that_are_none_are_refused(changes):
    with pytest.raises(ShapeMismatchError, match="from 1, not"):
        builder(**changes)


def test_the_file_is_read_as_it_was_made(tmp_path):
    mask = builder(first_pixel=(11, 21), subarray="SUB64", keywords={"AUTHOR": "me"})
    mask.flag([(3, 4)], ["DEAD", "REFERENCE_PIXEL"])
    path = mask.save(tmp_path / "mask.fits")
    assert path.read_bytes() == mask.to_bytes("mask.fits")
    reference = parse_dq_reference(path.read_bytes(), path.name)
    assert reference.window == Window(10, 20, 58, 84)
    assert [definition.name for definition in reference.definitions] == ["DEAD", "REFERENCE_PIXEL"]
    assert np.array_equal(reference.dq, mask.dq)
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert (hdus["DQ"].data.dtype.kind, hdus["DQ"].header["BITPIX"]) == ("u", 32)
        assert hdus["DQ_DEF"].data["VALUE"].tolist() == [1024, 2**31]
        assert {key: hdus[0].header[key] for key in ("INSTRUME", "DETECTOR", "SUBARRAY", "USEAFTER", "AUTHOR")} == {
            "INSTRUME": "IRIS", "DETECTOR": "IMG1", "SUBARRAY": "SUB64", "USEAFTER": "2025-01-01", "AUTHOR": "me",
        }  # fmt: skip
    with pytest.raises(ConfigError, match=r"There is a file .*mask\.fits already"):
        mask.save(path)
    mask.save(path, overwrite=True)


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [({"LONGKEYWORD": 1}, "'LONGKEYWORD' cannot be a header keyword"), ({"AUTHOR": "Zoë\n"}, "AUTHOR='Zoë.*ASCII")],
)
def test_header_cards_that_cannot_be_written_are_refused(keywords, sentence):
    with pytest.raises(ConfigError, match=sentence):
        builder(keywords=keywords).to_bytes()


@pytest.mark.parametrize("observatory", ["ligeriri", "tmt", "mysurvey"])
def test_from_single_pixels_to_the_flags_of_an_image(tmp_path, observatory):
    first, second = builder(use_after="2020-01-01"), builder()
    first.flag([(0, 0)], "WARM")
    second.flag([(10, 20), (30, 40)], "DEAD")
    second.flag([(30, 40)], ["HOT", "DO_NOT_USE"])
    root = tmp_path / "cache"
    first.add_to_cache(root, observatory, "img1_0001.fits")
    added = second.add_to_cache(root, observatory, "img1_0002.fits")
    assert (added.context, added.rule.rpartition("_")[2]) == (f"{observatory}_0002.pmap", "0002.rmap")
    assert added.path.read_bytes()[:6] == b"SIMPLE"
    keywords = {"DATE_OBS": "2025-03-01", "TIME_OBS": "12:00:00"} if observatory == "mysurvey" else {}
    image = write_image(tmp_path / "image.fits", **keywords)

    result = CliRunner().invoke(app, ["references", "best", str(image), "--cache", str(root), "--json"])
    assert result.exit_code == Exit.OK, result.output
    (best,) = json.loads(result.stdout)
    assert (best["record"]["name"], best["path"]) == ("img1_0002.fits", str(added.path))
    assert best["record"]["rule"] == added.rule
    assert re.fullmatch(r"\S*DETECTOR='IMG1' from 2025-01-01 00:00:00 on", best["because"][0])

    cache = CrdsCache(root=str(root), observatory=observatory)
    done = initialize_dq_file(image, tmp_path / "flagged.fits", cache=cache)
    assert (done.status, done.reference, done.n_flagged) == ("COMPLETE", "crds://img1_0002.fits", 2)
    with fits.open(tmp_path / "flagged.fits") as hdus:
        assert np.array_equal(hdus["DQ"].data, second.dq)
        assert hdus[0].header["CRDS_CTX"] == added.context


def test_earlier_images_and_the_old_context_keep_their_reference(tmp_path):
    builder(use_after="2020-01-01").add_to_cache(tmp_path, "ligeriri", "a.fits")
    builder().add_to_cache(tmp_path, "ligeriri", "b.fits")
    header = {"INSTRUME": "IRIS", "DETECTOR": "IMG1"}
    for context, date, name in [
        ("", "20250301000000", "b.fits"), ("", "20240301000000", "a.fits"),
        ("ligeriri_0001.pmap", "20250301000000", "a.fits"),
    ]:  # fmt: skip
        found = choose(tmp_path, "ligeriri", header | {"EXPDTST": date}, context)
        assert found == name


def choose(root, observatory, header, context="", kind="dq"):
    from tasks.references import ReferencesConfig, open_rules, select_reference

    cache = CrdsCache(root=str(root), observatory=observatory, context=context)
    config = ReferencesConfig(reference_type=kind)
    return select_reference(header, open_rules(cache), config, "the image").name


def test_rules_can_be_for_several_subarrays_and_numbers(tmp_path):
    builder().add_to_cache(
        tmp_path, "mysurvey", "full.fits", match={"DETECTOR": "img1", "SUBARRAY": "FULL", "BIN": "1"}
    )
    builder().add_to_cache(
        tmp_path, "mysurvey", "sub.fits", match={"DETECTOR": "img1", "SUBARRAY": "CUSTOM|GENERIC", "BIN": "1"}
    )
    builder().add_to_cache(tmp_path, "mysurvey", "other.fits", match={"DETECTOR": "IMG2"})
    header = {"INSTRUME": "IRIS", "DETECTOR": "IMG1", "SUBARRAY": "FULL", "BIN": 1, "DATE-OBS": "2025-02-01"}
    assert choose(tmp_path, "mysurvey", header) == "full.fits"
    assert choose(tmp_path, "mysurvey", header | {"SUBARRAY": "GENERIC"}) == "sub.fits"
    assert choose(tmp_path, "mysurvey", header | {"DETECTOR": "IMG2", "SUBARRAY": "FULL"}) == "other.fits"


def test_a_second_instrument_and_type_join_the_cache(tmp_path):
    builder().add_to_cache(tmp_path, "ligeriri", "iris.fits")
    builder(instrument="Liger").add_to_cache(tmp_path, "ligeriri", "liger.fits")
    builder().add_to_cache(tmp_path, "ligeriri", "mask.fits", reference_type="mask")
    header = {"DETECTOR": "IMG1", "EXPDTST": "20250301000000"}
    assert choose(tmp_path, "ligeriri", header | {"INSTRUME": "IRIS"}) == "iris.fits"
    assert choose(tmp_path, "ligeriri", header | {"INSTRUME": "Liger"}) == "liger.fits"
    assert choose(tmp_path, "ligeriri", header | {"INSTRUME": "IRIS"}, kind="mask") == "mask.fits"
    cache = CrdsCache(root=str(tmp_path), observatory="ligeriri")
    rules = load_context(cache.read_mapping, "ligeriri", cache.resolve_context(), "strict")
    assert rules.instruments == ("iris", "liger")


def test_a_reference_is_never_replaced_under_its_name(tmp_path):
    builder().add_to_cache(tmp_path, "ligeriri", "a.fits")
    changed = builder(use_after="2026-01-01")
    changed.flag([(0, 0)], "DEAD")
    with pytest.raises(ConfigError, match=r"has another file a\.fits; references never change: give it another name"):
        changed.add_to_cache(tmp_path, "ligeriri", "a.fits")
    assert CrdsCache(root=str(tmp_path), observatory="ligeriri").resolve_context() == "ligeriri_0001.pmap"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "../a.fits"}, r"'\.\./a\.fits' is not the name of a reference file"),
        ({"observatory": "a/b"}, "'a/b' is not the name of an observatory"),
        ({"reference_type": "d q"}, "'d q' is not the name of a reference type"),
        ({"use_after": "someday"}, "'someday' is not a date, such as 2025-01-02"),
        ({"match": {"FILTER": "K"}}, r"matches by META\.INSTRUMENT\.DETECTOR, and not by FILTER; leave it out"),
        ({"use_after": "2020-01-01"}, r"has a\.fits for \('IMG1',\) from 2020-01-01 00:00:00 on; give another date"),
    ],
    ids=str,
)
def test_additions_that_cannot_work_are_refused(tmp_path, settings, sentence):
    builder(use_after="2020-01-01").add_to_cache(tmp_path, "ligeriri", "a.fits")
    before = sorted(tmp_path.rglob("*"))
    options = {"observatory": "ligeriri", "name": "b.fits"} | settings
    mask = builder(use_after=options.pop("use_after", "2025-01-01"))
    with pytest.raises(ConfigError, match=sentence):
        mask.add_to_cache(tmp_path, options.pop("observatory"), options.pop("name"), **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_cache_that_a_server_fills_is_left_alone(tmp_path):
    folder = tmp_path / "config" / "jwst"
    folder.mkdir(parents=True)
    (folder / "server_config").write_text("{'server': 'https://jwst-crds.stsci.edu'}")
    with pytest.raises(ConfigError, match=r"comes from https://jwst-crds\.stsci\.edu, whose next contexts"):
        builder().add_to_cache(tmp_path, "jwst", "a.fits")
