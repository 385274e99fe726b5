"""BlockDevice: what a primary and a log volume lie on. All implementations pass one conformance suite."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from typing_extensions import Buffer


class BlockDevice(Protocol):
    """Random-access storage of fixed size. Thread-safe. Offsets and lengths are multiples of ``block_bytes``."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def block_bytes(self) -> int:
        """The alignment of the offset and length of every call: 512 or 4096."""

    def read_into(self, offset: int, target: Buffer) -> None:
        """Fill the writable ``target`` from ``offset``. A short read is an ``OSError``."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of ``data``. It is durable after the next :meth:`sync`.

        After an ``OSError`` any part of the range may have changed.
        """

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros, without allocating space if the device can do so."""

    def sync(self) -> None:
        """Make durable every write that returned before this call began.

        After an ``OSError`` none of these writes may be relied on.
        """

    def fileno(self) -> int:
        """The descriptor for the native I/O path, or -1 if calls must go through this object."""

    def close(self) -> None:
        """Release the device, without syncing it. Idempotent."""


@runtime_checkable
class GrowableDevice(BlockDevice, Protocol):
    """A device that can be made longer: a file or memory, but not a partition."""

    @property
    def can_grow(self) -> bool: ...

    def grow(self, size_bytes: int) -> None:
        """Extend to ``size_bytes``, durably. New bytes are zeros. After :class:`DeviceFull` the size is as before."""


@runtime_checkable
class ReopenableDevice(BlockDevice, Protocol):
    """A device that gives out a second, independent handle."""

    def reopen(self) -> BlockDevice:
        """Another handle with its own error state: a failure reported to one is still reported to the other."""
