"""A night that was killed goes on where it stopped: what was done is not done again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_survey import small_survey

from blocks.store import DataStore
from flows.demo import simulate_survey
from flows.nightly import run_night
from tasks.archive.manifests import list_processed_exposures
from tasks.products.identity import ExposureId
from tasks.runner import Runner

# simulates exposures, and takes each to its PSF models
pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("prefect_server")]

CHANGES = (
    "simulation.pointing.n_per_pointing=3",
    "simulation.galaxies.density_arcmin2=5",
    "simulation.camera={n_columns: 1, n_rows: 1, ccd_width_px: 420, ccd_height_px: 420, gap_arcsec: 2,"
    " distortion_arcsec: 1}",
    "exposure.instrument.n_ccds=1",
    # the tile is not what this is about
    "tile.find_exposures.min_exposures=9",
)
HERE = Runner(workers=0)
NIGHT = """
import sys
from small_survey import small_survey
from blocks.store import DataStore
from flows.nightly import run_night
from tasks.runner import Runner

root, changes = sys.argv[1], sys.argv[2:]
store, raw = DataStore(root=root, collection="night"), DataStore(root=root, collection="raw")
run_night(small_survey(*changes), store, raw, Runner(workers=0), parallel=1)
"""


def start_night(root: Path) -> subprocess.Popen[bytes]:
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    here = Path(__file__).parent
    environment = {
        "PREFECT_API_URL": str(settings.api.url),
        "PREFECT_HOME": str(settings.home),
        "PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here}",
    }
    return subprocess.Popen([sys.executable, "-c", NIGHT, str(root), *CHANGES], env={**os.environ, **environment})


def files_of(store: DataStore, exposures: list[ExposureId]) -> dict[str, str]:
    return {key: version for name in exposures for key, version in store.list_versions(f"exposures/{name}").items()}


def stages_of(store: DataStore, exposures: list[ExposureId]) -> dict[str, str]:
    records = store.list_versions("records")
    return {key: version for key, version in records.items() if any(str(name) in key for name in exposures)}


def test_a_killed_night_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store, raw = (DataStore(root=str(tmp_path), collection=name) for name in ("night", "raw"))
    config = small_survey(*CHANGES)
    simulate_survey(config.simulation, raw, HERE)
    night = start_night(tmp_path)
    try:
        # one exposure is done, and the next has begun
        while not (done := list_processed_exposures(store)) or stages_of(store, done) == store.list_versions("records"):
            assert night.poll() is None
            time.sleep(0.05)
    finally:
        night.send_signal(signal.SIGKILL)
        night.wait()
    done = list_processed_exposures(store)
    assert len(done) in {1, 2}
    before, stages = files_of(store, done), store.list_versions("records")

    report = run_night(config, store, raw, HERE, parallel=1)
    again = run_night(config, store, raw, HERE, parallel=1)

    assert {item.subject: item.outcome for item in report.launched} == {
        str(name): "done" for name in map(ExposureId, ("2113700", "2113701", "2113702")) if name not in done
    }
    assert report.up_to_date["exposure"] == len(done)
    assert files_of(store, done) == before
    # a stage that had ended before the kill did not run again, though its exposure was not done
    assert stages.items() <= store.list_versions("records").items()
    assert report.stages_reused >= len(stages) - len(stages_of(store, done)) > 0
    assert (again.launched, again.up_to_date["exposure"]) == ((), 3)
