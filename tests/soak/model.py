"""Model: what each block of a disk may hold, given the requests of guests and their outcome.

Every written block names its disk, its block and the number of its write. Guests overlap. So a block may hold any write
unless a later one began after it had ended and was acknowledged. As on any disk, a read may see part of a write that is
in flight. A write whose connection broke may have been done or not, and is not done later. Thread-safe.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BLOCK_BYTES", "Model", "Write"]

BLOCK_BYTES = 4096
_STAMP = struct.Struct("<8sHHIQ8s")
_MAGIC = b"soak-blk"
_COPIES = BLOCK_BYTES // _STAMP.size
_ZEROS = bytes(BLOCK_BYTES)


@dataclass(slots=True, eq=False)
class Write:
    """One request on the blocks from ``first`` to before ``end``.

    ``ended`` is the moment, by the model's count, after which the write can no longer be done. It is 0 before that.
    """

    number: int
    first: int
    end: int
    zeros: bool
    ended: int = 0

    def __str__(self) -> str:
        return f"{'zeros' if self.zeros else 'data'} {self.number} (ended {self.ended or 'not'})"


class Model:
    """Disk number ``disk``, with ``blocks`` blocks of zeros. A read lies between :meth:`reading` and :meth:`read`."""

    def __init__(self, disk: int, blocks: int) -> None:
        self.disk = disk
        self.blocks = blocks
        self._lock = threading.Lock()
        self._now = 1
        self._may_hold: list[list[Write]] = [
            [Write(0, block, block + 1, zeros=True, ended=1)] for block in range(blocks)
        ]
        self._zeroed = [0] * blocks

    # -- writes ------------------------------------------------------------------------------------------------------

    def begin(self, first: int, count: int, *, zeros: bool) -> Write:
        """Note that a write is about to be requested."""
        with self._lock:
            self._now += 1
            write = Write(self._now, first, first + count, zeros)
            for block in range(write.first, write.end):
                self._may_hold[block].append(write)
                if zeros:
                    self._zeroed[block] = write.number
            return write

    def data(self, write: Write) -> bytes:
        """Return the bytes of the write."""
        return b"".join(self._stamp(block, write.number) for block in range(write.first, write.end))

    def acknowledged(self, write: Write) -> None:
        """Note that the write was done, so it replaced every write that had ended before it began."""
        with self._lock:
            self._now += 1
            write.ended = self._now
            for block in range(write.first, write.end):
                self._may_hold[block] = [old for old in self._may_hold[block] if not 0 < old.ended < write.number]

    def broken(self, write: Write) -> None:
        """Note that the write's connection broke, because the process that served it is gone."""
        with self._lock:
            self._now += 1
            write.ended = self._now

    # -- reads -------------------------------------------------------------------------------------------------------

    def reading(self, first: int, count: int) -> tuple[int, list[list[Write]]]:
        """Return the moment before a read, and what its blocks may hold then."""
        with self._lock:
            return self._now, [list(self._may_hold[block]) for block in range(first, first + count)]

    def read(self, first: int, before: tuple[int, list[list[Write]]], data: bytes) -> None:
        """Check what a read returned. AssertionError names a block that holds what it must not."""
        since, may_hold = before
        for index, writes in enumerate(may_hold):
            found = data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
            self._check(first + index, since, writes, found)

    def settled(self, data: bytes) -> None:
        """Check ``data``, all that the disk holds while nothing is in flight, and expect exactly that from now on."""
        self.read(0, self.reading(0, self.blocks), data)
        with self._lock:
            for block in range(self.blocks):
                number = self._number(block, data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES])
                self._may_hold[block] = [write for write in self._may_hold[block] if _shown(write) == number][-1:]

    def _check(self, block: int, since: int, writes: Sequence[Write], found: bytes) -> None:
        if self._was_written(block, since, writes) and found not in {_ZEROS, self._stamp(block, _number_in(found))}:
            return
        number = self._number(block, found)
        if any(_shown(write) == number for write in writes):
            return
        latest = self._zeroed[block] if number == 0 else number
        expected = ", ".join(map(str, writes))
        assert latest > since, f"disk {self.disk} block {block} holds write {number}, not {expected}"

    def _was_written(self, block: int, since: int, before: Sequence[Write]) -> bool:
        """Return whether a write was in flight at the moment ``since``, or has begun after it."""
        if not all(write.ended and write.ended <= since for write in before):
            return True
        with self._lock:
            return any(write.number > since for write in self._may_hold[block])

    def _number(self, block: int, data: bytes) -> int:
        """Return the number of the write whose data this is, or 0 for zeros."""
        if data == _ZEROS:
            return 0
        magic, disk, _, where, number, _ = _STAMP.unpack_from(data)
        assert data == self._stamp(block, number), (
            f"disk {self.disk} block {block}: {magic!r}, disk {disk}, block {where}, write {number}, and not all of it"
        )
        return int(number)

    def _stamp(self, block: int, number: int) -> bytes:
        return _STAMP.pack(_MAGIC, self.disk, 0, block, number, _MAGIC) * _COPIES


def _number_in(data: bytes) -> int:
    return int(_STAMP.unpack_from(data)[4])


def _shown(write: Write) -> int:
    return 0 if write.zeros else write.number
