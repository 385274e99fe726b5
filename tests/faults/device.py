"""CrashDevice: a disk in memory that loses power and fails on command. It is a layer below the code, not a mock of it.

The model is that of a real disk. Reads see the newest writes, and only a sync makes writes durable. When power goes,
each write since the last sync is applied, dropped or torn by 512-byte sector, in any order. A write that fails may have
changed any part of its range. After a failed sync, the writes it was to make durable may be lost for good.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from typing import Literal

from typing_extensions import Buffer

from jetdr_core.device.bounds import byte_view, check_range, target_view
from jetdr_core.limits import SECTOR_BYTES

Permanence = Literal["transient", "permanent"]


class CrashDevice:
    """``size_bytes`` of zeros, or ``image``. Thread-safe. ``seed`` decides what a failing I/O leaves."""

    def __init__(
        self, size_bytes: int = 0, *, image: bytes | None = None, block_bytes: int = 512, seed: int = 0
    ) -> None:
        self._durable = bytearray(bytes(size_bytes) if image is None else image)
        self._current = bytearray(self._durable)
        self._block_bytes = block_bytes
        self._queue: list[tuple[int, bytes]] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._dead = False
        self._fail_at: tuple[int, Permanence] | None = None
        self.operations = 0
        """The number of I/Os so far: reads, writes, zeros and syncs."""
        self.syncs = 0

    # -- the faults ------------------------------------------------------------------------------------------------

    def fail_at(self, n: int, permanence: Permanence) -> None:
        """Let the ``n``-th I/O from now fail with EIO, where 1 is the next. If permanent, all later ones fail too."""
        with self._lock:
            self._fail_at = (self.operations + n, permanence)

    def heal(self) -> None:
        """Let no I/O fail any more."""
        with self._lock:
            self._fail_at = None

    def crash(self, seed: int) -> CrashDevice:
        """Cut the power. Return the disk as it is once power is back. This object fails every I/O from now on."""
        with self._lock:
            self._dead = True
            image = bytearray(self._durable)
            _settle(image, self._queue, random.Random(seed))
        return CrashDevice(image=bytes(image), block_bytes=self._block_bytes, seed=seed)

    def image(self) -> bytes:
        """Return what a reader sees now."""
        with self._lock:
            return bytes(self._current)

    def durable(self) -> bytes:
        """Return what is left if power goes now, and nothing that was not synced survives."""
        with self._lock:
            return bytes(self._durable)

    # -- BlockDevice -----------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        return len(self._current)

    @property
    def block_bytes(self) -> int:
        return self._block_bytes

    @property
    def can_grow(self) -> bool:
        return True

    def grow(self, size_bytes: int) -> None:
        with self._lock:
            for image in (self._current, self._durable):
                image.extend(bytes(size_bytes - len(image)))

    def read_into(self, offset: int, target: Buffer) -> None:
        view = target_view(target)
        with self._lock:
            self._check(offset, len(view))
            self._operate()
            view[:] = self._current[offset : offset + len(view)]

    def write(self, offset: int, data: Buffer) -> None:
        self._write(offset, bytes(byte_view(data)))

    def zero(self, offset: int, length: int) -> None:
        self._write(offset, bytes(length))

    def sync(self) -> None:
        with self._lock:
            queue, self._queue = self._queue, []
            try:
                self._operate()
            except OSError:
                _settle(self._durable, queue, self._random)
                raise
            for offset, data in queue:
                self._durable[offset : offset + len(data)] = data
            self.syncs += 1

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Do nothing: the disk outlives its handle."""

    def _write(self, offset: int, data: bytes) -> None:
        with self._lock:
            self._check(offset, len(data))
            try:
                self._operate()
            except OSError:
                for start, sector in _sectors(offset, data):
                    if self._random.random() < 0.5:
                        self._put(start, sector)
                raise
            self._put(offset, data)

    def _put(self, offset: int, data: bytes) -> None:
        self._current[offset : offset + len(data)] = data
        self._queue.append((offset, data))

    def _check(self, offset: int, length: int) -> None:
        check_range("crash device", offset, length, size_bytes=len(self._current), block_bytes=self._block_bytes)

    def _operate(self) -> None:
        self.operations += 1
        if self._dead:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if self._fail_at is None:
            return
        at, permanence = self._fail_at
        if self.operations == at or (self.operations > at and permanence == "permanent"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def _sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    return [(offset + at, data[at : at + SECTOR_BYTES]) for at in range(0, len(data), SECTOR_BYTES)]


def _settle(image: bytearray, queue: list[tuple[int, bytes]], dice: random.Random) -> None:
    """Apply, drop or tear each queued write by sector, in any order."""
    for offset, data in dice.sample(queue, len(queue)):
        fate = dice.choice(("applied", "dropped", "torn"))
        for start, sector in _sectors(offset, data):
            if fate == "applied" or (fate == "torn" and dice.random() < 0.5):
                image[start : start + len(sector)] = sector
