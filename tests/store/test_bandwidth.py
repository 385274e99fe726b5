"""What the bandwidth limit promises: never more than burst + rate x time, in order, and downloads untouched."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import Buffer

from jetdr_core.errors import InvalidRequest
from jetdr_core.store import BandwidthLimitedStore, MemoryStore
from tests.faults.store import Fault, FaultyStore, on


class VirtualTime:
    """Time that jumps to the next sleeper when nothing else can run."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now + seconds, len(self._sleepers), awake))
        await awake.wait()

    async def run(self, *tasks: asyncio.Task[None]) -> None:
        while not all(task.done() for task in tasks):
            for _ in range(10):
                await asyncio.sleep(0)
            if self._sleepers:
                self.now, _, awake = heapq.heappop(self._sleepers)
                awake.set()
        for task in tasks:
            task.result()


async def upload(sizes: list[int], rate: float, burst: float, *, at_once: bool) -> list[tuple[float, int]]:
    """(time, size) of every put as the inner store saw it."""
    time, seen = VirtualTime(), []

    class Watched(MemoryStore):
        async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
            seen.append((time.now, sizes[int(key)]))
            await super().put_if_absent(key, data)

    store = BandwidthLimitedStore(Watched(), rate, burst_bytes=burst, clock=lambda: time.now, sleep=time.sleep)

    async def put(numbers: range) -> None:
        for number in numbers:
            await store.put_if_absent(str(number), [bytes(sizes[number])])

    count = len(sizes)
    parts = [range(number, number + 1) for number in range(count)] if at_once else [range(count)]
    await time.run(*[asyncio.ensure_future(put(part)) for part in parts])
    return seen


@given(
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=12),
    rate=st.sampled_from([10.0, 1000.0, 12345.0]),
    burst=st.sampled_from([0.0, 1.0, 3000.0]),
    at_once=st.booleans(),
)
def test_never_more_than_burst_and_rate_allow(sizes: list[int], rate: float, burst: float, at_once: bool) -> None:
    seen = asyncio.run(upload(sizes, rate, burst, at_once=at_once))
    assert [size for _, size in seen] == sizes
    passed = 0
    for time, size in seen:
        passed += size
        assert passed <= burst + rate * time + 1e-6 * passed
    last = seen[-1][0]
    assert last <= max(0.0, (sum(sizes) - burst) / rate) + 1e-6, "and no slower than it may be"


def test_pause_earns_no_more_than_the_burst() -> None:
    async def run() -> None:
        time = VirtualTime()
        store = BandwidthLimitedStore(MemoryStore(), 100.0, clock=lambda: time.now, sleep=time.sleep)
        time.now = 1000.0
        await time.run(asyncio.ensure_future(store.put_if_absent("a", [bytes(100)])))
        assert time.now == 1000.0
        await time.run(asyncio.ensure_future(store.replace("b", [bytes(50)])))
        assert time.now == 1000.5

    asyncio.run(run())


def test_cancelled_put_gives_its_share_back() -> None:
    async def run() -> None:
        time = VirtualTime()
        faulty = FaultyStore(MemoryStore(), on("put", Fault.DENIED, key="never"))
        store = BandwidthLimitedStore(faulty, 100.0, clock=lambda: time.now, sleep=time.sleep)
        put = asyncio.ensure_future(store.put_if_absent("never", [bytes(10_000)]))
        await asyncio.sleep(0)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        await store.put_if_absent("k", [bytes(100)])
        assert (time.now, faulty.keys("put")) == (0.0, ["k"])

    asyncio.run(run())


def test_downloads_wait_for_nothing() -> None:
    async def run() -> None:
        async def sleep(_seconds: float) -> None:
            raise AssertionError("waited")

        memory = MemoryStore()
        await memory.put_if_absent("k", [bytes(10_000)])
        store = BandwidthLimitedStore(memory, 1.0, sleep=sleep)
        assert len(await store.get("k")) == len(await store.get_range("k", 0, 10_000)) == 10_000

    asyncio.run(run())


@pytest.mark.parametrize(("rate", "burst"), [(0.0, None), (-1.0, None), (float("nan"), None), (1.0, -1.0)])
def test_impossible_limit_is_refused(rate: float, burst: float | None) -> None:
    with pytest.raises(InvalidRequest, match="bandwidth limit"):
        BandwidthLimitedStore(MemoryStore(), rate, burst_bytes=burst)
