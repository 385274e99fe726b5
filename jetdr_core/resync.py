"""The one engine that copies pre-existing data: the initial copy of a disk, and every resync.

The regions that are owed come as an iterable, so a dirty map can take the place of "all of the disk".

Invariants: each piece is read and logged while its range is held, so a guest's write to it comes wholly before or
after. New writes go first: the copy waits while the ring holds more than a few pieces.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from jetdr_core._core import Ring
from jetdr_core.errors import StallTimeout
from jetdr_core.limits import SECTOR_BYTES

__all__ = ["BackgroundFilter", "Region", "copy_regions", "regions_between", "regions_from", "regions_of"]

PIECE_BYTES = 1 << 20
RING_SHARE_BYTES = 8 << 20
"""Background data waits while the ring holds more than this, or more than a quarter of its size."""

PAUSE_S = 0.001
CROWDED_S = 0.02


class BackgroundFilter(Protocol):
    """What a copy needs of the IO filter on a disk's write path, which may run in another process."""

    @property
    def record_bytes_max(self) -> int: ...

    def copy_background(self, offset: int, length: int) -> int:
        """Log what the primary holds in the range, and return the LSN. The range is held meanwhile.

        0, and nothing is logged, if the range is longer than one record and is no hole.
        """


class Region(NamedTuple):
    """[offset, offset + length) of a disk. ``hole``: the primary's file has no data there."""

    offset: int
    length: int
    hole: bool


def regions_of(fd: int, size_bytes: int) -> Iterator[Region]:
    """Yield all of a disk, data and holes in order. A device without holes is one region of data."""
    return regions_between(fd, 0, size_bytes)


def regions_between(fd: int, offset: int, end_offset: int) -> Iterator[Region]:
    """Yield a part of a disk, data and holes in order."""
    while offset < end_offset:
        data = _seek(fd, offset, os.SEEK_DATA, end_offset)
        if data > offset:
            yield Region(offset, data - offset, hole=True)
        if data < end_offset:
            end = _seek(fd, data, os.SEEK_HOLE, end_offset)
            yield Region(data, end - data, hole=False)
            data = end
        offset = data


def regions_from(regions: Iterable[Region], start: int) -> Iterator[Region]:
    """Yield what ``regions`` have at ``start`` and beyond."""
    for region in regions:
        end = region.offset + region.length
        if end > start:
            offset = max(region.offset, start)
            yield Region(offset, end - offset, region.hole)


def _seek(fd: int, offset: int, whence: int, size_bytes: int) -> int:
    """Return where data or a hole begins at ``offset`` or later, in whole sectors. The disk's end if there is none."""
    if fd < 0:
        return offset if whence == os.SEEK_DATA else size_bytes
    try:
        found = os.lseek(fd, offset, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size_bytes
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return offset if whence == os.SEEK_DATA else size_bytes
        raise
    sectors = found // SECTOR_BYTES if whence == os.SEEK_DATA else -(-found // SECTOR_BYTES)
    return min(max(sectors * SECTOR_BYTES, offset), size_bytes)


def copy_regions(
    io_filter: BackgroundFilter,
    ring: Ring,
    regions: Iterator[Region],
    *,
    log_holes: bool,
    stopping: threading.Event,
    progress: Callable[[int], None],
    is_crowded: Callable[[], bool] = lambda: False,
) -> bool:
    """Log ``regions`` as background data. Return whether all of them are logged, which ``stopping`` prevents.

    With ``log_holes``, log that holes are zeros. That is needed where the replica may hold older data. ``progress`` is
    given the bytes of each piece. A log that is full, or that ``is_crowded``, is waited for. An error of the primary,
    the log or the ring is raised.
    """
    patience = _Patience(io_filter, ring, stopping, is_crowded)
    for region in regions:
        if region.hole and (not log_holes or patience.copy(region.offset, region.length)):
            progress(region.length)
            continue
        piece_max = min(PIECE_BYTES, io_filter.record_bytes_max)
        for offset in range(region.offset, region.offset + region.length, piece_max):
            length = min(piece_max, region.offset + region.length - offset)
            if not patience.copy(offset, length):
                return False
            progress(length)
    return not stopping.is_set()


class _Patience:
    """Copies once the ring has room for background data, and tries again after a stall."""

    def __init__(
        self, io_filter: BackgroundFilter, ring: Ring, stopping: threading.Event, is_crowded: Callable[[], bool]
    ) -> None:
        self._filter = io_filter
        self._ring = ring
        self._is_crowded = is_crowded
        self._share_bytes = min(RING_SHARE_BYTES, ring.payload_bytes // 4)
        self._stopping = stopping

    def copy(self, offset: int, length: int) -> int:
        """Return the LSN. 0 once ``stopping`` is set, or if a long range is no hole, or no longer one."""
        while not self._stopping.is_set():
            if self._is_crowded() and not self._ring.poisoned:
                self._stopping.wait(CROWDED_S)
                continue
            if self._is_busy():
                self._ring.wait_durable(self._ring.lsn_reserved, 1.0)
                if self._is_busy():  # with writes that their primaries have not completed
                    self._stopping.wait(PAUSE_S)
                continue
            try:
                return self._filter.copy_background(offset, length)
            except StallTimeout:
                continue
        return 0

    def _is_busy(self) -> bool:
        return self._ring.used_bytes > self._share_bytes and not self._ring.poisoned
