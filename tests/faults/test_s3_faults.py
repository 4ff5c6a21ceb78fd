"""Exposures whose raw data and products lie on an S3 that fails: right to the bit, or failed in one sentence."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from s3_proxy import (
    HANG,
    INTERNAL_ERROR,
    LOST,
    RESET,
    SLOW_DOWN,
    SWALLOW,
    TRUNCATE,
    FaultyS3,
    Rule,
    make_bucket,
    never,
    outage_after,
    s3_service,
    sometimes,
    store_at,
    throttle,
)

from blocks.store import DataStore, StoreError
from flows.config import SurveyConfig, load_survey
from flows.demo import simulate_survey
from flows.exposure import process_exposure
from tasks.archive.manifests import list_processed_exposures
from tasks.errors import MissingProductError
from tasks.products.identity import ExposureId, ExposureProducts
from tasks.runner import Runner
from tasks.session import session

pytestmark = pytest.mark.usefixtures("prefect_server")

EXPOSURE = ExposureId("2113700")
BUCKET = "survey"
CHANGES = (
    "tiles=['2165.2000']",
    "simulation.seed=3",
    "simulation.field={center_ra_deg: 150.0, center_dec_deg: 30.0, width_deg: 0.03, height_deg: 0.022}",
    "simulation.galaxies.density_arcmin2=10",
    "simulation.stars={density_arcmin2: 26, faint_magnitude: 21, n_bright: 1}",
    "simulation.camera={n_columns: 2, n_rows: 1, ccd_width_px: 420, ccd_height_px: 420, gap_arcsec: 2,"
    " distortion_arcsec: 1}",
    "simulation.pointing={n_per_pointing: 1, dither_ra_arcsec: 6, dither_dec_arcsec: 6}",
    "exposure.instrument.n_ccds=2",
    "exposure.min_ccds=2",
)


@dataclass(frozen=True)
class World:
    """An S3 service with a simulated exposure, and what it comes to when nothing fails."""

    service: str
    config: SurveyConfig
    right: dict[str, str]


def at(url: str, collection: str, **patience: float) -> DataStore:
    return store_at(url, BUCKET, collection, **patience)


@pytest.fixture(scope="module")
def world(prefect_server: None) -> Iterator[World]:
    config = load_survey("demo", list(CHANGES))
    with s3_service() as service:
        make_bucket(service, BUCKET)
        raw = at(service, "raw")
        assert config.simulation is not None
        simulate_survey(config.simulation, raw, Runner(workers=0))
        with FaultyS3(service) as proxy:
            products = process(proxy.url, "right", config)
        yield World(service, config, checksums(products))


def process(url: str, collection: str, config: SurveyConfig, attempts: int = 4) -> ExposureProducts:
    patience = {"timeout_s": 1.0, "attempts": attempts}
    with session(0):
        return process_exposure(
            EXPOSURE, config.exposure, at(url, collection, **patience), at(url, "raw", **patience), Runner(workers=0)
        )


def checksums(products: ExposureProducts) -> dict[str, str]:
    return {ref.key: ref.sha256 for ref in products.all_products()}


def damaged_objects(store: DataStore) -> list[str]:
    """The objects whose bytes are not those of the checksum that was recorded with them."""

    def is_damaged(key: str) -> bool:
        return hashlib.sha256(store.read_bytes(key)).hexdigest() != store.stat(key).sha256

    keys = store.list_keys()
    with ThreadPoolExecutor(8) as threads:
        return [key for key, damaged in zip(keys, threads.map(is_damaged, keys), strict=True) if damaged]


def outcome_under(rule: Rule, world: World, collection: str, attempts: int = 4) -> str:
    """Process the exposure while its store fails; check what must hold however it ends, and say how it ended."""
    store = at(world.service, collection)
    with FaultyS3(world.service, rule) as proxy:
        try:
            products = process(proxy.url, collection, world.config, attempts)
        except (StoreError, MissingProductError) as error:
            sentence = str(error)
            assert "\n" not in sentence
            assert store.url in sentence or "/raw" in sentence
            assert list_processed_exposures(store) == []
            outcome = "failed"
        else:
            assert checksums(products) == world.right
            assert {key: store.stat(key).sha256 for key in world.right} == world.right
            assert list_processed_exposures(store) == [EXPOSURE]
            outcome = "finished"
        assert proxy.traffic.faults.total() > 0
    assert damaged_objects(store) == []
    return outcome


def test_now_and_then_an_error_of_the_service_or_a_reset_in_the_middle_of_a_put_changes_nothing(world: World) -> None:
    errors, resets = sometimes(INTERNAL_ERROR, 0.04, seed=1), sometimes(RESET, 0.1, seed=2, methods={"PUT"})

    assert outcome_under(lambda request: errors(request) or resets(request), world, "short") == "finished"


def test_a_service_that_goes_away_for_good_fails_the_run_and_a_rerun_finishes_it(world: World) -> None:
    assert outcome_under(outage_after(60, 3600, INTERNAL_ERROR), world, "gone", attempts=1) == "failed"
    done = set(at(world.service, "gone").list_keys())

    with FaultyS3(world.service) as proxy:
        assert checksums(process(proxy.url, "gone", world.config)) == world.right
    assert done & set(world.right)


KINDS = {
    "errors": lambda seed: sometimes(INTERNAL_ERROR, 0.1, seed),
    "slow down": lambda seed: sometimes(SLOW_DOWN, 0.2, seed),
    "reset in a PUT": lambda seed: sometimes(RESET, 0.3, seed, {"PUT"}),
    "reset": lambda seed: sometimes(RESET, 0.1, seed),
    "answers lost": lambda seed: sometimes(LOST, 0.1, seed),
    "answers truncated": lambda seed: sometimes(TRUNCATE, 0.15, seed, {"GET"}),
    "timeouts": lambda seed: sometimes(HANG, 0.03, seed),
    "writes swallowed": lambda seed: sometimes(SWALLOW, 0.15, seed, {"PUT"}),
    "throttled": lambda _seed: throttle(15),
    "outage of 3 s": lambda seed: outage_after(40 * seed, 3.0),
    "outage of 60 s": lambda seed: outage_after(40 * seed, 60.0),
}


@pytest.mark.faults
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_a_failing_service_is_right_or_fails_saying_so(world: World, kind: str, seed: int) -> None:
    collection = f"{kind.replace(' ', '-')}-{seed}"

    outcome = outcome_under(KINDS[kind](seed), world, collection)

    if outcome == "failed":
        with FaultyS3(world.service, never) as proxy:
            assert checksums(process(proxy.url, collection, world.config)) == world.right
