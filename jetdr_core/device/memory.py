"""MemoryDevice: a block device in memory, for tests, simulation and small tools.

Invariants: every call is atomic. What was never written reads as zeros. ``sync`` promises nothing, because the memory
dies with the process.
"""

from __future__ import annotations

import threading

from typing_extensions import Buffer

from jetdr_core.device.bounds import byte_view, check_range, target_view
from jetdr_core.errors import InvalidRequest
from jetdr_core.limits import SECTOR_BYTES


class MemoryDevice:
    """``size_bytes`` of zeroed memory with the alignment rules of a disk. Thread-safe."""

    def __init__(self, size_bytes: int, *, block_bytes: int = SECTOR_BYTES) -> None:
        if size_bytes <= 0 or size_bytes % block_bytes:
            raise InvalidRequest(
                f"memory device of {size_bytes} bytes", hint=f"use a positive multiple of {block_bytes}"
            )
        self._block_bytes = block_bytes
        self._bytes = bytearray(size_bytes)
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        return len(self._bytes)

    @property
    def block_bytes(self) -> int:
        return self._block_bytes

    @property
    def can_grow(self) -> bool:
        return True

    def grow(self, size_bytes: int) -> None:
        with self._lock:
            if size_bytes < len(self._bytes) or size_bytes % self._block_bytes:
                raise InvalidRequest(f"memory device of {len(self._bytes)} bytes cannot grow to {size_bytes}")
            self._bytes.extend(bytes(size_bytes - len(self._bytes)))

    def read_into(self, offset: int, target: Buffer) -> None:
        view = target_view(target)
        with self._lock:
            self._check(offset, len(view))
            view[:] = self._bytes[offset : offset + len(view)]

    def write(self, offset: int, data: Buffer) -> None:
        view = byte_view(data)
        with self._lock:
            self._check(offset, len(view))
            self._bytes[offset : offset + len(view)] = view

    def zero(self, offset: int, length: int) -> None:
        with self._lock:
            self._check(offset, length)
            self._bytes[offset : offset + length] = bytes(length)

    def sync(self) -> None:
        """Does nothing: the memory is as durable as it gets."""

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Does nothing: the memory is freed with the object."""

    def _check(self, offset: int, length: int) -> None:
        check_range("memory device", offset, length, size_bytes=len(self._bytes), block_bytes=self._block_bytes)
