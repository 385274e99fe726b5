"""history: rehydrating the same live data after once, 10 and 100 times as much of it was written.

Fetched payload counts the stored bytes of the frames that were read. The data does not compress, so stored bytes are
payload bytes. The peer is the history that was written once.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.chain_maker import ChainMaker
from benchmarks.command_line import main
from benchmarks.material import incompressible
from benchmarks.measure import AtMost, Row, Scale, interleaved, median
from jetdr_core.catalog import Catalog
from jetdr_core.rehydrate import rehydrate
from jetdr_core.store import ObjectStore, open_store

__all__ = ["run"]

SEGMENT_BYTES = 16 << 20
EXTENT_BYTES = 1 << 20
FETCH_MAX = 1.3


@dataclass(frozen=True, slots=True)
class _Size:
    disk_bytes: int
    times: tuple[int, ...]
    scattered_times: int
    rounds: int


SIZES = {
    Scale.FULL: _Size(disk_bytes=64 << 20, times=(1, 10, 100), scattered_times=10, rounds=7),
    Scale.QUICK: _Size(disk_bytes=16 << 20, times=(1, 10, 100), scattered_times=10, rounds=3),
    Scale.TINY: _Size(disk_bytes=2 << 20, times=(1, 3), scattered_times=2, rounds=1),
}


@dataclass(frozen=True, slots=True)
class _History:
    """A disk that was written ``times`` times over, in writes of ``write_bytes`` that fill ``extent_bytes`` each."""

    folder: Path
    times: int
    write_bytes: int
    extent_bytes: int


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    histories = [_History(work / f"{times}", times, 64 << 10, EXTENT_BYTES) for times in size.times]
    histories.append(_History(work / "scattered", size.scattered_times, 4096, 4096))
    index_bytes = [asyncio.run(_build(history, size.disk_bytes)) for history in histories]
    recoveries = [_Recovery(history, work / "target") for history in histories]
    seconds = [median(column) for column in interleaved(size.rounds, *recoveries)]
    return [
        _row(recovery, took, seconds[0], size.disk_bytes, index)
        for recovery, took, index in zip(recoveries, seconds, index_bytes, strict=True)
    ]


def _row(recovery: _Recovery, took: float, once: float, disk_bytes: int, index_bytes: int) -> Row:
    history = recovery.history
    scattered = history.extent_bytes == history.write_bytes
    how = "at random in single 4 KiB" if scattered else "at random in extents of 1 MiB"
    return Row(
        measure=f"{history.times} x {disk_bytes >> 20} MiB written{f', {how}' if history.times > 1 else ''}",
        ours=took * 1000,
        unit="ms",
        peer="written once",
        theirs=once * 1000,
        figure=recovery.fetched_bytes / disk_bytes,
        target=None if scattered else AtMost(FETCH_MAX),
        note=f"figure: fetched / live payload; index {index_bytes / 1024:,.0f} KiB",
    )


async def _build(history: _History, disk_bytes: int) -> int:
    """Write the whole disk once, then as many bytes again and again at random places. Return the index bytes."""
    store = open_store(history.folder.as_uri(), create=True)
    chain = ChainMaker(store)
    await chain.begin(disk_bytes)
    image = np.empty((disk_bytes // history.write_bytes, history.write_bytes), np.uint8)
    random = np.random.default_rng(history.times)
    for nth in range(history.times):
        places = _extents(history, disk_bytes, random) if nth else np.arange(len(image))
        payload = incompressible(len(places) * history.write_bytes, seed=int(random.integers(1 << 30)))
        blocks = np.frombuffer(payload, np.uint8).reshape(-1, history.write_bytes)
        for start in range(0, len(places), SEGMENT_BYTES // history.write_bytes):
            part = slice(start, start + SEGMENT_BYTES // history.write_bytes)
            await chain.write(places[part] * history.write_bytes, history.write_bytes, blocks[part].reshape(-1).data)
        for place, block in zip(places.tolist(), blocks, strict=True):
            image[place] = block
    image.tofile(history.folder.with_suffix(".raw"))
    return await _index_bytes(store)


def _extents(history: _History, disk_bytes: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the places of a disk's worth of extents, counted in writes. Extents may overlap."""
    writes = history.extent_bytes // history.write_bytes
    starts = random.integers(0, disk_bytes // history.write_bytes - writes + 1, disk_bytes // history.extent_bytes)
    return (starts[:, None] + np.arange(writes)).reshape(-1)


async def _index_bytes(store: ObjectStore) -> int:
    async with await Catalog.open(store) as catalog:
        index_bytes = int(catalog.segments["index_stored_bytes"].sum(dtype=np.uint64))
    await store.close()
    return index_bytes


@dataclass(slots=True)
class _Recovery:
    """A function that rehydrates the newest point, compares the disk, and returns the seconds it took."""

    history: _History
    target: Path
    fetched_bytes: int = 0

    def __call__(self) -> float:
        begun = time.perf_counter()
        report = asyncio.run(rehydrate(self.history.folder.as_uri(), at="latest", target=self.target, format="raw"))
        took = time.perf_counter() - begun
        expected = np.fromfile(self.history.folder.with_suffix(".raw"), np.uint8)
        if not np.array_equal(np.fromfile(report.disks[0].path, np.uint8), expected):
            raise RuntimeError(f"{self.history.folder.name}: the rehydrated disk is not what was written last")
        shutil.rmtree(self.target)
        self.fetched_bytes = report.disks[0].bytes_fetched
        return took


if __name__ == "__main__":
    main({"history": run})
