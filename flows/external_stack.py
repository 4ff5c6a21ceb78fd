"""Tiles that were stacked elsewhere: their files, and which of the processed exposures they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocks.store import DataStore
from tasks.archive.raw_stacks import find_raw_stack, read_stack_header
from tasks.errors import DataError
from tasks.external_stack import ExternalStackConfig
from tasks.find_exposures import exposures_in_history
from tasks.products.identity import ExposureProducts, RawStack, SetAside, TileId

MAX_NAMED = 5


@dataclass(frozen=True)
class TileInputs:
    """What a tile is made of."""

    exposures: Sequence[ExposureProducts]
    """The exposures that it may be made of; those that do not overlap it are left out later."""
    stack: RawStack | None = None
    """Its image, if that was made elsewhere."""
    set_aside: tuple[SetAside, ...] = ()
    """Exposures that the stack was made of and that are not processed."""


def tile_inputs(
    tile: TileId, near: Sequence[ExposureProducts], config: ExternalStackConfig | None, raw: DataStore
) -> TileInputs:
    """Return what a tile is made of.

    Parameters
    ----------
    tile
        The tile.
    near
        The processed exposures that may overlap it.
    config
        Where external stacks are; none coadds all exposures that overlap.
    raw
        The raw store.

    Raises
    ------
    DataError
        If the tile has no stack, its stack does not name its exposures, or none of these is processed.
    """
    if config is None:
        return TileInputs(near)
    stack = find_raw_stack(raw, tile, config.image, config.weight)
    if config.epochs == "overlapping":
        return TileInputs(near, stack)
    named = exposures_in_history(read_stack_header(raw, stack).history, tile)
    processed = {item.exposure: item for item in near}
    absent = [name for name in named if name not in processed]
    if len(absent) == len(named):
        names = ", ".join(map(str, named[:MAX_NAMED])) + (" …" if len(named) > MAX_NAMED else "")
        raise DataError(
            f"Tile {tile}: none of the {len(named)} exposures that its external stack {stack.image.key} was made of is "
            f"processed ({names}); process them first."
        )
    reason = (
        f"the external stack {stack.image.key} was made of it; it is not among the processed exposures around the tile"
    )
    return TileInputs(
        [processed[name] for name in named if name in processed],
        stack,
        tuple(SetAside(subject=str(name), stage="external_stack", reason=reason) for name in absent),
    )
