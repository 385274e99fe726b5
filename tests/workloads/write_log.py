"""Reads and replays the log of writes that QEMU's blklogwrites driver and Linux's dm-log-writes keep.

The format is little-endian, in units of the log's sector size S:

- one sector, the superblock: magic, version, number of entries (u64 each), S (u32);
- for every entry one sector: first sector, sectors, flags, bytes of a mark's text (u64 each), then that text;
- after it the entry's data, unless it is a discard. A flush has neither sectors nor data.

QEMU rewrites the superblock at every flush, so it counts the entries up to the last flush. QEMU appends an entry once
its write is done. So two writes of one range are in the disk's order unless they were in flight together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

MAGIC = 0x6A736677736872
VERSION = 1
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
SUPERBLOCK = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")


class DamagedWriteLog(Exception):
    """The file is no log of writes, or ends before its last entry does."""


@dataclass(frozen=True, slots=True)
class Write:
    """One entry. ``offset`` and ``length`` are bytes of the disk. ``data`` is empty for flush, discard and mark."""

    offset: int
    length: int
    flags: int
    data: bytes

    @property
    def changes(self) -> bool:
        return self.length > 0


def count(path: Path) -> int:
    """Return how many entries the superblock counts now: those up to the last flush, 0 before the first."""
    with path.open("rb") as log:
        data = log.read(SUPERBLOCK.size)
    return _superblock(data)[0] if data.strip(b"\0") else 0


def entries(path: Path) -> Iterator[Write]:
    """Return all entries that the superblock counts, oldest first."""
    log = path.read_bytes()
    total, sector_bytes = _superblock(log[: SUPERBLOCK.size])
    position = sector_bytes
    for index in range(total):
        write, position = _entry(log[position : position + sector_bytes], index, position, sector_bytes)
        data_bytes = 0 if write.flags & DISCARD else write.length
        if position + data_bytes > len(log):
            raise DamagedWriteLog(f"entry {index} has {data_bytes} bytes at {position}, the log {len(log)}")
        yield replace(write, data=log[position : position + data_bytes])
        position += data_bytes


def apply(write: Write, image: bytearray) -> None:
    """Do to ``image`` what ``write`` did to the disk. A discarded range reads as zeros."""
    end = write.offset + write.length
    if end > len(image):
        raise DamagedWriteLog(f"a write ends at {end}, the disk at {len(image)}")
    if write.changes:
        image[write.offset : end] = bytes(write.length) if write.flags & DISCARD else write.data


def _superblock(data: bytes) -> tuple[int, int]:
    if len(data) < SUPERBLOCK.size:
        raise DamagedWriteLog(f"the superblock has {len(data)} bytes")
    magic, version, total, sector_bytes = SUPERBLOCK.unpack(data)
    if magic != MAGIC or version != VERSION:
        raise DamagedWriteLog(f"magic {magic:#x}, version {version}")
    if not 512 <= sector_bytes <= 1 << 23 or sector_bytes & (sector_bytes - 1):
        raise DamagedWriteLog(f"a sector of {sector_bytes} bytes")
    return total, sector_bytes


def _entry(header: bytes, index: int, position: int, sector_bytes: int) -> tuple[Write, int]:
    """Return the entry without its data, and where its data begins."""
    if len(header) < sector_bytes:
        raise DamagedWriteLog(f"the log ends inside the header of entry {index}, at {position}")
    sector, sectors, flags, data_bytes = ENTRY.unpack_from(header)
    if flags & ~(FLUSH | FUA | DISCARD | MARK):
        raise DamagedWriteLog(f"entry {index} at {position} has flags {flags:#x}")
    if max(sector, sectors) > 1 << 40 or data_bytes > sector_bytes - ENTRY.size:
        raise DamagedWriteLog(f"entry {index} at {position} has sector {sector}, {sectors} sectors, {data_bytes} bytes")
    return Write(sector * sector_bytes, sectors * sector_bytes, flags, b""), position + sector_bytes
