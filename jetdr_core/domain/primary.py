"""Primary disks: opens what a caller names as one, and checks that it can be. Talks to: device.

A device that the caller opened himself has no path, and stays his to close.
"""

from __future__ import annotations

import os
from os import PathLike, fspath
from pathlib import Path

from jetdr_core.device import FileDevice
from jetdr_core.device.protocol import BlockDevice
from jetdr_core.domain.disk import Disk
from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import DISK_BYTES_MAX, SECTOR_BYTES

__all__ = ["DiskPlace", "check_size", "close_place", "open_place"]

DiskPlace = str | PathLike[str] | BlockDevice


def open_place(name: str, place: DiskPlace, size_bytes: int | None) -> tuple[BlockDevice, str]:
    """The primary and its absolute path; a caller's device has none, and stays the caller's."""
    if not isinstance(place, str | PathLike):
        return place, ""
    path = Path(fspath(place)).absolute()
    if path.exists():
        return FileDevice(path, direct=False, lock=True), str(path)
    if size_bytes is None:
        raise FileNotFoundError(
            f"disk {name!r}: there is no {path}; name an existing file, or pass size_bytes= to create it"
        )
    _check_disk_bytes(name, size_bytes)
    _create_sparse(path, size_bytes)
    return FileDevice(path, direct=False, lock=True), str(path)


def _create_sparse(path: Path, size_bytes: int) -> None:
    """A file of zeros that takes no space yet; its name is durable at return."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size_bytes)
        os.fsync(fd)
    finally:
        os.close(fd)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check_size(name: str, path: str, device: BlockDevice, size_bytes: int | None) -> None:
    _check_disk_bytes(name, device.size_bytes)
    if size_bytes is not None and size_bytes != device.size_bytes:
        raise InvalidRequest(
            f"disk {name!r} ({path}) has {device.size_bytes} bytes, expected {size_bytes}",
            hint="name the right file; a disk's size is part of its history",
        )


def _check_disk_bytes(name: str, size_bytes: int) -> None:
    if not 0 < size_bytes <= DISK_BYTES_MAX or size_bytes % SECTOR_BYTES:
        raise InvalidRequest(
            f"disk {name!r} of {size_bytes} bytes is not valid",
            hint=f"use a multiple of {SECTOR_BYTES}, at most {DISK_BYTES_MAX}",
        )


def close_place(disk: Disk) -> None:
    if disk.path:
        disk.device.close()
