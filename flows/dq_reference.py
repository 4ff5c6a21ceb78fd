"""Make a DQ reference file: flags at single pixels, a FITS file, and a place in a CRDS cache whose rules choose it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flows.dq_file import TYPES_BY_OBSERVATORY
from tasks.archive.dq_reference_writing import dq_reference_bytes, write_new_file
from tasks.errors import BadFileError, ConfigError, ShapeMismatchError
from tasks.products.detector import DQReference, as_flag_plane
from tasks.products.windows import Window
from tasks.science.dq_flags import count_flags, encode_flags, flag_pixels

if TYPE_CHECKING:
    from tasks.archive.reference_adding import AddedReference

IMAGE_DIMENSIONS = 2


class DQReferenceBuilder:
    """A DQ reference that is being made: all pixels are good until they are flagged.

    Parameters
    ----------
    shape
        Shape (ny, nx) of the flags: of the full detector, or of the window.
    instrument, detector
        What the header says as INSTRUME and DETECTOR, such as ``IRIS`` and ``IMG1``.
    subarray
        What it says as SUBARRAY.
    first_pixel
        Column and row of the detector at which the flags begin, from 1, as SUBSTRT1 and SUBSTRT2.
    use_after
        Date from which on it is used, ISO 8601; the header says it as USEAFTER.
    keywords
        Further header cards, such as ``{"AUTHOR": "me", "PEDIGREE": "GROUND"}``.

    Raises
    ------
    ShapeMismatchError
        If the shape or the first pixel is none.

    Examples
    --------
    >>> mask = DQReferenceBuilder((4096, 4096), instrument="IRIS", detector="IMG1", use_after="2025-01-01")
    >>> mask.flag([(10, 20), (11, 20)], "DEAD")
    >>> mask.flag([(10, 20)], ["HOT", "DO_NOT_USE"])
    >>> mask.count()
    {'DO_NOT_USE': 1, 'DEAD': 2, 'HOT': 1}
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        instrument: str,
        detector: str,
        subarray: str = "FULL",
        first_pixel: tuple[int, int] = (1, 1),
        use_after: str = "1990-01-01",
        keywords: Mapping[str, str | int | float | bool] | None = None,
    ) -> None:
        if len(shape) != IMAGE_DIMENSIONS or min(shape) < 1:
            raise ShapeMismatchError(f"A DQ reference has a shape (ny, nx) of whole numbers from 1, not {shape}.")
        if len(first_pixel) != IMAGE_DIMENSIONS or min(first_pixel) < 1:
            raise ShapeMismatchError(f"The first pixel is a column and a row from 1, not {first_pixel}.")
        x, y = first_pixel[0] - 1, first_pixel[1] - 1
        self.instrument, self.detector, self.use_after = instrument, detector, use_after
        self.keywords: dict[str, str | int | float | bool] = {"SUBARRAY": subarray, **(keywords or {})}
        self._dq = np.zeros(shape, np.uint32)
        self._window = Window(x, y, x + shape[1], y + shape[0])

    @property
    def dq(self) -> NDArray[np.uint32]:
        """Flags in the standard numbering, shape (ny, nx), uint32; a copy. Assigning replaces all of them.

        Any type of whole numbers may be assigned, floats such as those of `numpy.zeros` too.
        """
        return self._dq.copy()

    @dq.setter
    def dq(self, values: ArrayLike) -> None:
        plane = as_flag_plane(values, "The DQ reference")
        if plane.shape != self._dq.shape:
            raise ShapeMismatchError(f"The DQ reference has shape {self._dq.shape}; these flags have {plane.shape}.")
        self._dq = plane

    def flag(self, pixels: ArrayLike, names: str | Iterable[str]) -> None:
        """Flag single pixels; flags that they have are kept.

        Parameters
        ----------
        pixels
            Pairs (y, x), shape (n, 2), whole numbers from 0. Never rows: a numpy index of this array would be.
        names
            Flags of the standard table, such as ``"DEAD"`` or ``["HOT", "DO_NOT_USE"]``.

        Raises
        ------
        ShapeMismatchError
            If these are no pairs, or one lies outside.
        BadFileError
            If they are not whole numbers.
        ConfigError
            If a flag is not in the table.
        """
        pairs, words = np.asarray(pixels), _words(names)
        if not pairs.size:
            encode_flags(words)
            return
        if pairs.dtype.kind not in "iu":
            raise BadFileError(f"Pixels are pairs (y, x) of whole numbers; these are of type {pairs.dtype}.")
        self._dq = flag_pixels(self._dq, pairs, words)

    def flag_where(self, mask: ArrayLike, names: str | Iterable[str]) -> None:
        """Flag the pixels where a mask of shape (ny, nx) is true, such as ``dark > 100``.

        Raises
        ------
        ShapeMismatchError
            If the mask is not a boolean array of that shape.
        ConfigError
            If a flag is not in the table.
        """
        chosen = np.asarray(mask)
        if chosen.dtype != np.bool_ or chosen.shape != self._dq.shape:
            raise ShapeMismatchError(
                f"The mask must be of type bool and shape {self._dq.shape}; it is of type {chosen.dtype} and shape "
                f"{chosen.shape}."
            )
        self._dq[chosen] |= np.uint32(encode_flags(_words(names)))

    def count(self) -> dict[str, int]:
        """Return how many pixels carry each flag."""
        return count_flags(self._dq)

    def reference(self, name: str = "the reference") -> DQReference:
        """Return what `tasks.dq_init.initialize_dq` takes, without a file."""
        return DQReference(self.dq, None, self._window, name)

    def to_bytes(self, name: str = "", reference_type: str = "dq") -> bytes:
        """Return the FITS file: HDU ``DQ``, uint32, and the table ``DQ_DEF`` of the flags that occur."""
        cards: dict[str, str | int | float | bool] = {
            "FILENAME": name, "INSTRUME": self.instrument, "DETECTOR": self.detector,
            "REFTYPE": reference_type.upper(), "USEAFTER": self.use_after,
        }  # fmt: skip
        return dq_reference_bytes(self.reference(name), cards | self.keywords)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the FITS file, whole or not at all.

        Raises
        ------
        ConfigError
            If there is such a file already.
        StoreError
            If it cannot be written.
        """
        target = Path(path).expanduser()
        if target.exists() and not overwrite:
            raise ConfigError(f"There is a file {target} already; give another name, or overwrite=True.")
        try:
            write_new_file(target, self.to_bytes(target.name))
        except OSError as error:
            from blocks.store import StoreError

            raise StoreError(f"{target} cannot be written: {error.strerror or error}.") from error
        return target

    def add_to_cache(
        self,
        root: str | Path,
        observatory: str,
        name: str,
        *,
        reference_type: str | None = None,
        match: Mapping[str, str] | None = None,
        context: str = "",
    ) -> AddedReference:
        """Put the file into a CRDS cache, and let its rules choose it.

        Parameters
        ----------
        root
            Folder of the cache; begun if it is not there.
        observatory
            Name of the observatory, such as ``ligeriri``.
        name
            Name of the file, such as ``iris_dq_0001.fits``.
        reference_type
            What the rules call the type; ``mask`` for JWST and TMT, ``dq`` for all others.
        match
            Header values of the images that it is for; those of this detector, read out in any subarray, if none.
        context
            Context to begin with; that of the cache if empty.

        Raises
        ------
        ConfigError, RulesError, StoreError
            As `tasks.archive.reference_adding.add_reference`.
        """
        from tasks.archive.reference_adding import add_reference

        kind = reference_type or TYPES_BY_OBSERVATORY.get(observatory.lower(), "dq")
        return add_reference(
            root, observatory, name, self.to_bytes(name, kind), instrument=self.instrument, reference_type=kind,
            match=match or {"DETECTOR": self.detector}, use_after=self.use_after, context=context,
        )  # fmt: skip


def _words(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
