"""filter: what protection adds to a write, in a C caller and in Python.

The peer copies the same bytes into a buffer as large as the ring and hashes them with XXH3. Nothing that keeps a
second, checksummed copy of a write can do less.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.caller import call
from benchmarks.command_line import main
from benchmarks.measure import AtMost, Row, Scale, interleaved, median
from jetdr_core._core import IoFilter, LogWriter, Ring
from jetdr_core.device import FileDevice

__all__ = ["run"]

PRIMARY_BYTES = 64 << 20
LOG_BYTES = 256 << 20
RING_SLOTS = 1 << 15
MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    round_bytes: int
    ring_bytes: int
    python_calls: int


SIZES = {
    Scale.FULL: _Size(rounds=15, round_bytes=512 << 20, ring_bytes=128 << 20, python_calls=50_000),
    Scale.QUICK: _Size(rounds=5, round_bytes=128 << 20, ring_bytes=128 << 20, python_calls=20_000),
    Scale.TINY: _Size(rounds=2, round_bytes=4 << 20, ring_bytes=4 << 20, python_calls=500),
}


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    rows = [
        _cost(size, write_bytes, threads, AtMost(bound))
        for write_bytes, bound in ((4096, 2.0), (65536, 1.3))
        for threads in (1, 2)
    ]
    return [*rows, _python_call(size, MEMORY if MEMORY.is_dir() else work)]


def _cost(size: _Size, write_bytes: int, threads: int, target: AtMost) -> Row:
    writes = size.round_bytes // write_bytes // threads
    rounds = call("filter_cost", write_bytes, threads, size.rounds, writes, size.ring_bytes)
    added = median([protected - plain for plain, protected, _ in rounds])
    floor = median([floor for _, _, floor in rounds])
    return Row(
        measure=f"added to a {write_bytes >> 10} KiB write, {threads} thread{'s' if threads > 1 else ''}",
        ours=added,
        unit="ns",
        peer="copy + XXH3",
        theirs=floor,
        target=target,
        note=f"unprotected {median([plain for plain, _, _ in rounds]):,.0f} ns",
    )


# -- the Python call ---------------------------------------------------------------------------------------------------


def _python_call(size: _Size, folder: Path) -> Row:
    """Compare IoFilter.write of 4 KiB with the same write from C. Primary and log are memory files for both."""
    primary, log = folder / f"jetdr-primary-{os.getpid()}", folder / f"jetdr-log-{os.getpid()}"
    try:
        primary.write_bytes(b"")
        os.truncate(primary, PRIMARY_BYTES)
        log.write_bytes(b"")
        os.truncate(log, LOG_BYTES)
        with _filter(primary, log, size.ring_bytes) as (io_filter, writer):
            arguments = (4096, 1, 1, size.python_calls, size.ring_bytes, primary, log)
            ours, theirs = interleaved(
                size.rounds,
                lambda: _time_calls(io_filter, writer, size.python_calls),
                lambda: call("filter_cost", *arguments)[0][1],
            )
            _check(io_filter)
    finally:
        primary.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
    return Row(
        measure="IoFilter.write of 4 KiB in Python, less the C caller's",
        ours=median(ours),
        unit="ns",
        peer="C caller",
        theirs=median(theirs),
        figure=(median(ours) - median(theirs)) / 1000,
        target=AtMost(3.0),
        note="figure: microseconds more; primary and log are memory files",
    )


@contextmanager
def _filter(primary_path: Path, log_path: Path, ring_bytes: int) -> Iterator[tuple[IoFilter, LogWriter]]:
    primary, log = FileDevice(primary_path, direct=False), FileDevice(log_path, direct=False)
    ring = Ring(payload_bytes=ring_bytes, slots=RING_SLOTS, lsn_next=1)
    writer = LogWriter(
        ring,
        log,
        data_offset=0,
        data_bytes=LOG_BYTES,
        section_id=1,
        epoch=1,
        head_position=0,
        tail_position=0,
        batch_number=0,
        previous_checksum=0,
    )
    writer.start()
    try:
        yield (
            IoFilter(ring, primary, disk=1, size_bytes=PRIMARY_BYTES, record_bytes_max=1 << 20, stall_limit_s=30),
            writer,
        )
    finally:
        writer.stop()
        primary.close()
        log.close()


def _time_calls(io_filter: IoFilter, writer: LogWriter, calls: int) -> float:
    """Return nanoseconds per call, into an empty log. A Python caller pays for the loop too, so the loop counts."""
    io_filter.flush()
    writer.set_tail(writer.state().durable_position)
    write = io_filter.write
    source = mmap.mmap(-1, 1 << 20)
    source[:] = os.urandom(len(source))
    pieces = [memoryview(source)[start : start + 4096] for start in range(0, len(source), 4096)]
    offsets = [nth * 4096 % PRIMARY_BYTES for nth in range(calls)]
    datas = [pieces[nth % len(pieces)] for nth in range(calls)]
    begun = time.perf_counter_ns()
    for offset, data in zip(offsets, datas, strict=True):
        write(offset, data)
    return (time.perf_counter_ns() - begun) / calls


def _check(io_filter: IoFilter) -> None:
    data = os.urandom(4096)
    lsn = io_filter.write(8192, data)
    if io_filter.read(8192, 4096) != data or io_filter.flush() < lsn:
        raise RuntimeError("a protected write is not what was written")


if __name__ == "__main__":
    main({"filter": run})
