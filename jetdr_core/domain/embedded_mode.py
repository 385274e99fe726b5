"""Serving: how guests reach a domain's disks, and the way it is for an embedded domain.

Invariant: a disk is served only once DISK_ADD stands in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jetdr_core._core import IoFilter, Ring
from jetdr_core.domain.disk import Disk, ProtectedDisk
from jetdr_core.domain.primary import DiskPlace, Primary, open_primary

__all__ = ["EmbeddedMode", "Serving"]


class Serving(Protocol):
    """Thread-safe."""

    def open_new(self, name: str, place: DiskPlace, size_bytes: int | None) -> Primary:
        """Open and check the primary of a new disk; make a file that is missing."""

    def attach(self, number: int, name: str, primary: Primary) -> ProtectedDisk:
        """The disk on its primary, which nobody writes to yet."""

    def serve(self, disk: ProtectedDisk) -> None:
        """From now on guests may write to it."""

    def withdraw(self, disk: ProtectedDisk) -> None:
        """No more I/O; returns when what is in flight has ended."""


class EmbeddedMode:
    """Disks whose filter is in this process: their caller is the guest."""

    def __init__(
        self, ring: Ring, *, write_bytes_max: int, stall_limit_s: float, on_suspect: Callable[[Disk], None]
    ) -> None:
        self._ring = ring
        self._write_bytes_max = write_bytes_max
        self._stall_limit_s = stall_limit_s
        self._on_suspect = on_suspect

    def open_new(self, name: str, place: DiskPlace, size_bytes: int | None) -> Primary:
        return open_primary(name, place, size_bytes=size_bytes, create=True)

    def attach(self, number: int, name: str, primary: Primary) -> ProtectedDisk:
        io_filter = IoFilter(
            self._ring,
            primary.device,
            disk=number,
            size_bytes=primary.device.size_bytes,
            write_bytes_max=self._write_bytes_max,
            stall_limit_s=self._stall_limit_s,
        )
        return Disk(number, name, primary, io_filter, self._on_suspect)

    def serve(self, disk: ProtectedDisk) -> None:
        """The caller gets the disk from the domain, which gives it out only now."""

    def withdraw(self, disk: ProtectedDisk) -> None:
        assert isinstance(disk, Disk)
        disk.io_filter.close()
