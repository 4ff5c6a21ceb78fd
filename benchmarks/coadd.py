"""Time, memory and disk of the coadd stage for a whole tile; the last line that is printed is JSON.

CCDs of the size of MegaCam's are simulated, with a sky, noise, bad pixels and a distortion, as the exposure flow leaves
them, and coadded on one thread and on two, without and with rejection of outliers, every time in a process of its own.
Its memory is counted from after a small coadd, when everything is imported and compiled: *above* is what the stage
needs, *whole* is the whole process.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.io import fits

    from blocks.store import DataStore
    from tasks.products.identity import CcdProducts, ProductRef
    from tasks.products.wcs_index import CcdRecord

HERE = Path(__file__).resolve()
SHAPE, SCALE, CENTRE, GAP_PX, BOX_PX, TILE = (4612, 2048), 0.186, (150.0, 30.0), 80, 256, "259.240"
SMALL = (200, 2)
# columns and rows of the CCDs of an exposure, those around the centre of the tile first
PLACES = ((0, 0), (0, 1), (-1, 0), (1, 0), (-1, 1), (1, 1), (-2, 0), (2, 0), (-2, 1), (2, 1))
DITHERS_PX = ((0, 0), (310, -205), (-270, 190), (150, 420), (-90, -330), (420, 60), (-380, -80), (60, 250))


def main() -> None:
    """Simulate CCDs, coadd them in several ways, print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000, help="width and height of the tile in pixels")
    parser.add_argument("--ccds", type=int, default=40, help="number of CCDs")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads, one run for each")
    parser.add_argument("--outliers", choices=("kept", "rejected", "both"), default="both", help="what to measure")
    parser.add_argument("--folder", type=Path, help="where the CCDs are kept from call to call; none makes them anew")
    parser.add_argument("--stage-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage_only:
        print(json.dumps(run_stage(options)))
        return
    with tempfile.TemporaryDirectory(prefix="shearline-coadd-") as scratch:
        options.folder = options.folder or Path(scratch)
        for size, n_ccds in (SMALL, (options.size, options.ccds)):
            simulate(options.folder / f"{size}-{n_ccds}", size, n_ccds)
        ways = ("kept", "rejected") if options.outliers == "both" else (options.outliers,)
        print(json.dumps(in_one_line([run_apart(options, way, n) for way in ways for n in options.threads])))


def run_apart(options: argparse.Namespace, outliers: str, n_threads: int) -> dict[str, object]:
    """Run the stage in a process of its own, and return what it took."""
    from sides import run_side

    settings = {"folder": options.folder, "size": options.size, "ccds": options.ccds, "outliers": outliers}
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, str(HERE), "--stage-only", *arguments, "--threads", str(n_threads)]
    done: dict[str, object] = run_side(command, n_cores=n_threads)
    print(json.dumps(done), file=sys.stderr)
    return done


def in_one_line(runs: list[dict[str, object]]) -> dict[str, object]:
    """Return what the runs have in common, whether threads changed a byte, and what each took."""
    made = {(run["outliers"], run["sha256"]) for run in runs}
    alike = {name: runs[0][name] for name in ("size_px", "n_ccds", "covered_fraction", "product_mib")}
    each = [{name: value for name, value in run.items() if name not in {"sha256", *alike}} for run in runs]
    same = len(made) == len({run["outliers"] for run in runs})
    return {"benchmark": "coadd", **alike, "same_bytes": same, "runs": each}


def simulate(folder: Path, size: int, n_ccds: int) -> None:
    """Write the products of CCDs that cover a tile, unless they are there."""
    from blocks.store import DataStore
    from tasks.products.identity import TileId
    from tasks.products.wcs_index import TileExposures

    if (folder / "done").exists():
        return
    store = DataStore(root=str(folder))
    made = [put_ccd(store, number) for number in range(n_ccds)]
    records = tuple(sorted((record for _, record in made), key=lambda record: record.sort_key))
    tile = TileExposures(
        tile=TileId(TILE), ra=CENTRE[0], dec=CENTRE[1], size_px=size, pixel_scale_arcsec=SCALE, ccds=records
    )
    (folder / "tile.json").write_text(tile.model_dump_json(), encoding="utf-8")
    (folder / "ccds.json").write_text(json.dumps([ccd.model_dump(mode="json") for ccd, _ in made]), encoding="utf-8")
    (folder / "done").touch()


def ccd_header(number: int) -> "fits.Header":
    """Return the WCS of a CCD: one of two rows of five, dithered and turned from exposure to exposure, distorted."""
    import numpy as np
    from astropy.io import fits

    exposure, place = divmod(number, len(PLACES))
    column, row = PLACES[place]
    dither, angle = DITHERS_PX[exposure % len(DITHERS_PX)], np.radians(0.2 * exposure)
    step, header = SCALE / 3600, fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CRVAL1"], header["CRVAL2"] = CENTRE
    header["CRPIX1"] = SHAPE[1] / 2 - column * (SHAPE[1] + GAP_PX) + dither[0]
    header["CRPIX2"] = SHAPE[0] / 2 - (row - 0.5) * (SHAPE[0] + GAP_PX) + dither[1]
    header["CD1_1"], header["CD1_2"] = -step * np.cos(angle), step * np.sin(angle)
    header["CD2_1"], header["CD2_2"] = step * np.sin(angle), step * np.cos(angle)
    for axis in (1, 2):
        header[f"PV{axis}_1"], header[f"PV{axis}_7"], header[f"PV{axis}_9"] = 1.0, 0.02, 0.02
    return header


def put_ccd(store: "DataStore", number: int) -> "tuple[CcdProducts, CcdRecord]":
    """Write the products of one CCD: a sky with noise and bad pixels."""
    import numpy as np

    from tasks.archive import keys
    from tasks.archive.fits_wcs import read_wcs, wcs_to_header_text
    from tasks.archive.images import write_ccd_image
    from tasks.archive.planes import write_plane
    from tasks.archive.psfex import write_psf
    from tasks.archive.sources import write_sources
    from tasks.archive.tables import empty_table
    from tasks.products.columns import SOURCES
    from tasks.products.identity import CcdId, CcdProducts
    from tasks.products.images import CcdImage, Photometry, Window
    from tasks.products.psf import PsfModel
    from tasks.products.sources import SourceList
    from tasks.products.wcs_index import CcdRecord
    from tasks.science.background import mesh_edges
    from tasks.science.geometry import image_footprint
    from tasks.science.sphere import bounding_circle

    rng, exposure = np.random.default_rng(number), number // len(PLACES)
    ccd, header = CcdId(exposure=f"{2000000 + exposure}", ccd=number % len(PLACES)), ccd_header(number)
    wcs, good = read_wcs(header), rng.random(SHAPE) > 0.005
    light = Photometry(1.6, 4.0, 6e4, 200.0, 26.0 + 0.1 * exposure, 57000.0 + exposure, "r")
    mesh = np.full([mesh_edges(length, BOX_PX).size - 1 for length in SHAPE], 1000.0)
    image = CcdImage(
        ccd, np.rint(rng.normal(1000, 20, SHAPE)).astype(np.float32), good.astype(np.float32) / np.float32(400),
        np.where(good, 0, 1).astype(np.uint32), wcs, light, Window.full(SHAPE), header.tostring(),
    )  # fmt: skip
    sources = SourceList(
        str(ccd), empty_table(SOURCES, flux_aper=(1,), fluxerr_aper=(1,), mag_aper=(1,), magerr_aper=(1,)),
        np.zeros(SHAPE, np.int32), mesh, np.full_like(mesh, 20.0), BOX_PX, 1.0, light.zero_point,
    )  # fmt: skip
    psf = PsfModel(str(ccd), np.ones((1, 5, 5), np.float32), 0, 0.0, 1.0, 0.0, 1.0, 30, 25, 1.0, 3.7)
    ref = write_ccd_image(store, keys.ccd(ccd, "image.fits"), image)
    products = CcdProducts(
        ccd=ccd,
        image=ref,
        dq=write_plane(store, keys.ccd(ccd, "dq.fits"), image.dq, "DQ", subject=ccd),
        mask=write_plane(store, keys.ccd(ccd, "mask.fits"), image.dq.astype(np.uint16), "MASK", subject=ccd),
        sources=write_sources(store, keys.ccd(ccd, "sources.fits"), sources),
        stars=ref,
        psf=write_psf(store, keys.ccd(ccd, "psf.psf"), psf),
        residuals=ref,
    )
    outline = image_footprint(wcs, SHAPE)
    record = CcdRecord(
        ccd=ccd, shape=SHAPE, data_section=image.data_section, footprint=tuple(map(tuple, outline.tolist())),
        circle=bounding_circle(outline[:, 0], outline[:, 1]), photometry=light, wcs_text=wcs_to_header_text(wcs),
    )  # fmt: skip
    return products, record


def run_stage(options: argparse.Namespace) -> dict[str, object]:
    """Coadd in this process, and return what it took."""
    from measuring import peak_kib, release_memory, reset_peak, resident_kib

    [n_threads], outliers = options.threads, options.outliers
    coadd(options.folder / "{}-{}".format(*SMALL), n_threads, outliers)
    release_memory()
    reset_peak()
    before, started, cpu = resident_kib(), time.monotonic(), time.process_time()
    product = coadd(options.folder / f"{options.size}-{options.ccds}", n_threads, outliers)
    return {
        "threads": n_threads,
        "outliers": outliers,
        "wall_s": round(time.monotonic() - started, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "above_mib": round((peak_kib() - before) / 1024),
        "whole_mib": round(peak_kib() / 1024),
        "n_outliers": product.summary.get("n_outliers", 0),
        "size_px": options.size,
        "n_ccds": product.summary["n_ccds"],
        "covered_fraction": product.summary["covered_fraction"],
        "product_mib": round(product.size / 2**20),
        "sha256": product.sha256,
    }


def coadd(folder: Path, n_threads: int, outliers: str) -> "ProductRef":
    """Run the body of the stage on simulated CCDs."""
    import inspect

    from blocks.store import DataStore
    from tasks.archive.documents import write_document
    from tasks.coadd import CoaddConfig, coadd_tile_task
    from tasks.products.identity import CcdProducts
    from tasks.products.wcs_index import TileExposures

    store = DataStore(root=str(folder))
    tile = TileExposures.model_validate_json((folder / "tile.json").read_text(encoding="utf-8"))
    ccds = [CcdProducts.model_validate(item) for item in json.loads((folder / "ccds.json").read_text(encoding="utf-8"))]
    listed = write_document(store, "exposures.json", tile, subject=tile.tile)
    config = CoaddConfig(threads=n_threads, reject_outliers=outliers == "rejected")
    product: ProductRef = inspect.unwrap(coadd_tile_task.fn)(tile.tile, listed, ccds, config, store)
    return product


if __name__ == "__main__":
    main()
