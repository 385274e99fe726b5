"""CrashReplay: what a power loss leaves of primary and log, from QEMU's record of both, is opened and compared.

An interval is a few writes and the flush after them. What was flushed before it is on both devices. Of what follows,
up to any place, a power loss keeps all that a later flush of the same device was for, and of the rest any part.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jetdr_core as jetdr
from jetdr_core.device import FileDevice
from jetdr_core.store import MemoryStore
from tests.faults.device import CrashDevice
from tests.workloads import write_log
from tests.workloads.recorded_devices import Recorded
from tests.workloads.write_log import FLUSH, Write

DISK_BYTES = 128 << 10
VOLUME_BYTES = 2 << 20
SECTOR = 512
OPTIONS = jetdr.DomainOptions(
    segment_bytes=1 << 20,
    segment_age_s=60.0,
    upload_workers=1,
    heartbeat_s=60.0,
    verify_frames=False,
    stall_limit_s=30.0,
    ring_bytes=1 << 20,
    ring_slots=64,
)


class Interval(NamedTuple):
    """``places``: how many entries of disk and log lie before it, and how many up to its end."""

    disk: tuple[int, int]
    log: tuple[int, int]
    image: bytes
    lsn: int
    writes: list[tuple[int, bytes]]
    objects: dict[str, bytes]


async def record(disk: Recorded, log: Recorded, chance: random.Random, count: int) -> list[Interval]:
    """Work on a domain whose primary and log are recorded. Returns what is known of each interval."""
    store, image, intervals = MemoryStore(), bytearray(DISK_BYTES), list[Interval]()
    devices = FileDevice(disk.path, direct=False), FileDevice(log.path)
    domain = jetdr.ProtectedDomain.create(
        "payroll", log=devices[1], store=store, log_bytes=VOLUME_BYTES // 2, options=OPTIONS
    )
    async with domain:
        protected = await domain.protect("db", devices[0])
        await domain.uploaded(domain.mark("first").lsn)
        lsn = protected.flush()
        for _ in range(count):
            domain.pause()
            begins, held, writes = (write_log.count(disk.log), write_log.count(log.log)), bytes(image), []
            for offset, data in _drawn(chance):
                protected.write(offset, data)
                image[offset : offset + len(data)] = data
                writes.append((offset, data))
            lsn_before, lsn = lsn, protected.flush()
            ends = (write_log.count(disk.log), write_log.count(log.log))
            objects = dict(store._container.objects)
            intervals.append(Interval((begins[0], ends[0]), (begins[1], ends[1]), held, lsn_before, writes, objects))
            if chance.random() < 0.3:
                domain.resume()
                await domain.uploaded(lsn)
    return intervals


def _drawn(chance: random.Random) -> list[tuple[int, bytes]]:
    """One to four writes of a small range, which often overlap.

    None is a zeroing: QEMU's FUSE export says that it has zeroed a part of a block, and does nothing.
    """
    drawn = []
    for _ in range(chance.randrange(1, 5)):
        sectors = chance.choice([1, 1, 3, 8, 16])
        offset = chance.randrange(64 - sectors) * SECTOR
        drawn.append((offset, bytes([chance.randrange(1, 256)]) * (sectors * SECTOR)))
    return drawn


def left(entries: Sequence[Write], base: bytes, end: int, chance: random.Random) -> bytes:
    """Return ``base`` after a power loss at a random place of ``entries``, which follow it, up to number ``end``."""
    image, place = bytearray(base), chance.randrange(end + 1)
    flushed = max((number for number in range(place) if entries[number].flags & FLUSH), default=0)
    for number, entry in enumerate(entries[:place]):
        fate = "kept" if number < flushed else chance.choice(["kept", "kept", "lost", "torn"])
        if fate == "kept":
            write_log.apply(entry, image)
        elif fate == "torn":
            for at in range(0, len(entry.data), SECTOR):
                if chance.random() < 0.5:
                    image[entry.offset + at : entry.offset + at + SECTOR] = entry.data[at : at + SECTOR]
    return bytes(image)


def check(interval: Interval, disk_image: bytes, log_image: bytes) -> None:
    """Open what a power loss has left, and compare."""
    for at in range(0, DISK_BYTES, SECTOR):
        may_be = {interval.image[at : at + SECTOR]}
        may_be |= {
            data[at - offset : at - offset + SECTOR]
            for offset, data in interval.writes
            if offset <= at < offset + len(data)
        }
        assert disk_image[at : at + SECTOR] in may_be, f"byte {at} of the primary"
    asyncio.run(_open_and_compare(interval, disk_image, log_image))


async def _open_and_compare(interval: Interval, disk_image: bytes, log_image: bytes) -> None:
    store, disk, log = MemoryStore(), CrashDevice(image=disk_image), CrashDevice(image=log_image)
    store._container.objects.update(interval.objects)
    domain = jetdr.ProtectedDomain.open("payroll", log=log, store=store, disks={"db": disk}, options=OPTIONS)
    async with domain:
        assert domain.status().lsn_recovered >= interval.lsn, "what was flushed is in the log"
        await domain.wait_consistent()
        await domain.uploaded(domain.mark("after").lsn)
    assert disk.image() == disk_image
    assert await _recovered(store, "after") == disk_image
    assert await _recovered(store, interval.lsn) == interval.image


async def _recovered(store: MemoryStore, at: int | str) -> bytes:
    folder = Path(tempfile.mkdtemp(prefix="jetdr-", dir="/dev/shm"))
    try:
        report = await jetdr.rehydrate(store, at=at, target=folder / "out", format="raw")
        return Path(report.disks[0].path).read_bytes()  # noqa: ASYNC240
    finally:
        shutil.rmtree(folder)
