"""FileDevice: a regular file, partition or block device as a BlockDevice, unbuffered where the file system allows.

Invariants: every range is checked once, on entry. A write that returned has been handed to the kernel whole. Nothing is
cached here, so a second handle sees what the first one wrote. A new file that could not be completed is removed.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from typing_extensions import Buffer

from jetdr_core.device import linux
from jetdr_core.device.bounds import byte_view, check_range, check_writable, target_view
from jetdr_core.durable import sync_folder
from jetdr_core.errors import DeviceBusy, DeviceFull, InvalidRequest
from jetdr_core.file_making import Asked, lock_file, making, trying
from jetdr_core.limits import BLOCK_BYTES, SECTOR_BYTES
from jetdr_core.ownership import link_flags

_BOUNCE_BYTES = 1 << 20
"""Bounced I/O and writes of zeros are cut into pieces of this size."""

_ZEROS = mmap.mmap(-1, _BOUNCE_BYTES)  # page aligned


class FileDevice:
    """The file or block device at ``path``. Thread-safe: no call holds a lock or the GIL while the kernel works.

    ``direct`` asks for O_DIRECT. Where the file system refuses it (FUSE, some network and memory file systems), the
    page cache is used and :attr:`direct` is False. ``create_bytes`` makes a new regular file of that size, allocated,
    mode 0600, with its name durable at return. ``lock`` takes an exclusive advisory lock, which ends with the process.
    It also claims a block device that is to be written: one that is mounted is refused, and cannot be mounted then.

    Raises ``FileNotFoundError``, ``FileExistsError`` and ``PermissionError`` as they are, :class:`DeviceFull` if there
    is no room, :class:`DeviceBusy` if another process has the lock, or the system the device, and
    :class:`InvalidRequest` for anything that is neither a regular file nor a block device.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        direct: bool = True,
        create_bytes: int | None = None,
        writable: bool = True,
        lock: bool = False,
    ) -> None:
        self._path = os.fspath(path)
        self._writable = writable
        self._fd = -1
        self._size_bytes = 0
        self._block_bytes = SECTOR_BYTES
        self._keeps_space = False
        if create_bytes is None:
            self._fd, self._direct = _open(self._path, writable=writable, direct=direct)
            self._set_up(None, lock=lock)
        else:
            self._check_create(create_bytes)
            with making(self._path, f"making a file of {create_bytes} bytes, allocated,", Asked.SIZE | Asked.PLACE):
                self._fd, self._direct = _create(self._path, direct=direct)
                self._set_up(create_bytes, lock=lock)

    @property
    def path(self) -> str:
        return self._path

    @property
    def direct(self) -> bool:
        """Whether I/O bypasses the page cache."""
        return self._direct

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def block_bytes(self) -> int:
        return self._block_bytes

    @property
    def can_grow(self) -> bool:
        return self._regular and self._writable

    def identity(self) -> tuple[int, int, int]:
        """Equal for two handles exactly if they reach the same bytes, whatever their paths."""
        with trying(self._path, "looking at it"):
            return identity_of(os.fstat(self.fileno()))

    @property
    def file_bytes(self) -> int:
        """The size of the file as it is now. :attr:`size_bytes` counts whole blocks."""
        with trying(self._path, "looking at its size"):
            return os.fstat(self.fileno()).st_size

    def reopen(self) -> FileDevice:
        """Another handle on the same bytes, without a lock, even if the path names another file by now."""
        other = FileDevice(f"/proc/self/fd/{self.fileno()}", direct=self._direct, writable=self._writable)
        other._path, other._keeps_space = self._path, self._keeps_space
        return other

    def read_into(self, offset: int, target: Buffer) -> None:
        view = target_view(target)
        self._check(offset, len(view))
        if self._needs_bounce(view):
            for start, piece in _scratch_pieces(len(view)):
                self._read_all(offset + start, piece)
                view[start : start + len(piece)] = piece
        else:
            self._read_all(offset, view)

    def write(self, offset: int, data: Buffer) -> None:
        view = byte_view(data)
        check_writable(self._path, writable=self._writable)
        self._check(offset, len(view))
        if self._needs_bounce(view):
            for start, piece in _scratch_pieces(len(view)):
                piece[:] = view[start : start + len(piece)]
                self._write_all(offset + start, piece)
        else:
            self._write_all(offset, view)

    def zero(self, offset: int, length: int) -> None:
        check_writable(self._path, writable=self._writable)
        self._check(offset, length)
        if length and not self._zero_natively(offset, length):
            zeros = memoryview(_ZEROS)
            for start in range(0, length, _BOUNCE_BYTES):
                self._write_all(offset + start, zeros[: length - start])

    def look_at_size(self) -> int:
        """Return the size now, in whole blocks. From then on it is :attr:`size_bytes`, if the device has grown."""
        with trying(self._path, "looking at its size"):
            end = os.lseek(self.fileno(), 0, os.SEEK_END)
        found = end - end % self._block_bytes
        self._size_bytes = max(found, self._size_bytes)
        return found

    def grow(self, size_bytes: int) -> None:
        check_writable(self._path, writable=self._writable)
        if not self._regular or size_bytes < self._size_bytes or size_bytes % self._block_bytes:
            raise InvalidRequest(
                f"{self._path}: cannot grow from {self._size_bytes} to {size_bytes} bytes",
                hint="only a regular file grows, to a multiple of its block size",
            )
        if size_bytes > self._size_bytes:
            with making(self._path, f"growing from {self._size_bytes} to {size_bytes} bytes", Asked.SIZE):
                self._allocate(self._size_bytes, size_bytes)
                os.fsync(self.fileno())
            self._size_bytes = size_bytes

    def allocate_all(self) -> None:
        """Give the file all the space that its size promises, and keep it from now on. The content stays.

        A copy of a file may have holes, and a write into a hole fails once the file system is full. :class:`DeviceFull`
        says how many bytes are missing. A block device has its space. A file system without such a call is trusted.
        """
        check_writable(self._path, writable=self._writable)
        if not self._regular:
            return
        self._keeps_space = True
        with trying(self._path, "looking at its space"):
            missing = self._size_bytes - 512 * os.fstat(self.fileno()).st_blocks
        if missing <= 0:
            return
        self._check_free(missing)
        with making(self._path, f"allocating the {missing} bytes of its size that it lacks"):
            try:
                linux.allocate(self.fileno(), 0, self._size_bytes)
            except OSError as error:
                if error.errno not in linux.NOT_SUPPORTED:
                    raise
            os.fsync(self.fileno())

    def _check_free(self, missing: int) -> None:
        """Refuse before anything is allocated, so that the file system is not filled in vain."""
        with trying(self._path, "looking at the room of its file system"):
            room = os.fstatvfs(self.fileno())
        free = room.f_frsize * (room.f_bavail if os.geteuid() else room.f_bfree)
        if missing > free:
            raise DeviceFull(
                f"{self._path}: {missing} of its {self._size_bytes} bytes have no space (it is a sparse copy, or its "
                f"file system compresses), and {free} bytes are free",
                hint=f"free {missing - free} bytes more on that file system, or copy it to another place",
                errno=errno.ENOSPC,
                path=self._path,
            )

    def sync(self) -> None:
        with trying(self._path, "syncing it"):
            os.fdatasync(self.fileno())

    def fileno(self) -> int:
        if self._fd < 0:
            raise ValueError(f"{self._path}: the device is closed")
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -- opening ---------------------------------------------------------------------------------------------------

    def _check_create(self, create_bytes: int) -> None:
        if not self._writable or create_bytes <= 0 or create_bytes % BLOCK_BYTES:
            raise InvalidRequest(
                f"{self._path}: cannot create a device of {create_bytes} bytes",
                hint=f"use a positive multiple of {BLOCK_BYTES}, and open it writable",
            )

    def _set_up(self, create_bytes: int | None, *, lock: bool) -> None:
        try:
            self._regular = _is_regular(self._path, self._fd)
            if lock:
                self._lock()
            if create_bytes is not None:
                self._allocate(0, create_bytes)
                os.fsync(self._fd)
                sync_folder(Path(self._path).absolute().parent)
            with trying(self._path, "finding its size and block size"):
                self._size_bytes = os.lseek(self._fd, 0, os.SEEK_END)
                self._block_bytes = self._find_block_bytes()
            self._size_bytes -= self._size_bytes % self._block_bytes
        except BaseException:
            if create_bytes is not None:
                with suppress(OSError):
                    os.unlink(self._path)
            self.close()
            raise

    def _lock(self) -> None:
        """Lock exclusively. A block device is also opened O_EXCL: flock is advisory and per device node, and a device
        may have several nodes.
        """
        if self._writable and not self._regular:
            with trying(self._path, "looking how it was opened"):
                flags = fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_NOFOLLOW | os.O_CLOEXEC | os.O_EXCL
            plain, self._fd = self._fd, _open_device(f"/proc/self/fd/{self._fd}", flags, self._path)
            os.close(plain)
        lock_file(self._fd, self._path)

    def _allocate(self, size_old: int, size_bytes: int) -> None:
        """Reserve the bytes from ``size_old`` on. If there is no room, the size stays as it was."""
        try:
            linux.allocate(self._fd, size_old, size_bytes - size_old)
        except OSError as error:
            if error.errno not in linux.NOT_SUPPORTED:
                os.ftruncate(self._fd, size_old)
                raise
            os.ftruncate(self._fd, size_bytes)

    def _find_block_bytes(self) -> int:
        """The alignment that I/O needs. O_DIRECT is dropped here if the file system accepts it only at open."""
        if not self._regular:
            return linux.logical_block_bytes(self._fd)
        if not self._direct or self._size_bytes < BLOCK_BYTES:
            return SECTOR_BYTES if not self._direct else BLOCK_BYTES
        for block_bytes in (SECTOR_BYTES, BLOCK_BYTES):
            if self._accepts(block_bytes):
                return block_bytes
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT)
        self._direct = False
        return SECTOR_BYTES

    def _accepts(self, block_bytes: int) -> bool:
        """Whether a direct read succeeds whose offset, length and memory are aligned to ``block_bytes`` and no more."""
        with mmap.mmap(-1, 2 * BLOCK_BYTES) as memory, memoryview(memory) as view:
            piece = view[block_bytes : 2 * block_bytes]
            try:
                os.preadv(self._fd, [piece], self._size_bytes // BLOCK_BYTES * BLOCK_BYTES - block_bytes)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return False
            finally:
                piece.release()
        return True

    # -- input and output ------------------------------------------------------------------------------------------

    def _check(self, offset: int, length: int) -> None:
        check_range(self._path, offset, length, size_bytes=self._size_bytes, block_bytes=self._block_bytes)

    def _needs_bounce(self, view: memoryview) -> bool:
        return self._direct and len(view) > 0 and _address(view) % self._block_bytes != 0

    def _read_all(self, offset: int, view: memoryview) -> None:
        done = 0
        with trying(self._path, f"reading {len(view)} bytes at {offset}"):
            while done < len(view):
                count = os.preadv(self.fileno(), [view[done:]], offset + done)
                if count == 0:
                    raise OSError(errno.EIO, f"read ends {len(view) - done} bytes short at {offset + done}", self._path)
                done += count

    def _write_all(self, offset: int, view: memoryview) -> None:
        done = 0
        with trying(self._path, f"writing {len(view)} bytes at {offset}"):
            while done < len(view):
                done += os.pwritev(self.fileno(), [view[done:]], offset + done)

    def _zero_natively(self, offset: int, length: int) -> bool:
        on_file = linux.zero_range if self._keeps_space else linux.punch_hole
        calls = (on_file,) if self._regular else (linux.zero_range, linux.zero_out)
        with trying(self._path, f"zeroing {length} bytes at {offset}"):
            return linux.zero_by_first(calls, self.fileno(), offset, length)


def _scratch_pieces(length: int) -> Iterator[tuple[int, memoryview]]:
    """Pairs of a start and a page-aligned scratch piece that cover ``length`` bytes; all use the same memory."""
    scratch = memoryview(mmap.mmap(-1, min(length, _BOUNCE_BYTES)))
    for start in range(0, length, _BOUNCE_BYTES):
        yield start, scratch[: length - start]


def identity_of(status: os.stat_result) -> tuple[int, int, int]:
    """Equal for two paths exactly if they reach the same bytes: device and inode, or the number of a block device."""
    return (0, 0, status.st_rdev) if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino, 0)


def _create(path: str, *, direct: bool) -> tuple[int, bool]:
    """Create ``path``. Returns the descriptor, and whether it is direct."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    if direct:
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        except OSError:
            direct = False
    return fd, direct


def _open(path: str, *, writable: bool, direct: bool) -> tuple[int, bool]:
    """Open ``path``. Returns the descriptor, and whether it is direct."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK | link_flags(path)
    if direct:
        try:
            return _open_device(path, flags | os.O_DIRECT, path), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    return _open_device(path, flags, path), False


def _open_device(path: str, flags: int, shown: str) -> int:
    try:
        with trying(path, "opening it"):
            return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    raise DeviceBusy(
        f"{shown} is in use by another process, or is mounted, or part of an array or volume group",
        hint="see lsblk and findmnt, and end that use, or name another device",
        path=shown,
    )


def _is_regular(path: str, fd: int) -> bool:
    with trying(path, "looking at it"):
        mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise InvalidRequest(
            f"{path} is neither a regular file nor a block device", hint="name a file or a block device"
        )
    return stat.S_ISREG(mode)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).__array_interface__["data"][0])
