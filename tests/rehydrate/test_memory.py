"""Memory follows the number of live extents, not the bytes recovered."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from jetdr_core.rehydrate.plan import PlannedDisk, Planner, SegmentPlace
from jetdr_core.segment import decode_index, decode_trailer
from jetdr_core.store import MemoryStore, open_store
from tests.children import run_python
from tests.rehydrate.chains import Chain

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
DISK_MIB = 384


def test_recovery_of_a_disk_larger_than_the_bound_stays_within_it(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()

    async def build() -> None:
        chain = Chain(open_store(url, create=True))
        await chain.begin()
        chain.add_disk(1, "a", DISK_MIB * MIB)
        noise = os.urandom(MIB)
        for number in range(0, DISK_MIB, 16):
            for part in range(number, number + 16):
                chain.write(1, part * MIB, noise)
            await chain.seal()
            chain.history.clear()

    asyncio.run(build())
    script = (
        "import asyncio, re, sys; from jetdr_core.rehydrate import rehydrate;"
        "report = asyncio.run(rehydrate(sys.argv[1], at='latest', target=sys.argv[2], format='raw'));"
        "peak = re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1];"
        "print(report.disks[0].bytes_written, int(peak) << 10)"
    )
    told = run_python(script, url, tmp_path / "out")
    assert told.returncode == 0, told.stderr
    bytes_written, memory_bytes = map(int, told.stdout.split())
    assert bytes_written == DISK_MIB * MIB
    assert memory_bytes <= 256 * MIB


def test_plan_takes_at_most_64_bytes_per_live_extent() -> None:
    """The worst case: each live extent alone in its frame."""

    async def scenario() -> Planner:
        chain = Chain(MemoryStore())
        await chain.begin()
        extents = 200
        for number in range(extents):
            chain.write(1, number * 512 * 1024, b"x" * 256 * 1024)
        key = await chain.seal()
        planner = Planner([PlannedDisk(1, "a", extents * 512 * 1024)], chain.lsn)
        data = await chain.store.get(key)
        trailer = decode_trailer(data, key)
        index = decode_index(data[trailer.index_offset : trailer.index_end], trailer, key)
        planner.add(SegmentPlace(2, key, trailer.first_lsn, trailer.last_lsn), index)
        return planner

    (plan,) = asyncio.run(scenario()).segments
    assert len(plan.pieces) == len(plan.frames) == 200
    assert plan.pieces.nbytes + plan.frames.nbytes + plan.frame_numbers.nbytes <= 64 * len(plan.pieces)
