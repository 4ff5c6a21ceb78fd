"""The status says what there is, what is missing and why, and needs no right to write."""

import json
import os
import re
from pathlib import Path

import pytest
from planned_survey import centre, planned_survey, put_exposure, put_raw, put_tile
from typer.testing import CliRunner

from blocks.lease import lease
from flows.cli import app
from flows.config import dump_survey
from flows.item_status import exposure_status, tile_status
from flows.status import store_status
from tasks.products.identity import ExposureId, TileId

TILE = "210.290"
NAMES = ("2000001", "2000002")


@pytest.fixture
def config():
    return planned_survey()


@pytest.fixture
def processed(store, raw_store, config):
    for name in NAMES:
        put_raw(raw_store, name)
    exposures = [put_exposure(store, raw_store, config, name, centre(TILE)) for name in NAMES]
    put_tile(store, raw_store, config, TILE, exposures)


def test_an_exposure_is_shown_with_its_products_and_tiles(store, raw_store, config, processed):
    found = exposure_status(config, store, raw_store, ExposureId(NAMES[0]))

    assert (found.status, found.belongs_to) == ("done", (f"{TILE} (done)",))
    assert [item.stage for item in found.products][:3] == ["headers", "split", "dq_init"]
    assert all(item.is_there for item in found.products)


def test_a_product_that_is_gone_is_shown_as_gone(store, raw_store, config, processed):
    store.remove(f"exposures/{NAMES[0]}/headers.sqlite")

    found = exposure_status(config, store, raw_store, ExposureId(NAMES[0]))

    assert [item.stage for item in found.products if not item.is_there] == ["headers"]


def test_a_tile_is_shown_with_its_exposures(store, raw_store, config, processed):
    found = tile_status(config, store, raw_store, TileId(TILE))

    assert (found.status, found.belongs_to) == ("done", ("2000001 (done)", "2000002 (done)"))
    assert [item.stage for item in found.products] == ["coadd", "catalog"]


def test_what_nobody_knows_is_unknown(store, raw_store, config, processed):
    exposure = exposure_status(config, store, raw_store, ExposureId("2999999"))
    tile = tile_status(config, store, raw_store, TileId("005.005"))

    assert (exposure.status, tile.status) == ("unknown", "unknown")
    assert "there is no such exposure" in exposure.reasons[0]


def test_who_works_on_something_is_shown(store, raw_store, config, processed):
    with lease(store, f"exposure-{NAMES[0]}", owner="run-7"):
        found = exposure_status(config, store, raw_store, ExposureId(NAMES[0]))
        everything = store_status(config, store, raw_store)

    assert "run run-7" in found.working[0]
    assert everything.working == found.working
    assert store_status(config, store, raw_store).working == ()


def test_the_whole_store_is_counted_and_what_is_open_is_listed(store, raw_store, config, processed):
    put_raw(raw_store, "2000003", roles=("image",))

    found = store_status(config, store, raw_store)

    assert (found.exposures, found.tiles) == ({"done": 2, "incomplete": 1}, {"done": 1})
    assert [(item.subject, item.status) for item in found.open] == [("2000003", "incomplete")]


@pytest.fixture
def command(tmp_path, config, store):
    (tmp_path / "survey.yaml").write_text(dump_survey(config))

    def run(*words: str) -> tuple[int, str]:
        options = ["--survey", str(tmp_path / "survey.yaml"), "--store", store.root, "--collection", "test"]
        result = CliRunner().invoke(app, [*words, *options])
        return result.exit_code, result.output

    return run


def test_the_command_prints_the_plan_and_writes_nothing(store, raw_store, processed, command):
    put_raw(raw_store, "2000003", roles=("image",))
    before = store.list_versions()

    code, text = command("plan")
    exit_code, machine = command("plan", "--json")

    assert (code, exit_code) == (0, 0)
    assert "exposures: 2 done, 1 incomplete" in text
    assert {item["exposure"]: item["status"] for item in json.loads(machine)["exposures"]}["2000003"] == "incomplete"
    assert store.list_versions() == before


def test_the_command_prints_the_status_of_everything(processed, command):
    code, text = command("status")
    item_code, item = command("status", "exposure", NAMES[0])
    night_code, night = command("status", "night", "2025-11-20", "--json")

    assert (code, item_code, night_code) == (0, 0, 0)
    assert "exposures: 2 done" in text
    assert f"exposure {NAMES[0]}: done" in item
    assert re.search(r"^products listed \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", item, re.MULTILINE)
    assert json.loads(night)["exposures"] == {"done": 2}


def test_the_command_prints_when_the_products_of_everything_were_listed(store, processed, command):
    os.utime(f"{store.url}/tiles/{TILE}/products.json", (1_763_640_000, 1_763_640_000))

    code, text = command("status", "--all")
    machine = json.loads(command("status", "--json")[1])

    assert code == 0
    assert re.search(rf"tile {TILE} +│ done +│ products listed 2025-11-20 12:00:00 UTC", text)
    assert [item["written"] for item in machine["done"] if item["kind"] == "tile"] == ["2025-11-20T12:00:00Z"]


@pytest.mark.parametrize(
    "night", ["yesterday", "2026-13-01", "", "../..", "2026-11-20\0", "9" * 10_000, "0001-01-01", "9999-12-31"]
)
@pytest.mark.parametrize("words", [("plan", "--night"), ("status", "night"), ("run", "night", "--night")])
def test_a_night_that_is_no_date_is_refused(command, store, words, night):
    code, text = command(*words, night)

    assert code == 2
    assert "is not a date; write it as 2026-11-20" in text
    assert len(text) < 200
    assert not Path(store.root).exists()
