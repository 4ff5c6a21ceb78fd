"""`shearline stage dq_init` and `run_stage("dq_init", ...)` on files as the observatories write them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from crds_cache import store_ccd, write_dq_reference, write_simple_cache
from typer.testing import CliRunner

from flows.cli import Exit, app
from flows.standalone import run_stage
from flows.standalone.naming import output_name
from flows.standalone.options import CacheOptions, DQInitOptions, OutputOptions, ProductOptions
from flows.standalone.parameters import read_parameters
from flows.standalone.running import input_names, options_of
from flows.standalone.stages import STAGES, load_bodies
from tasks.dq_init import DQInitConfig
from tasks.errors import ConfigError
from tasks.products.detector import DetectorImage

SHAPE = (8, 12)
OPTIONS_OF_THE_FIELD = (
    "output_file", "output_dir", "output_ext", "output_use_model", "output_use_index", "save_results", "skip",
    "suffix", "search_output_file", "input_dir", "pre_hooks", "post_hooks", "override_mask", "override_dq",
    "user_supplied_dq",
)  # fmt: skip


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["stage", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def write_ramp(path: Path, **keywords: Any) -> Path:
    primary = fits.PrimaryHDU()
    primary.header.update({"INSTRUME": "CAM", "DETECTOR": "CCD0", "SUBARRAY": "FULL"} | keywords)
    data = np.arange(2 * 3 * SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(2, 3, *SHAPE)
    fits.HDUList([primary, fits.ImageHDU(data, name="SCI")]).writeto(path)
    return path


def flags(*pixels: tuple[int, int, int]) -> np.ndarray:
    plane = np.zeros(SHAPE, np.uint32)
    for y, x, value in pixels:
        plane[y, x] = value
    return plane


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    return write_ramp(tmp_path / "seq1_uncal.fits", FILENAME="telescope_rate.fits")


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    write_dq_reference(tmp_path / "my_mask.fits", flags((1, 2, 1), (3, 4, 2048)))
    return tmp_path / "my_mask.fits"


def read(path: Path, name: str) -> np.ndarray:
    with fits.open(path) as hdus:
        return np.array(hdus[name].data)


# --- what it does -----------------------------------------------------------------------------------------------------


def test_a_file_is_flagged_beside_itself(ramp: Path, mask: Path) -> None:
    before = ramp.read_bytes()

    code, text = invoke("dq_init", ramp, "--override_mask", mask)

    written = ramp.with_name("seq1_dq_init.fits")
    assert code == Exit.OK
    assert f"{ramp}: COMPLETE, reference {mask}: {written}" in text
    assert np.array_equal(read(written, "PIXELDQ"), flags((1, 2, 1), (3, 4, 2048)))
    assert np.array_equal(read(written, "GROUPDQ"), np.broadcast_to(flags((1, 2, 1)), (2, 3, *SHAPE)))
    assert fits.getval(written, "R_MASK") == str(mask)
    assert fits.getval(written, "S_DQINIT") == "COMPLETE"
    assert ramp.read_bytes() == before


def test_the_rules_of_a_cache_choose_the_reference(tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path / "a_uncal.fits", **{"DATE-OBS": "2022-03-04", "TIME-OBS": "05:06:07"})
    cache = write_simple_cache(tmp_path / "crds")
    cache.write_reference("CCD0_a.fits", flags((5, 5, 1024)))

    code, text = invoke("dq_init", ramp, "--cache", tmp_path / "crds")

    assert code == Exit.OK
    assert "reference crds://CCD0_a.fits" in text
    written = tmp_path / "a_dq_init.fits"
    assert np.array_equal(read(written, "PIXELDQ"), flags((5, 5, 1024)))
    assert (fits.getval(written, "R_DQ"), fits.getval(written, "CRDS_CTX")) == ("crds://CCD0_a.fits", cache.context)


@pytest.mark.parametrize("option", [("--override_dq", "n/a"), ("--override_mask", "N/A"), ("--skip", "true")])
def test_a_file_without_a_reference_is_skipped(ramp: Path, option: tuple[str, str]) -> None:
    code, text = invoke("dq_init", ramp, *option)

    written = ramp.with_name("seq1_dq_init.fits")
    assert code == Exit.OK
    assert "SKIPPED" in text
    assert fits.getval(written, "S_DQINIT") == "SKIPPED"
    assert not read(written, "PIXELDQ").any()


def test_the_users_own_flags_and_the_settings_of_the_stage_count(ramp: Path, mask: Path, tmp_path: Path) -> None:
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(flags((7, 7, 4)))]).writeto(tmp_path / "mine.fits")

    result = run_stage(
        "dq_init", ramp, override_mask=str(mask), user_supplied_dq=str(tmp_path / "mine.fits"), ignored_flags=["HOT"]
    )

    assert result.image is not None
    assert result.path is None
    assert np.array_equal(result.image.flags, flags((1, 2, 1), (7, 7, 4)))
    assert not ramp.with_name("seq1_dq_init.fits").exists()


@pytest.mark.parametrize("text", ["HOT,DEAD", "[HOT, DEAD]", "HOT"])
def test_a_list_may_be_written_in_several_ways(ramp: Path, mask: Path, text: str) -> None:
    result = run_stage("dq_init", ramp, override_mask=str(mask), ignored_flags=text)

    assert result.image is not None
    assert np.array_equal(result.image.flags, flags((1, 2, 1)))


def test_neither_a_server_nor_a_run_of_prefect_is_needed(ramp: Path, mask: Path, tmp_path: Path) -> None:
    code = "from flows.cli import app; app()"
    environment = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_HOME": str(tmp_path / "prefect")}
    house = str(Path(__file__).parents[2])

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "stage", "dq_init", str(ramp), "--override_mask", str(mask)],
        env=environment | {"PYTHONPATH": house, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.rglob("*.db"))


# --- several files ----------------------------------------------------------------------------------------------------


def test_several_files_of_one_name_are_numbered(ramp: Path, mask: Path, tmp_path: Path) -> None:
    other = write_ramp(tmp_path / "seq2_uncal.fits")

    code, _ = invoke(
        "dq-init", ramp, other, "--override-mask", mask, "--output-dir", tmp_path / "new/out", "--output_file", "all"
    )

    assert code == Exit.OK
    names = sorted(path.name for path in (tmp_path / "new/out").iterdir())
    assert names == ["all_0_dq_init.fits", "all_1_dq_init.fits"]


def test_files_that_would_replace_each_other_are_refused(ramp: Path, mask: Path, tmp_path: Path) -> None:
    other = write_ramp(tmp_path / "seq2_uncal.fits")

    code, text = invoke(
        "dq_init", ramp, other, "--override_mask", mask, "--output_file", "all", "--output_use_index", "false"
    )

    assert code == Exit.CONFIG
    assert "as another input was; give the inputs other names" in text


def test_a_bad_file_does_not_keep_the_others_from_being_done(ramp: Path, mask: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.fits"
    bad.write_bytes(b"SIMPLE  = nonsense")
    other = write_ramp(tmp_path / "seq2_uncal.fits")

    code, text = invoke("dq_init", ramp, bad, other, "--override_mask", mask)

    assert code == Exit.DATA
    assert f"Without these, which could not be processed: {bad}." in text
    assert ramp.with_name("seq1_dq_init.fits").exists()
    assert other.with_name("seq2_dq_init.fits").exists()


# --- names ------------------------------------------------------------------------------------------------------------

NAMES = [
    ("seq1_uncal.fits", {}, "seq1_dq_init.fits"),
    ("seq1.fits", {}, "seq1_dq_init.fits"),
    ("jw01_nrca1_rateints.fits", {"suffix": "flagged"}, "jw01_nrca1_flagged.fits"),
    ("jw01-uncal.fits", {}, "jw01-dq_init.fits"),
    ("seq1_dqinitstep.fits", {}, "seq1_dq_init.fits"),
    ("seq1_uncal.fits", {"suffix": ""}, "seq1.fits"),
    ("folder/result.fits", {"output_ext": "fit"}, "result_dq_init.fit"),
    ("210.296", {}, "210.296_dq_init.fits"),
    ("uncal.fits", {}, "uncal_dq_init.fits"),
]


@pytest.mark.parametrize(("base", "options", "name"), NAMES)
def test_the_output_is_called_after_the_input(base: str, options: dict[str, str], name: str) -> None:
    assert output_name(base, OutputOptions.model_validate(options), "dq_init", ".fits") == name


@pytest.mark.parametrize("options", [{"output_use_model": "true"}, {"search_output_file": False}])
def test_the_keyword_filename_may_name_the_output(ramp: Path, mask: Path, options: dict[str, Any]) -> None:
    result = run_stage("dq_init", ramp, override_mask=str(mask), save_results=True, **options)

    assert result.path == str(ramp.with_name("telescope_dq_init.fits"))


def test_the_folder_of_output_file_counts_unless_there_is_another(ramp: Path, mask: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "a/name.fits")

    first = run_stage("dq_init", ramp, override_mask=str(mask), output_file=file)
    second = run_stage("dq_init", ramp, override_mask=str(mask), output_file=file, output_dir=str(tmp_path / "b"))

    assert first.path == str(tmp_path / "a/name_dq_init.fits")
    assert second.path == str(tmp_path / "b/name_dq_init.fits")


def test_input_dir_is_where_names_without_a_folder_are(ramp: Path, mask: Path) -> None:
    assert invoke("dq_init", ramp.name, "--override_mask", mask, "--input_dir", ramp.parent)[0] == Exit.OK
    assert ramp.with_name("seq1_dq_init.fits").exists()


def test_environment_variables_in_output_dir_are_read(
    ramp: Path, mask: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_RESULTS", str(tmp_path / "mine"))

    result = run_stage("dq_init", ramp, override_mask=str(mask), output_dir="$MY_RESULTS/x", save_results=True)

    assert result.path == str(tmp_path / "mine/x/seq1_dq_init.fits")


# --- hooks ------------------------------------------------------------------------------------------------------------

SEEN: list[DetectorImage] = []


def look(image: DetectorImage) -> None:
    SEEN.append(image)


def flag_corner(image: DetectorImage) -> DetectorImage:
    pixeldq = image.flags.copy()
    pixeldq[0, 0] |= 4
    return DetectorImage(image.data, pixeldq, image.groupdq, image.window, image.subject)


def brighten(image: DetectorImage) -> DetectorImage:
    return DetectorImage(image.data * 2, image.pixeldq, image.groupdq)


def lose(image: DetectorImage) -> int:
    return 3


def stumble(image: DetectorImage) -> None:
    raise ZeroDivisionError("by nothing")


def test_hooks_see_the_image_before_and_after_and_may_replace_it(ramp: Path, mask: Path) -> None:
    SEEN.clear()
    names = [f"{__name__}:flag_corner", f"{__name__}:look"]

    result = run_stage("dq_init", ramp, override_mask=str(mask), pre_hooks=names, post_hooks=f"{__name__}:look")

    assert [image.flags[0, 0] for image in SEEN] == [4, 4]
    assert [image.flags[1, 2] for image in SEEN] == [0, 1]
    assert result.image is SEEN[1]


@pytest.mark.parametrize(
    ("hook", "sentence"),
    [
        ("brighten", "returned other science values, but dq_init writes those of the input"),
        ("lose", "a hook of dq_init returned a int"),
        ("stumble", "failed: ZeroDivisionError: by nothing"),
        ("nowhere", "has no nowhere"),
        ("SHAPE", "is a tuple, not a function"),
    ],
)
def test_a_hook_that_cannot_work_is_refused(ramp: Path, mask: Path, hook: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run_stage("dq_init", ramp, override_mask=str(mask), post_hooks=[f"{__name__}:{hook}"])


@pytest.mark.parametrize("hook", ["rm -rf x", "os.system", "a:b:c", "os:system('ls')", ""])
def test_a_shell_command_is_no_hook(ramp: Path, hook: str) -> None:
    with pytest.raises(ConfigError, match=r"pre_hooks\.0: String should match pattern"):
        run_stage("dq_init", ramp, override_mask="N/A", pre_hooks=[hook])


def test_a_hook_that_cannot_be_imported_says_where_it_is_looked_for(ramp: Path) -> None:
    with pytest.raises(ConfigError, match="is its folder in PYTHONPATH"):
        run_stage("dq_init", ramp, override_mask="N/A", pre_hooks=["no_such_package.x:f"])


# --- parameter files --------------------------------------------------------------------------------------------------

CFG = 'name = "dq_init"\nclass = "jwst.dq_init.DQInitStep"\n'


def test_the_two_lines_of_a_cfg_file_name_the_stage(ramp: Path, mask: Path, tmp_path: Path) -> None:
    (tmp_path / "dq_init.cfg").write_text(CFG + "# more\nsuffix = 'flat'   # not usual\nskip = False\n")

    code, _ = invoke(tmp_path / "dq_init.cfg", ramp, "--override_mask", mask)

    assert code == Exit.OK
    assert ramp.with_name("seq1_flat.fits").exists()


def test_options_beside_a_yaml_file_count_more_than_it(ramp: Path, mask: Path, tmp_path: Path) -> None:
    (tmp_path / "dq.yaml").write_text(f"stage: dq_init\noverride_mask: {mask}\nsuffix: a\nignored_flags: [HOT]\n")

    result = run_stage("dq_init", ramp, parameters=tmp_path / "dq.yaml", suffix="b", save_results=True)

    assert result.path == str(ramp.with_name("seq1_b.fits"))
    assert result.image is not None
    assert np.array_equal(result.image.flags, flags((1, 2, 1)))


def test_a_parameter_file_may_be_an_option(ramp: Path, mask: Path, tmp_path: Path) -> None:
    (tmp_path / "dq.yml").write_text(f"override_mask: {mask}\n")

    assert invoke("dq_init", ramp, "--parameters", tmp_path / "dq.yml")[0] == Exit.OK


BAD_FILES = [
    ("a.cfg", "[steps]\n", "Line 1 of .* cannot be used, as it is of a whole pipeline"),
    ("a.cfg", "skip\n", "Line 1 of .* cannot be used, as it is not key = value"),
    ("a.cfg", 'class = "jwst.flatfield.FlatFieldStep"\n', "FlatFieldStep, which Shearline has no stage for"),
    ("a.cfg", 'name = "flat"\n', "is for flat, which Shearline has no stage for"),
    ("a.yaml", "- 1\n", "holds no options by name"),
    ("a.yaml", "a: [\n", "is not valid YAML"),
    ("a.yaml", "stage: detect\n", "is for the stage detect, not dq_init"),
    ("a.yaml", "stage: detct\n", "There is no stage 'detct'"),
    ("a.yaml", "skipp: true\n", "a.yaml: dq_init has no option skipp"),
    ("a.yaml", "skip: maybe\n", "a.yaml: skip: Input should be a valid boolean"),
    ("a.asdf", "", "is not a parameter file: their names end in .cfg, .yaml, .yml"),
]


@pytest.mark.parametrize(("name", "text", "sentence"), BAD_FILES)
def test_a_bad_parameter_file_is_refused(ramp: Path, tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(ConfigError, match=sentence):
        run_stage("dq_init", ramp, parameters=tmp_path / name, override_mask="N/A")


def test_a_parameter_file_that_is_not_there_ends_the_command(ramp: Path, tmp_path: Path) -> None:
    code, text = invoke(tmp_path / "no.cfg", ramp)

    assert code == Exit.CONFIG
    assert "no.cfg cannot be read" in text


def test_a_cfg_file_without_a_name_leaves_the_stage_open(tmp_path: Path) -> None:
    (tmp_path / "a.cfg").write_text("skip = True\n")

    assert read_parameters(tmp_path / "a.cfg").stage is None
    code, text = invoke(tmp_path / "a.cfg", "x.fits")
    assert code == Exit.CONFIG
    assert "does not say which stage it is for" in text


# --- what is refused --------------------------------------------------------------------------------------------------

REFUSED = [
    (["--override_mask", "a.fits", "--override_dq", "b.fits"], Exit.CONFIG, "are two names of one option"),
    (["--override_mask", "nowhere.fits"], Exit.CONFIG, "override_mask is nowhere.fits, which is not a file"),
    (["--output_ext", "asdf", "--skip", "true"], Exit.CONFIG, "output_ext is .asdf, but dq_init writes FITS only"),
    (["--skip", "perhaps"], Exit.CONFIG, "skip: Input should be a valid boolean"),
    (["--output_dir", "$NO_SUCH_PLACE/x", "--skip", "true"], Exit.CONFIG, "variable NO_SUCH_PLACE is not set"),
    (["--context", "jwst_0535.pmap"], Exit.CONFIG, "context is jwst_0535.pmap, but no cache is named"),
    (["--cache", "nowhere"], Exit.CONFIG, "There is no CRDS cache at nowhere"),
    (["--checksum", "lax", "--skip", "true"], Exit.CONFIG, "checksum: Input should be 'strict', 'warn' or 'ignore'"),
    (["--suffix", "../x", "--skip", "true"], Exit.CONFIG, "suffix: String should match pattern"),
    (["--suffix", "uncal", "--skip", "true"], Exit.CONFIG, "is the input itself, which is never changed"),
    ([], Exit.CONFIG, "has no reference: name a CRDS cache, or give override_"),
]


@pytest.mark.parametrize(("options", "code", "sentence"), REFUSED)
def test_what_cannot_be_done_is_said_in_a_sentence(ramp: Path, options: list[str], code: Exit, sentence: str) -> None:
    got, text = invoke("dq_init", ramp, *options)

    assert got == code
    assert sentence in " ".join(text.split())
    assert [path.name for path in ramp.parent.glob("*.fits")] == [ramp.name]


def test_a_folder_that_cannot_be_made_is_a_matter_of_the_store(ramp: Path) -> None:
    code, text = invoke("dq_init", ramp, "--skip", "true", "--output_dir", ramp / "below")

    assert code == Exit.STORE
    assert "cannot be written" in text


def test_a_cache_of_several_observatories_must_be_told_which(tmp_path: Path, ramp: Path) -> None:
    for name in ("jwst", "tmt"):
        write_simple_cache(tmp_path / "crds", name)

    with pytest.raises(ConfigError, match="has the observatories jwst, tmt; say which one is meant"):
        run_stage("dq_init", ramp, cache=str(tmp_path / "crds"))


def test_python_takes_one_file_at_a_time(ramp: Path) -> None:
    with pytest.raises(ConfigError, match="takes one file for dq_init, not 2"):
        run_stage("dq_init", ramp, ramp, override_mask="N/A")


def test_save_results_false_computes_and_writes_nothing(ramp: Path, mask: Path) -> None:
    code, text = invoke("dq_init", ramp, "--override_mask", mask, "--save_results", "false")

    assert code == Exit.OK
    assert "nothing was written" in text
    assert not ramp.with_name("seq1_dq_init.fits").exists()


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_names_every_stage() -> None:
    code, text = invoke("--help")

    assert code == Exit.OK
    assert [name for name in STAGES if name not in text] == []


def test_the_help_of_dq_init_has_every_option_of_the_field_with_type_default_and_meaning() -> None:
    code, text = invoke("dq_init", "--help")
    lines = " ".join(text.replace("│", " ").split())

    assert code == Exit.OK
    assert [name for name in OPTIONS_OF_THE_FIELD if f"--{name} " not in lines] == []
    for name, field in (DQInitOptions.model_fields | DQInitConfig.model_fields).items():
        assert f"--{name} " in lines
        assert " ".join((field.description or "-").replace("``", "`").split()) in lines
    assert "--skip TRUE|FALSE Leave the step out: S_DQINIT is then SKIPPED. Default: false." in lines
    assert "--ignored_flags LIST Flags of the reference that are not copied to the image. Default: []." in lines


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_help_of_every_stage_has_its_inputs_and_settings(stage: str) -> None:
    code, text = invoke(stage, "--help")
    bodies = load_bodies(STAGES[stage])
    expected = [*input_names(STAGES[stage], bodies), *options_of(STAGES[stage]).model_fields]
    expected += list(bodies[0].config.model_fields)

    assert code == Exit.OK
    assert [name for name in expected if f"--{name} " not in text] == []


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_no_two_options_of_a_stage_have_one_name(stage: str) -> None:
    bodies = load_bodies(STAGES[stage])
    names = [*input_names(STAGES[stage], bodies), *options_of(STAGES[stage]).model_fields, "tile", "exposure", "ccd"]
    names += [*bodies[0].config.model_fields, "files", "parameters"]

    assert len(names) == len(set(names))


def test_every_option_says_what_it_means() -> None:
    for kind in (OutputOptions, CacheOptions, DQInitOptions, ProductOptions):
        assert [name for name, field in kind.model_fields.items() if not field.description] == []


def test_an_unknown_stage_is_refused() -> None:
    code, text = invoke("dq_inti", "a.fits")

    assert code == Exit.CONFIG
    assert "dq_inti" in text
    with pytest.raises(ConfigError, match="There is no stage 'dq_inti'; stages are dq_init, "):
        run_stage("dq_inti")


def test_a_ccd_image_of_shearline_is_matched_by_the_keywords_of_its_raw_file(tmp_path: Path, store: Any) -> None:
    cache = write_simple_cache(tmp_path / "crds")
    cache.write_reference("CCD0_a.fits", flags((5, 5, 1024)))
    image = store_ccd(store)

    result = run_stage("dq_init", f"{store.url}/{image.key}", cache=str(tmp_path / "crds"))

    assert result.reference == "crds://CCD0_a.fits"
    assert result.image is not None
    assert np.array_equal(result.image.flags, flags((5, 5, 1024)))
