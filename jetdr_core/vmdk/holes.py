"""Finds which parts of a sparse file may hold data, without reading them.

Invariant: everything outside of these parts reads as zeros.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def data_ranges(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """(start, end) of the file's data, ascending, from SEEK_DATA. One range if the file cannot tell its holes.

    Moves the file offset of the descriptor.
    """
    end = 0
    while end < size_bytes:
        start = _seek_data(fd, end, size_bytes)
        if start >= size_bytes:
            return
        hole = _seek_hole(fd, start, size_bytes)
        end = min(hole, size_bytes) if hole > start else size_bytes
        yield start, end


def _seek_data(fd: int, offset: int, size_bytes: int) -> int:
    try:
        return max(offset, os.lseek(fd, offset, os.SEEK_DATA))
    except OSError as error:
        if error.errno == errno.ENXIO:  # only a hole is left
            return size_bytes
        if error.errno in {errno.EINVAL, errno.EOPNOTSUPP}:  # a block device
            return offset
        raise


def _seek_hole(fd: int, offset: int, size_bytes: int) -> int:
    try:
        return os.lseek(fd, offset, os.SEEK_HOLE)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.EOPNOTSUPP}:
            return size_bytes
        raise
