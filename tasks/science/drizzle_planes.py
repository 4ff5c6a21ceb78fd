"""The planes of a drizzled output."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tasks.science.band_merge import Merge, Output
from tasks.science.band_sums import Source
from tasks.science.drizzle_image import BandLayout, DrizzleImage, is_complete

Plane = NDArray[np.float32]

CONTEXT_BITS = 32


class OutputPlanes:
    """The planes of an output, and the sums of weights behind them."""

    def __init__(
        self,
        shape: tuple[int, int],
        fill_value: float,
        *,
        n_images: int | None,
        context: bool,
        averaged: int,
        propagated: int,
        error: bool,
        dq: bool,
        exposure_time: bool,
    ) -> None:
        """Make empty planes; ``averaged`` and ``propagated`` are numbers of variances."""
        self.fill_value = np.float32(fill_value)
        self.data, self.weight = np.full(shape, fill_value, np.float32), np.zeros(shape, np.float32)
        planes = max(1, -(-(n_images or 1) // CONTEXT_BITS))
        self.context_words = np.zeros((planes, *shape), np.uint32) if context else None
        self.n_context = 1
        self.averaged = np.full((averaged, *shape), np.nan, np.float32)
        self.averaged_totals = np.zeros((averaged, *shape), np.float32)
        self.propagated = np.full((propagated, *shape), np.nan, np.float32)
        self.error = np.full(shape, fill_value, np.float32) if error else None
        self.totals = np.zeros((0, 1, 1), np.float32)
        self.dq = np.zeros(shape, np.uint32) if dq else None
        self.exposure_time = np.zeros(shape, np.float32) if exposure_time else None

    def prepare(self, image: DrizzleImage, source: Source, number: int) -> None:
        """Make room for an image: its context plane, and own weights for planes that it does not have whole."""
        if self.context_words is not None:
            self.n_context = max(self.n_context, number // CONTEXT_BITS + 1)
            missing = self.n_context - len(self.context_words)
            if missing > 0:
                more = np.zeros((missing, *self.data.shape), np.uint32)
                self.context_words = np.concatenate([self.context_words, more])
        variances, error = len(self.propagated) > 0, self.error is not None
        one_weight = (variances or error) and len(self.totals) == 0
        if one_weight and not is_complete(image, source, variances=variances, error=error):
            self.totals = np.repeat(self.weight[None], len(self.propagated) + error, axis=0)

    def output(self, number: int) -> Output:
        """Return the planes as compiled code reads them, with the context plane of an image."""
        nothing = np.zeros((1, 1), np.float32)
        words = np.zeros((1, 1), np.uint32)
        return Output(
            self.data,
            self.weight,
            words if self.context_words is None else self.context_words[number // CONTEXT_BITS],
            nothing if self.error is None else self.error,
            self.averaged,
            self.averaged_totals,
            self.propagated,
            self.totals,
            words if self.dq is None else self.dq,
            nothing if self.exposure_time is None else self.exposure_time,
            self.fill_value,
        )

    def merge(
        self,
        image: DrizzleImage,
        layout: BandLayout,
        number: int,
        *,
        weight_plane: int,
        has_dq: bool,
        has_marks: bool,
    ) -> Merge:
        """Return how an image is merged into the planes."""
        given = image.variance_weight
        weight_place = -1
        if given is None and len(layout.averaged_places) > 0:
            weight_place = int(layout.averaged_places[weight_plane])
        return Merge(
            np.uint32(1 << (number % CONTEXT_BITS) if self.context_words is not None else 0),
            layout.error_place,
            layout.averaged_places,
            layout.propagated_places,
            weight_place,
            0.0 if given is None else float(given),
            has_dq,
            has_marks,
            np.float32(image.exposure_time if self.exposure_time is not None else 0.0),
        )
