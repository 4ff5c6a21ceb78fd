import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from small_survey import small_survey

from blocks.store import DataStore, StoreError
from flows.config import SurveyConfig
from flows.demo import DemoSummary, run_demo
from flows.exposure import process_exposure
from flows.survey import SurveyProducts, process_survey
from flows.tile import process_tile
from tasks.archive.coadds import read_coadd
from tasks.archive.fits_files import fits_bytes
from tasks.archive.fits_wcs import wcs_to_header
from tasks.archive.images import descriptive_header
from tasks.archive.manifests import list_processed_exposures, read_exposure_products, read_tile_products
from tasks.archive.raw import list_exposures
from tasks.archive.tables import read_table
from tasks.errors import ConfigError, DataError, UnknownExposureError
from tasks.external_stack import ExternalStackConfig
from tasks.products.columns import CATALOG, SURVEY_CATALOG
from tasks.products.identity import ExposureId, TileId
from tasks.products.recipe import Recipe
from tasks.runner import Runner
from tasks.session import Outcome, Session, session

pytestmark = pytest.mark.usefixtures("prefect_server")

Run = tuple[SurveyProducts, DemoSummary, Session]


def run(root: Path, config: SurveyConfig, workers: int = 2, collection: str = "demo") -> Run:
    store = DataStore(root=str(root / "store"), collection=collection)
    raw = DataStore(root=str(root / "store"), collection="raw")
    with session(workers) as current:
        products, summary = run_demo(config, store, raw, root, Runner(workers=workers), current)
    return products, summary, current


@pytest.fixture(scope="module")
def config() -> SurveyConfig:
    return small_survey()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, config: SurveyConfig) -> tuple[Path, Run]:
    root = tmp_path_factory.mktemp("demo")
    return root, run(root, config)


def store_of(root: Path, collection: str = "demo") -> DataStore:
    return DataStore(root=str(root / "store"), collection=collection)


def test_the_demo_leaves_a_catalogue_a_report_and_a_summary(first: tuple[Path, Run]) -> None:
    root, (products, summary, _) = first

    written = json.loads((root / "summary.json").read_text())
    catalog = read_table(store_of(root), products.catalog, SURVEY_CATALOG)
    assert written == json.loads(summary.model_dump_json())
    assert (written["n_exposures"], written["n_ccds"], written["n_objects"]) == (2, 4, len(catalog))
    assert 0 < written["n_measured"] <= written["n_objects"]
    assert written["stages_run"] > 30
    assert Path(written["catalog"]).is_file()
    assert "</html>" in (root / "report.html").read_text()


def test_the_recovered_shear_is_the_true_one_within_its_error(first: tuple[Path, Run]) -> None:
    shear = first[1][1].shear

    assert (shear.g1.true, shear.g2.true) == (pytest.approx(0.02), pytest.approx(-0.01))
    for component in (shear.g1, shear.g2):
        assert component.error < 0.06
        assert abs(component.recovered - component.true) < 4 * component.error


def test_every_unmeasured_object_carries_a_flag(first: tuple[Path, Run]) -> None:
    root, (products, _, _) = first
    catalog = read_table(store_of(root), products.catalog, SURVEY_CATALOG)
    measured = np.isfinite(catalog["g1_noshear"])

    assert np.all(catalog["shape_flags"][~measured] != 0)
    assert measured.sum() > 20


def test_a_second_run_recomputes_nothing(first: tuple[Path, Run], config: SurveyConfig) -> None:
    root, (products, summary, _) = first
    again, second, current = run(root, config)

    assert second.stages_run == 0
    assert second.stages_reused == summary.stages_run
    assert again.catalog == products.catalog
    assert {event.outcome for event in current.events} == {Outcome.REUSED}


@pytest.mark.parametrize("lost", ["coadd", "residuals"])
def test_after_losing_one_product_only_it_is_made_again(
    first: tuple[Path, Run], config: SurveyConfig, lost: str
) -> None:
    root, (products, _, _) = first
    ref = products.tiles[0].products["coadd"] if lost == "coadd" else products.exposures[0].ccds[0].residuals
    store_of(root).remove(ref.key)
    again, summary, current = run(root, config)

    assert [event.product for event in current.events if event.outcome is Outcome.RUN] == [ref]
    assert summary.stages_run == 1
    assert again.catalog == products.catalog


def test_a_lost_reference_file_is_copied_again(first: tuple[Path, Run], config: SurveyConfig) -> None:
    root, (products, _, _) = first
    store = store_of(root)
    for key in store.list_keys("references"):
        store.remove(key)
    store.remove(products.exposures[0].ccds[0].dq.key)
    again, _, current = run(root, config)

    run_again = {event.stage for event in current.events if event.outcome is Outcome.RUN}
    assert run_again == {"references", "dq_init"}
    assert again == products


def test_a_lost_store_stops_a_survey_at_once(
    first: tuple[Path, Run], config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_arguments: object) -> None:
        raise StoreError("the network is gone")

    root, store = first[0], store_of(first[0], "lost")
    monkeypatch.setattr("flows.exposure.find_raw_exposure", lost)
    with pytest.raises(StoreError, match="the network is gone"), session() as current:
        process_survey(config, store, store_of(root, "raw"), Runner(workers=0))

    assert current.stopped_by == "StoreError: the network is gone"
    assert current.events == []


def without_recipes(products: SurveyProducts) -> SurveyProducts:
    """What was made; recipes also say when the raw files were written, which each survey simulated for itself."""
    return products.model_copy(
        update={
            "exposures": tuple(item.model_copy(update={"recipe": Recipe()}) for item in products.exposures),
            "tiles": tuple(item.model_copy(update={"recipe": Recipe()}) for item in products.tiles),
        }
    )


def test_one_worker_gives_the_same_bytes_as_two(first: tuple[Path, Run], config: SurveyConfig, tmp_path: Path) -> None:
    two, one = first[1][0], run(tmp_path, config, workers=1)[0]

    assert one.catalog.sha256 == two.catalog.sha256
    assert one.catalog_parquet.sha256 == two.catalog_parquet.sha256
    assert one.report.sha256 == two.report.sha256
    assert without_recipes(one) == without_recipes(two)


def test_what_flows_leave_can_be_found_again(first: tuple[Path, Run]) -> None:
    root, (products, _, _) = first
    store = store_of(root)

    names = list_processed_exposures(store)
    assert names == [exposure.exposure for exposure in products.exposures]
    assert [read_exposure_products(store, name) for name in names] == list(products.exposures)
    assert read_tile_products(store, products.tiles[0].tile) == products.tiles[0]


def put_stack(first: tuple[Path, Run], root: Path) -> tuple[DataStore, DataStore, TileId]:
    """Copy a survey, and put the image of its tile beside the raw files as if it had been stacked elsewhere."""
    shutil.copytree(first[0] / "store", root / "store")
    products = first[1][0].tiles[0]
    store, raw = store_of(root), store_of(root, "raw")
    coadd = read_coadd(store, products.products["coadd"])
    header = wcs_to_header(coadd.wcs)
    header["PHOTZP"], header["SATURATE"], header["GAIN"] = 27.5, coadd.saturation / 10, coadd.gain * 10
    for name in ("2113700", "2113701", "2113999"):
        header.add_history(f"input image {name}p.fits 2 extension(s)")
    raw.put_bytes(f"{products.tile}.fits", fits_bytes([fits.PrimaryHDU(coadd.sci / 10, header)]))
    raw.put_bytes(f"{products.tile}.weight.fits", fits_bytes([fits.PrimaryHDU(coadd.weight)]))
    return store, raw, products.tile


def test_a_stack_made_elsewhere_takes_the_place_of_the_coadd(
    first: tuple[Path, Run], config: SurveyConfig, tmp_path: Path
) -> None:
    store, raw, tile = put_stack(first, tmp_path)
    stacks = ExternalStackConfig(image="{tile}.fits", weight="{tile}.weight.fits")
    with session(2) as current:
        products = process_tile(tile, config.tile.model_copy(update={"external_stack": stacks}), store, raw)
    run_stages = [event.stage for event in current.events if event.outcome is Outcome.RUN]
    before = first[1][0].tiles[0]

    assert (run_stages[0], "coadd" in run_stages) == ("external_stack", False)
    assert products.products["coadd"].key == f"tiles/{tile}/external_stack.fits"
    assert [(item.subject, item.stage) for item in products.set_aside] == [("2113999", "external_stack")]
    assert products.recipe.inputs.keys() > {f"external stack {tile}.fits", f"external stack {tile}.weight.fits"}
    old, new = (read_table(store_of(first[0]), before.catalog, CATALOG), read_table(store, products.catalog, CATALOG))
    assert len(new) == len(old)
    np.testing.assert_allclose(new["mag_auto"], old["mag_auto"], atol=1e-3)
    np.testing.assert_allclose(new["g1_noshear"], old["g1_noshear"], atol=1e-3)


def with_four_ccds(raw: DataStore, name: ExposureId, broken: int) -> None:
    """Repeat the two CCDs of an exposure, so that it has four, and take the gain from the header of one."""
    for suffix in ("", ".weight", ".flag"):
        key = f"{name}p{suffix}.fits.fz"
        with raw.open(key) as handle, fits.open(handle) as hdus:
            ccds = [fits.ImageHDU(hdus[k].data, descriptive_header(hdus[k].header)) for k in (1, 2, 1, 2)]
        del ccds[broken].header["GAIN"]
        raw.put_bytes(key, fits_bytes([fits.PrimaryHDU(), *ccds]))


def test_a_bad_ccd_is_set_aside_while_its_three_neighbours_and_the_exposure_go_on(
    first: tuple[Path, Run], tmp_path: Path
) -> None:
    shutil.copytree(first[0] / "store" / "raw", tmp_path / "store" / "raw")
    raw, name = store_of(tmp_path, "raw"), ExposureId("2113700")
    with_four_ccds(raw, name, broken=2)
    with session(2) as current:
        products = process_exposure(
            name, small_survey("exposure.instrument.n_ccds=4").exposure, store_of(tmp_path), raw
        )

    assert [ccd.ccd.ccd for ccd in products.ccds] == [0, 1, 3]
    assert [(item.subject, item.stage) for item in products.set_aside] == [("2113700-2", "split")]
    assert "CCD 2113700-2 has no keyword GAIN in its header" in products.set_aside[0].reason
    assert current.count(Outcome.SET_ASIDE) == 1
    assert current.count(Outcome.FAILED) == 0


def test_an_exposure_below_its_floor_fails_and_says_why(first: tuple[Path, Run]) -> None:
    root = first[0]
    config = small_survey("exposure.psf_fit.min_stars=500")
    raw = store_of(root, "raw")
    name = list_exposures(raw, config.exposure.instrument)[0]

    sentence = rf"Exposure {name} has 0 good CCDs of 2; it needs 1\. .* needs 500"
    with session(2), pytest.raises(DataError, match=sentence):
        process_exposure(name, config.exposure, store_of(root, "strict"), raw)
    assert list_processed_exposures(store_of(root, "strict")) == []


def test_an_unknown_exposure_is_named_with_those_there_are(first: tuple[Path, Run], config: SurveyConfig) -> None:
    root = first[0]
    raw, store = store_of(root, "raw"), store_of(root)

    with pytest.raises(UnknownExposureError, match=r"Exposure 9999999 is not in .*exposures there: 2113700, 2113701"):
        process_exposure(ExposureId("9999999"), config.exposure, store, raw, Runner(workers=0))
    with pytest.raises(UnknownExposureError, match="nonsense is not an exposure of simulated camera"):
        process_exposure(ExposureId("nonsense"), config.exposure, store, raw, Runner(workers=0))


def test_a_tile_without_exposures_fails_and_a_survey_goes_on_without_it(
    first: tuple[Path, Run], config: SurveyConfig
) -> None:
    root = first[0]
    raw, store = store_of(root, "raw"), store_of(root)

    with pytest.raises(DataError, match=r"No processed exposure overlaps tile 005\.005; process"):
        process_tile(TileId("005.005"), config.tile, store, raw, Runner(workers=0))
    with pytest.raises(DataError, match=r"No processed exposure overlaps tile 005\.005"):
        process_tile(TileId("005.005"), config.tile, store_of(root, "empty"), raw, Runner(workers=0))
    more = process_survey(small_survey("tiles=['2165.2000', '5.5']"), store, raw, Runner(workers=0))
    assert [item.subject for item in more.set_aside if item.stage == "tile"] == ["005.005"]
    assert [tile.tile for tile in more.tiles] == [TileId("2165.2000")]


def test_a_bug_stops_the_run_at_once(
    first: tuple[Path, Run], config: SurveyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = first[0]
    raw = store_of(root, "raw")

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("tasks.mask.make_mask", broken)
    name = list_exposures(raw, config.exposure.instrument)[0]
    with session() as current, pytest.raises(ZeroDivisionError, match="a bug"):
        process_exposure(name, config.exposure, store_of(root, "bug"), raw, Runner(workers=0))
    assert current.count(Outcome.FAILED) >= 1
    assert not any(event.stage == "detect" for event in current.events)


def test_a_survey_without_tiles_is_refused_before_any_work(store: DataStore, raw_store: DataStore) -> None:
    with pytest.raises(ConfigError, match="Survey demo names no tiles"):
        process_survey(small_survey("tiles=[]"), store, raw_store, Runner(workers=0))


def test_cfis_settings_read_the_simulated_exposures(first: tuple[Path, Run]) -> None:
    from flows.config import load_survey

    root = first[0]
    raw = store_of(root, "raw")
    cfis = load_survey("cfis", ["instrument.n_ccds=2", "min_ccds=2", "psf_fit.min_stars=10"])
    with session(2):
        products = process_exposure(ExposureId("2113700"), cfis.exposure, store_of(root, "cfis"), raw)

    assert len(products.ccds) == 2
    assert products.set_aside == ()
