"""Rectangles of pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels, 0-based, the upper bounds excluded."""

    x_min: int
    y_min: int
    x_max: int
    y_max: int

    @classmethod
    def full(cls, shape: tuple[int, ...]) -> Window:
        """Return the window of a whole image of shape (ny, nx)."""
        return cls(0, 0, shape[-1], shape[-2])

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx)."""
        return self.y_max - self.y_min, self.x_max - self.x_min

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices that cut the window from an array indexed [y, x]."""
        return slice(self.y_min, self.y_max), slice(self.x_min, self.x_max)

    def contains(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which positions lie inside, the edges of the outermost pixels included."""
        inside: NDArray[np.bool_] = (
            (x >= self.x_min - 0.5) & (x < self.x_max - 0.5) & (y >= self.y_min - 0.5) & (y < self.y_max - 0.5)
        )
        return inside
