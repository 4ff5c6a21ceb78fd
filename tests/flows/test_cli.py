import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import Exit, app

runner = CliRunner()


def invoke(*arguments: str) -> tuple[int, str]:
    result = runner.invoke(app, list(arguments))
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_help_names_every_command() -> None:
    code, text = invoke("--help")

    assert code == Exit.OK
    assert all(word in text for word in ("demo", "run", "config"))


def test_show_prints_the_resolved_settings() -> None:
    code, text = invoke("config", "show", "demo", "--set", "tile.detect.threshold_sigma=3.5")

    assert code == Exit.OK
    assert "threshold_sigma: 3.5" in text


def test_check_says_that_settings_are_valid() -> None:
    code, text = invoke("config", "check", "cfis")

    assert code == Exit.OK
    assert "the settings of CFIS are valid" in text


def test_wrong_settings_have_exit_code_2_before_any_work(tmp_path: Path) -> None:
    code, text = invoke(
        "run", "exposure", "2113737", "--store", str(tmp_path / "store"), "--set", "stars.reserved_fracton=0.1"
    )

    assert code == Exit.CONFIG
    assert "did you mean 'reserved_fraction'" in text
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "name", ["../../etc", "/etc/passwd", "a/b", "a\0b", "", "x" * 10_000], ids=lambda name: name[:9]
)
@pytest.mark.parametrize("command", [("run", "exposure"), ("run", "tile"), ("status", "exposure"), ("status", "tile")])
def test_names_that_could_leave_the_store_are_refused(tmp_path: Path, command: tuple[str, str], name: str) -> None:
    code, text = invoke(*command, name, "--store", str(tmp_path / "store"))

    assert code == Exit.CONFIG
    assert "cannot be the name of an exposure or tile" in text
    assert len(text) < 500
    assert not (tmp_path / "store").exists()


def test_a_store_that_cannot_be_written_has_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, text = invoke("run", "exposure", "2113737", "--store", str(tmp_path / "file"))

    assert code == Exit.STORE
    assert "cannot be used" in text


def test_a_collection_that_leaves_the_store_is_refused(tmp_path: Path) -> None:
    code, text = invoke("run", "tile", "210.296", "--store", str(tmp_path), "--collection", "../x")

    assert code == Exit.CONFIG
    assert "is not a collection name" in text


@pytest.mark.parametrize("command", [("status",), ("plan",), ("status", "night", "2026-11-20")])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    code, text = invoke(*command, "--store", str(tmp_path / "stoer"))

    assert code == Exit.CONFIG
    assert f"There is neither a folder {tmp_path}/stoer/main nor {tmp_path}/stoer/raw" in text


def test_a_folder_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    code, text = invoke("watch", str(tmp_path / "rwa"), "--store", str(tmp_path / "store"), "--once")

    assert code == Exit.CONFIG
    assert f"There is no folder {tmp_path}/rwa to watch" in text


@pytest.mark.parametrize("root", ["", "ftp://x", "s3://"])
def test_a_store_that_cannot_be_is_refused_without_words_of_libraries(root: str) -> None:
    code, text = invoke("plan", "--store", root)

    assert code == Exit.CONFIG
    assert re.match(r"shearline: (a store needs|'ftp://x': a store is|'s3://' names no bucket)", text), text


def test_products_do_not_go_where_the_raw_files_are(tmp_path: Path) -> None:
    code, text = invoke("run", "exposure", "2113737", "--store", str(tmp_path), "--collection", "raw")

    assert code == Exit.CONFIG
    assert "where the raw files are; choose another --collection" in text


def test_prefect_is_not_imported_before_its_home_is_chosen() -> None:
    program = "import sys, flows.cli; sys.exit(any(name.split('.')[0] == 'prefect' for name in sys.modules))"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.usefixtures("prefect_server")
def test_a_file_that_only_the_settings_know_has_exit_code_2(tmp_path: Path) -> None:
    code, text = invoke("run", "survey", "--survey", "demo", "--store", str(tmp_path / "store"))

    assert code == Exit.CONFIG
    assert "which is not in" in text


@pytest.mark.usefixtures("prefect_server")
def test_an_unknown_exposure_has_exit_code_1_and_a_sentence(tmp_path: Path) -> None:
    code, text = invoke("run", "exposure", "2113737", "--store", str(tmp_path / "store"))

    assert code == Exit.DATA
    assert "Exposure 2113737 is not in" in text


@pytest.mark.usefixtures("prefect_server")
def test_a_tile_without_exposures_has_exit_code_1_and_a_sentence(tmp_path: Path) -> None:
    code, text = invoke("run", "tile", "210.296", "--store", str(tmp_path / "store"))

    assert code == Exit.DATA
    assert "No processed exposure overlaps tile 210.296" in text


@pytest.mark.usefixtures("prefect_server")
def test_a_tile_of_an_exposure_that_is_not_processed_has_exit_code_1_and_a_sentence(tmp_path: Path) -> None:
    code, text = invoke("run", "tile", "210.296", "--store", str(tmp_path / "store"), "--set", "exposures=['2113737']")

    assert code == Exit.DATA
    assert re.search(
        r"^shearline: Exposure 2113737 is not processed in .*; run `shearline run exposure 2113737` first", text, re.M
    ), text
