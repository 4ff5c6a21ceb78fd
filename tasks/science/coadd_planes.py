"""The planes of a tile: joined from its bands, and what the context says of a pixel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tasks.products.images import CoaddPlanes
from tasks.science.drizzling import CONTEXT_BITS

PLANES = ("sci", "weight", "variance", "dq", "time")


def join_bands(bands: Iterable[CoaddPlanes]) -> CoaddPlanes:
    """Return the planes of a whole tile from its bands, the lowest first; each has all planes."""
    found = list(bands)
    contexts = [band.context for band in found if band.context is not None]
    n_planes = max(map(len, contexts))
    return CoaddPlanes(
        context=np.concatenate([_with_planes(context, n_planes) for context in contexts], axis=1),
        **{name: np.concatenate([getattr(band, name) for band in found]) for name in PLANES},
    )


def _with_planes(context: NDArray[np.int32], n_planes: int) -> NDArray[np.int32]:
    """Return a context with further planes, of CCDs that contribute to later bands only."""
    return np.pad(context, ((0, n_planes - len(context)), (0, 0), (0, 0)))


def contributing_inputs(context: NDArray[np.int32], x: int, y: int) -> tuple[int, ...]:
    """Return the numbers of the inputs that contributed to one pixel of a tile.

    Parameters
    ----------
    context
        Context planes, shape (nplanes, ny, nx).
    x, y
        The pixel, counted from 0.
    """
    words = np.ascontiguousarray(context[:, y, x]).view(np.uint32)
    return tuple(
        plane * CONTEXT_BITS + bit
        for plane, word in enumerate(words)
        for bit in range(CONTEXT_BITS)
        if int(word) >> bit & 1
    )
