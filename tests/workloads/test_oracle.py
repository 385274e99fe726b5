"""QEMU is the oracle: it records the writes it makes to a protected disk in its own log (blklogwrites).

Whenever nothing is in flight, the test notes how many writes were done and the last LSN of the domain. Both name the
same state. QEMU's log holds the same writes, each once, in the order in which they were done, so replaying that many
writes of the log gives the state. At a flush the log's superblock counts its entries, and the test compares that count
with its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.workloads import write_log
from tests.workloads.protected_disks import ProtectedDisks, protected_disks
from tests.workloads.qemu_io import QemuIo, recording

SECTOR = 512
DISK_BYTES = 4 << 20
BURSTS = 250
OTHER_POINTS = 20


class Point(NamedTuple):
    """A state of the disk: the number of writes, and the LSN."""

    writes: int
    lsn: int
    flushed: bool


@pytest.mark.parametrize(("seed", "write_back"), [(1, False), (2, True)])
def test_every_flush_point_is_the_log_replayed_to_it(
    tmp_path: Path, store: str, seed: int, write_back: bool, peer: Callable[[str], str]
) -> None:
    log = tmp_path / "qemu.log"
    with protected_disks(tmp_path, store, {"disk": DISK_BYTES}, write_back=write_back) as protected:
        with recording(peer("qemu-io"), protected.uris["disk"], log) as qemu:
            points = list(played(qemu, random.Random(seed), log, protected))
        protected.end()
        check_coverage(log, points)
        check_points(protected, log, chosen(points, random.Random(seed)))
        with protected.recovery() as newest:
            assert newest["disk"].read_bytes() == replayed(log) == protected.primaries["disk"].read_bytes()


def played(qemu: QemuIo, chance: random.Random, log: Path, protected: ProtectedDisks) -> Iterator[Point]:
    writes = 0
    for number in range(BURSTS):
        for command in burst(chance, number):
            flushes_before = write_log.count(log)
            qemu.do(command)
            writes += "flush" not in command
            flushed = write_log.count(log) > flushes_before
            if not command.startswith("aio_write"):
                yield Point(writes, protected.lsn, flushed)
            assert not (flushed and command.startswith("aio")), "a flush nobody asked for"


def burst(chance: random.Random, number: int) -> list[str]:
    """Return commands: several disjoint writes in flight at once, or one zeroing, discard, FUA write or flush."""
    kind = chance.choice(["write", "write", "write", "zero", "discard", "fua", "flush"])
    pattern = number % 255 + 1
    if kind == "write":
        writes = [f"aio_write -P {pattern} {offset} {length}" for offset, length in disjoint(chance)]
        return [*writes, "aio_flush", *(["flush"] if chance.random() < 0.5 else [])]
    offset, length = extent(chance)
    return {
        "zero": [f"write -z {'-u ' if chance.random() < 0.5 else ''}{offset} {length}"],
        "discard": [f"discard {offset} {length}"],
        "fua": [f"write -f -P {pattern} {offset} {length}"],
        "flush": ["flush"],
    }[kind]


def extent(chance: random.Random) -> tuple[int, int]:
    """Return an extent, mostly in the first quarter of the disk, so that extents often overlap."""
    sectors = chance.choice([1, 2, 7, 8, 8, 8, 16, 64, 128, 300])
    end = DISK_BYTES // SECTOR // chance.choice([1, 4, 4, 4]) - sectors
    return chance.randrange(end) * SECTOR, sectors * SECTOR


def disjoint(chance: random.Random) -> list[tuple[int, int]]:
    chosen: list[tuple[int, int]] = []
    for _ in range(chance.randrange(1, 9)):
        offset, length = extent(chance)
        if all(offset + length <= other or other + size <= offset for other, size in chosen):
            chosen.append((offset, length))
    return chosen


def check_coverage(log: Path, points: list[Point]) -> None:
    """Check that every flush in the log is a checked point, and that the run did enough of everything."""
    writes, flushes, kinds = 0, set(), set()
    for write in write_log.entries(log):
        writes += write.changes
        kinds.add(write.flags)
        if write.flags & write_log.FLUSH:
            flushes.add(writes)
    assert writes == points[-1].writes > 400
    assert flushes - {writes} <= {point.writes for point in points if point.flushed}
    assert len(flushes) > 80
    assert {0, write_log.FLUSH, write_log.DISCARD} <= kinds


def chosen(points: list[Point], chance: random.Random) -> list[Point]:
    others = [point for point in points if not point.flushed]
    return sorted({*(point for point in points if point.flushed), *chance.sample(others, OTHER_POINTS)})


def check_points(protected: ProtectedDisks, log: Path, points: list[Point]) -> None:
    image, done = bytearray(DISK_BYTES), 0
    changes = (write for write in write_log.entries(log) if write.changes)
    for point in points:
        while done < point.writes:
            write_log.apply(next(changes), image)
            done += 1
        with protected.recovery(point.lsn) as disks:
            assert disks["disk"].read_bytes() == image, f"LSN {point.lsn} is not the log's first {done} writes"


def replayed(log: Path) -> bytes:
    image = bytearray(DISK_BYTES)
    for write in write_log.entries(log):
        write_log.apply(write, image)
    return bytes(image)
