"""fio jobs on several disks at once. A disk alone shows what fio had written to it, beside fio's own log.

fio begins every piece of a block that it writes with a header (struct verify_header, little-endian): magic, type,
length, seed, offset, seconds, nanoseconds, thread, number of the write, CRC32C of the header, and XXH32 (seed 1) of the
rest of the piece. The number counts the writes of the job from 0, in the order of its ``write_iolog``.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xxhash

PIECE_BYTES = 4096
_HEADER = struct.Struct("<HHIQQIIHHII")
_MAGIC = 0xACCA


class Issued(NamedTuple):
    """A write that fio issued."""

    offset: int
    length: int


@dataclass(frozen=True)
class Job:
    """Random writes over a whole disk, at most ``depth`` in flight, which fio then reads and verifies.

    There are ``requests`` requests, of which every 33rd is a flush.
    """

    disk: str
    depth: int
    block_bytes: int
    requests: int

    def section(self, uri: str, disk_bytes: int, log: Path) -> str:
        return f"""
[{self.disk}]
uri={uri}
iodepth={self.depth}
bs={self.block_bytes}
size={disk_bytes}
io_size={self.requests * self.block_bytes}
number_ios={self.requests}
write_iolog={log}
fsync=32
"""


JOBS = (Job("db", 1, 4096, 1200), Job("web", 4, 8192, 1600), Job("mail", 16, 16384, 2000))
"""All take about the same time."""

DISK_BYTES = 16 << 20
LIMIT_S = 120.0


@contextlib.contextmanager
def working(
    program: str, folder: Path, uris: Mapping[str, str], *, rest_ms: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """Run all jobs at once, on the exports of their names. At the end of the context fio has verified what it wrote.

    Each job rests for ``rest_ms`` after every 16 requests.
    """
    sections = [job.section(uris[job.disk], DISK_BYTES, folder / f"{job.disk}.iolog") for job in JOBS]
    (folder / "jobs.fio").write_text(_job_file(sections, seed=1, rest_ms=rest_ms))
    with subprocess.Popen(
        [program, folder / "jobs.fio"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    ) as process:
        try:
            yield process
            said, _ = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == 0, said


def all_issued(folder: Path) -> dict[str, list[Issued]]:
    """Return the writes of each disk's job."""
    return {job.disk: _issued(folder / f"{job.disk}.iolog") for job in JOBS}


def judge(disks: Mapping[str, Path], writes: Mapping[str, Sequence[Issued]]) -> dict[str, int]:
    """Return how many writes fio had issued to each disk when the disk was in the given state.

    A disk holds whole blocks of some of fio's writes. When fio issued the newest of them, at most ``depth`` - 1 others
    were in flight. All older writes had been acknowledged, and must be there. With depth 1 every write must be there.
    """
    counts = {}
    for job in JOBS:
        counts[job.disk], lacked = missing(numbers(disks[job.disk].read_bytes()), writes[job.disk])
        assert len(lacked) < job.depth, f"{disks[job.disk]} lacks writes {lacked} of {counts[job.disk]}"
    return counts


def _job_file(sections: Sequence[str], *, seed: int, rest_ms: int) -> str:
    """Return a job file. Overlapping writes of one job wait for each other, so that the later one stays."""
    return f"""[global]
ioengine=nbd
rw=randwrite
norandommap=1
serialize_overlap=1
verify=xxhash
verify_interval={PIECE_BYTES}
verify_fatal=1
do_verify=1
randseed={seed}
thinktime={rest_ms * 1000}
thinktime_blocks=16
""" + "".join(sections)


def _issued(log: Path) -> list[Issued]:
    """Return the writes of a ``write_iolog``, in the order in which fio issued them."""
    words = (line.split() for line in log.read_text().splitlines())
    return [Issued(int(word[-2]), int(word[-1])) for word in words if "write" in word]


def numbers(image: bytes) -> dict[int, int]:
    """Return, by offset, the number of the write whose bytes each written piece of the disk holds.

    AssertionError names a piece that holds neither zeros nor the bytes of one write.
    """
    found = {}
    for offset in range(0, len(image), PIECE_BYTES):
        piece = image[offset : offset + PIECE_BYTES]
        if piece.count(0) == PIECE_BYTES:
            continue
        magic, _, length, _, place, _, _, _, number, _, checksum = _HEADER.unpack_from(piece)
        assert (magic, length, place) == (_MAGIC, PIECE_BYTES, offset), f"no header of fio's at {offset}"
        assert xxhash.xxh32_intdigest(piece[_HEADER.size :], seed=1) == checksum, f"torn piece at {offset}"
        found[offset] = number
    return found


def missing(found: dict[int, int], writes: Sequence[Issued]) -> tuple[int, list[int]]:
    """Return how many writes fio had issued up to the newest on the disk, and which of these the disk lacks.

    The disk lacks a write if it holds an older one, or none, anywhere in the write's place.
    """
    count = max(found.values(), default=-1) + 1
    lacked = [
        number
        for number, write in enumerate(writes[:count])
        if any(
            found.get(offset, -1) < number for offset in range(write.offset, write.offset + write.length, PIECE_BYTES)
        )
    ]
    return count, lacked
