import logging
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blocks.store import DataStore
from flows.announce import (
    announce_exposure,
    announce_files,
    announce_missed,
    emit_arrivals,
    exposure_of,
)
from flows.cli import Exit, app
from tasks.archive.inbox import announce, list_arrivals, read_arrival
from tasks.archive.manifests import write_refusal
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId, Refusal
from tasks.products.instrument import Instrument
from tasks.products.recipe import Recipe

CAMERA = Instrument(name="a camera")
NAME = ExposureId("2113737")


def put_raw(raw: DataStore, name: str, *suffixes: str) -> None:
    for suffix in suffixes or ("", ".weight", ".flag"):
        raw.put_bytes(f"{name}p{suffix}.fits.fz", b"pixels")


@pytest.mark.parametrize(
    "what",
    [
        "2113737",
        "2113737p.fits.fz",
        "/data/2113737p.weight.fits.fz",
        "s3://bucket/night/2113737p.flag.fits.fz",
        "file:///x/../2113737p.fits.fz",
    ],
)
def test_a_name_a_file_and_a_uri_mean_an_exposure(what: str) -> None:
    assert exposure_of(what, CAMERA) == NAME


@pytest.mark.parametrize(
    "what", ["", "../../etc", "/etc/passwd", "21137370", "stars.fits", "2113737\x00", "x" * 10_000]
)
def test_what_means_no_exposure_is_refused_with_one_sentence(what: str) -> None:
    with pytest.raises(ConfigError, match="is neither an exposure of a camera") as caught:
        exposure_of(what, CAMERA)

    assert len(str(caught.value)) < 300


@pytest.mark.usefixtures("prefect_server")
def test_an_announcement_is_a_note_and_an_event(store: DataStore) -> None:
    note = announce_exposure(store, "s3://bucket/2113737p.fits.fz", CAMERA, survey="test-announce")

    assert read_arrival(store, NAME) == note
    [event] = events_of("shearline.survey.test-announce", 1)
    assert event["event"] == "shearline.exposure.arrived"
    assert event["resource"]["prefect.resource.id"] == "shearline.exposure.2113737"
    assert event["payload"]["exposure"] == "2113737"


@pytest.mark.usefixtures("prefect_server")
def test_a_note_that_is_told_twice_is_one_event_unless_it_is_told_again(store: DataStore) -> None:
    notes = [announce(store, NAME)]
    assert emit_arrivals(notes, "test-twice")
    assert emit_arrivals(notes, "test-twice")
    assert emit_arrivals(notes, "test-twice", again=True)

    assert len(events_of("shearline.survey.test-twice", 2)) == 2


def events_of(related: str, number: int) -> list[dict[str, Any]]:
    """The events of a survey, when the server has taken in so many of them; it does that beside its answers."""
    from prefect import get_client

    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 20
    wanted = {"filter": {"related": {"id": [related]}}, "limit": 50}
    with get_client(sync_client=True) as client:
        while len(found) < number and time.monotonic() < deadline:
            time.sleep(0.2)
            found = client.request("POST", "/events/filter", json=wanted).json()["events"]
    return found


def test_prefect_being_away_is_a_warning_and_the_note_stays(store: DataStore, caplog: pytest.LogCaptureFixture) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}),
        caplog.at_level(logging.WARNING, "shearline.announce"),
    ):
        announce_exposure(store, NAME, CAMERA, survey="test")

    assert "Prefect could not be told of 1 arrivals" in caplog.text
    assert list(list_arrivals(store)) == [NAME]


def test_without_a_prefect_api_only_the_note_is_left(store: DataStore, caplog: pytest.LogCaptureFixture) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: None}):
        assert not emit_arrivals([announce(store, NAME)], "test")

    assert caplog.text == ""


def test_the_files_of_one_exposure_are_one_announcement(store: DataStore) -> None:
    notes = announce_files(store, ["2113737p.fits.fz", "2113738", "2113737p.weight.fits.fz"], CAMERA, survey="test")

    assert list(notes) == [NAME, ExposureId("2113738")]
    assert list_arrivals(store).keys() == notes.keys()


def test_nothing_is_announced_if_one_name_is_wrong(store: DataStore) -> None:
    with pytest.raises(ConfigError, match="neither an exposure"):
        announce_files(store, ["2113737", "../x"], CAMERA, survey="test")

    assert list_arrivals(store) == {}


def test_the_sweep_finds_complete_exposures_that_nobody_announced(store: DataStore, raw_store: DataStore) -> None:
    put_raw(raw_store, "2113737")
    put_raw(raw_store, "2113738", "", ".weight")
    put_raw(raw_store, "2113739")
    put_raw(raw_store, "2113740")
    announce(store, "2113739")
    write_refusal(store, ExposureId("2113740"), Refusal(subject="2113740", reason="bad", recipe=Recipe()))

    assert [note.exposure for note in announce_missed(store, raw_store, CAMERA, settle_s=0)] == [NAME]
    assert list(list_arrivals(store)) == [NAME, ExposureId("2113739")]
    assert announce_missed(store, raw_store, CAMERA, settle_s=0) == []


def test_the_sweep_passes_by_an_exposure_without_its_star_lists(store: DataStore, raw_store: DataStore) -> None:
    camera = CAMERA.model_copy(update={"star_list_file": "stars/{exposure}/{ccd}.cat", "n_ccds": 2})
    put_raw(raw_store, "2113737")
    raw_store.put_bytes("stars/2113737/0.cat", b"stars")
    raw_store.put_bytes("stars/2113737/2.cat", b"of no CCD of this camera")
    assert announce_missed(store, raw_store, camera, settle_s=0) == []
    raw_store.put_bytes("stars/2113737/1.cat", b"stars")

    assert [note.exposure for note in announce_missed(store, raw_store, camera, settle_s=0)] == [NAME]


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_notify_leaves_notes_and_says_so(tmp_path: Path) -> None:
    code, text = invoke("notify", "2113737", "s3://b/2113738p.fits.fz", "--store", str(tmp_path / "store"))

    assert (code, text) == (Exit.OK, "announced 2113737\nannounced 2113738\n")
    assert len(list_arrivals(DataStore(root=str(tmp_path / "store"), collection="main"))) == 2


@pytest.mark.parametrize("name", ["../../etc/passwd", "2113737\x00", "x" * 10_000, "\u202e2113737", "/abs/olute"])
def test_notify_refuses_names_that_could_leave_the_collection(tmp_path: Path, name: str) -> None:
    code, text = invoke("notify", "--store", str(tmp_path / "store"), "--", name)

    assert (code, "neither an exposure of" in text) == (Exit.CONFIG, True)
    assert [path for path in tmp_path.rglob("*.json") if "inbox" in path.parts] == []


def test_notify_does_not_speak_to_a_receiver_without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHEARLINE_RECEIVER_SECRET", raising=False)
    code, text = invoke("notify", "2113737", "--receiver", "http://127.0.0.1:1")

    assert (code, "set SHEARLINE_RECEIVER_SECRET" in text) == (Exit.CONFIG, True)
