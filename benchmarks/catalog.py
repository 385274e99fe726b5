"""catalog: opening a domain of 100, 10,000 and 100,000 segments on the directory store, with summaries.

The floor is listing the same objects with their sizes (os.scandir and stat), which every reader has to do. The segments
are the engine's own, but small: each holds one write of 512 bytes. In the last group, whose footers are read one by
one, each holds one write of 64 KiB.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from typing_extensions import Buffer

from benchmarks.chain_maker import DISK, ChainMaker
from benchmarks.command_line import main
from benchmarks.material import incompressible
from benchmarks.measure import AtMost, Row, Scale, interleaved, median
from jetdr_core.catalog import Catalog, summary_key
from jetdr_core.limits import CHAIN_GROUP
from jetdr_core.record import Kind
from jetdr_core.segment import SegmentBody
from jetdr_core.segment.frames import encode_frames
from jetdr_core.segment.index import encode_index
from jetdr_core.segment.layout import ENTRY
from jetdr_core.store import StoreWrapper, open_store

__all__ = ["run"]

DISK_BYTES = 1 << 30
SHORT_BYTES, LONG_BYTES = 512, 64 << 10
SECONDS_MAX = 3.0


@dataclass(frozen=True, slots=True)
class _Size:
    segments: tuple[int, ...]
    rounds: int


SIZES = {
    Scale.FULL: _Size(segments=(100, 10_000, 100_000), rounds=7),
    Scale.QUICK: _Size(segments=(100, 10_000), rounds=3),
    Scale.TINY: _Size(segments=(10, 1100), rounds=1),
}


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    folders = [work / str(segments) for segments in size.segments]
    for folder, segments in zip(folders, size.segments, strict=True):
        asyncio.run(_build(folder, segments))
    openings = [_opening(folder, segments) for folder, segments in zip(folders, size.segments, strict=True)]
    seconds = [median(column) for column in interleaved(size.rounds, *openings, *map(_listing, folders))]
    ours, floors = seconds[: len(folders)], seconds[len(folders) :]
    rows = [
        Row(
            measure=f"open, {segments:,} segments",
            ours=took * 1000,
            unit="ms",
            peer="listing alone",
            theirs=floor * 1000,
        )
        for segments, took, floor in zip(size.segments, ours, floors, strict=True)
    ]
    return [_judged(rows[nth], size.segments, ours, nth) for nth in range(len(rows))]


def _judged(row: Row, segments: Sequence[int], seconds: Sequence[float], nth: int) -> Row:
    """Add the target: the largest chain must open in time, and time must grow more slowly than segments."""
    if nth == 0:
        return row
    growth, times = seconds[nth] / seconds[nth - 1], segments[nth] / segments[nth - 1]
    note = f"grows {growth:.2g} times where segments grow {times:.3g} times"
    if segments[nth] == 100_000:
        reached = seconds[nth] if growth < times else float("inf")
        return replace(row, figure=reached, target=AtMost(SECONDS_MAX), note=f"{note}; figure: seconds")
    return replace(row, figure=growth / times, target=AtMost(1.0), note=f"{note}; figure: growth a segment")


def _opening(folder: Path, segments: int) -> Callable[[], float]:
    """Return a function that opens the domain, checks that all of it is there, and returns the seconds."""

    async def opened() -> float:
        begun = time.perf_counter()
        async with await Catalog.open(folder.as_uri()) as catalog:
            took = time.perf_counter() - begun
            expected = segments + 1  # the disk is LSN 1, each segment one write
            if (
                catalog.lsn_last != expected
                or len(catalog.segments) != expected
                or catalog.chain_break
                or not catalog.points()
            ):
                raise RuntimeError(f"{folder}: the catalog ends at LSN {catalog.lsn_last}, not at {expected}")
        return took

    return lambda: asyncio.run(opened())


def _listing(folder: Path) -> Callable[[], float]:
    def listed() -> float:
        begun = time.perf_counter()
        with os.scandir(folder / "chain") as groups:
            for group in groups:
                with os.scandir(group.path) as objects:
                    sorted((entry.name, entry.stat().st_size) for entry in objects)
        return time.perf_counter() - begun

    return listed


# -- the chain ---------------------------------------------------------------------------------------------------------


class _PlainFiles(StoreWrapper):
    """A directory store that is filled without syncing. The files are those that the store itself would make."""

    def __init__(self, folder: Path) -> None:
        super().__init__(open_store(folder.as_uri(), create=True))
        self._folder = folder

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        path = self._folder / key
        try:
            path.write_bytes(b"".join(data))
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            path.write_bytes(b"".join(data))


async def _build(folder: Path, segments: int) -> None:
    store = _PlainFiles(folder)
    chain = ChainMaker(store)
    await chain.begin(DISK_BYTES)
    short, long = _Template(SHORT_BYTES), _Template(LONG_BYTES)
    first_of_last_group = (segments + 2) // CHAIN_GROUP * CHAIN_GROUP  # two objects come before the first segment
    for _ in range(segments):
        template = long if chain.number >= first_of_last_group else short
        await chain.put_body(template.body(chain.lsn, chain.time_ns))
    for group in range(chain.number // CHAIN_GROUP):
        await store.put_if_absent(summary_key(group), [chain.summary(group)])
    await store.close()


class _Template:
    """The body of a segment with one write. Only LSN, time and what follows from them change."""

    def __init__(self, write_bytes: int) -> None:
        payload = memoryview(incompressible(write_bytes))
        self._table, self._frames = encode_frames([payload], verify=False)
        self._write_bytes = write_bytes
        self._entries = np.zeros(1, ENTRY)
        self._entries["length"] = write_bytes
        self._entries["disk"], self._entries["kind"] = DISK, Kind.WRITE

    def body(self, lsn: int, time_ns: int) -> SegmentBody:
        self._entries["lsn"], self._entries["time_ns"] = lsn, time_ns
        index, index_raw_bytes = encode_index(self._table, self._entries, [])
        return SegmentBody(
            frames=self._frames,
            index=index,
            index_checksum=xxhash.xxh3_64_intdigest(index),
            index_raw_bytes=index_raw_bytes,
            first_lsn=lsn,
            last_lsn=lsn,
            first_time_ns=time_ns,
            last_time_ns=time_ns,
            payload_bytes=self._write_bytes,
            stored_bytes=self._write_bytes,
            entry_count=1,
            control=[],
        )


if __name__ == "__main__":
    main({"catalog": run})
