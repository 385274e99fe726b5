"""BlockDevice: what the filter's primary disk and the log volume stand on. One conformance suite holds for all."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from typing_extensions import Buffer


class BlockDevice(Protocol):
    """Random-access storage of fixed size. Thread-safe. Offsets and lengths are bytes, multiples of ``block_bytes``."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def block_bytes(self) -> int:
        """Alignment that offset and length of every call must have (512 or 4096)."""

    def read_into(self, offset: int, target: Buffer) -> None:
        """Fill the writable ``target`` from ``offset``; a short read is an ``OSError``."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of ``data``; not durable before :meth:`sync`.

        After an ``OSError`` any part of the range may have changed.
        """

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros, without allocating where the device can."""

    def sync(self) -> None:
        """Make durable every write that returned before this call began.

        After an ``OSError`` none of them may be relied on.
        """

    def fileno(self) -> int:
        """Descriptor for the native I/O path, or -1 where calls must go through this object."""

    def close(self) -> None:
        """Release the device; twice is harmless. Does not sync."""


@runtime_checkable
class GrowableDevice(BlockDevice, Protocol):
    """A device that can be made longer (a file, memory); a partition cannot."""

    @property
    def can_grow(self) -> bool: ...

    def grow(self, size_bytes: int) -> None:
        """Extend to ``size_bytes``, durably; what is new reads as zeros. :class:`DeviceFull` leaves the size."""


@runtime_checkable
class ReopenableDevice(BlockDevice, Protocol):
    """A device of which a second, independent handle can be had."""

    def reopen(self) -> BlockDevice:
        """Another handle with its own error state: a failure reported on one is not hidden from the other."""
