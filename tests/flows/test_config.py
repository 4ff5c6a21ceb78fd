from pathlib import Path

import pytest
from pydantic import BaseModel, RootModel

from flows import config
from flows.config import SurveyConfig, dump_survey, load_survey, survey_files
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId, TileId


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "survey.yaml"
    path.write_text("name: test\nexposure:\n  instrument: {name: cam}\n" + text)
    return str(path)


@pytest.mark.parametrize("name", ["demo", "cfis", "decam"])
def test_the_surveys_that_come_along_are_valid(name: str) -> None:
    assert name in survey_files()
    assert load_survey(name).exposure.instrument.name


def test_what_show_prints_is_a_complete_survey_file(tmp_path: Path) -> None:
    cfis = load_survey("cfis")
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_survey(cfis))

    assert load_survey(str(path)) == cfis


def test_a_misspelt_key_is_named_with_its_path_and_the_nearest_name(tmp_path: Path) -> None:
    name = write(tmp_path, "tile:\n  detect: {treshold_sigma: 2}\n")

    with pytest.raises(ConfigError, match=r"tile\.detect\.treshold_sigma is not .*; did you mean 'threshold_sigma'"):
        load_survey(name)


def test_a_misspelt_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tile\.shape is not a setting; did you mean 'shapes'"):
        load_survey(write(tmp_path, "tile:\n  shape: {}\n"))


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    name = write(tmp_path, "nmae: x\ntile:\n  detect: {threshold_sigma: -1}\n")

    with pytest.raises(ConfigError, match=r"(?s)threshold_sigma = -1: input should be greater.*nmae is not a setting"):
        load_survey(name)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "survey.yaml"
    path.write_text("name: test\n")

    with pytest.raises(ConfigError, match="exposure is missing"):
        load_survey(str(path))


def test_settings_are_changed_from_the_command_line(tmp_path: Path) -> None:
    changes = ["tile.detect.threshold_sigma=2.5", "name=other", "split.min_good_fraction=0.1"]
    survey = load_survey(write(tmp_path, ""), changes)

    assert survey.tile.detect.threshold_sigma == 2.5
    assert survey.exposure.detect.threshold_sigma != 2.5
    assert survey.name == "other"
    assert survey.exposure.split.min_good_fraction == 0.1


def test_a_stage_of_both_flows_must_be_spelt_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ambiguous: say exposure\.detect\.threshold_sigma or tile\.detect"):
        load_survey(write(tmp_path, ""), ["detect.threshold_sigma=2"])


def test_an_unknown_stage_on_the_command_line_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no 'shpaes'; did you mean 'shapes'"):
        load_survey(write(tmp_path, ""), ["shpaes.step=0.02"])


@pytest.mark.parametrize("change", ["detect", "=3", "a..b=1"])
def test_a_change_that_is_none_is_refused(tmp_path: Path, change: str) -> None:
    with pytest.raises(ConfigError, match=r"is not of the form stage\.field=value"):
        load_survey(write(tmp_path, ""), [change])


def test_a_survey_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="There is no survey 'cfsi'; did you mean 'cfis'"):
        load_survey("cfsi")
    with pytest.raises(ConfigError, match=r"There is no survey file none\.yaml"):
        load_survey("none.yaml")


def test_a_survey_file_that_cannot_be_read_has_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "survey.yaml"
    path.write_bytes(b"\x80\x81")
    with pytest.raises(ConfigError, match="is not text, so it is no survey file"):
        load_survey(str(path))
    for name in (str(tmp_path / "survey.yaml" / "x.yaml"), "x" * 10_000 + ".yaml", "x\0.yaml"):
        with pytest.raises(ConfigError, match=r"cannot be read|There is no survey file") as error:
            load_survey(name)
        assert len(str(error.value)) < 300


def test_a_file_that_is_not_yaml_has_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "survey.yaml"
    path.write_text("name: [")

    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_survey(str(path))
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds list, not settings by name"):
        load_survey(str(path))


def test_exposure_names_may_be_written_as_numbers(tmp_path: Path) -> None:
    survey = load_survey(write(tmp_path, "exposures: [2113737, '2113738']\n"))

    assert survey.exposures == (ExposureId("2113737"), ExposureId("2113738"))


def test_a_name_with_leading_zeros_keeps_them(tmp_path: Path) -> None:
    survey = load_survey(write(tmp_path, "exposures: [0012345]\n"))

    assert survey.exposures == (ExposureId("0012345"),)


def test_a_tile_has_one_name_and_occurs_once(tmp_path: Path) -> None:
    assert load_survey(write(tmp_path, "tiles: ['210-296']\n")).tiles == (TileId("210.296"),)
    with pytest.raises(ConfigError, match=r"names occur twice: 210\.296"):
        load_survey(write(tmp_path, "tiles: ['210.296', '0210-296']\n"))


def test_the_exposures_of_a_tile_may_be_written_as_numbers(tmp_path: Path) -> None:
    survey = load_survey(write(tmp_path, "tile_exposures: {'0210-296': [2113737, '0012345']}\n"))

    assert survey.tile_exposures == {TileId("210.296"): (ExposureId("2113737"), ExposureId("0012345"))}


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ("{'210.296': [1, 2, 1]}", r"names occur twice: 1 of tile 210\.296"),
        ("{'210.296': [1], '210-296': [2]}", "one tile under two names"),
        ("{210.290: [1]}", r"210\.29 is a number: write names with a point in quotes"),
        ("{'210.296': 2113737}", "valid tuple"),
        ("{'210.296': ['../x']}", "should match pattern"),
        ("{'210': [1]}", "should match pattern"),
        ("[2113737]", "valid dictionary"),
    ],
)
def test_an_observing_plan_that_cannot_be_meant_is_refused(tmp_path: Path, plan: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=rf"tile_exposures.*{sentence}"):
        load_survey(write(tmp_path, f"tile_exposures: {plan}\n"))


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("exposures: [1, '1']", "exposures = .*names occur twice: 1"),
        ("exposures: [yes]", r"exposures\.0 = True: input should be a valid string"),
        ("tiles: [210.290]", r"210\.29 is a number: write names with a point in quotes"),
        ("tiles: ['210.296', 7]", r"tiles\.1 = '7': string should match pattern"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(tmp_path: Path, names: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_survey(write(tmp_path, names + "\n"))


def test_a_night_has_the_time_zone_of_the_telescope(tmp_path: Path) -> None:
    assert load_survey(write(tmp_path, "")).timezone == "UTC"
    assert load_survey(write(tmp_path, "timezone: Pacific/Honolulu\n")).timezone == "Pacific/Honolulu"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "''", "../../etc/passwd", "/etc/localtime", "Pacific"])
def test_what_is_no_time_zone_is_refused(tmp_path: Path, zone: str) -> None:
    with pytest.raises(ConfigError, match=r"timezone = .* is not the name of a time zone, such as Pacific/Honolulu"):
        load_survey(write(tmp_path, f"timezone: {zone}\n"))


@pytest.mark.parametrize("seed", [-1, "x"])
def test_a_seed_is_a_number_from_zero(tmp_path: Path, seed: object) -> None:
    with pytest.raises(ConfigError, match=r"seed = .*input should be"):
        load_survey(write(tmp_path, f"seed: {seed}\n"))


@pytest.mark.parametrize(
    ("cache", "sentence"),
    [
        ("observatory: J W, context: jwst_1300.pmap", r"reference_cache\.observatory = 'J W'"),
        ("observatory: jwst, context: ../jwst.pmap", r"reference_cache\.context = '\.\./jwst\.pmap'"),
        ("observatory: jwst, context: jwst_1300.pmap, checksum: maybe", r"reference_cache\.checksum = 'maybe'"),
    ],
)
def test_a_reference_cache_is_checked(tmp_path: Path, cache: str, sentence: str) -> None:
    path = tmp_path / "survey.yaml"
    path.write_text(
        f"name: test\nexposure:\n  instrument: {{name: cam}}\n  reference_cache: {{root: /crds, {cache}}}\n"
    )

    with pytest.raises(ConfigError, match=sentence):
        load_survey(str(path))


def test_the_seed_of_the_survey_is_that_of_its_stages_unless_they_have_their_own(tmp_path: Path) -> None:
    survey = load_survey(write(tmp_path, "seed: 7\ntile:\n  shapes: {seed: 3}\n"))

    assert (survey.exposure.stars.seed, survey.tile.shapes.seed) == (7, 3)


def test_settings_cannot_be_changed_afterwards() -> None:
    survey = load_survey("demo")

    with pytest.raises(ValueError, match="frozen"):
        survey.name = "other"


def test_yaml_tags_are_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "survey.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n")

    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_survey(str(path))


def models_within(model: type[BaseModel]) -> set[type[BaseModel]]:
    """Return a model and every model of its fields, at any depth."""
    inner = {found for field in model.model_fields.values() for found in config._models(field.annotation)}
    return {model}.union(*(models_within(found) for found in inner))


def test_every_setting_has_a_description() -> None:
    missing = [
        f"{model.__name__}.{name}"
        for model in models_within(SurveyConfig)
        for name, field in model.model_fields.items()
        if not field.description and not issubclass(model, RootModel)
    ]

    assert missing == []
