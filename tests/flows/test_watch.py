import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_survey import small_survey

from blocks.store import DataStore, StoreError
from flows.config import ExposureConfig
from flows.recipes import exposure_recipe
from flows.watch import Watch, watch
from tasks.archive.inbox import forget_arrival, list_arrivals, read_arrival
from tasks.archive.manifests import write_refusal
from tasks.archive.raw import find_raw_exposure
from tasks.products.identity import ExposureId, Refusal

NAME = ExposureId("2113700")
SUFFIXES = ("", ".weight", ".flag")


@pytest.fixture(scope="module")
def config() -> ExposureConfig:
    return small_survey("exposure.reference_cache=null", "exposure.star_catalog=null").exposure


def put_raw(raw: DataStore, name: object, *suffixes: str, data: bytes = b"pixels") -> None:
    for suffix in suffixes or SUFFIXES:
        raw.put_bytes(f"{name}p{suffix}.fits.fz", data)


def names(watching: Watch) -> list[str]:
    return [note.exposure.name for note in watching.look()]


@pytest.fixture
def watching(store: DataStore, raw_store: DataStore, config: ExposureConfig) -> Watch:
    return Watch(store, raw_store, config, "test")


def test_an_exposure_is_announced_at_the_second_look_and_never_again(watching: Watch, raw_store: DataStore) -> None:
    put_raw(raw_store, NAME)

    assert [names(watching) for _ in range(4)] == [[], ["2113700"], [], []]


def test_a_file_that_still_grows_is_not_announced(watching: Watch, raw_store: DataStore) -> None:
    put_raw(raw_store, NAME)
    looks = []
    for size in (1, 2, 3, 3):
        put_raw(raw_store, NAME, ".flag", data=b"x" * size)
        looks.append(names(watching))
    # written again with the same bytes: another time of change, so another version
    assert looks == [[], [], [], []]
    assert names(watching) == ["2113700"]


def test_an_exposure_without_its_weights_is_not_announced_before_they_come(
    watching: Watch, raw_store: DataStore
) -> None:
    put_raw(raw_store, NAME, "", ".flag")
    assert [names(watching) for _ in range(3)] == [[], [], []]
    put_raw(raw_store, NAME, ".weight")

    assert [names(watching) for _ in range(2)] == [[], ["2113700"]]


def test_an_exposure_without_its_star_lists_is_not_announced_before_they_come(
    store: DataStore, raw_store: DataStore
) -> None:
    lists = small_survey(
        "exposure.reference_cache=null", "exposure.instrument.star_list_file='stars/{exposure}-{ccd}.cat'"
    ).exposure
    watching = Watch(store, raw_store, lists, "test")
    put_raw(raw_store, NAME)
    raw_store.put_bytes(f"stars/{NAME}-0.cat", b"stars")
    assert [names(watching) for _ in range(3)] == [[], [], []]
    raw_store.put_bytes(f"stars/{NAME}-1.cat", b"stars")

    assert [names(watching) for _ in range(3)] == [[], ["2113700"], []]


def test_files_that_are_delivered_again_are_announced_again(watching: Watch, raw_store: DataStore) -> None:
    put_raw(raw_store, NAME)
    watching.look()
    watching.look()
    put_raw(raw_store, NAME, "", data=b"better pixels")

    assert [names(watching) for _ in range(3)] == [[], ["2113700"], []]


def test_what_is_announced_or_refused_with_these_files_is_passed_by(
    watching: Watch, store: DataStore, raw_store: DataStore, config: ExposureConfig
) -> None:
    put_raw(raw_store, NAME)
    put_raw(raw_store, "2113701")
    recipe = exposure_recipe(find_raw_exposure(raw_store, NAME, config.instrument), config, raw_store)
    write_refusal(store, NAME, Refusal(subject=NAME.name, reason="bad", recipe=recipe))
    assert [names(watching) for _ in range(2)] == [[], ["2113701"]]

    restarted = Watch(store, raw_store, config, "test")
    assert [names(restarted) for _ in range(3)] == [[], [], []]


def test_files_with_names_that_could_leave_the_collection_are_passed_by(
    watching: Watch, store: DataStore, raw_store: DataStore
) -> None:
    put_raw(raw_store, NAME)
    for name in ("..", ".2113701", "2113701\n", "2113701\u202e", "\uff12113701", "2" * 200, "21137010"):
        for suffix in SUFFIXES:
            Path(raw_store.url, f"{name}p{suffix}.fits.fz").write_bytes(b"pixels")

    assert [names(watching) for _ in range(2)] == [[], ["2113700"]]
    assert store.list_keys() == ["inbox/2113700.json"]


def test_an_exposure_whose_note_was_handled_is_not_announced_again(
    watching: Watch, store: DataStore, raw_store: DataStore
) -> None:
    put_raw(raw_store, NAME)
    watching.look()
    watching.look()
    note = read_arrival(store, NAME)
    assert note is not None
    forget_arrival(store, note)

    assert watching.look() == []


def test_names_of_others_in_the_raw_store_are_passed_by(watching: Watch, raw_store: DataStore) -> None:
    folder = Path(raw_store.url)
    folder.mkdir(parents=True)
    for name in ("stars.fits", "..2113700p.fits.fz", "2113700p.fits.fz\n", ".2113700p.fits.fz.x7", "x" * 200):
        (folder / name).write_bytes(b"x")

    assert [names(watching) for _ in range(2)] == [[], []]


class Flaky(Watch):
    """A watch whose store is away at some looks."""

    failures = 2

    def look(self):
        if self.failures:
            self.failures -= 1
            raise StoreError("the network is gone")
        return super().look()


def test_an_outage_is_waited_for(store: DataStore, raw_store: DataStore, config: ExposureConfig) -> None:
    put_raw(raw_store, NAME)
    stop, lines = threading.Event(), []

    def tell(line: str) -> None:
        lines.append(line)
        if line.startswith("announced"):
            stop.set()

    assert watch(Flaky(store, raw_store, config, "test"), 0.02, stop, tell) == 1
    assert lines == [
        "the network is gone; trying again in 0 s",
        "the network is gone; trying again in 0 s",
        "announced 2113700",
    ]


def test_with_once_an_outage_is_an_error(store: DataStore, raw_store: DataStore, config: ExposureConfig) -> None:
    with pytest.raises(StoreError, match="the network is gone"):
        watch(Flaky(store, raw_store, config, "test"), 0.01, threading.Event(), print, once=True)


def command(root: Path, *options: str) -> tuple[list[str], dict[str, str]]:
    words = [sys.executable, "-m", "deployments.cli", "watch", str(root / "raw"), "--survey", "cfis"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    changes = ("star_catalog", "reference_cache", "instrument.star_list_file")
    settings = [word for name in changes for word in ("--set", f"exposure.{name}=null")]
    return [*words, "--store", str(root / "store"), *settings, *options], environment


def test_the_command_watches_until_it_is_interrupted(tmp_path: Path) -> None:
    put_raw(DataStore(root=str(tmp_path / "raw")), NAME)
    words, environment = command(tmp_path, "--interval", "0.2")
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "announced 2113700\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert list(list_arrivals(DataStore(root=str(tmp_path / "store"), collection="main"))) == [NAME]
