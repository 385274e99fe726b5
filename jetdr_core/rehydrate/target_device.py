"""TargetDevice: the block device that a recovery writes a disk to, in place of files in a directory.

Whatever the device held is lost, and device names change from boot to boot. So the caller repeats what tells this
device from others: its serial, or its size where it has no serial.

Invariants:

- The device is opened exclusively: one that is mounted, or in use by anything else, is refused by the kernel.
- What is opened is what was confirmed, although its name may have gone to another device since.
- Nothing beyond the disk's bytes is written, so the rest of a larger device stays as it is.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jetdr_core.device import linux
from jetdr_core.errors import DeviceBusy, InvalidRequest, TargetFailed, TargetFull
from jetdr_core.rehydrate.target_failure import target_call

__all__ = ["TargetDevice", "read_anew", "zero"]

_BLKFLSBUF = 0x1261  # linux/fs.h
_ALIGN_BYTES = 4096
_ZEROS = bytes(1 << 20)
_SERIAL_FILES = ("serial", "device/serial", "device/wwid", "dm/uuid")
"""Where sysfs has what names a device. A partition has none, because its device's serial would name its neighbours too.
"""


@dataclass(frozen=True, slots=True)
class TargetDevice:
    """The block device ``path`` of ``size_bytes``. ``serial`` is empty if it has none. ``number`` is the kernel's."""

    path: Path
    size_bytes: int
    serial: str
    number: int = field(default=0, compare=False)

    @classmethod
    def look(cls, path: Path) -> TargetDevice | None:
        """Return what is at ``path``, or None if that is no block device. Changes nothing."""
        with target_call(path, "looking at it"):
            try:
                status = os.stat(path)
            except FileNotFoundError:
                return None
            if not stat.S_ISBLK(status.st_mode):
                return None
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                return _described(path, fd)
            finally:
                os.close(fd)

    @property
    def confirmation(self) -> str:
        """What the caller repeats before the device is overwritten."""
        return self.serial or str(self.size_bytes)

    def __str__(self) -> str:
        return f"{self.path} ({self.size_bytes} bytes, {f'serial {self.serial}' if self.serial else 'without serial'})"

    def check_confirmed(self, given: str | None) -> None:
        """Raise :class:`InvalidRequest` unless ``given`` is :attr:`confirmation`."""
        if given is None or given.strip() != self.confirmation:
            what = "serial" if self.serial else "size in bytes"
            problem = "not confirmed" if given is None else f"confirmed as {given!r}, which is another device"
            raise InvalidRequest(
                f"{self} would be overwritten, and is {problem}",
                hint=f"look at the device (lsblk -o NAME,SIZE,SERIAL,MOUNTPOINTS), then confirm its {what}",
            )

    def check_size(self, disk: str, size_bytes: int) -> None:
        """Raise :class:`TargetFull` if the disk has no room on it."""
        if self.size_bytes < size_bytes:
            raise TargetFull(
                f"{self} is smaller than disk {disk!r} of {size_bytes} bytes",
                hint="choose a larger device",
                path=self.path,
                needed_bytes=size_bytes,
            )

    def open(self) -> int:
        """Open it exclusively. :class:`DeviceBusy` if it is in use, :class:`TargetFailed` if it is another one now."""
        with target_call(self.path, "opening it"):
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                raise DeviceBusy(
                    f"{self.path} is in use: mounted, swapped to, part of an array, or opened by another program",
                    hint="lsblk and fuser show by what; end that, or choose another device",
                    errno=errno.EBUSY,
                    path=self.path,
                ) from error
        try:
            self._check_same(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_same(self, fd: int) -> None:
        """Raise :class:`TargetFailed` unless ``fd`` is this device. The number counts where there is no serial."""
        with target_call(self.path, "looking at it"):
            is_device = stat.S_ISBLK(os.fstat(fd).st_mode)
            found = _described(self.path, fd) if is_device else None
        if found == self and (self.serial or found.number == self.number):
            return
        raise TargetFailed(
            f"{self.path} is another device now than when this recovery began: {found or 'it is no block device'}",
            hint="look where the device is now (lsblk -o NAME,SIZE,SERIAL), and run this again with its name",
            path=self.path,
        )


def _described(path: Path, fd: int) -> TargetDevice:
    number = os.fstat(fd).st_rdev
    return TargetDevice(path, os.lseek(fd, 0, os.SEEK_END), _serial(number), number)


def zero(fd: int, ranges: Iterable[tuple[int, int]]) -> None:
    """Make the ranges (start, end) of a block device read as zeros. Its blocks are given back where it can do that."""
    for start, end in ranges:
        first, last = -(-start // _ALIGN_BYTES) * _ALIGN_BYTES, end // _ALIGN_BYTES * _ALIGN_BYTES
        if first >= last or not linux.zero_by_first(linux.ZEROING, fd, first, last - first):
            first = last = end
        _write_zeros(fd, start, first)
        _write_zeros(fd, last, end)


def read_anew(fd: int) -> None:
    """Have the device itself answer the reads that follow, as far as the kernel allows."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        fcntl.ioctl(fd, _BLKFLSBUF)
    except OSError as error:
        if error.errno not in {errno.EACCES, errno.EPERM, *linux.NOT_SUPPORTED}:
            raise


def _write_zeros(fd: int, start: int, end: int) -> None:
    while start < end:
        start += os.pwrite(fd, memoryview(_ZEROS)[: end - start], start)


def _serial(device: int) -> str:
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    for name in _SERIAL_FILES:
        try:
            serial = (folder / name).read_text(errors="replace").strip()
        except OSError:
            continue
        if serial and serial.isprintable():
            return serial
    return ""
