"""Building the multi-epoch stamps of a tile from its images, one image in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from tasks.errors import DataError
from tasks.products.dq import MaskFlag
from tasks.products.sources import SourceList
from tasks.products.stamps import MultiEpochStamps
from tasks.science.cutouts import cut, positions_in_other_frame, sample_nearest, stamp_start
from tasks.science.geometry import local_jacobian

Allocate = Callable[[tuple[int, ...], type[np.generic]], NDArray[Any]]
"""Returns an array of zeros; a tile's stamps are gigabytes, so it may lie in a file."""

CHUNK = 256
"""Stamps for which segmentations are mapped at a time: 5 MB per array of positions."""


@dataclass(frozen=True)
class StampImage:
    """One image that stamps are cut from: a CCD, or the coadd."""

    name: str
    """Name of the CCD or tile."""
    flux: NDArray[np.float32]
    """Background-subtracted flux at zero point 30, shape (ny, nx)."""
    weight: NDArray[np.float32]
    """Inverse variance of ``flux``, shape (ny, nx); 0 where a pixel is bad."""
    bmask: NDArray[np.int32]
    """Lensing-mask bits, shape (ny, nx)."""


@dataclass(frozen=True)
class StampTargets:
    """The sources of a tile and the epochs that are to be cut."""

    tile: str
    """Name of the tile."""
    ids: NDArray[np.int64]
    """Numbers of the sources, shape (n,)."""
    ra: NDArray[np.float64]
    """ICRS degrees, shape (n,)."""
    dec: NDArray[np.float64]
    """ICRS degrees, shape (n,)."""
    tile_row: NDArray[np.float64]
    """Row of each source in the coadd, shape (n,)."""
    tile_col: NDArray[np.float64]
    """Column of each source in the coadd, shape (n,)."""
    tile_jacobian: NDArray[np.float64]
    """Jacobian of the coadd at each source, shape (n, 2, 2)."""
    images: tuple[str, ...]
    """Names of the CCDs that have an epoch, in the order in which epochs are kept."""
    source: NDArray[np.int64]
    """Index of the source of each epoch, shape (k,)."""
    image: NDArray[np.int64]
    """Index into ``images`` of each epoch, shape (k,)."""
    row: NDArray[np.float64]
    """Row of the source in the CCD of each epoch, shape (k,)."""
    col: NDArray[np.float64]
    """Column of the source in the CCD of each epoch, shape (k,)."""
    jacobian: NDArray[np.float64]
    """Jacobian of the CCD at the source of each epoch, shape (k, 2, 2)."""
    psf: NDArray[np.float32]
    """PSF of each epoch, shape (k, psf size, psf size)."""


@dataclass(frozen=True)
class TileMaps:
    """Planes of the tile that are carried over to the stamps of the CCDs."""

    coadd: StampImage
    segmentation: NDArray[np.int32]
    """Source numbers, shape (ny, nx)."""
    sky_mask: NDArray[np.int32]
    """Bits of the tile's mask that belong to the sky, not to the coadd's pixels, shape (ny, nx)."""


def ccd_stamp_image(
    name: str,
    sci: NDArray[np.float32],
    weight: NDArray[np.float32],
    background: NDArray[np.float32],
    mask: NDArray[np.uint32],
    *,
    flux_scale: float,
    variance_scale: float,
) -> StampImage:
    """Bring a CCD to zero point 30, with true inverse variances and without its background.

    Parameters
    ----------
    name
        Name of the CCD.
    sci, weight, background
        Image, relative inverse variance and background in ADU, shape (ny, nx); not changed.
    mask
        Lensing mask, shape (ny, nx).
    flux_scale
        Factor from ADU to zero point 30.
    variance_scale
        The variance of a pixel in ADU² is this over its weight.

    Returns
    -------
    StampImage
        Pixels that are not finite have flux 0 and weight 0.
    """
    good = np.isfinite(sci) & np.isfinite(weight) & (weight > 0)
    with np.errstate(invalid="ignore", over="ignore"):
        flux = (sci - background) * np.float32(flux_scale)
        inverse_variance = weight / np.float32(variance_scale * flux_scale**2)
    return StampImage(
        name=name,
        flux=np.where(np.isfinite(flux), flux, np.float32(0)).astype(np.float32),
        weight=np.where(good, inverse_variance, np.float32(0)).astype(np.float32),
        bmask=mask.astype(np.int32),
    )


def choose_epochs(sources: SourceList, wcs: WCS, epochs: Table, psf: Table, ccd_names: Sequence[str]) -> StampTargets:
    """List the epochs that get a stamp: those with a good PSF.

    Parameters
    ----------
    sources
        Sources of the tile.
    wcs
        Coordinate system of the tile.
    epochs
        One row per source and CCD, columns of ``EPOCHS``.
    psf
        Row-aligned with ``epochs``, columns of ``EPOCH_PSF``.
    ccd_names
        Names of the CCDs at hand, in the order in which epochs are kept.

    Returns
    -------
    StampTargets
        All sources, also those without a usable epoch.

    Raises
    ------
    DataError
        If the tables do not belong together, or an epoch's source or CCD is not at hand.
    """
    for name in ("number", "exposure", "ccd"):
        if len(epochs) != len(psf) or (np.asarray(epochs[name]) != np.asarray(psf[name])).any():
            raise DataError(
                f"Tile {sources.subject}: the epochs ({len(epochs)} rows) and their PSFs ({len(psf)} rows) differ in "
                f"{name}; run psf_interp again."
            )
    used = np.flatnonzero(np.asarray(psf["flags"]) == 0)
    ids = np.asarray(sources.table["number"], dtype=np.int64)
    row_of = {int(number): row for row, number in enumerate(ids)}
    names = [f"{exposure}-{ccd}" for exposure, ccd in zip(epochs["exposure"][used], epochs["ccd"][used], strict=True)]
    seen = set(names)
    images = [name for name in ccd_names if name in seen]
    place_of = {name: place for place, name in enumerate(images)}
    unknown = sorted(seen - set(place_of))
    strangers = sorted(set(epochs["number"][used].tolist()) - set(row_of))
    if unknown or strangers:
        raise DataError(
            f"Tile {sources.subject}: its epochs name {len(unknown)} CCDs that are not at hand ({unknown[:3]}) and "
            f"{len(strangers)} sources that do not exist ({strangers[:3]}); run the epochs stage again."
        )
    tile_row, tile_col = np.asarray(sources.table["y_win"]), np.asarray(sources.table["x_win"])
    jacobian = np.stack([epochs[name][used] for name in ("dvdy", "dvdx", "dudy", "dudx")], axis=-1)
    return StampTargets(
        tile=sources.subject,
        ids=ids,
        ra=np.asarray(sources.table["ra_win"], np.float64),
        dec=np.asarray(sources.table["dec_win"], np.float64),
        tile_row=tile_row,
        tile_col=tile_col,
        tile_jacobian=local_jacobian(wcs, tile_col, tile_row),
        images=tuple(images),
        source=np.array([row_of[int(number)] for number in epochs["number"][used]], dtype=np.int64),
        image=np.array([place_of[name] for name in names], dtype=np.int64),
        row=np.asarray(epochs["y"][used], np.float64),
        col=np.asarray(epochs["x"][used], np.float64),
        jacobian=np.asarray(jacobian, np.float64).reshape(-1, 2, 2),
        psf=np.asarray(psf["psf"][used], np.float32),
    )


def build_stamps(
    targets: StampTargets, maps: TileMaps, images: Iterable[StampImage], *, size: int, allocate: Allocate = np.zeros
) -> MultiEpochStamps:
    """Cut the stamps of every source, in the coadd and in its epochs.

    The segmentation and the sky's part of the mask are those of the tile, looked up at the sky position of every
    pixel of a stamp through the local Jacobians.

    Parameters
    ----------
    targets
        Sources and epochs.
    maps
        Coadd, segmentation and mask of the tile.
    images
        The CCDs in the order of ``targets.images``; each is dropped before the next is asked for.
    size
        Side of the stamps in pixels, odd.
    allocate
        Makes the arrays of the pixels.

    Returns
    -------
    MultiEpochStamps
        The stamps; what lies outside an image has weight 0 and the mask bit MISSING.

    Raises
    ------
    DataError
        If there are no sources.
    """
    n = len(targets.ids)
    if n == 0:
        raise DataError(f"Tile {targets.tile} has no sources to cut stamps of; lower its detection threshold.")
    # cutouts in order of source, then image: the coadd is image 0
    source = np.concatenate([np.arange(n), targets.source])
    image_index = np.concatenate([np.zeros(n, np.int64), targets.image + 1])
    order = np.lexsort((image_index, source))
    first = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=n))]).astype(np.int64)
    orig_row = np.concatenate([targets.tile_row, targets.row])[order]
    orig_col = np.concatenate([targets.tile_col, targets.col])[order]
    m, shape = len(order), (len(order), size, size)
    stamps = MultiEpochStamps(
        tile=targets.tile,
        ids=targets.ids,
        ra=targets.ra,
        dec=targets.dec,
        first=first,
        images=(targets.tile, *targets.images),
        image_index=image_index[order],
        orig_row=orig_row,
        orig_col=orig_col,
        start_row=stamp_start(orig_row, size),
        start_col=stamp_start(orig_col, size),
        jacobian=np.concatenate([targets.tile_jacobian, targets.jacobian])[order],
        image=allocate(shape, np.float32),
        weight=allocate(shape, np.float32),
        bmask=allocate(shape, np.int32),
        seg=allocate(shape, np.int32),
        psf=allocate((m, *targets.psf.shape[1:]), np.float32),
    )
    stamps.psf[np.flatnonzero(stamps.image_index > 0)] = targets.psf[order[order >= n] - n]
    _fill_coadd(stamps, maps)
    for number, image in enumerate(images, start=1):
        _fill_epochs(stamps, maps, image, number)
    return stamps


def _fill_planes(stamps: MultiEpochStamps, image: StampImage, k: NDArray[np.int64]) -> None:
    rows, cols, size = stamps.start_row[k], stamps.start_col[k], stamps.size
    stamps.image[k] = cut(image.flux, rows, cols, size)
    stamps.weight[k] = cut(image.weight, rows, cols, size)
    stamps.bmask[k] = cut(image.bmask, rows, cols, size, fill=int(MaskFlag.MISSING))


def _fill_coadd(stamps: MultiEpochStamps, maps: TileMaps) -> None:
    for k in _chunks(np.asarray(stamps.first[:-1])):
        _fill_planes(stamps, maps.coadd, k)
        stamps.seg[k] = cut(maps.segmentation, stamps.start_row[k], stamps.start_col[k], stamps.size)


def _fill_epochs(stamps: MultiEpochStamps, maps: TileMaps, image: StampImage, number: int) -> None:
    if image.name != stamps.images[number]:
        raise ValueError(f"stamps are to be cut from {stamps.images[number]} and not from {image.name}")
    coadd_of = np.repeat(stamps.first[:-1], np.diff(stamps.first))
    for k in _chunks(np.flatnonzero(stamps.image_index == number)):
        _fill_planes(stamps, image, k)
        c = coadd_of[k]
        rows, cols = positions_in_other_frame(
            stamps.size,
            stamps.orig_row[k] - stamps.start_row[k],
            stamps.orig_col[k] - stamps.start_col[k],
            stamps.jacobian[k],
            stamps.orig_row[c],
            stamps.orig_col[c],
            stamps.jacobian[c],
        )
        stamps.seg[k] = sample_nearest(maps.segmentation, rows, cols)
        stamps.bmask[k] |= sample_nearest(maps.sky_mask, rows, cols)


def _chunks(indices: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(indices), CHUNK):
        yield indices[start : start + CHUNK]
