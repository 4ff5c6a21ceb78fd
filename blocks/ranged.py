"""A remote object as a file of which only the ranges that are read are fetched."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

from blocks.objects import translated

PIECE_BYTES = 8 << 20
# a header of a CCD has 10 to 30 kB: one request for most of them, and little for those that are skipped
BLOCK_BYTES = 32 << 10
KEPT_BLOCKS = 256
KEPT_FILES = 8

Blocks = deque[tuple[int, bytes]]
Fetch = Callable[[int, int, str], tuple[bytes, int, str]]


# the CCDs of an exposure are read one by one, each past the headers of those before it
_blocks: OrderedDict[tuple[str, str], Blocks] = OrderedDict()
_finding = threading.Lock()


def _blocks_of(name: str, version: str) -> Blocks:
    """Return the blocks that this process has read of one version of an object; of few objects they are kept."""
    with _finding:
        blocks = _blocks.setdefault((name, version), deque(maxlen=KEPT_BLOCKS))
        _blocks.move_to_end((name, version))
        while len(_blocks) > KEPT_FILES:
            _blocks.popitem(last=False)
    return blocks


def _after_fork() -> None:
    global _finding
    _finding = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def pieces(start: int, end: int, step: int = PIECE_BYTES) -> Iterator[tuple[int, int]]:
    """Yield the ranges that a range is fetched in."""
    return ((begin, min(begin + step, end)) for begin in range(start, end, step))


class RangedFile(io.RawIOBase):
    """A file for reading; small reads are taken from blocks, large ones fetched as they are.

    Parameters
    ----------
    name
        Address of the object.
    fetch
        Returns the bytes from a start to an end, the size of the whole object, and its version; it is given the
        version that was opened, so that never two versions are mixed.
    doing
        What could not be done if it fails, and where.

    Raises
    ------
    StoreError
        If the store cannot be read now, here and in every later read.
    """

    def __init__(self, name: str, fetch: Fetch, doing: str) -> None:
        self._fetch, self._doing, self._position = fetch, doing, 0
        with translated(doing):
            first, self._size, self._version = fetch(0, BLOCK_BYTES, "")
        self._blocks = _blocks_of(name, self._version)
        self._keep(0, first)

    def readable(self) -> bool:
        """Tell that this can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that this can be read at any position."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"{origin + offset} is before the begin of the file")
        self._position = origin + offset
        return self._position

    def readall(self) -> bytes:
        """Return everything from here to the end."""
        return self.read(max(self._size - self._position, 0)) or b""

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 (any writable buffer)
        """Fill a buffer, or what of it there is before the end; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        end = min(self._position + len(view), self._size)
        done = 0
        while self._position < end:
            part = self._next(end - self._position)
            view[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done

    def _next(self, wanted: int) -> bytes:
        """Return at least one and at most ``wanted`` bytes from here."""
        for start, data in tuple(self._blocks):
            if start <= self._position < start + len(data):
                inside = self._position - start
                return data[inside : inside + wanted]
        large = wanted >= BLOCK_BYTES
        end = min(self._position + (min(wanted, PIECE_BYTES) if large else BLOCK_BYTES), self._size)
        with translated(self._doing):
            data = self._fetch(self._position, end, self._version)[0]
        if not large:
            self._keep(self._position, data)
        return data[:wanted]

    def _keep(self, start: int, data: bytes) -> None:
        if not any(start == known for known, _ in tuple(self._blocks)):
            self._blocks.append((start, data))
