"""SimDisk: a disk of a simulated machine. It keeps what was flushed, and of the rest what chance lets it keep.

The model is that of ``tests/faults/device.py``, with threads that run in between. A write may be in the middle of its
work while another is done. A flush makes durable what had been written when it began, and not necessarily more. After
a power loss each unflushed write is there, missing, or torn by sector. After a failed flush the writes that it was for
may be lost for good.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence

from typing_extensions import Buffer

from jetdr_core.device.bounds import byte_view, check_range, target_view
from jetdr_core.limits import SECTOR_BYTES
from tests.sim.fault_plan import FaultPlan
from tests.sim.kernel import KERNEL

__all__ = ["SimDisk"]


class SimDisk:
    """A handle on a disk. :meth:`cut` takes the handle from its machine, and the disk goes on with another one."""

    def __init__(self, image: bytes | bytearray, chance: random.Random) -> None:
        self.error_rate = 0.0
        self.slow_s = 0.0
        """Now and then a call takes up to so long."""
        self.plan: FaultPlan | None = None
        self.name = ""
        self._chance = chance
        self._durable = bytearray(image)
        self._current = bytearray(image)
        self._queue: list[tuple[int, bytes]] = []
        self._is_cut = False

    def image(self) -> bytes:
        """What a reader sees."""
        return bytes(self._current)

    def cut(self) -> None:
        """The machine is gone: every call fails from now on, and what is in the middle of one changes nothing more."""
        self._is_cut = True

    def after_kill(self) -> SimDisk:
        """Return the disk as the next process finds it, if only the process has ended."""
        disk = self._again()
        disk._current, disk._queue = self._current[:], self._queue[:]
        return disk

    def after_power_loss(self) -> SimDisk:
        """Return the disk as it is when power is back."""
        self._settle(self._queue)
        return self._again()

    def unflushed(self) -> list[tuple[int, bytes]]:
        """The writes that a power loss may undo, oldest first."""
        return list(self._queue)

    def after_keeping(self, writes: Sequence[tuple[int, bytes]]) -> SimDisk:
        """Return the disk after a power loss that has kept just these of its unflushed writes, or parts of them."""
        disk = self._again()
        for image in (disk._durable, disk._current):
            for offset, data in writes:
                image[offset : offset + len(data)] = data
        return disk

    def _again(self) -> SimDisk:
        disk = SimDisk(self._durable, self._chance)
        disk.name, disk.plan = self.name, self.plan
        return disk

    def flip_bit(self, offset: int) -> None:
        """Let the disk rot."""
        for image in (self._durable, self._current):
            image[offset] ^= 1 << self._chance.randrange(8)

    # -- BlockDevice -------------------------------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        return len(self._current)

    @property
    def block_bytes(self) -> int:
        return SECTOR_BYTES

    def read_into(self, offset: int, target: Buffer) -> None:
        view = target_view(target)
        self._begin("read", offset, len(view))
        view[:] = self._current[offset : offset + len(view)]

    def write(self, offset: int, data: Buffer) -> None:
        held = bytes(byte_view(data))
        try:
            self._begin("write", offset, len(held))
        except OSError:
            if not self._is_cut:
                self._tear(offset, held)
            raise
        self._put(offset, held)
        self._end()

    def zero(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))

    def sync(self) -> None:
        count = len(self._queue)
        try:
            self._begin("sync", 0, 0)
        except OSError:
            if not self._is_cut:
                self._settle(self._queue[:count])
                del self._queue[:count]
            raise
        for offset, data in self._queue[:count]:
            self._durable[offset : offset + len(data)] = data
        del self._queue[:count]
        self._end()

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Do nothing: the disk outlives its handle."""

    # -- parts -------------------------------------------------------------------------------------------------------

    def _begin(self, call: str, offset: int, length: int) -> None:
        check_range("simulated disk", offset, length, size_bytes=len(self._current), block_bytes=SECTOR_BYTES)
        self._take_time()
        if self.plan is not None and not self._is_cut and (fault := self.plan.meet(self.name, call)):
            raise OSError(fault.errno, os.strerror(fault.errno))
        if self._is_cut or (self.error_rate and self._chance.random() < self.error_rate):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _end(self) -> None:
        self._take_time()
        if self._is_cut:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _take_time(self) -> None:
        if self._is_cut:
            return
        dice = self._chance.random()
        if self.slow_s and dice < 0.02:
            KERNEL.sleep(dice * 50 * self.slow_s)
        elif dice < 0.3:
            KERNEL.sleep(dice * 1e-3)
        elif dice < 0.6:
            KERNEL.pause()

    def _put(self, offset: int, data: bytes) -> None:
        self._current[offset : offset + len(data)] = data
        self._queue.append((offset, data))

    def _tear(self, offset: int, data: bytes) -> None:
        for start, sector in _sectors(offset, data):
            if self._chance.random() < 0.5:
                self._put(start, sector)

    def _settle(self, queue: list[tuple[int, bytes]]) -> None:
        """Apply, drop or tear each queued write by sector, in any order."""
        for offset, data in self._chance.sample(queue, len(queue)):
            fate = self._chance.choice(("applied", "dropped", "torn"))
            for start, sector in _sectors(offset, data):
                if fate == "applied" or (fate == "torn" and self._chance.random() < 0.5):
                    self._durable[start : start + len(sector)] = sector


def _sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    return [(offset + at, data[at : at + SECTOR_BYTES]) for at in range(0, len(data), SECTOR_BYTES)]
