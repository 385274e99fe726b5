"""rehydrate: live bytes a second from a directory store to a flat VMDK, and the memory it takes.

The peers are ``qemu-img convert -t writeback`` from a raw image of the same disk to monolithicFlat (with writeback it
flushes at the end), and ``restic restore`` of that image. Each run ends with everything durable: the measured time
includes an fsync of what the peers wrote.

A second disk has as many segments as writes, which is what an idle domain makes. Its recovery has a goal in seconds.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import jetdr_core
from benchmarks.chain_maker import ChainMaker
from benchmarks.command_line import main
from benchmarks.material import compressible, same_bytes
from benchmarks.measure import AtLeast, AtMost, PeerMissing, Row, Scale, interleaved, median
from jetdr_core.catalog import summary_key
from jetdr_core.durable import sync_folder
from jetdr_core.limits import CHAIN_GROUP
from jetdr_core.rehydrate import rehydrate
from jetdr_core.store import open_store

__all__ = ["run"]

COPY_BYTES = 256 << 10
UPDATE_BYTES = 16 << 10
SEGMENT_BYTES = 16 << 20
MEMORY_BYTES_MAX = 256 << 20
EXTENT_BYTES_MAX = 64
PASSWORD = {"RESTIC_PASSWORD": "benchmark"}

_IN_A_PROCESS = """
import asyncio, re, sys
from jetdr_core.rehydrate import rehydrate
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) << 10
before = peak()
asyncio.run(rehydrate(sys.argv[1], at="latest", target=sys.argv[2], format="flat"))
print(before, peak())
"""  # VmHWM, not ru_maxrss: a process inherits the latter from its parent


@dataclass(frozen=True, slots=True)
class _Size:
    disk_bytes: int
    rounds: int
    small_segments: int


SIZES = {
    Scale.FULL: _Size(disk_bytes=1 << 30, rounds=7, small_segments=6000),
    Scale.QUICK: _Size(disk_bytes=256 << 20, rounds=3, small_segments=6000),
    Scale.TINY: _Size(disk_bytes=16 << 20, rounds=1, small_segments=60),
}

SMALL_WRITE_BYTES = 4096
SMALL_GOAL_S = 3.0
"""For 6,000 segments of one write each."""


@dataclass(frozen=True, slots=True)
class _Disk:
    """A protected disk in a directory store, the same as a raw image and in a restic repository."""

    url: str
    image: Path
    repository: Path
    live_bytes: int
    extents: int


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    for program in ("qemu-img", "restic"):
        if shutil.which(program) is None:
            raise PeerMissing(f"{program} is not installed")
    disk = _disk(work, size.disk_bytes)
    steps = (_Ours(disk, work), _QemuImg(disk, work), _Restic(disk, work))
    seconds = [median(column) for column in interleaved(size.rounds, *(_timed(step, work) for step in steps))]
    speeds = [disk.live_bytes / took / 1e6 for took in seconds]
    note = f"{disk.live_bytes >> 20} of {size.disk_bytes >> 20} MiB live, {disk.extents} extents"
    measure, unit = "directory store to flat VMDK", "MB/s"
    return [
        Row(
            measure=measure,
            ours=speeds[0],
            unit=unit,
            peer="qemu-img convert",
            theirs=speeds[1],
            target=AtLeast(0.7),
            note=note,
        ),
        Row(
            measure=measure,
            ours=speeds[0],
            unit=unit,
            peer="restic restore",
            theirs=speeds[2],
            target=AtLeast(3),
            note=note,
        ),
        _memory(disk, work),
        *_small_segments(work / "small", size),
    ]


# -- the disk ----------------------------------------------------------------------------------------------------------


def _disk(work: Path, disk_bytes: int) -> _Disk:
    """Protect a disk: write seven eighths of it in order, in 256 KiB, then an eighth of that at random, in 16 KiB."""
    url, image = (work / "store").as_uri(), work / "disk.raw"
    live_bytes = disk_bytes // 8 * 7
    data = compressible(live_bytes)
    updates = np.random.default_rng(2).choice(
        live_bytes // UPDATE_BYTES, live_bytes // 8 // UPDATE_BYTES, replace=False
    )
    fresh = compressible(len(updates) * UPDATE_BYTES, seed=3)
    asyncio.run(_protect(url, disk_bytes, memoryview(data), updates * UPDATE_BYTES, memoryview(fresh)))
    blocks = np.frombuffer(data, np.uint8).reshape(-1, UPDATE_BYTES)
    blocks[updates] = np.frombuffer(fresh, np.uint8).reshape(-1, UPDATE_BYTES)
    with image.open("wb") as file:
        file.write(data)
        file.truncate(disk_bytes)
        os.fsync(file.fileno())
    repository = work / "restic"
    for command in (["init"], ["backup", "disk.raw"]):
        _run(["restic", "--quiet", "--repo", str(repository), *command], PASSWORD, work)
    pieces = len(np.unique(np.concatenate([updates * UPDATE_BYTES, np.arange(0, live_bytes, COPY_BYTES)])))
    return _Disk(url, image, repository, live_bytes, pieces)


async def _protect(url: str, disk_bytes: int, data: memoryview, updates: np.ndarray, fresh: memoryview) -> None:
    store = open_store(url, create=True)
    chain = ChainMaker(store)
    await chain.begin(disk_bytes)
    for start in range(0, len(data), SEGMENT_BYTES):
        part = data[start : start + SEGMENT_BYTES]
        await chain.write(range(start, start + len(part), COPY_BYTES), COPY_BYTES, part)
    step = SEGMENT_BYTES // UPDATE_BYTES
    for nth in range(0, len(updates), step):
        part = fresh[nth * UPDATE_BYTES : (nth + step) * UPDATE_BYTES]
        await chain.write(updates[nth : nth + step], UPDATE_BYTES, part)
    await store.close()


def _disk_of_small_segments(work: Path, segments: int) -> _Disk:
    """Write random blocks to a disk, each in a segment of its own."""
    work.mkdir()
    url, image, block = (work / "store").as_uri(), work / "disk.raw", SMALL_WRITE_BYTES
    disk_bytes = 4 * segments * block
    places = np.random.default_rng(4).choice(disk_bytes // block, segments, replace=False)
    data = np.frombuffer(compressible(segments * block, seed=5), np.uint8).reshape(segments, block)
    asyncio.run(_protect_each(url, disk_bytes, places * block, data))
    blocks = np.zeros((disk_bytes // block, block), np.uint8)
    blocks[places] = data
    image.write_bytes(blocks.tobytes())
    repository = work / "restic"
    for command in (["init"], ["backup", "disk.raw"]):
        _run(["restic", "--quiet", "--repo", str(repository), *command], PASSWORD, work)
    return _Disk(url, image, repository, segments * block, segments)


async def _protect_each(url: str, disk_bytes: int, offsets: np.ndarray, data: np.ndarray) -> None:
    """Put a chain of one-write segments, with the summaries that an owner makes of complete groups."""
    store = open_store(url, create=True)
    chain = ChainMaker(store)
    await chain.begin(disk_bytes)
    for offset, block in zip(offsets, data, strict=True):
        await chain.write([int(offset)], len(block), memoryview(block.tobytes()))
    for group in range(chain.number // CHAIN_GROUP):
        await store.put_if_absent(summary_key(group), [chain.summary(group)])
    await store.close()


# -- one recovery ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ours:
    disk: _Disk
    work: Path

    def __call__(self, target: Path) -> Path:
        asyncio.run(rehydrate(self.disk.url, at="latest", target=target, format="flat"))
        return target / "disk-flat.vmdk"


@dataclass(frozen=True, slots=True)
class _QemuImg:
    disk: _Disk
    work: Path

    def __call__(self, target: Path) -> Path:
        target.mkdir()
        options = ["-t", "writeback", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat"]
        _run(["qemu-img", "convert", *options, str(self.disk.image), str(target / "disk.vmdk")], {}, self.work)
        return _durable(target / "disk-flat.vmdk")


@dataclass(frozen=True, slots=True)
class _Restic:
    disk: _Disk
    work: Path

    def __call__(self, target: Path) -> Path:
        repository = str(self.disk.repository)
        _run(
            ["restic", "--quiet", "--repo", repository, "restore", "latest", "--target", str(target)],
            PASSWORD,
            self.work,
        )
        return _durable(target / "disk.raw")


def _timed(recover: Callable[[Path], Path], work: Path) -> Callable[[], float]:
    """Return a function that recovers into a fresh directory, compares, cleans up, and returns the seconds."""
    image = work / "disk.raw"

    def round_() -> float:
        target = work / "target"
        begun = time.perf_counter()
        disk = recover(target)
        took = time.perf_counter() - begun
        if not same_bytes(disk, image):
            raise RuntimeError(f"{type(recover).__name__}: {disk.name} is not the disk")
        shutil.rmtree(target)
        return took

    return round_


def _durable(path: Path) -> Path:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return path


def _run(command: list[str], environment: Mapping[str, str], folder: Path) -> str:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **environment}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


# -- many small segments -----------------------------------------------------------------------------------------------


def _small_segments(work: Path, size: _Size) -> list[Row]:
    disk = _disk_of_small_segments(work, size.small_segments)
    steps = (_Ours(disk, work), _Restic(disk, work))
    ours, theirs = (median(column) for column in interleaved(size.rounds, *(_timed(step, work) for step in steps)))
    measure, goal_s = f"{size.small_segments} segments of one write", SMALL_GOAL_S * size.small_segments / 6000
    return [
        Row(measure=measure, ours=ours, unit="s", peer="the goal", theirs=max(goal_s, 0.5), target=AtMost(1.0)),
        Row(measure=measure, ours=ours, unit="s", peer="restic restore", theirs=theirs, note="of the same disk"),
    ]


# -- memory ------------------------------------------------------------------------------------------------------------


def _memory(disk: _Disk, work: Path) -> Row:
    """Measure the peak memory of a process that rehydrates the disk, less what it had after its imports."""
    paths = {"PYTHONPATH": str(Path(jetdr_core.__file__).parent.parent)}
    told = _run([sys.executable, "-c", _IN_A_PROCESS, disk.url, str(work / "memory")], paths, work)
    shutil.rmtree(work / "memory")
    before, peak = map(int, told.split())
    bound = MEMORY_BYTES_MAX + EXTENT_BYTES_MAX * disk.extents
    return Row(
        measure="peak memory, less that after imports",
        ours=(peak - before) / 2**20,
        unit="MiB",
        peer="256 MiB + 64 bytes an extent",
        theirs=bound / 2**20,
        target=AtMost(1.0),
    )


if __name__ == "__main__":
    main({"rehydrate": run})
