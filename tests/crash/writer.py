"""A process to be killed: protects a disk and writes stamped sectors for ever, saying on stdout what was flushed.

``python writer.py FOLDER SEED LOG``: write n of the sequence is a function of the seed, so whoever killed it can tell
from the LSNs alone what every state was.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jetdr_core as jetdr

DISK_BYTES = 4 << 20
OPTIONS = jetdr.DomainOptions(segment_bytes=256 << 10, segment_age_s=0.02, ring_bytes=1 << 22, puts_max=4)


class Change(NamedTuple):
    """One step of the sequence: sectors from ``offset`` are stamped with ``stamp``; an empty one is a zero."""

    offset: int
    length: int
    stamp: bytes

    @property
    def data(self) -> bytes:
        return self.stamp * (self.length // 512)


def sequence(seed: int) -> Iterator[Change]:
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        length = 512 * chance.choice([1, 1, 8, 8, 8, 64, 256])
        offset = chance.randrange(0, (DISK_BYTES - length) // 512 + 1) * 512
        stamp = b"" if chance.random() < 0.1 else f"write {number} of seed {seed}".encode().ljust(512, b".")
        yield Change(offset, length, stamp)


async def write_for_ever(folder: Path, seed: int, log: str) -> None:
    domain = jetdr.ProtectedDomain.create(
        "payroll", log=log, log_bytes=32 << 20, store=f"file://{folder}/store", options=OPTIONS
    )
    async with domain:
        disk = await domain.protect("db01", folder / "db01.img", size_bytes=DISK_BYTES)
        print("ready", domain.status().lsn_reserved, flush=True)
        await asyncio.to_thread(write_all, disk, seed)


def write_all(disk: jetdr.Disk, seed: int) -> None:
    chance = random.Random(-seed)
    for change in sequence(seed):
        if change.stamp:
            disk.write(change.offset, change.data)
        else:
            disk.zero(change.offset, change.length)
        if chance.random() < 0.05:
            print("flushed", disk.flush(), flush=True)


if __name__ == "__main__":
    asyncio.run(write_for_ever(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
