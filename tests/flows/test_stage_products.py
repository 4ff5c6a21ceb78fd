"""Every stage alone: a small survey from its raw files to its report, without Prefect, stage by stage."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from s3_proxy import make_bucket, s3_service
from small_survey import small_survey

from blocks.store import DataStore, StoreError
from flows.config import dump_survey
from flows.standalone import StageResult, run_stage
from flows.standalone.stages import STAGES
from tasks.archive.fits_files import fits_bytes
from tasks.archive.manifests import write_exposure_products, write_tile_products
from tasks.errors import ConfigError, MissingProductError
from tasks.products.identity import CcdId, CcdProducts, ExposureId, ExposureProducts, ProductRef, TileId, TileProducts

EXPOSURES = ("2113700", "2113701")
TILE = "2165.2000"


@dataclass
class Chain:
    """A store that stages fill one after the other."""

    root: Path
    products: dict[tuple[str, str], ProductRef] = field(default_factory=dict)
    calls: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = field(default_factory=dict)

    @property
    def store(self) -> DataStore:
        return DataStore(root=str(self.root / "store"), collection="main")

    @property
    def settings(self) -> dict[str, str]:
        return {"survey": str(self.root / "small.yaml")}

    def run(self, stage: str, *inputs: ProductRef, **settings: Any) -> ProductRef:
        files = tuple(str(self.root / "store/main" / item.key) for item in inputs)
        where = {} if files else {"store": str(self.root / "store")}  # of files it is worked out
        self.calls.setdefault(stage, (files, where | settings))
        result = run_stage(stage, *files, **(self.settings | where | settings))
        assert result.product is not None
        assert result.status == "COMPLETE"
        self.products[stage, result.product.subject] = result.product
        return result.product

    def again(self, stage: str, **settings: Any) -> StageResult:
        """Run the first call of a stage once more."""
        files, given = self.calls[stage]
        return run_stage(stage, *files, **(self.settings | given | settings))


def run_ccd(chain: Chain, ccd: CcdId) -> CcdProducts:
    image = chain.run("split", ccd=str(ccd))
    dq = chain.run("dq_plane", image, chain.run("references", image))
    mask = chain.run("mask", image, dq, stars=str(chain.root / "store/raw/star_catalog.fits"))
    sources = chain.run("detect", image, mask)
    chosen = chain.run("stars", image, sources)
    psf = chain.run("psf_fit", image, mask, sources, chosen)
    residuals = chain.run("psf_validate", image, mask, sources, chosen, psf)
    return CcdProducts(
        ccd=ccd, image=image, dq=dq, mask=mask, sources=sources, stars=chosen, psf=psf, residuals=residuals
    )


def run_exposure(chain: Chain, name: str) -> ExposureProducts:
    ccds = tuple(run_ccd(chain, CcdId(exposure=name, ccd=number)) for number in (0, 1))
    headers = chain.run("headers", *(ccd.image for ccd in ccds))
    products = ExposureProducts(exposure=ExposureId(name), headers=headers, ccds=ccds)
    write_exposure_products(chain.store, products)
    return products


def put_stack(chain: Chain, coadd: ProductRef) -> None:
    """Put the image of a tile into the raw store, as if it had been stacked elsewhere."""
    with fits.open(chain.root / "store/main" / coadd.key) as hdus:
        data = fits_bytes([fits.PrimaryHDU(hdus["SCI"].data, hdus["SCI"].header)])
    (chain.root / "store/raw" / f"stack-{TILE}.fits").write_bytes(data)


def run_tile(chain: Chain, exposures: list[ExposureProducts]) -> TileProducts:
    index = chain.run("merge_headers", *(exposure.headers for exposure in exposures), tile=TILE)
    listed = chain.run("find_exposures", index)
    coadd = chain.run("coadd", listed)
    put_stack(chain, coadd)
    chain.run("external_stack", listed, image="stack-{tile}.fits", zero_point="30", raw=str(chain.root / "store/raw"))
    mask = chain.run("mask", coadd)
    sources = chain.run("detect", coadd, mask)
    epochs = chain.run("epochs", sources, listed)
    psf = chain.run("psf_interp", epochs)
    stamps = chain.run("stamps", coadd, mask, sources, epochs, psf)
    spread = chain.run("spread_model", coadd, mask, sources, psf)
    shapes = chain.run("shapes", stamps)
    catalog = chain.run("catalog", listed, sources, mask, epochs, spread, shapes)
    made = {"exposures": listed, "coadd": coadd, "mask": mask, "sources": sources, "epochs": epochs, "psf": psf}
    products = TileProducts(tile=TileId(TILE), catalog=catalog, products=made | {"stamps": stamps, "shapes": shapes})
    write_tile_products(chain.store, products)
    return products


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """The whole survey, by single stages; Prefect's address leads nowhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
        chain = Chain(tmp_path_factory.mktemp("chain"))
        (chain.root / "small.yaml").write_text(dump_survey(small_survey()))
        sky = chain.run("simulate_sky", collection="raw")
        parts = [chain.run("simulate_exposure", exposure=name, collection="raw") for name in EXPOSURES]
        lists = [str(chain.root / "store/raw" / part.key) for part in (sky, *parts)]
        where = {"store": str(chain.root / "store"), "collection": "raw"}
        joined = run_stage("simulate_manifest", *lists, **(chain.settings | where))
        chain.calls["simulate_manifest"] = tuple(lists), where
        whole = chain.run("simulate", collection="raw")
        assert joined.product == whole
        exposures = [run_exposure(chain, name) for name in EXPOSURES]
        tile = run_tile(chain, exposures)
        merged = chain.run("merge", tile.catalog)
        chain.run("export_parquet", merged)
        shear = chain.run("mean_shear", merged, truth=str(chain.root / "store/raw/truth/galaxies.fits"))
        chain.run("report", merged, shear)
        chain.run("exposure_report", exposure=EXPOSURES[0])
        chain.run("tile_report", tile=TILE)
        yield chain


WRITES_ONE_FILE = [name for name, entry in STAGES.items() if name != "dq_init" and not entry.fills_store]


def test_every_stage_runs_alone(chain: Chain) -> None:
    assert set(chain.calls) | {"dq_init"} == set(STAGES)


@pytest.mark.parametrize("stage", [name for name in STAGES if name not in {"dq_init", "simulate_manifest"}])
def test_a_product_that_is_there_is_used_again(chain: Chain, stage: str) -> None:
    assert chain.again(stage).reused


@pytest.mark.parametrize("stage", WRITES_ONE_FILE)
def test_a_file_elsewhere_has_the_same_bytes_and_the_store_keeps_its_own(
    chain: Chain, stage: str, tmp_path: Path
) -> None:
    before = chain.store.list_versions()

    result = chain.again(stage, output_dir=str(tmp_path / "out"), suffix="alone")

    assert result.product is not None
    [path] = (tmp_path / "out").iterdir()
    assert result.path == str(path)
    assert path.name == f"{result.product.subject}_alone{Path(result.product.key).suffix}"
    assert path.read_bytes() == chain.store.read_bytes(result.product.key)
    assert chain.store.list_versions() == before


def test_a_setting_changes_the_product_and_the_store_keeps_its_own(chain: Chain, tmp_path: Path) -> None:
    deep = chain.again("detect", output_dir=str(tmp_path))
    shallow = chain.again("detect", output_dir=str(tmp_path), suffix="shallow", threshold_sigma="20")

    assert deep.product is not None
    assert shallow.product is not None
    assert int(shallow.product.summary["n_sources"]) < int(deep.product.summary["n_sources"])


def test_copies_far_from_any_store_are_enough(chain: Chain, tmp_path: Path) -> None:
    image, sources = (chain.products[stage, f"{EXPOSURES[0]}-0"] for stage in ("split", "detect"))
    for item, name in ((image, "a.fits"), (sources, "b.fits")):
        (tmp_path / name).write_bytes(chain.store.read_bytes(item.key))

    result = run_stage("stars", tmp_path / "a.fits", tmp_path / "b.fits", survey=chain.settings["survey"])

    assert result.path == str(tmp_path / f"{EXPOSURES[0]}-0_stars.fits")
    assert result.product is not None
    assert result.product.summary == chain.products["stars", f"{EXPOSURES[0]}-0"].summary


def test_files_of_the_same_name_from_several_folders_are_kept_apart(chain: Chain, tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        ref = chain.products["split", f"{EXPOSURES[0]}-{number}"]
        (tmp_path / str(number) / "image.fits").write_bytes(chain.store.read_bytes(ref.key))

    result = run_stage("headers", tmp_path / "0/image.fits", tmp_path / "1/image.fits", output_dir=str(tmp_path))

    assert result.product is not None
    assert result.product.summary["n_ccds"] == 2
    assert result.path == str(tmp_path / f"{EXPOSURES[0]}_headers.sqlite")


def test_inputs_may_be_named_and_be_keys_of_the_store(chain: Chain) -> None:
    image, mask = (chain.products[stage, f"{EXPOSURES[0]}-0"].key for stage in ("split", "mask"))

    result = run_stage("detect", mask=mask, image=image, store=str(chain.root / "store"), **chain.settings)

    assert result.reused
    assert result.product == chain.products["detect", f"{EXPOSURES[0]}-0"]


HOLD = """
import sys
from blocks.lease import lease
from blocks.store import DataStore
with lease(DataStore(root=sys.argv[1], collection="main"), "exposure-2113700", owner=""):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_store_is_left_to_a_flow_that_works_on_the_exposure(chain: Chain, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(chain.root / "store")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flow:
        assert flow.stdout is not None
        assert flow.stdout.readline() == "held\n"

        with pytest.raises(StoreError, match="Try again when it has ended, or write to a file with output_dir"):
            chain.again("detect")
        assert chain.again("detect", output_dir=str(tmp_path)).status == "COMPLETE"

        flow.communicate("")
    assert chain.again("detect").reused


def test_an_output_may_go_to_a_bucket(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_service() as url:
        bucket = make_bucket(url, "stages-alone")
        for name, value in (("ENDPOINT_URL", url), ("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test")):
            monkeypatch.setenv(f"AWS_{name}", value)

        result = chain.again("stars", output_dir=f"s3://{bucket}/night")

        assert result.path == f"s3://{bucket}/night/{EXPOSURES[0]}-0_stars.fits"
        there = DataStore(root=f"s3://{bucket}", collection="night", endpoint_url=url, access_key="test",
                          secret_key="test")  # fmt: skip
        assert result.product is not None
        assert there.stat(f"{EXPOSURES[0]}-0_stars.fits").sha256 == result.product.sha256


def test_skip_does_nothing(chain: Chain, tmp_path: Path) -> None:
    result = chain.again("detect", skip="true", output_dir=str(tmp_path))

    assert (result.status, result.path) == ("SKIPPED", None)
    assert list(tmp_path.iterdir()) == []


REFUSED = [
    ("detect", {"files": 1}, "detect needs mask: its files are IMAGE MASK, in this order or as --mask FILE"),
    ("detect", {"files": 3}, "detect has no use for .*; its files are IMAGE MASK"),
    ("detect", {"threshold_sigma": "-1"}, "threshold_sigma: Input should be greater than"),
    ("detect", {"threshold_sigmas": "1"}, "detect has no option threshold_sigmas"),
    ("detect", {"save_results": "false"}, "save_results cannot be false"),
    ("detect", {"post_hooks": "os.path:basename"}, "which a store does not take; give output_dir too"),
    ("simulate", {"output_dir": "x"}, "simulate writes many files, which only a store can take"),
    ("coadd", {"store": None, "loose": True}, "coadd needs more products than its files"),
    ("split", {"survey": None}, "split needs the description of the camera: name the survey file"),
    ("split", {"ccd": "nonsense"}, "'nonsense' cannot be the name of the ccd"),
    ("tile_report", {"tile": None}, "tile_report needs the name of the tile, and no file says it"),
]


@pytest.mark.parametrize(("stage", "change", "sentence"), REFUSED)
def test_what_cannot_be_done_is_refused(
    chain: Chain, tmp_path: Path, stage: str, change: dict[str, Any], sentence: str
) -> None:
    files, given = chain.calls[stage]
    change = dict(change)
    count, loose = change.pop("files", len(files)), change.pop("loose", False)
    files = (*files, *files)[:count]
    if loose:
        (tmp_path / "a.json").write_bytes(Path(files[0]).read_bytes())
        files = (str(tmp_path / "a.json"),)

    with pytest.raises(ConfigError, match=sentence):
        run_stage(stage, *files, **(chain.settings | given | change | ({"tile": TILE} if loose else {})))


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingProductError, match=r"a\.fits is not a file; correct its name"):
        run_stage("stars", tmp_path / "a.fits", tmp_path / "b.fits")


def test_an_input_is_never_replaced(chain: Chain, tmp_path: Path) -> None:
    files, _ = chain.calls["stars"]
    copy = tmp_path / "stars.fits"
    copy.write_bytes(Path(files[0]).read_bytes())

    with pytest.raises(ConfigError, match="is an input itself, which is never changed"):
        run_stage("stars", copy, files[1], output_file=str(copy), suffix="", **chain.settings)


def double(path: Path) -> Path:
    other = path.with_name("doubled.fits")
    other.write_bytes(2 * path.read_bytes())
    return other


def test_a_hook_may_replace_the_product_of_a_stage(chain: Chain, tmp_path: Path) -> None:
    result = chain.again("stars", output_dir=str(tmp_path), post_hooks=[f"{__name__}:double"])

    assert result.product is not None
    assert result.path is not None
    assert Path(result.path).read_bytes() == 2 * chain.store.read_bytes(result.product.key)
