import json

import pytest

from blocks.store import DataStore
from tasks.archive.inbox import (
    announce,
    forget_arrival,
    list_arrivals,
    read_arrival,
    read_arrivals,
    replace_damaged,
)
from tasks.archive.raw_names import RawNames
from tasks.errors import ConfigError
from tasks.products.identity import ExposureId
from tasks.products.instrument import Instrument

NAME = ExposureId("2113737")
BAD_NAMES = [
    "../../etc/passwd", "/etc/passwd", "a/b", "..", ".hidden", "", " ", "2113737\x00", "2113737\n", "x" * 10_000,
    "\uff12\uff11\uff11\uff13\uff17\uff13\uff17", "2113737\u202e", "é", "%2e%2e%2f", "2113737.json", "C:\\x",
]  # fmt: skip


def test_a_note_is_in_the_store_when_announce_returns(store: DataStore) -> None:
    note = announce(store, "2113737", "s3://bucket/2113737p.fits.fz")

    assert list(list_arrivals(store)) == [NAME]
    assert read_arrival(store, NAME) == note
    assert (note.exposure, note.source) == (NAME, "s3://bucket/2113737p.fits.fz")


def test_an_exposure_that_is_announced_again_has_one_note_with_another_token(store: DataStore) -> None:
    first = announce(store, NAME)
    before = list_arrivals(store)
    second = announce(store, NAME)

    assert second.token != first.token
    assert list_arrivals(store).keys() == before.keys()
    assert list_arrivals(store) != before
    assert read_arrival(store, NAME) == second


def test_a_note_that_was_handled_is_forgotten(store: DataStore) -> None:
    note = announce(store, NAME)

    assert forget_arrival(store, note)
    assert list_arrivals(store) == {}
    assert forget_arrival(store, note)


def test_a_note_that_came_during_the_work_is_kept(store: DataStore) -> None:
    handled = announce(store, NAME)
    newer = announce(store, NAME)

    assert not forget_arrival(store, handled)
    assert read_arrival(store, NAME) == newer


def test_notes_are_read_in_the_order_in_which_they_were_announced(store: DataStore) -> None:
    for name in ("30", "10", "20"):
        announce(store, name)

    assert [note.exposure.name for note in read_arrivals(store, list_arrivals(store))] == ["30", "10", "20"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name[:12]))
def test_a_name_that_could_leave_the_inbox_is_refused(store: DataStore, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of an exposure") as caught:
        announce(store, name)

    assert len(str(caught.value)) < 300
    assert store.list_keys() == []


def test_a_source_is_cut_and_cleaned_for_people(store: DataStore) -> None:
    note = announce(store, NAME, "s3://user:secret@host/\x1b[31m\n" + "x" * 10_000)

    assert note.source.startswith("s3://host/?[31m?xxx")
    assert len(note.source) == 300


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"exposure": "../x"}'])
def test_what_is_no_note_is_passed_by(store: DataStore, text: str) -> None:
    store.put_bytes("inbox/2113737.json", text.encode())
    store.put_bytes("inbox/README.txt", b"somebody was here")

    assert read_arrivals(store, list_arrivals(store)) == []


def test_a_note_under_the_name_of_another_exposure_is_passed_by(store: DataStore) -> None:
    note = announce(store, NAME)
    store.put_bytes("inbox/1.json", note.model_dump_json().encode())

    assert read_arrival(store, ExposureId("1")) is None


@pytest.mark.parametrize("text", ["", "no JSON", '{"exposure": "2113738"}'])
def test_a_note_that_cannot_be_read_is_written_anew(store: DataStore, text: str) -> None:
    store.put_bytes("inbox/2113737.json", text.encode())
    note = replace_damaged(store, NAME)

    assert note is not None
    assert read_arrival(store, NAME) == note


def test_a_good_note_and_none_are_left_as_they_are(store: DataStore) -> None:
    note = announce(store, NAME)

    assert (replace_damaged(store, NAME), replace_damaged(store, ExposureId("2113738"))) == (None, None)
    assert read_arrival(store, NAME) == note
    assert list(list_arrivals(store)) == [NAME]


def test_a_file_without_the_ending_of_notes_is_none(store: DataStore) -> None:
    store.put_bytes("inbox/2113737", b"somebody was here")

    assert list_arrivals(store) == {}


def test_notes_are_documents_that_people_can_read(store: DataStore) -> None:
    announce(store, NAME, "by hand")
    written = json.loads(store.read_bytes("inbox/2113737.json"))

    assert set(written) == {"exposure", "token", "announced_at", "source"}


CAMERA = Instrument(name="a camera")


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("2113737p.fits.fz", "image"),
        ("night/2113737p.weight.fits.fz", "weight"),
        ("s3://bucket/night/2113737p.flag.fits.fz", "flag"),
        ("stars.fits", None),
        ("2113737p.fits.fz.part", None),
        ("12113737p.fits.fz", None),
        ("2113737p.fits.fz\n", None),
        ("x/" * 5000 + "2113737p.fits.fz", None),
    ],
)
def test_a_file_name_says_of_which_exposure_it_is_what(path: str, role: str | None) -> None:
    assert RawNames(CAMERA).file_named(path) == ((NAME, role) if role else None)


def test_an_exposure_is_complete_with_every_file_that_the_camera_has() -> None:
    files = ["2113737p.fits.fz", "2113737p.weight.fits.fz", "2113737p.flag.fits.fz", "2113738p.fits.fz"]

    assert RawNames(CAMERA).complete(files) == {NAME: tuple(sorted(files[:3]))}
    assert list(RawNames(Instrument(name="bare", weight_file=None, flag_file=None)).complete(files)) == [
        NAME,
        ExposureId("2113738"),
    ]


def test_a_star_in_a_template_stands_for_anything_but_a_slash() -> None:
    names = RawNames(Instrument(name="any", image_file="c4d_{exposure}_ooi_*.fits.fz", exposure_pattern=r"\d{6}_\d{6}"))

    assert names.file_named("c4d_170101_010203_ooi_r_v1.fits.fz") == (ExposureId("170101_010203"), "image")
    assert names.file_named("c4d_170101_010203_ooi_r/v1.fits.fz") is None


def test_a_pattern_of_the_settings_does_not_let_bad_names_in() -> None:
    names = RawNames(Instrument(name="anything goes", exposure_pattern=r".*"))

    assert names.exposure_named("../../etc") is None
    assert names.exposure_named("x" * 65) is None
    assert names.file_named("../../.etcp.fits.fz") is None
