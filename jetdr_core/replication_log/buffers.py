"""BufferPool: page-aligned memory for direct reads, reused once nothing refers to it any more.

Invariant: memory returns to the pool only when the last view of it is gone. So a batch stays valid for as long as
anything refers to it.
"""

from __future__ import annotations

import mmap
import threading
import weakref

import numpy as np
import numpy.typing as npt

_BYTES_MIN = 64 << 10


class BufferPool:
    """Gives memory in sizes of powers of two, and keeps at most ``free_bytes_max`` unused. Thread-safe."""

    def __init__(self, free_bytes_max: int = 64 << 20) -> None:
        self._free_bytes_max = free_bytes_max
        self._free: dict[int, list[mmap.mmap]] = {}
        self._free_bytes = 0
        self._lock = threading.RLock()  # garbage collection inside the pool may give memory back

    @property
    def free_bytes(self) -> int:
        return self._free_bytes

    def take(self, length: int) -> memoryview:
        """Return ``length`` writable bytes, page aligned, with any content."""
        size = max(_BYTES_MIN, 1 << (length - 1).bit_length())
        memory = self._reuse(size) or mmap.mmap(-1, size)
        guard: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        weakref.finalize(guard, self._give_back, memory).atexit = False
        return guard.data[:length]  # only views of this view keep the guard alive

    def _reuse(self, size: int) -> mmap.mmap | None:
        with self._lock:
            free = self._free.get(size)
            if not free:
                return None
            self._free_bytes -= size
            return free.pop()

    def _give_back(self, memory: mmap.mmap) -> None:
        with self._lock:
            if self._free_bytes + len(memory) <= self._free_bytes_max:
                self._free.setdefault(len(memory), []).append(memory)
                self._free_bytes += len(memory)
