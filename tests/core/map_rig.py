"""A disk with a dirty map over devices that lose power: what a crash leaves of primary, sidecar and log."""

from __future__ import annotations

import random
from dataclasses import dataclass

from jetdr_core._core import DirtyMap, MapStart
from tests.core.rig import Rig, replay
from tests.faults.device import CrashDevice

DOMAIN, DISK = b"d" * 16, b"k" * 16
REGION = 64 << 10
REGIONS = 12
SIZE = REGION * REGIONS - 512
SECTION, TIMELINE = 0x5EC7, 1


def generation(epoch: int) -> tuple[int, bytes]:
    return epoch, bytes([epoch % 256]) * 16


def sidecar_device(size_bytes: int = SIZE) -> CrashDevice:
    return CrashDevice(DirtyMap.file_bytes(size_bytes))


def begin_map(
    sidecar: CrashDevice | None,
    start: MapStart,
    *,
    epoch: int = 2,
    earlier: int = 1,
    domain: bytes = DOMAIN,
    disk: bytes = DISK,
    size_bytes: int = SIZE,
    section_id: int = SECTION,
    timeline: int = TIMELINE,
    primary_fd: int = -1,
    log_lsn: int = 1 << 60,
    log_time_ns: int = 0,
) -> DirtyMap:
    return DirtyMap(
        sidecar,
        primary_fd=primary_fd,
        domain=domain,
        disk=disk,
        size_bytes=size_bytes,
        section_id=section_id,
        timeline=timeline,
        earlier=generation(earlier),
        generation=generation(epoch),
        start=start,
        log_lsn=log_lsn,
        log_time_ns=log_time_ns,
    )


def owed(dirty_map: DirtyMap) -> list[tuple[int, int]]:
    """All that is owed, in order."""
    found, at = [], 0
    while (extent := dirty_map.next_owed(at)) is not None:
        found.append(extent)
        at = sum(extent)
    return found


def owed_regions(dirty_map: DirtyMap) -> set[int]:
    return {
        region
        for offset, length in owed(dirty_map)
        for region in range(offset // REGION, -(-(offset + length) // REGION))
    }


def differing_regions(one: bytes, other: bytes) -> set[int]:
    return {n for n in range(REGIONS) if one[n * REGION : (n + 1) * REGION] != other[n * REGION : (n + 1) * REGION]}


@dataclass
class Left:
    """What a crash leaves: the primary, the sidecar, and what the log says that the disk holds."""

    primary: CrashDevice
    sidecar: CrashDevice
    replica: bytes

    @classmethod
    def new(cls) -> Left:
        return cls(CrashDevice(SIZE), sidecar_device(), bytes(SIZE))


class Life:
    """The disk from one opening to the next crash, in generation ``epoch``. One thread."""

    def __init__(self, left: Left, epoch: int, start: MapStart, *, ring_bytes: int = 1 << 20) -> None:
        self.left = left
        self.rig = Rig(log_bytes=8 << 20, ring_bytes=ring_bytes)  # crash() says what of the log is left
        self.map = begin_map(left.sidecar, start, epoch=epoch, earlier=epoch - 1)
        self.disk = self.rig.disk(left.primary, stall_limit_s=0, dirty_map=self.map)

    def flush(self) -> None:
        self.rig.commit_all()
        self.disk.flush()

    def copy_some(self, chance: random.Random) -> bool:
        """Copy a piece of what is owed first. False if nothing is."""
        extent = self.map.next_owed(0)
        if extent is None:
            return False
        offset, left = extent
        while left and chance.random() < 0.9:
            piece = min(left, self.rig.record_bytes_max, chance.choice([REGION // 4, REGION // 2, REGION, 3 * REGION]))
            self.disk.copy_background(offset, piece)
            self.rig.writer.commit()
            offset, left = offset + piece, left - piece
        return True

    def replica_at(self, lsn: int) -> bytes:
        """What the log up to ``lsn`` says that the disk holds."""
        self.rig.commit_all()
        records = [record for record in self.rig.records() if record.lsn <= lsn]
        image = bytearray(self.left.replica)
        for record in records:
            piece = replay([record._replace(offset=0)], record.length)
            image[record.offset : record.offset + record.length] = piece
        return bytes(image)

    def crash(self, chance: random.Random) -> Left:
        """Cut the power. The log keeps all that was durable, and any prefix of the rest that was written."""
        state = self.rig.writer.state()
        primary, sidecar = self.left.primary.crash(chance.random().__hash__()), self.left.sidecar
        kept = chance.randint(state.lsn_durable, max(state.lsn_durable, state.lsn_written))
        return Left(primary, sidecar.crash(chance.random().__hash__()), self.replica_at(kept))


def used(size_bytes: int = SIZE) -> bytes:
    """A sidecar of generation 2 in which region 1 is marked."""
    sidecar = sidecar_device(size_bytes)
    begin_map(sidecar, MapStart.AGREES, size_bytes=size_bytes).owe(REGION, 512)
    return sidecar.image()


def clear(life: Life) -> None:
    """Let a whole pass go by, in which nobody writes."""
    life.disk.tend_map()
    life.rig.commit_all()
    life.disk.tend_map()
