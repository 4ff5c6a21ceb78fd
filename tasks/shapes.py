"""Shapes: metacalibration of every source of a tile, jointly over its epochs."""

from typing import Annotated, Literal

import numpy as np
from astropy.table import Table
from pydantic import Field

from blocks.store import DataStore
from tasks.archive import keys
from tasks.archive.meds import open_stamps
from tasks.archive.tables import write_table
from tasks.products.columns import SHAPES
from tasks.products.config import StageConfig
from tasks.products.identity import ProductRef, SummaryValue, TileId
from tasks.products.stamps import MultiEpochStamps
from tasks.science.metacal import MetacalOptions, MetacalShapes, TargetName, measure_metacal
from tasks.science.metacal_stamps import Neighbours, NoiseSource, epoch_stamps
from tasks.science.ngmix_engine import measure_ngmix
from tasks.stage import stage


class ShapesConfig(StageConfig):
    """Settings of shape measurement."""

    engine: Literal["kmetacal", "ngmix"] = "kmetacal"
    """Who measures: the built-in engine, or the public ngmix package, which is some 200 times slower."""
    step: Annotated[float, Field(gt=0, lt=0.1)] = 0.01
    """Shear of the four sheared types."""
    target: TargetName = "gauss"
    """Round Gaussian that replaces the PSF: pinned to the PSF's smallest direction, or to its mean over azimuth."""
    fixnoise: bool = True
    """Cancel the correlated noise of sheared images by a rotated noise field."""
    shape_prior_sigma: Annotated[float, Field(ge=0)] = 0.4
    """Width of the prior on shapes (Bernstein & Armstrong); 0 is no prior."""
    center_prior_pixels: Annotated[float, Field(ge=0)] = 1.0
    """Width of the Gaussian prior on the centre in pixels; 0 is no prior."""
    neighbours: Neighbours = "uberseg"
    """Pixels of other sources to mask: those nearer to them than to the source, those of their segments, or none."""
    core_radius: Annotated[float, Field(ge=0)] = 3.0
    """Epochs with a masked pixel nearer to the source than this, in pixels, are dropped; neighbours do not count."""
    max_masked_fraction: Annotated[float, Field(ge=0, le=1)] = 1.0 / 3.0
    """Epochs with a larger fraction of masked pixels are dropped; neighbours do not count."""
    noise: NoiseSource = "weight"
    """Noise of an epoch: from the median weight, or from the scatter of the stamp's sky pixels."""
    max_iterations: Annotated[int, Field(ge=1)] = 60
    """Steps of a fit before it is given up."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the survey; random numbers follow from it, the tile and the source's number."""
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    """Threads of the built-in engine; the result does not depend on it."""

    def options(self) -> MetacalOptions:
        """Return the settings that the engines understand."""
        return MetacalOptions(
            step=self.step,
            target=self.target,
            fixnoise=self.fixnoise,
            shape_prior_sigma=self.shape_prior_sigma,
            center_prior_pixels=self.center_prior_pixels,
            core_radius=self.core_radius,
            max_masked_fraction=self.max_masked_fraction,
            max_iterations=self.max_iterations,
        )


def measure_shapes(stamps: MultiEpochStamps, config: ShapesConfig) -> Table:
    """Measure the shapes of all sources of a tile.

    Parameters
    ----------
    stamps
        Stamps, PSFs and Jacobians of the sources; the pixels may lie in a file, they are read source by source.
    config
        Settings.

    Returns
    -------
    Table
        One row per source in the order of the stamps, columns of ``tasks.products.columns.SHAPES``.

    Raises
    ------
    ConfigError
        If the engine is ngmix and ngmix is not installed.
    """
    count = len(stamps)
    masked = np.full(count, np.nan)
    parts = []
    # a few hundred at a time: a tile's stamps do not fit into memory
    for start in range(0, count, 256):
        rows = range(start, min(start + 256, count))
        objects = [epoch_stamps(stamps, i, neighbours=config.neighbours, noise=config.noise) for i in rows]
        masked[start : start + len(objects)] = [
            np.mean([np.mean(e.unusable) for e in epochs]) if epochs else np.nan for epochs in objects
        ]
        seeds = [[config.seed, *b"shapes", *stamps.tile.encode(), int(stamps.ids[i])] for i in rows]
        rngs = [np.random.default_rng(seed) for seed in seeds]
        if config.engine == "ngmix":
            parts.append(measure_ngmix(objects, rngs, options=config.options()))
        else:
            parts.append(measure_metacal(objects, rngs, options=config.options(), threads=config.threads))
    table = _table(MetacalShapes.concatenate(parts))
    table["number"] = stamps.ids
    table["n_epoch_stamps"] = stamps.n_epoch
    table["masked_fraction"] = masked
    table["metacal_step"] = np.full(count, config.step)
    return table[list(SHAPES.names)]


def _table(shapes: MetacalShapes) -> Table:
    """Lay a result out in columns."""
    table = Table()
    table["flags"] = np.bitwise_or.reduce(shapes.flags, axis=1)
    table["n_epoch_used"] = shapes.n_epoch
    table["n_epoch_masked_core"] = shapes.n_masked_core
    table["n_epoch_masked_fraction"] = shapes.n_masked_fraction
    table["n_epoch_bad"] = shapes.n_bad_epoch
    table["g1_psf"], table["g2_psf"] = shapes.g_psf.T
    table["t_psf"], table["t_psf_target"] = shapes.T_psf, shapes.T_target
    for k, kind in enumerate(shapes.types):
        for name in ("g", "g_err"):
            for axis in (0, 1):
                table[name.replace("g", f"g{axis + 1}") + f"_{kind}"] = getattr(shapes, name)[:, k, axis]
        for name in ("T", "T_err", "flux", "flux_err", "s2n", "flags"):
            table[f"{name.lower()}_{kind}"] = getattr(shapes, name)[:, k]
    return table


@stage(name="shapes")
def measure_shapes_task(stamps: ProductRef, config: ShapesConfig, store: DataStore) -> ProductRef:
    """Read the stamps of a tile, measure the shapes, store the table."""
    with open_stamps(store, stamps) as opened:
        table = measure_shapes(opened, config)
    summary: dict[str, SummaryValue] = {
        "n_sources": len(table),
        "n_measured": int(np.count_nonzero(table["flags"] == 0)),
    }
    key = keys.tile(TileId(stamps.subject), "shapes.fits")
    return write_table(store, key, table, SHAPES, subject=stamps.subject, summary=summary)
