"""Tiles that are stacked elsewhere wait for their stacks, and are made of the exposures that these name."""

import numpy as np
import pytest
from astropy.io import fits
from planned_survey import centre, planned_survey, put_exposure, put_raw, put_tile

from blocks.store import DataStore
from flows.config import SurveyConfig, load_survey
from flows.external_stack import tile_inputs
from flows.plan import make_plan
from flows.tile_plan import TilePlan
from tasks.archive.fits_files import fits_bytes
from tasks.errors import BadFileError, ConfigError, DataError
from tasks.products.identity import TileId
from tasks.science.geometry import tile_wcs

TILE = "210.290"
NAMES = ("2000001", "2000002")
IMAGE, WEIGHT = "stacks/210-290.fits", "stacks/210-290.weight.fits"
STACKS = {"image": "stacks/{column}-{row}.fits", "weight": "stacks/{column}-{row}.weight.fits"}


@pytest.fixture
def config() -> SurveyConfig:
    return planned_survey(tile={"external_stack": STACKS})


def put_stack(raw: DataStore, *names: str, history: bool = True) -> None:
    ra, dec = centre(TILE)
    header = tile_wcs(ra, dec, size_px=20, pixel_scale_arcsec=0.187).to_header()
    for name in names if history else ():
        header.add_history(f"input image {name}p.fits 4 extension(s)")
    # the weight first: the image then says that all is there
    for key, value in ((WEIGHT, 1.0), (IMAGE, float(len(names)))):
        raw.put_bytes(key, fits_bytes([fits.PrimaryHDU(np.full((20, 20), value, np.float32), header)]))


def process(store: DataStore, raw: DataStore, config: SurveyConfig, *names: str) -> list:
    for name in names:
        put_raw(raw, name)
    return [put_exposure(store, raw, config, name, centre(TILE)) for name in names]


def plan_of(config: SurveyConfig, store: DataStore, raw: DataStore) -> TilePlan:
    [found] = [item for item in make_plan(config, store, raw).tiles if str(item.tile) == TILE]
    return found


def test_a_tile_waits_for_its_stack_and_is_made_again_when_that_changes(store, raw_store, config):
    exposures = process(store, raw_store, config, *NAMES)
    waiting = plan_of(config, store, raw_store)
    put_stack(raw_store, *NAMES)
    ready = plan_of(config, store, raw_store)
    put_tile(store, raw_store, config, TILE, exposures)
    done = plan_of(config, store, raw_store)
    put_stack(raw_store, *NAMES, "2000003")
    stale = plan_of(config, store, raw_store)
    raw_store.remove(WEIGHT)
    gone = plan_of(config, store, raw_store)

    sentence = f"waits for its external stack: {IMAGE}, {WEIGHT} has not arrived in the raw store"
    assert (waiting.status, waiting.reasons) == ("waiting", (sentence,))
    assert (ready.status, done.status) == ("ready", "done")
    assert (stale.status, stale.reasons) == (
        "stale",
        (f"external stack {IMAGE} changed", f"external stack {WEIGHT} changed"),
    )
    assert (gone.status, gone.reasons) == (
        "done",
        (f"processed; its external stack {WEIGHT} is not in the raw store any more",),
    )


def test_coadds_are_stale_when_stacks_are_to_be_used(store, raw_store, config):
    coadded = planned_survey()
    put_tile(store, raw_store, coadded, TILE, process(store, raw_store, coadded, *NAMES))
    put_stack(raw_store, *NAMES)

    assert plan_of(config, store, raw_store).reasons == (
        "the code of external_stack changed",
        "the settings of external_stack changed",
        f"external stack {IMAGE} is new",
        f"external stack {WEIGHT} is new",
    )


def test_a_coadded_tile_that_is_to_have_a_stack_waits_for_it(store, raw_store, config):
    coadded = planned_survey()
    put_tile(store, raw_store, coadded, TILE, process(store, raw_store, coadded, *NAMES))

    found = plan_of(config, store, raw_store)

    sentence = f"waits for its external stack: {IMAGE}, {WEIGHT} has not arrived in the raw store"
    assert (found.status, found.reasons) == ("waiting", (sentence,))


def test_a_tile_is_made_of_the_exposures_that_its_stack_names(store, raw_store, config):
    near = process(store, raw_store, config, *NAMES, "2000003")
    put_stack(raw_store, "2000009", "2000002", "2000001")

    inputs = tile_inputs(TileId(TILE), near, config.tile.external_stack, raw_store)

    assert [item.exposure.name for item in inputs.exposures] == ["2000001", "2000002"]
    assert inputs.stack is not None
    assert (inputs.stack.image.key, inputs.stack.weight.key) == (IMAGE, WEIGHT)
    assert [(item.subject, item.stage) for item in inputs.set_aside] == [("2000009", "external_stack")]
    assert "stacks/210-290.fits was made of it; it is not among the processed exposures" in inputs.set_aside[0].reason


def test_all_that_overlap_are_taken_if_the_settings_say_so_and_all_without_a_stack(store, raw_store, config):
    near = process(store, raw_store, config, *NAMES)
    put_stack(raw_store, *NAMES, history=False)
    everything = planned_survey(tile={"external_stack": STACKS | {"epochs": "overlapping"}})

    assert tile_inputs(TileId(TILE), near, everything.tile.external_stack, raw_store).exposures == near
    assert tile_inputs(TileId(TILE), near, None, raw_store).stack is None
    with pytest.raises(BadFileError, match=r"Tile 210.290 has no HISTORY card of the form 'input image 2228303p.fits"):
        tile_inputs(TileId(TILE), near, config.tile.external_stack, raw_store)


def test_a_stack_of_other_exposures_alone_is_refused(store, raw_store, config):
    near = process(store, raw_store, config, *NAMES)
    put_stack(raw_store, "2000007", "2000008")

    sentence = (
        r"Tile 210.290: none of the 2 exposures that its external stack stacks/210-290.fits was made of is processed "
        r"\(2000007, 2000008\); process them first"
    )
    with pytest.raises(DataError, match=sentence):
        tile_inputs(TileId(TILE), near, config.tile.external_stack, raw_store)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("tile.external_stack={weight: 'w-{tile}.fits'}", "tile.external_stack.image is missing"),
        ("tile.external_stack={image: tile.fits}", "tile.external_stack.image = 'tile.fits': .* must name the tile"),
        ("tile.external_stack={image: 'a-{tile}', wieght: 'b'}", "wieght is not a setting; did you mean 'weight'"),
        ("tile.coadd.kernel=lanczos3", "tile.coadd.kernel = 'lanczos3': input should be 'square', 'turbo' or 'point'"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_their_path(change, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_survey("demo", [change])
