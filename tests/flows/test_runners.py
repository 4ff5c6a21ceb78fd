"""A real exposure comes out the same, to the bit, wherever its stages run."""

from pathlib import Path

import pytest
from small_survey import small_survey

from blocks.store import DataStore
from flows.demo import simulate_survey
from flows.exposure import process_exposure
from tasks.archive.raw import list_exposures
from tasks.products.identity import ExposureProducts
from tasks.runner import Runner

# two runs of an exposure, and a cluster of real processes, which starts slowly
pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("prefect_server")]


def test_an_exposure_is_the_same_to_the_bit_on_a_dask_cluster_and_on_local_workers(tmp_path: Path) -> None:
    config = small_survey()
    raw = DataStore(root=str(tmp_path), collection="raw")
    simulate_survey(config.simulation, raw, Runner(workers=2))
    name = list_exposures(raw, config.exposure.instrument)[0]

    def process(collection: str, runner: Runner) -> tuple[ExposureProducts, dict[str, bytes]]:
        store = DataStore(root=str(tmp_path), collection=collection)
        products = process_exposure(name, config.exposure, store, raw, runner)
        return products, {ref.key: store.read_bytes(ref.key) for ref in products.all_products()}

    local, local_bytes = process("local", Runner(workers=2))
    dask, dask_bytes = process("dask", Runner(kind="dask", workers=2))

    assert len(local.ccds) == 2
    assert len(local_bytes) > 10
    assert dask == local
    assert dask_bytes == local_bytes
