"""The few system calls that Python's ``os`` lacks: fallocate with modes, and the geometry of block devices. Linux only.

Invariant: a function here makes one system call, and raises the ``OSError`` of its errno. Only :func:`zero_by_first`
makes several.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Sequence

_KEEP_SIZE = 0x01  # linux/falloc.h
_PUNCH_HOLE = 0x02
_ZERO_RANGE = 0x10
_BLKSSZGET = 0x1268  # linux/fs.h
_BLKZEROOUT = 0x127F

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
_libc.fallocate.restype = ctypes.c_int

NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.ENODEV})
"""The errnos of a file system or driver that does not know the call. The caller then writes zeros itself."""


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    while _libc.fallocate(fd, mode, offset, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def allocate(fd: int, offset: int, length: int) -> None:
    """Reserve space for the range, and extend the file over it. New bytes read as zeros."""
    _fallocate(fd, 0, offset, length)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Make the range of a regular file read as zeros, and free its space."""
    _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> None:
    """Make the range read as zeros, in the way that is fastest for the device. A file keeps the space of the range."""
    _fallocate(fd, _ZERO_RANGE | _KEEP_SIZE, offset, length)


def zero_out(fd: int, offset: int, length: int) -> None:
    """Make the range of a block device read as zeros, with the older call."""
    fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("=QQ", offset, length))


ZEROING = (punch_hole, zero_range, zero_out)
"""What makes a range of a block device read as zeros. The first of them gives the blocks back where the device can."""


def zero_by_first(calls: Sequence[Callable[[int, int, int], None]], fd: int, offset: int, length: int) -> bool:
    """Make the range read as zeros by the first of ``calls`` that the device knows. False if it knows none."""
    for call in calls:
        try:
            call(fd, offset, length)
            return True
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
    return False


def logical_block_bytes(fd: int) -> int:
    """The logical block size of a block device."""
    return int(struct.unpack("=i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))[0])
