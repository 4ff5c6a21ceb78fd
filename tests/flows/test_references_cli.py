"""`shearline references`: what it prints, and its exit codes."""

import json
import re

import numpy as np
import pytest
from astropy.io import fits
from crds_cache import Cache, match, write_simple_cache
from crds_server import serve
from typer.testing import CliRunner

from blocks.crds import CrdsCache
from flows.cli import Exit, app
from flows.dq_reference import DQReferenceBuilder

runner = CliRunner()


def invoke(*arguments):
    result = runner.invoke(app, ["references", *map(str, arguments)])
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m|\n *", " ", result.stdout), result.stderr


@pytest.fixture
def cache(tmp_path):
    written = write_simple_cache(tmp_path / "crds")
    written.write_reference("CCD0_a.fits")
    return written


@pytest.fixture
def image(tmp_path):
    return write_image(tmp_path / "image.fits")


def write_image(path, **changes):
    keywords = {"INSTRUME": "CAM", "DETECTOR": "CCD0", "SUBARRAY": "FULL", "DATE-OBS": "2022-03-04T05:06:07"} | changes
    primary = fits.PrimaryHDU()
    primary.header.update({key: value for key, value in keywords.items() if value is not None})
    fits.HDUList([primary, fits.ImageHDU(np.ones((8, 12), np.float32), name="SCI")]).writeto(path, overwrite=True)
    return path


def test_best_says_which_file_by_which_rule_and_why(cache, image):
    code, text, _ = invoke("best", image, "--cache", cache.root)
    assert code == Exit.OK
    assert f"{image}: dq is CCD0_a.fits file {cache.references / 'CCD0_a.fits'}" in " ".join(text.split())
    assert "for DETECTOR='CCD0', SUBARRAY='*' from 2020-01-01 00:00:00 on" in " ".join(text.split())
    assert "rules testobs_0001.pmap > testobs_cam_0001.imap > testobs_cam_dq_0001.rmap" in " ".join(text.split())
    assert "DETECTOR='CCD0', SUBARRAY='FULL', DATE-OBS='2022-03-04', TIME-OBS='05:06:07'" in " ".join(text.split())


def test_best_answers_for_several_files_and_types_in_json(cache, image, tmp_path):
    other = write_image(tmp_path / "other.fits", DETECTOR="CCD2")
    code, text, _ = invoke("best", image, other, "--type", "dq", "--type", "dark", "--cache", cache.root, "--json")
    found = [(one["record"]["outcome"], one["record"]["name"], one["record"]["reason"]) for one in json.loads(text)]
    assert code == Exit.OK
    assert found == [
        ("selected", "CCD0_a.fits", ""),
        ("not_applicable", "N/A", "omitted for this instrument"),
        ("not_applicable", "N/A", "Rules define this type as Not Applicable for these observation parameters"),
        ("not_applicable", "N/A", "omitted for this instrument"),
    ]


def test_best_says_that_none_applies(cache, image):
    code, text, _ = invoke("best", image, "--type", "flat", "--cache", cache.root)
    assert code == Exit.OK
    assert "no flat applies (not applicable to this instrument)" in text
    assert "testobs_0001.pmap > testobs_cam_0001.imap" in text


def damage_pointer(cache):
    (cache.references / "CCD0_a.fits").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def damage_cut(cache):
    path = cache.references / "CCD0_a.fits"
    path.write_bytes(path.read_bytes()[:-1])


def damage_remove(cache):
    (cache.references / "CCD0_a.fits").unlink()


def damage_bad(cache):
    cache.write_server_config("{'bad_files_list': ['CCD0_a.fits']}")


def damage_rule(cache):
    cache.write(cache.context, cache.read(cache.context).replace("generated", "edited"))


def damage_bad_rule(cache):
    cache.write_server_config("{'bad_files_list': ['testobs_cam_0001.imap']}")


def damage_config(cache):
    cache.write_server_config("<html>")


def no_damage(cache):
    pass


@pytest.mark.parametrize(
    ("damage", "keywords", "options", "code", "sentence"),
    [
        (damage_pointer, {}, [], Exit.DATA, "CCD0_a.fits is a git-LFS pointer of 43 bytes .*run `git lfs pull`"),
        (damage_cut, {}, [], Exit.DATA, r"CCD0_a.fits is truncated: its \d+ bytes"),
        (damage_remove, {}, [], Exit.DATA, "CCD0_a.fits, which .*testobs_cam_dq_0001.rmap chose it; copy it there"),
        (damage_bad, {}, [], Exit.DATA, "CCD0_a.fits is marked as bad in config/testobs/server_config"),
        (no_damage, {"DETECTOR": "CCD9"}, [], Exit.DATA, "No dq reference of testobs fits image.fits: rule testobs"),
        (no_damage, {"DATE-OBS": None}, [], Exit.DATA, "the header has no DATE-OBS"),
        (no_damage, {"DATE-OBS": "2001-01-01"}, [], Exit.DATA, "2001-01-01 00:00:00 lies before the first date"),
        (no_damage, {"INSTRUME": "RADIO"}, [], Exit.DATA, "no rules for the instrument of image.fits, 'radio'"),
        (damage_rule, {}, [], Exit.CONFIG, "Mapping testobs_0001.pmap has the checksum .*crds checksum"),
        (damage_bad_rule, {}, [], Exit.CONFIG, "Mapping testobs_cam_0001.imap is marked as bad"),
        (damage_config, {}, [], Exit.CONFIG, "config/testobs/server_config .*cannot be read"),
        (no_damage, {}, ["--type", "mask"], Exit.CONFIG, "no reference type 'mask'; they have dark, dq, flat"),
        (no_damage, {}, ["--observatory", "jwst"], Exit.CONFIG, "no CRDS cache of observatory 'jwst' at"),
        (no_damage, {}, ["--context", "testobs_9.pmap"], Exit.CONFIG, r"Context testobs_9\.pmap is not in"),
        (no_damage, {}, ["--context", "nonsense"], Exit.CONFIG, "'nonsense' is not the name of a CRDS context"),
        (no_damage, {}, ["--checksum", "maybe"], Exit.CONFIG, "--checksum: Input should be 'strict', 'warn' or"),
        (no_damage, {}, ["--cache", "/nowhere"], Exit.CONFIG, "no CRDS cache at /nowhere"),
    ],
)  # fmt: skip
def test_best_says_in_one_sentence_what_is_wrong(cache, tmp_path, damage, keywords, options, code, sentence):
    damage(cache)
    image = write_image(tmp_path / "image.fits", **keywords)
    found, _, said = invoke("best", image, "--cache", cache.root, *options)
    assert found == code
    assert re.search(sentence, said), said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(None, "There is no file .*image.fits; correct its name"), (b"hello", "image.fits cannot be read as FITS")],
)
def test_best_needs_a_fits_file(cache, tmp_path, data, sentence):
    if data is not None:
        (tmp_path / "image.fits").write_bytes(data)
    code, _, said = invoke("best", tmp_path / "image.fits", "--cache", cache.root)
    assert code == Exit.DATA
    assert re.search(sentence, said)


def test_a_wrong_checksum_can_be_ignored(cache, image):
    damage_rule(cache)
    assert invoke("best", image, "--cache", cache.root, "--checksum", "ignore")[0] == Exit.OK


@pytest.fixture
def server(tmp_path):
    served = Cache(tmp_path / "served", "jwst")
    name = "jwst_miri_mask_0001.fits"
    rmap = served.write_rmap("MIRI", "mask", match({("CCD0", "*"): {"2020-01-01 00:00:00": name}}))
    served.write_pmap({"MIRI": served.write_imap("MIRI", {"MASK": rmap})})
    served.write_reference(name)
    with serve(served) as running:
        yield running


def test_sync_fetches_what_a_file_needs_and_best_finds_it(tmp_path, server):
    image, root = write_image(tmp_path / "image.fits", INSTRUME="MIRI"), tmp_path / "new"
    where = ["--cache", root, "--observatory", "jwst"]
    code, text, said = invoke("sync", image, *where, "--server", server.url, "--type", "mask")
    assert code == Exit.OK
    assert "jwst_0001.pmap: 3 mappings, 3 of them fetched now" in text
    assert "jwst_0001.pmap: 1 references, 1 of them fetched now" in text
    assert "3/3 jwst_0001.pmap" in said
    code, text, _ = invoke("sync", image, *where, "--server", server.url, "--type", "mask", "--json")
    again = json.loads(text)
    assert (again["rules"]["fetched"], again["references"]["names"]) == ([], ["jwst_miri_mask_0001.fits"])
    code, text, _ = invoke("best", image, *where, "--type", "mask")
    assert (code, "mask is jwst_miri_mask_0001.fits" in text) == (Exit.OK, True)


def test_sync_without_files_fetches_rules_and_with_everything_all(tmp_path, server):
    where = ["--cache", tmp_path / "new", "--observatory", "jwst", "--server", server.url]
    assert invoke("sync", *where)[0] == Exit.OK
    assert not list((tmp_path / "new").rglob("*.fits"))
    assert invoke("sync", *where, "--everything")[0] == Exit.OK
    assert len(list((tmp_path / "new").rglob("*.fits"))) == 1


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--server", "http://127.0.0.1:9", "-o", "jwst"], Exit.STORE, "cannot be reached: .*can be used offline"),
        (["--server", "https://x.org", "-o", "tmt"], Exit.CONFIG, "no server for observatory 'tmt'"),
        (["--server", "https://x.org", "-o", "jwst", "--cache", "s3://a/b"], Exit.CONFIG, "is a bucket; synchronise"),
    ],
)
def test_sync_says_in_one_sentence_what_is_wrong(tmp_path, options, code, sentence):
    found, _, said = invoke("sync", "--cache", tmp_path / "new", *options)
    assert found == code
    assert re.search(sentence, said), said
    assert said.count("\n") == 1


def test_add_reads_what_it_is_for_from_the_header(tmp_path):
    mask = DQReferenceBuilder((8, 12), instrument="CAM", detector="CCD0", use_after="2020-01-01")
    path, root = mask.save(tmp_path / "mask.fits"), tmp_path / "cache"
    code, text, said = invoke("add", path, "--cache", root, "--observatory", "mysurvey")
    assert (code, said) == (Exit.OK, "")
    assert "is chosen by mysurvey_cam_dq_0001.rmap; the context is mysurvey_0001.pmap now" in text
    code, text, _ = invoke("best", write_image(tmp_path / "image.fits"), "--cache", root)
    assert (code, "dq is mask.fits" in text) == (Exit.OK, True)
    assert CrdsCache(root=str(root), observatory="mysurvey").resolve_context() == "mysurvey_0001.pmap"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--match", "DETECTOR"], "--match 'DETECTOR' is not of the form KEY=VALUE, such as DETECTOR=IMG1"),
        ([], "image.fits has no USEAFTER in its header; give --use-after"),
        (["--use-after", "soon"], "'soon' is not a date"),
    ],
)
def test_add_says_what_is_missing(image, tmp_path, options, sentence):
    code, _, said = invoke("add", image, "--cache", tmp_path / "cache", "-o", "mysurvey", *options)
    assert code == Exit.CONFIG
    assert sentence in said
    assert not (tmp_path / "cache").exists()
