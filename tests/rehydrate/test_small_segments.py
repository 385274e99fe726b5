"""A chain of many segments with one write each is recovered by few requests, every byte still verified."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from jetdr_core.catalog import Catalog, chain_key
from jetdr_core.errors import DamagedObject, StoreError
from jetdr_core.rehydrate import Report, rehydrate
from jetdr_core.rehydrate.plan import GET_RANGES_MAX, FrameRange, SegmentPlan, batches
from jetdr_core.store import MemoryStore, ObjectRange, StoreWrapper
from tests.rehydrate.chains import Chain

SEGMENTS = 300
BLOCK = 4096


class Requests(StoreWrapper):
    """Counts requests, however many ranges each asks for."""

    requests = 0

    async def get(self, key: str) -> bytes:
        self.requests += 1
        return await self._inner.get(key)

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.requests += 1
        return await self._inner.get_range(key, offset, length)

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        self.requests += 1
        return await self._inner.get_ranges(ranges)


async def build() -> Chain:
    chain = Chain(MemoryStore())
    await chain.begin()
    chain.add_disk(1, "a", SEGMENTS * BLOCK)
    chain.add_disk(2, "b", SEGMENTS * BLOCK)
    await chain.seal()
    for number in range(SEGMENTS):
        chain.write(1 + number % 2, (number * 7 % SEGMENTS) * BLOCK, (number + 1).to_bytes(2, "big") * (BLOCK // 2))
        await chain.seal()
    return chain


def test_requests_are_few_and_bytes_are_right(tmp_path: Path) -> None:
    async def scenario() -> tuple[Chain, Report, int]:
        chain = await build()
        store = Requests(chain.store)
        opened = Requests(chain.store)
        async with await Catalog.open(opened):
            pass
        report = await rehydrate(store, at="latest", target=tmp_path, format="raw")
        return chain, report, store.requests - opened.requests

    chain, report, requests = asyncio.run(scenario())
    for disk, number in zip(report.disks, (1, 2), strict=True):
        assert disk.path.read_bytes() == chain.replay(number, SEGMENTS * BLOCK, chain.lsn)
        assert disk.bytes_written == SEGMENTS // 2 * BLOCK
    assert requests <= 2 * SEGMENTS // GET_RANGES_MAX + 10


def test_one_damaged_write_of_a_batch_costs_only_itself(tmp_path: Path) -> None:
    async def scenario(*, keep_going: bool) -> tuple[Chain, Report]:
        chain = await build()
        key = chain_key(100)
        data = bytearray(await chain.store.get(key))
        data[70] ^= 1
        await chain.store.replace(key, [data])
        return chain, await rehydrate(chain.store, at="latest", target=tmp_path, format="raw", keep_going=keep_going)

    with pytest.raises(DamagedObject, match=chain_key(100)):
        asyncio.run(scenario(keep_going=False))
    chain, report = asyncio.run(scenario(keep_going=True))
    (extent,) = [extent for disk in report.disks for extent in disk.damaged]
    assert (extent.key, extent.length) == (chain_key(100), BLOCK)
    for disk, number in zip(report.disks, (1, 2), strict=True):
        expected = bytearray(chain.replay(number, SEGMENTS * BLOCK, chain.lsn))
        if disk.damaged:
            expected[extent.offset : extent.offset + BLOCK] = bytes(BLOCK)
        assert disk.path.read_bytes() == expected


def test_batches_are_bounded_in_number_and_length() -> None:
    def ranges(lengths: Sequence[int]) -> list[list[int]]:
        plan: SegmentPlan = None  # type: ignore[assignment]
        return [
            [wanted.length for wanted in batch]
            for batch in batches(FrameRange(plan, 0, 1, 0, length) for length in lengths)
        ]

    assert ranges([]) == []
    assert [len(batch) for batch in ranges([1] * 150)] == [64, 64, 22]
    assert ranges([3 << 20, 1 << 20, 1, 4 << 20, 5]) == [[3 << 20, 1 << 20], [1], [4 << 20], [5]]
