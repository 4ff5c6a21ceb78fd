"""Errors of `Resample`, of the types that callers of stcal's class catch."""

from __future__ import annotations


class MissingKeyError(KeyError):
    """A model lacks a key, or a table of flags a name."""

    def __str__(self) -> str:
        """Return the sentence itself; that of a plain KeyError is shown in quotes."""
        return str(self.args[0])


class UnsupportedWCSError(RuntimeError):
    """A coordinate system has a number or a kind of axes that cannot be resampled."""
