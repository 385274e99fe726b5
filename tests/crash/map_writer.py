"""A process that kills itself: its disk has a dirty map, and the last writes before its death are all that may differ.

``python map_writer.py FOLDER STORY``. What it says on stdout before it dies is the bytes that it wrote since the last
clearing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import jetdr_core as jetdr

DISK_BYTES = 48 << 20
REGION = 64 << 10
OPTIONS = jetdr.DomainOptions(segment_bytes=1 << 20, segment_age_s=0.02, ring_bytes=1 << 23, puts_max=4)


def create(folder: Path) -> jetdr.ProtectedDomain:
    return jetdr.ProtectedDomain.create(
        "payroll", log=folder / "log.img", log_bytes=64 << 20, store=f"file://{folder}/store", options=OPTIONS
    )


def clear_map(disk: jetdr.Disk) -> None:
    """Have everything that can be cleared be cleared."""
    disk.tend_map()
    disk.flush()
    disk.tend_map()


def write_and_die(disk: jetdr.Disk) -> None:
    """Fill a third of the disk, clear the map, write a little more here and there, and die without a flush."""
    for offset in range(0, DISK_BYTES // 3, 1 << 20):
        disk.write(offset, os.urandom(1 << 20))
    clear_map(disk)
    for region in (3, 4, 100, 500):
        disk.write(region * REGION + 4096, os.urandom(4096))
    print(4 * REGION, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def copy_and_die(disk: jetdr.Disk) -> None:
    """Die when half of the initial copy is done and cleared."""
    while disk.copy.copied_bytes < DISK_BYTES // 2:
        time.sleep(0.001)
    copied = disk.copy.copied_bytes
    clear_map(disk)
    print(DISK_BYTES - copied + (1 << 20), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


async def live(folder: Path, story: str) -> None:
    async with create(folder) as domain:
        disk = await domain.protect("db01", folder / "db01.img", size_bytes=DISK_BYTES)
        await asyncio.to_thread(write_and_die if story == "write" else copy_and_die, disk)


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), sys.argv[2]))
