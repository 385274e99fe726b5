"""log: how quickly the replication log appends, and how quickly it is durable.

The peers are pwrite of 1 MiB, and pwrite of 4 KiB with fdatasync, on an O_DIRECT file in the same state. The primary
keeps nothing (append) or is memory (flush), so that only the log is measured.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from benchmarks.caller import call
from benchmarks.command_line import main
from benchmarks.measure import AtLeast, AtMost, Row, Scale, median, percentile
from jetdr_core.device import FileDevice
from jetdr_core.replication_log.batch import Cursor, DataArea
from jetdr_core.replication_log.reader import LogReader

__all__ = ["run"]

SECTION_ID = 0x5EC7
BEGINNING = Cursor(position=0, batch_number=0, lsn=0, checksum=0, time_ns=0)
SOURCE_BYTES = 4 << 20
APPENDS = (65536, 1 << 20)
FLUSHES = 100


@dataclass(frozen=True, slots=True)
class _Size:
    log_bytes: int
    rounds: int
    round_bytes: int
    flush_rounds: int


SIZES = {
    Scale.FULL: _Size(log_bytes=1 << 30, rounds=9, round_bytes=1 << 30, flush_rounds=100),
    Scale.QUICK: _Size(log_bytes=256 << 20, rounds=5, round_bytes=256 << 20, flush_rounds=20),
    Scale.TINY: _Size(log_bytes=32 << 20, rounds=1, round_bytes=4 << 20, flush_rounds=1),
}


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    log, peer = _written(work / "log", size.log_bytes), _written(work / "peer", size.log_bytes)
    _check_append(log, peer, size)
    rows = [_append(log, peer, size, write_bytes) for write_bytes in APPENDS]
    return rows + _flush(log, peer, size)


def _written(path: Path, length: int) -> Path:
    """Make a file whose extents have all been written once, around the page cache."""
    device = FileDevice(path, create_bytes=length)
    piece = mmap.mmap(-1, 4 << 20)
    for offset in range(0, length, len(piece)):
        device.write(offset, memoryview(piece)[: length - offset])
    device.sync()
    device.close()
    return path


def _append(log: Path, peer: Path, size: _Size, write_bytes: int) -> Row:
    rounds = call("log_append", log, peer, size.log_bytes, size.rounds, size.round_bytes, write_bytes)
    speed = [median([size.round_bytes / took * 1000 for took in column]) for column in zip(*rounds, strict=True)]
    return Row(
        measure=f"append, writes of {write_bytes >> 10} KiB",
        ours=speed[0],
        unit="MB/s",
        peer="O_DIRECT pwrite of 1 MiB",
        theirs=speed[1],
        target=AtLeast(0.9),
    )


def _flush(log: Path, peer: Path, size: _Size) -> list[Row]:
    ours, theirs = zip(*call("flush_latency", log, peer, size.log_bytes, size.flush_rounds, FLUSHES), strict=True)
    return [
        Row(
            measure=f"4 KiB write and flush, depth 1, p{percent}",
            ours=percentile(ours, percent) / 1000,
            unit="us",
            peer="O_DIRECT pwrite of 4 KiB + fdatasync",
            theirs=percentile(theirs, percent) / 1000,
            target=AtMost(bound),
        )
        for percent, bound in ((50, 1.2), (99, 1.5))
    ]


def _check_append(log: Path, peer: Path, size: _Size) -> None:
    """Append less than the log holds, and check that every record is read back in order with the bytes written."""
    length, write_bytes = min(size.log_bytes // 4, 64 << 20), 65536
    call("log_append", log, peer, size.log_bytes, 0, length, write_bytes)
    device = FileDevice(log, writable=False)
    reader = LogReader(device, DataArea(SECTION_ID, 0, size.log_bytes), where="benchmark")
    source, cursor, written = _source(), BEGINNING, length // write_bytes
    while cursor.lsn < written:
        for batch in reader.read(cursor, size.log_bytes, payload_bytes_max=1):
            _check_payload(batch.records.payload, cursor.lsn * write_bytes, source)
            cursor = batch.end
    device.close()
    if cursor.lsn != written:
        raise RuntimeError(f"the log holds {cursor.lsn} records, {written} were written")


def _check_payload(payload: memoryview, position: int, source: bytes) -> None:
    start = position % SOURCE_BYTES
    expected = (source + source + source)[start : start + len(payload)]
    if payload != expected:
        raise RuntimeError(f"the log holds other bytes than were written at {position}")


def _source() -> bytes:
    """Return the bytes that ``fill(data, SOURCE_BYTES, 1)`` of benchmarks/native/rig.h makes."""
    seed, words = 1, bytearray()
    for _ in range(SOURCE_BYTES // 8):
        seed = (seed * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        words += seed.to_bytes(8, "little")
    return bytes(words)


if __name__ == "__main__":
    main({"log": run})
